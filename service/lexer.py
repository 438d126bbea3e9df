"""SQL text as tokens with their places, in the lexical rules of DataFusion's generic dialect.

A lexer of forty lines, not a parser: statements are parsed by DataFusion. It finds what must be rewritten before
(table functions, time travel, named parameters), and does so 0.25 s of import cheaper than a full SQL library.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from storage.errors import SqlError, TooLargeError

__all__ = ["Token", "split_statements", "tokenize"]

Kind = Literal["word", "quoted", "string", "number", "param", "symbol"]

_TOKEN = re.compile(
    r"""
    (?P<space>\s+|--[^\n]*)
  | (?P<block>/\*)
  | (?P<escaped>[eE]'(?:[^'\\]++|\\.|'')*+')
  | (?P<string>[xXnNbBrR]?'(?:[^']++|'')*+')
  | (?P<dollar>\$(?P<tag>[^\W\d]\w*|)\$)
  | (?P<quoted>"(?:[^"]++|"")*+"|`[^`]*`)
  | (?P<param>\$\w+)
  | (?P<number>(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
  | (?P<word>(?:[^\W\d]|[@\#])[\w@$\#]*)
  | (?P<symbol>::|<=|>=|<>|!=|\|\||->>|->|=>|.)
    """,
    re.VERBOSE | re.DOTALL,
)

_ESCAPE = re.compile(r"\\(.)|''", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
TOKENS_MAX = 500_000
"""A token takes 150 bytes; a list of 200,000 literals still fits."""


@dataclass(frozen=True, slots=True)
class Token:
    """One token; ``text`` is a quoted name or string without its quotes, else as written."""

    kind: Kind
    text: str
    start: int
    limit: int

    def is_word(self, *words: str) -> bool:
        """Tell whether this is one of these keywords (upper case), unquoted."""
        return self.kind == "word" and self.text.upper() in words

    @property
    def name(self) -> str:
        """The identifier it stands for: folded to lower case unless quoted."""
        return self.text.lower() if self.kind == "word" else self.text


def place(sql: str, offset: int) -> dict[str, int]:
    """Return line and column (from 1) of an offset, as error facts."""
    return {"line": sql.count("\n", 0, offset) + 1, "column": offset - (sql.rfind("\n", 0, offset) + 1) + 1}


def tokenize(sql: str) -> list[Token]:
    """Return the tokens.

    Raises
    ------
    SqlError
        an unclosed quote or comment, with line and column
    TooLargeError
        more than `TOKENS_MAX` tokens
    """
    tokens: list[Token] = []
    position = 0
    while position < len(sql):
        match = _TOKEN.match(sql, position)
        assert match is not None
        kind, text = match.lastgroup or "", match.group()
        limit = match.end()
        if kind == "block":
            limit = _end_of_comment(sql, position)
        elif kind in ("dollar", "tag"):
            limit = _end_of_dollar(sql, position, text)
            tokens.append(Token("string", sql[match.end() : limit - len(text)], position, limit))
        elif kind == "symbol" and text in "'\"`":
            what = "string" if text == "'" else "quoted name"
            raise SqlError(f"this {what} is not closed; end it with {text}", **place(sql, position))
        elif kind != "space":
            tokens.append(_token(kind, text, position, limit))
        if len(tokens) > TOKENS_MAX:
            raise TooLargeError("the statement is too long; load data from files instead", tokens_max=TOKENS_MAX)
        position = limit
    return tokens


def _token(kind: str, text: str, start: int, limit: int) -> Token:
    match kind:
        case "string":
            return Token("string", text[text.index("'") + 1 : -1].replace("''", "'"), start, limit)
        case "escaped":
            return Token("string", _ESCAPE.sub(_unescape, text[2:-1]), start, limit)
        case "quoted":
            return Token("quoted", text[1:-1].replace(text[0] * 2, text[0]), start, limit)
        case "param" | "number" | "word" | "symbol":
            return Token(kind, text, start, limit)
        case _:
            raise AssertionError(kind)


def _unescape(match: re.Match[str]) -> str:
    character = match.group(1)
    return "'" if character is None else _ESCAPED.get(character, character)


def _end_of_dollar(sql: str, start: int, tag: str) -> int:
    """Return the offset behind a string in ``$tag$``."""
    found = sql.find(tag, start + len(tag))
    if found < 0:
        raise SqlError(f"this string is not closed; end it with {tag}", **place(sql, start))
    return found + len(tag)


def _end_of_comment(sql: str, start: int) -> int:
    """Return the offset behind a block comment; they nest."""
    depth, position = 0, start
    for match in re.compile(r"/\*|\*/").finditer(sql, start):
        depth += 1 if match.group() == "/*" else -1
        position = match.end()
        if depth == 0:
            return position
    raise SqlError("this comment is not closed; end it with */", **place(sql, start))


def split_statements(sql: str) -> list[str]:
    """Split a script at the semicolons between statements; empty statements are dropped."""
    statements, start = [], 0
    tokens = tokenize(sql)
    for position, token in enumerate(tokens):
        last = position == len(tokens) - 1
        if token.kind == "symbol" and token.text == ";":
            statements.append(sql[start : token.start])
            start = token.limit
        elif last:
            statements.append(sql[start:])
    return [statement.strip() for statement in statements if tokenize(statement)]
