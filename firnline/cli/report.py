"""Errors as people read them in a terminal: the class, the message, and the place in the SQL."""

from __future__ import annotations

from firnline.cli.script import Piece
from firnline.show import display_width, printable
from storage.errors import FirnlineError

__all__ = ["report"]

_RED, _DIM, _PLAIN = "\x1b[1;31m", "\x1b[2m", "\x1b[0m"
_SHOWN_WIDTH = 100
_PLACE = ("line", "column")


def report(error: FirnlineError, piece: Piece | None = None, *, color: bool = False) -> str:
    """Return the error as lines of text; with the statement's line and a caret where its place is known."""
    # A place in SQL is shown below; the line of a file and the name of a column are facts as others are.
    shown = _PLACE if _place(error) is not None and "row" not in error.facts else ()
    facts = [f"{name}={value}" for name, value in error.facts.items() if name not in shown]
    detail = "\n".join(printable(line) for line in error.message.splitlines()) or "no details"
    lines = [f"{_paint(type(error).__name__, _RED, color)}: " + " ".join([detail, *map(printable, facts)])]
    place = _place(error)
    if piece is not None and place is not None:
        lines += _source(piece, *place, color)
    return "\n".join(lines)


def _place(error: FirnlineError) -> tuple[int, int] | None:
    try:
        return int(error.facts["line"]), int(error.facts.get("column", 0))
    except (KeyError, ValueError, TypeError):
        return None


def _source(piece: Piece, line: int, column: int, color: bool) -> list[str]:
    """Return the line that is wrong, numbered as in the script, and a caret under the column (0: none)."""
    lines = piece.text.split("\n")
    if not 1 <= line <= len(lines):
        return []
    text = lines[line - 1].replace("\t", " ")
    start = max(0, column - 1 - _SHOWN_WIDTH // 2) if len(text) > _SHOWN_WIDTH else 0
    label = f"  line {piece.line + line - 1}: "
    shown = [_paint(label, _DIM, color) + printable(text[start : start + _SHOWN_WIDTH])]
    if 1 <= column <= len(text) + 1:
        before = display_width(printable(text[start : column - 1]))
        shown.append(" " * (len(label) + before) + _paint("^", _RED, color))
    return shown


def _paint(text: str, code: str, color: bool) -> str:
    return f"{code}{text}{_PLAIN}" if color else text
