"""`by_identity`: remember what was made of an object, for objects that are costly to compare or hash."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

__all__ = ["by_identity"]

_SIZE_MAX = 256

K = TypeVar("K")
V = TypeVar("V")


def by_identity(make: Callable[[K], V]) -> Callable[[K], V]:
    """Return ``make`` with its answers remembered, for the very object they were made of.

    Hashing an Arrow schema takes as long as encoding a row of it.
    """
    known: dict[int, tuple[K, V]] = {}

    def found(of: K) -> V:
        entry = known.get(id(of))
        if entry is not None and entry[0] is of:
            return entry[1]
        made = make(of)
        if len(known) >= _SIZE_MAX:
            known.clear()
        known[id(of)] = of, made  # the object is kept, so its id stays its own
        return made

    return found
