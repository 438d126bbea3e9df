"""Which files of a snapshot may hold a row whose key the tail touched; the others need no anti join.

Rows that come in are mostly new, with keys above all that a table has. A file is left out only if its statistics prove
that none of the tail's keys is in it: for numbers and times that no key lies between its bounds, for strings that the
keys' range does not meet the file's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.tables.snapshot import Snapshot

__all__ = ["KeyValues", "key_values", "may_hold"]

KeyValues = Mapping[str, "np.ndarray | tuple[pa.Scalar, pa.Scalar]"]
"""Column of the key → its values in order, or the smallest and the largest one."""


def key_values(keys: Sequence[pa.RecordBatch]) -> KeyValues:
    """Return what `may_hold` asks of the tail's keys, at least one."""
    table = pa.Table.from_batches(keys)
    found: dict[str, np.ndarray | tuple[pa.Scalar, pa.Scalar]] = {}
    for name in table.column_names:
        column = table.column(name)
        numbers = _numbers(column)
        if numbers is not None:
            found[name] = np.unique(numbers)
        elif not pa.types.is_nested(column.type):
            ends = pc.min_max(column)
            found[name] = (ends["min"], ends["max"])
    return found


def may_hold(snapshot: Snapshot, values: KeyValues) -> np.ndarray:
    """Return bool[n_files]: False where no row of the file can have one of the keys."""
    held = np.ones(len(snapshot.files), dtype=bool)
    for name, wanted in values.items():
        stats = snapshot.files.stats(name)
        if stats is None or stats.minimum.type != snapshot.schema.field(name).type:
            continue
        known = np.asarray(pc.and_(stats.minimum.is_valid(), stats.maximum.is_valid()))
        if isinstance(wanted, tuple):
            meets = _ranges_meet(stats.minimum, stats.maximum, wanted)
        else:
            low, high = _numbers(stats.minimum), _numbers(stats.maximum)
            if low is None or high is None:
                continue
            meets = np.searchsorted(wanted, low, "left") < np.searchsorted(wanted, high, "right")
            # Bounds that are no numbers say nothing.
            meets |= (low != low) | (high != high)
        held &= meets | ~known
    return held


def _ranges_meet(minimum: pa.Array, maximum: pa.Array, ends: tuple[pa.Scalar, pa.Scalar]) -> np.ndarray:
    below = pc.less(maximum, ends[0].cast(maximum.type))
    above = pc.greater(minimum, ends[1].cast(minimum.type))
    return ~np.asarray(pc.fill_null(pc.or_(below, above), False))


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
