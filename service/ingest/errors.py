"""What is wrong with a value, while it is not known yet in which row it stands."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any, Protocol, TypeVar

from storage.errors import InvalidError

__all__ = ["WrongValue", "first_wrong", "refuse", "short", "unknown_name"]

_SHOWN = 80


class WrongValue(Exception):  # noqa: N818 — never leaves the package
    """A value does not fit. ``path`` leads to it inside its column: ``.member``, ``[]``."""

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.message, self.path = message, path

    def under(self, step: str) -> WrongValue:
        """Return the same, one step further out."""
        return WrongValue(self.message, step + self.path)


class _Sliced(Protocol):
    def __len__(self) -> int: ...
    def __getitem__(self, part: slice) -> Any: ...


T = TypeVar("T", bound=_Sliced)


def first_wrong(values: T, build: Callable[[T], Any], error: WrongValue) -> tuple[int, WrongValue]:
    """Return which of the values, from 0, is the first that cannot be built, and why, by halving.

    ``error`` is what building all of them raised; building looks at each value by itself.
    """
    start = 0
    while len(values) > 1:
        half = len(values) // 2
        try:
            build(values[:half])
        except WrongValue as found:
            values, error = values[:half], found
            continue
        start, values = start + half, values[half:]
    try:
        build(values)
    except WrongValue as found:
        error = found
    return start, error


def refuse(
    message: str, *, row: int, column: str, line: int | None = None, value: Any = None, shown: bool = True
) -> InvalidError:
    """Return the error of a row, counted from 0 here and from 1 in the message."""
    return InvalidError(message, row=row + 1, line=line, column=column, value=short(value) if shown else None)


def short(value: Any) -> str:
    """Return a value as people write it, cut where it is long."""
    try:
        text = json.dumps(value, ensure_ascii=True, default=str)
    except (ValueError, RecursionError, TypeError):
        text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def unknown_name(name: str, known: Iterable[str], what: str = "column") -> str:
    """Return the message that refuses a name, with the nearest known one."""
    names = list(known)
    near = get_close_matches(name, names, 1) or [each for each in names if each.lower() == name.lower()]
    listed = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
    hint = f'did you mean "{near[0]}"?' if near else f"there are {listed}"
    return f"the table has no such {what}; {hint}" if what == "column" else f"no such {what}; {hint}"
