"""Record batches as tuples of Python values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["python_rows"]


def python_rows(batch: pa.RecordBatch) -> Iterator[tuple[Any, ...]]:
    """Yield one tuple for each row; columns of one name stay apart.

    Python has no nanoseconds: timestamps, times and durations that have them are cut to microseconds.
    """
    if not batch.num_columns:
        yield from ((),) * batch.num_rows
        return
    yield from zip(*(_values(column) for column in batch.columns), strict=True)


def _values(column: pa.Array) -> list[Any]:
    kind = column.type
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        column = pc.cast(column, pa.timestamp("us", kind.tz), safe=False)
    elif pa.types.is_time64(kind) and kind.unit == "ns":
        column = pc.cast(column, pa.time64("us"), safe=False)
    elif pa.types.is_duration(kind) and kind.unit == "ns":
        column = pc.cast(column, pa.duration("us"), safe=False)
    values: list[Any] = column.to_pylist()
    return values
