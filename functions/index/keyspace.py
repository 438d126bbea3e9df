"""Keys as numbers in their order: what a model of sorted keys is fitted on.

A `KeySpace`, fitted on the keys of one segment, packs the ordinals (`functions.index.ordinals`) of a key's columns,
each counted from the smallest, into one uint64. Where 64 bits do not do, the low ones go, and the columns behind them:
then different keys may have one number, but numbers never decrease where keys grow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from functions.index.ordinals import (
    Ordinals,
    byte_words,
    check_type,
    common_prefix,
    decimal_words,
    is_bytes,
    one_chunk,
    ordinals,
    plain_words,
)

__all__ = ["COLUMNS_MAX", "ColumnSpace", "KeySpace", "check_type"]

COLUMNS_MAX = 8


@dataclass(frozen=True, slots=True)
class ColumnSpace:
    """Where the ordinals of one column of a segment lie, and their place in the number.

    smallest, greatest : of all rows
    prefix : bytes that all values begin with
    dropped : low bits of the ordinal that the number lacks
    shift : what the rest is shifted by; -1 if the column is not in the number
    """

    smallest: int
    greatest: int
    prefix: bytes = b""
    dropped: int = 0
    shift: int = 0

    def offsets(self, column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        """Return each value's part of the number (uint64[n]), and whether it lies between the segment's own."""
        if is_bytes(column.type):
            column = column.cast(pa.large_binary())
            words = byte_words(column, len(self.prefix))
            number, inside = self._plain(words)
            return (number, inside & _begin_with(column, self.prefix)) if self.prefix else (number, inside)
        if pa.types.is_decimal(column.type):
            return self._wide(*decimal_words(column))
        return self._plain(plain_words(column))

    def kept(self, column: Ordinals) -> np.ndarray:
        """Return the part of the number of rows that the space was fitted on: uint64[n]."""
        if column.halves is not None:
            return self._wide(column.words, column.halves)[0]
        return self._plain(column.rebased(self.prefix))[0]

    def _plain(self, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        low, high = np.uint64(self.smallest), np.uint64(self.greatest)
        inside = (words >= low) & (words <= high)
        return self._placed(words - low), inside

    def _wide(self, words: np.ndarray, halves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        (top, bottom), (top_max, bottom_max) = _split(self.smallest), _split(self.greatest)
        inside = (words > top) | ((words == top) & (halves >= bottom))
        inside &= (words < top_max) | ((words == top_max) & (halves <= bottom_max))
        lower = halves - bottom
        upper = words - top - (halves < bottom).astype(np.uint64)
        if self.dropped >= 64:
            number = upper >> np.uint64(self.dropped - 64)
        elif self.dropped:
            number = (lower >> np.uint64(self.dropped)) | (upper << np.uint64(64 - self.dropped))
        else:
            number = lower
        return number << np.uint64(max(self.shift, 0)), inside

    def _placed(self, offset: np.ndarray) -> np.ndarray:
        if self.dropped:
            offset = offset >> np.uint64(self.dropped)
        return offset << np.uint64(self.shift) if self.shift > 0 else offset

    def ordinal(self, column: pa.Array) -> int:
        """Return the ordinal of the one value of ``column``; beyond any other where it lacks the prefix."""
        if is_bytes(column.type):
            value: bytes = column.cast(pa.large_binary())[0].as_py()
            if not value.startswith(self.prefix):
                return -1 if value < self.prefix else 1 << 64
            return int(byte_words(column.cast(pa.large_binary()), len(self.prefix))[0])
        return ordinals(column).smallest


def _split(ordinal: int) -> tuple[np.uint64, np.uint64]:
    return np.uint64(ordinal >> 64), np.uint64(ordinal & (1 << 64) - 1)


def _begin_with(column: pa.Array, prefix: bytes) -> np.ndarray:
    found: np.ndarray = pc.starts_with(column, prefix).to_numpy(zero_copy_only=False)
    return found


@dataclass(frozen=True)
class KeySpace:
    """Turns keys of one segment into numbers; ``columns`` are those of the key, in its order."""

    columns: tuple[ColumnSpace, ...]

    @staticmethod
    def fit(files: Sequence[Sequence[Ordinals]]) -> KeySpace:
        """Return the space of the keys of some files, each given by the ordinals of its columns; at least one row."""
        filled = [file for file in files if file[0].smallest <= file[0].greatest]
        columns: list[ColumnSpace] = []
        used, open_ = 0, True
        for parts in zip(*filled, strict=True):
            space, exact = _bounds(parts)
            bits = (space.greatest - space.smallest).bit_length()
            if not open_ or (used == 64 and bits):
                columns.append(ColumnSpace(space.smallest, space.greatest, space.prefix, 0, -1))
                open_ = False
                continue
            dropped = max(0, used + bits - 64)
            used += bits - dropped
            open_ = exact and not dropped
            columns.append(ColumnSpace(space.smallest, space.greatest, space.prefix, dropped, used))
        return KeySpace(
            tuple(
                ColumnSpace(c.smallest, c.greatest, c.prefix, c.dropped, used - c.shift if c.shift >= 0 else -1)
                for c in columns
            )
        )

    def kept(self, columns: Sequence[Ordinals]) -> np.ndarray:
        """Return the numbers of rows that the space was fitted on: uint64[n]."""
        total = np.zeros(len(columns[0].words), np.uint64)
        for space, column in zip(self.columns, columns, strict=True):
            if space.shift >= 0:
                total |= space.kept(column)
        return total

    def numbers(self, keys: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        """Return each key's number, and whether all of its columns lie between the segment's own.

        A key that does not is in no file of the segment, and its number means nothing.

        Returns
        -------
        uint64[n], bool[n]
        """
        total, inside = None, None
        for space, column in zip(self.columns, keys.columns, strict=True):
            number, within = space.offsets(one_chunk(column))
            inside = within if inside is None else inside & within
            if space.shift >= 0:
                total = number if total is None else total | number
        assert total is not None and inside is not None
        return total, inside

    def between(self, low: Any | None, high: Any | None, type_: pa.DataType) -> tuple[int, int] | None:
        """Return the least and the greatest number of keys whose first column is from ``low`` to ``high``.

        None: there is none. The bounds are values of ``type_``, both included; None, and what is not, is no bound.
        """
        first = self.columns[0]
        bottom, top = first.smallest, first.greatest
        least, most = _one(low, type_), _one(high, type_)
        if least is not None:
            bottom = max(bottom, first.ordinal(least))
        if most is not None:
            top = min(top, first.ordinal(most))
        if bottom > top:
            return None
        shift = first.shift
        return (
            (bottom - first.smallest >> first.dropped) << shift,
            ((top - first.smallest >> first.dropped) << shift) | ((1 << shift) - 1),
        )


def _one(value: Any | None, type_: pa.DataType) -> pa.Array | None:
    try:
        scalar = value if isinstance(value, pa.Scalar) else pa.scalar(value, type_)
        return pa.repeat(scalar.cast(type_), 1) if scalar.is_valid else None
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return None


def _bounds(parts: Sequence[Ordinals]) -> tuple[ColumnSpace, bool]:
    """Return the space of one column as yet without a place, and whether different values have different ordinals."""
    if not any(part.exact_bytes for part in parts) and not any(part.prefix for part in parts):
        return ColumnSpace(min(p.smallest for p in parts), max(p.greatest for p in parts)), True
    prefix = common_prefix([part.prefix for part in parts])
    ends = [part.bounds(prefix) for part in parts]
    exact = all(part.exact_bytes <= len(prefix) + 8 for part in parts)
    return ColumnSpace(min(low for low, _ in ends), max(high for _, high in ends), prefix), exact
