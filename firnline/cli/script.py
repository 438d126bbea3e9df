"""SQL scripts: cut at the semicolons between statements, each piece knowing where it began."""

from __future__ import annotations

from dataclasses import dataclass

from service.lexer import tokenize
from storage.errors import SqlError

__all__ = ["Piece", "is_complete", "split"]


@dataclass(frozen=True, slots=True)
class Piece:
    """One statement of a script, without its semicolon.

    line, column : of its first character in the script, from 1
    """

    text: str
    line: int = 1
    column: int = 1


def split(script: str) -> list[Piece]:
    """Return the script's statements. Raises `SqlError` with its place for an unclosed quote or comment."""
    pieces: list[Piece] = []
    first = last = None
    for token in tokenize(script):
        if token.kind == "symbol" and token.text == ";":
            if first is not None and last is not None:
                pieces.append(_piece(script, first, last))
            first = None
            continue
        first = token.start if first is None else first
        last = token.limit
    if first is not None and last is not None:
        pieces.append(_piece(script, first, last))
    return pieces


def is_complete(text: str) -> bool:
    """Tell whether the text ends with a semicolon that ends a statement, so that it can run."""
    try:
        tokens = tokenize(text)
    except SqlError:
        return False
    return bool(tokens) and tokens[-1].kind == "symbol" and tokens[-1].text == ";"


def _piece(script: str, start: int, limit: int) -> Piece:
    line_start = script.rfind("\n", 0, start) + 1
    return Piece(script[start:limit], script.count("\n", 0, start) + 1, start - line_start + 1)
