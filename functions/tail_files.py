"""Which files of a snapshot may hold a row whose key the tail touched; the others need no anti join.

Rows that come in are mostly new, with keys above all that a table has. A file is left out only if its statistics prove
that none of the tail's keys is in it: for numbers and times that no key lies between its bounds, for strings that the
keys' range does not meet the file's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.tables.snapshot import Snapshot

__all__ = ["KeyValues", "key_values", "may_hold"]

KeyValues = Mapping[str, "np.ndarray | tuple[pa.Scalar, pa.Scalar]"]
"""Column of the key → its values in order, or the smallest and the largest one."""


def key_values(keys: pa.RecordBatch) -> KeyValues:
    """Return what `may_hold` asks of a part of the tail's keys."""
    found: dict[str, np.ndarray | tuple[pa.Scalar, pa.Scalar]] = {}
    for name, column in zip(keys.schema.names, keys.columns, strict=True):
        numbers = _numbers(column)
        if numbers is not None:
            found[name] = np.unique(numbers)
        elif not pa.types.is_nested(column.type):
            ends = pc.min_max(column)
            found[name] = (ends["min"], ends["max"])
    return found


def may_hold(snapshot: Snapshot, parts: Collection[KeyValues]) -> np.ndarray:
    """Return bool[n_files]: False where no row of the file can have a key of any part."""
    names = {name for part in parts for name in part}
    bounds = {name: _bounds(snapshot, snapshot.schema.field(name)) for name in names}
    n_files = len(snapshot.files)
    held = np.zeros(n_files, dtype=bool)
    for part in parts:
        kept = np.ones(n_files, dtype=bool)
        for name, wanted in part.items():
            known = bounds.get(name)
            if known is not None:
                kept &= known.meets(wanted)
        held |= kept
    return held


@dataclass(frozen=True)
class _Bounds:
    """Bounds of a column in each file, as numbers if its type has that form; ``unknown`` where they say nothing."""

    minimum: pa.Array
    maximum: pa.Array
    low: np.ndarray | None
    high: np.ndarray | None
    unknown: np.ndarray

    def meets(self, wanted: np.ndarray | tuple[pa.Scalar, pa.Scalar]) -> np.ndarray:
        """Return bool[n_files]: whether a value may lie between the bounds."""
        if isinstance(wanted, tuple):
            return np.asarray(_ranges_meet(self.minimum, self.maximum, wanted) | self.unknown)
        assert self.low is not None
        assert self.high is not None
        found = np.searchsorted(wanted, self.low, "left") < np.searchsorted(wanted, self.high, "right")
        return np.asarray(found | self.unknown)


def _bounds(snapshot: Snapshot, field: pa.Field) -> _Bounds | None:
    stats = snapshot.files.stats(field.name)
    if stats is None or stats.minimum.type != field.type:
        return None
    low, high = _numbers(stats.minimum), _numbers(stats.maximum)
    unknown = ~np.asarray(pc.and_(stats.minimum.is_valid(), stats.maximum.is_valid()))
    if low is not None and high is not None:
        # Not equal to itself: no number.
        unknown = unknown | (low != low) | (high != high)
    return _Bounds(stats.minimum, stats.maximum, low, high, unknown)


def _ranges_meet(minimum: pa.Array, maximum: pa.Array, ends: tuple[pa.Scalar, pa.Scalar]) -> np.ndarray:
    below = pc.less(maximum, ends[0].cast(maximum.type))
    above = pc.greater(minimum, ends[1].cast(minimum.type))
    meets: np.ndarray = np.asarray(pc.fill_null(pc.invert(pc.or_(below, above)), True))
    return meets


def _numbers(column: pa.Array | pa.ChunkedArray) -> np.ndarray | None:
    """Return the values as numbers in the same order, nulls as zeros; None for a type that has no such form."""
    kind = column.type
    if pa.types.is_integer(kind):
        plain = column.cast(pa.int64())
    elif pa.types.is_date32(kind):
        plain = column.cast(pa.int32()).cast(pa.int64())
    elif pa.types.is_timestamp(kind):
        plain = column.cast(pa.int64())
    elif pa.types.is_floating(kind):
        plain = column.cast(pa.float64())
    else:
        return None
    filled: np.ndarray = pc.fill_null(plain, 0).to_numpy()
    return filled
