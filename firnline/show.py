"""Arrow tables as text for people: aligned columns that fit the terminal, one value a line where they cannot.

Nothing that a cell holds reaches the terminal as a control sequence: line breaks make a row several lines high, other
control characters are shown escaped.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pyarrow as pa

from service.text import cells

__all__ = ["Expanded", "display_width", "printable", "render"]

Expanded = Literal["auto", "on", "off"]
"""One value a line: always, never, or when the columns of a few rows do not fit."""

_NULL = "NULL"
_MORE = "…"
_GAP = "  "
_COLUMN_WIDTH_MIN = 12
_AUTO_ROWS_MAX = 3
_BOLD, _DIM, _PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[0m"


@dataclass(slots=True)
class _Column:
    name: str
    texts: list[str | None]
    right: bool
    width: int = 0


def render(table: pa.Table, *, width: int | None = None, color: bool = False, expanded: Expanded = "auto") -> str:
    """Return the table as lines of text without a final newline.

    Parameters
    ----------
    width : columns of the terminal; what is wider is broken over lines in an answer of a few rows, and clipped in a
        longer one. None shows every cell whole
    color : bold header, dim rules and NULL, by ANSI sequences
    """
    columns = _columns(table)
    if not columns:
        return f"({table.num_rows} rows without columns)"
    if expanded == "on":
        return _vertical(columns, table.num_rows, color)
    for column in columns:
        column.width = max([display_width(column.name), *map(_text_width, column.texts)], default=0)
    if width is None or _shrink(columns, width):
        return _horizontal(_wrapped(columns) if table.num_rows <= _AUTO_ROWS_MAX else columns, color)
    if expanded == "auto" and table.num_rows <= _AUTO_ROWS_MAX:
        return _vertical(columns, table.num_rows, color)
    shown = _hide(columns, width)
    note = f"({len(shown) - 1} of {len(columns)} columns shown)"
    return _horizontal(shown, color) + "\n" + _paint(note, _DIM, color)


def display_width(text: str) -> int:
    """Return how many terminal columns the text takes."""
    if text.isascii():
        return len(text)
    return sum(map(_character_width, text))


def printable(text: str) -> str:
    """Return the text with control characters escaped, so that it stays on its line and commands no terminal."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each == " " else _escaped(each) for each in text)


def _escaped(character: str) -> str:
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return character.encode("unicode_escape").decode("ascii")
    return character


def _character_width(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def _text_width(text: str | None) -> int:
    return len(_NULL) if text is None else max(map(display_width, text.split("\n")))


def _columns(table: pa.Table) -> list[_Column]:
    return [
        _Column(printable(field.name), _texts(column), _is_number(field.type))
        for field, column in zip(table.schema, table.columns, strict=True)
    ]


def _texts(column: pa.ChunkedArray) -> list[str | None]:
    texts: list[str | None] = []
    for chunk in column.chunks:
        texts += [None if text is None else _lines(text) for text in cells(chunk).text.to_pylist()]
    return texts


def _lines(text: str) -> str:
    if text.isprintable():
        return text
    return "\n".join(map(printable, text.rstrip("\n").split("\n")))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _total(columns: Sequence[_Column]) -> int:
    return sum(column.width for column in columns) + len(_GAP) * (len(columns) - 1) + 1


def _shrink(columns: list[_Column], width: int) -> bool:
    """Narrow the widest text columns until the table fits; tell whether it does."""
    while (excess := _total(columns) - width) > 0:
        widest = max((each for each in columns if not each.right), key=lambda each: each.width, default=None)
        if widest is None or widest.width <= _COLUMN_WIDTH_MIN:
            return False
        others = [each.width for each in columns if each is not widest and not each.right]
        floor = max([_COLUMN_WIDTH_MIN, *(each for each in others if each < widest.width)])
        widest.width = max(widest.width - excess, min(floor, widest.width - 1))
    return True


def _wrapped(columns: list[_Column]) -> list[_Column]:
    """Return the columns with the lines of their cells broken to their widths, so that nothing is clipped."""
    return [
        replace(column, texts=[text and "\n".join(_broken(text, column.width)) for text in column.texts])
        for column in columns
    ]


def _broken(text: str, width: int) -> Iterator[str]:
    for line in text.split("\n"):
        start, used = 0, 0
        for position, character in enumerate(line):
            used += _character_width(character)
            if used > width:
                yield line[start:position]
                start, used = position, _character_width(character)
        yield line[start:]


def _hide(columns: list[_Column], width: int) -> list[_Column]:
    """Return the columns that fit, taken from both ends, with a column of dots between them."""
    dots = _Column(_MORE, [_MORE] * len(columns[0].texts), False, 1)
    left: list[_Column] = []
    right: list[_Column] = []
    for turn in range(len(columns)):
        source, side = (columns[len(left)], left) if turn % 3 < 2 else (columns[-1 - len(right)], right)
        if side and _total([*left, dots, *right, source]) > width:
            break
        side.append(source)
    return [*left, dots, *reversed(right)]


def _horizontal(columns: Sequence[_Column], color: bool) -> str:
    header = _GAP.join(_paint(_pad(each.name, each.width, each.right), _BOLD, color) for each in columns)
    rule = _GAP.join(_paint("─" * each.width, _DIM, color) for each in columns)
    lines = [f" {header}", f" {rule}"]
    for row in zip(*(_padded(each, color) for each in columns), strict=True):
        blank = [" " * each.width for each in columns]
        for number in range(max(map(len, row))):
            cells_ = (cell[number] if number < len(cell) else space for cell, space in zip(row, blank, strict=True))
            lines.append(" " + _GAP.join(cells_))
    return "\n".join(line.rstrip() for line in lines)


def _padded(column: _Column, color: bool) -> list[list[str]]:
    """Return the lines of each cell."""
    null = [_paint(_pad(_NULL, column.width, column.right), _DIM, color)]
    return [
        null if text is None else [_pad(line, column.width, column.right) for line in text.split("\n")]
        for text in column.texts
    ]


def _pad(text: str, width: int, right: bool) -> str:
    text = _clip(text, width)
    space = " " * (width - display_width(text))
    return space + text if right else text + space


def _clip(text: str, width: int) -> str:
    if display_width(text) <= width:
        return text
    kept, used = "", 0
    for character in text:
        used += _character_width(character)
        if used > width - 1:
            break
        kept += character
    return kept + _MORE


def _vertical(columns: Sequence[_Column], n_rows: int, color: bool) -> str:
    margin = max(display_width(column.name) for column in columns)
    lines: list[str] = []
    for row in range(n_rows):
        lines.append(_paint(f"── row {row + 1} " + "─" * 20, _DIM, color))
        for column in columns:
            text = column.texts[row]
            shown = _paint(_NULL, _DIM, color) if text is None else text.replace("\n", "\n" + " " * (margin + 3))
            lines.append(f" {_paint(_pad(column.name, margin, False), _BOLD, color)}{_GAP}{shown}")
    return "\n".join(lines) or f"({len(columns)} columns)"


def _paint(text: str, code: str, color: bool) -> str:
    return f"{code}{text}{_PLAIN}" if color else text
