"""What a statement asks for; a query's text is rewritten for DataFusion (`service.parse_rewrite`).

Statements that change the catalog are recognised here and parsed in `service.commands`, those that write tables in
`service.write`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from service.distinct import check_distinct_from
from service.lexer import Token, place, tokenize
from service.parameters import bind, given
from service.parse_rewrite import Rewriter
from service.parsed import Parsed, TableRef
from service.shape import check_shape
from storage.errors import SqlError, TooLargeError, UnsupportedError

__all__ = ["Parsed", "TableRef", "parse"]

SQL_BYTES_MAX = 4 << 20
_QUERY = ("SELECT", "WITH", "VALUES", "EXPLAIN", "SHOW", "DESCRIBE", "DESC", "TABLE", "FROM")
_COMMANDS = ("CREATE", "DROP")
_WRITES = (
    "INSERT", "UPDATE", "DELETE", "MERGE", "COPY", "ALTER", "TRUNCATE", "OPTIMIZE", "VACUUM", "RESTORE",
)  # fmt: skip
_WRITTEN = (
    ("CREATE", "TABLE"), ("DROP", "TABLE"), ("CREATE", "INDEX"), ("DROP", "INDEX"), ("CREATE", "UNIQUE", "INDEX"),
    ("DROP", "EXTERNAL", "TABLE"), ("CREATE", "OR", "REPLACE", "TABLE"),
)  # fmt: skip
_TRANSACTIONS = ("BEGIN", "START", "COMMIT", "ROLLBACK", "SAVEPOINT", "END", "ABORT")
_LATER = (
    *_TRANSACTIONS, "SET", "RESET", "PREPARE", "EXECUTE", "DEALLOCATE", "GRANT", "REVOKE", "USE", "ANALYZE", "REPLACE",
    "UPSERT", "CALL", "LOCK",
)  # fmt: skip


def parse(sql: str, params: Sequence[Any] | Mapping[str, Any] | None = None, *, is_part: bool = False) -> Parsed:
    """Return the parsed statement; one that ``is_part`` of another need not use all ``params``.

    Raises
    ------
    SqlError
        nothing, or more than one statement; an unclosed quote; a malformed table function or time travel
    UnsupportedError
        a statement that Firnline does not run, by name
    InvalidError
        parameters that do not fit the statement
    TooLargeError
        a statement that is too long or too deeply nested
    """
    n_bytes = len(sql.encode(errors="surrogatepass")) if len(sql) <= SQL_BYTES_MAX else len(sql)
    if n_bytes > SQL_BYTES_MAX:
        raise TooLargeError(
            "the statement is too long; load data from files instead", bytes=n_bytes, limit=SQL_BYTES_MAX
        )
    tokens = tokenize(sql)
    while tokens and tokens[-1].text == ";" and tokens[-1].kind == "symbol":
        tokens.pop()
    if not tokens:
        raise SqlError("the statement is empty", line=1, column=1)
    check_shape(sql, tokens)
    check_distinct_from(sql, tokens)
    sql = sql[: tokens[-1].limit]
    first = tokens[0].text.upper()
    writes = _writes(tokens)
    if tokens[0].kind == "word" and first in _COMMANDS and not writes:
        return Parsed("command", sql, sql, tokens, {}, {}, 0, frozenset())
    if not writes:
        _check_supported(sql, tokens)
    parse_part = partial(parse, params=params, is_part=True)
    rewriter = Rewriter(sql, tokens, params, parse_part, _columns_limit(tokens) if writes else 0)
    text, refs = rewriter.run()
    used = {token.text[1:] for token in tokens if token.kind == "param"} | rewriter.used_names
    bound = bind({name: value for name, value in given(params).items() if name in used} if is_part else params, used)
    if not writes:
        tokens = [
            token for token in tokens if not any(part.start <= token.start < part.limit for part in rewriter.parts)
        ]
    words = frozenset(token.name for token in tokens if token.kind in ("word", "quoted"))
    if writes:
        return Parsed("write", sql, sql, tokens, {}, bound, 0, words)
    return Parsed("query", sql, text, tokens, refs, bound, _explained(tokens), words)


def _writes(tokens: list[Token]) -> bool:
    """Tell whether the statement, or the one that it explains, writes a table."""
    position = 0
    if tokens[0].is_word("EXPLAIN"):
        position = 1
        while position < len(tokens) and tokens[position].is_word("ANALYZE", "VERBOSE"):
            position += 1
    following = tokens[position : position + 4]
    if not following or not following[0].is_word(*_WRITES, *_COMMANDS):
        return False
    if following[0].is_word(*_WRITES):
        return True
    kinds = [token.text.upper() for token in following if token.kind == "word"]
    return any(tuple(kinds[:n]) in _WRITTEN for n in (2, 3, 4))


def _columns_limit(tokens: list[Token]) -> int:
    """Return how many tokens may hold the types of columns, in which a colon begins no parameter."""
    if not any(token.is_word("CREATE", "ALTER") for token in tokens[:3]):
        return 0
    depth = 0
    for position, token in enumerate(tokens):
        if token.kind == "symbol":
            depth += (token.text == "(") - (token.text == ")")
        elif depth == 0 and token.is_word("AS"):
            return position
    return len(tokens)


def _check_supported(sql: str, tokens: list[Token]) -> None:
    first = tokens[0]
    word = first.text.upper()
    if first.text == "(" or (first.kind == "word" and word in _QUERY):
        return
    if first.kind == "word" and word in _TRANSACTIONS:
        raise UnsupportedError(
            f"{word} is not supported: each statement is a transaction of its own, over one table", statement=word
        )
    if first.kind == "word" and word in _LATER:
        raise UnsupportedError(f"{word} is not supported; see docs/sql.md for what is", statement=word)
    suggestion = _closest(word, (*_QUERY, *_COMMANDS, *_WRITES, *_LATER))
    hint = f"; did you mean {suggestion}?" if suggestion else "; a statement begins with SELECT, WITH, SHOW, CREATE, …"
    raise SqlError(f"expected a statement, found {first.text!r}{hint}", **place(sql, first.start))


def _closest(word: str, known: Sequence[str]) -> str | None:
    import difflib

    return next(iter(difflib.get_close_matches(word, known, 1, 0.6)), None)


def _explained(tokens: list[Token]) -> int:
    if not tokens[0].is_word("EXPLAIN"):
        return 0
    position = 1
    while position < len(tokens) and tokens[position].is_word("ANALYZE", "VERBOSE"):
        position += 1
    if position + 1 < len(tokens) and tokens[position].is_word("FORMAT"):
        position += 2
    return tokens[position].start if position < len(tokens) else 0
