"""Partition transforms read backwards: which source values a partition value allows.

Only widening is done: a range that is returned holds every row of the partition, or there is none. Ranges exist for
identity, year, month, day, hour and truncate; bucket, void and transforms that are not known say nothing.

Source: Iceberg spec, "Partition Transforms".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from storage.tables.iceberg.values import partition_array, unscaled_array

__all__ = ["source_range"]

_TRUNCATE = re.compile(r"truncate\[(\d+)\]")
_UNITS = {"year": "Y", "month": "M", "day": "D", "hour": "h"}


def source_range(transform: str, values: Sequence[Any], type_: pa.DataType) -> tuple[pa.Array, pa.Array] | None:
    """Return the smallest and greatest source value that each partition value allows; None if nothing is known.

    Parameters
    ----------
    values : partition values as Avro holds them, None for null
    type_ : the source column's type

    Returns
    -------
    two arrays[len(values)] of ``type_``, null where a side is open or the partition value is null
    """
    if transform == "identity":
        return _identity(values, type_)
    if transform in _UNITS and (pa.types.is_date(type_) or pa.types.is_timestamp(type_)):
        return _temporal(_UNITS[transform], values, type_)
    if match := _TRUNCATE.fullmatch(transform):
        return _truncated(int(match[1]), values, type_)
    return None


def _identity(values: Sequence[Any], type_: pa.DataType) -> tuple[pa.Array, pa.Array] | None:
    if pa.types.is_floating(type_):
        return None  # NaN and the two zeros do not order alike everywhere
    exact = partition_array(values, type_)
    return exact, exact


def _temporal(unit: str, values: Sequence[int | None], type_: pa.DataType) -> tuple[pa.Array, pa.Array] | None:
    """Return the span of each year, month, day or hour since 1970.

    Old writers rounded times before 1970 towards zero, so such a partition may hold rows of the one before.
    """
    limits = np.iinfo(np.int32)
    if any(value is not None and not limits.min < value < limits.max for value in values):
        return None
    missing = np.array([value is None for value in values], bool)
    ordinals = np.array([value or 0 for value in values], np.int64)
    first = np.where(ordinals <= 0, ordinals - 1, ordinals).astype(f"datetime64[{unit}]")
    last = (ordinals + 1).astype(f"datetime64[{unit}]")
    precision = "D" if pa.types.is_date(type_) else type_.unit
    if not _fits(first, precision) or not _fits(last, precision):
        return None
    dtype = np.int32 if pa.types.is_date(type_) else np.int64
    low = first.astype(f"datetime64[{precision}]").astype(np.int64)
    high = last.astype(f"datetime64[{precision}]").astype(np.int64) - 1
    return tuple(pa.array(side.astype(dtype), mask=missing).view(type_) for side in (low, high))


def _fits(moments: np.ndarray, precision: str) -> bool:
    """Tell whether converting keeps every moment: numpy wraps around silently."""
    seconds = moments.astype("datetime64[s]").astype(np.float64)
    per_second = {"D": 1.0, "s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}[precision]
    return bool(np.all(np.abs(seconds) * per_second < 2.0**62))


def _truncated(width: int, values: Sequence[Any], type_: pa.DataType) -> tuple[pa.Array, pa.Array] | None:
    if pa.types.is_decimal(type_):
        low = [None if not v else int.from_bytes(v, "big", signed=True) for v in values]
        limit = 10**type_.precision - 1
        high = [None if v is None else min(v + width - 1, limit) for v in low]
        return unscaled_array([None if v is None else max(v, -limit) for v in low], type_), unscaled_array(high, type_)
    if pa.types.is_integer(type_):
        info = np.iinfo(type_.to_pandas_dtype())
        high = [None if v is None else min(v + width - 1, int(info.max)) for v in values]
        return pa.array(values, type_), pa.array(high, type_)
    if pa.types.is_string(type_) or pa.types.is_binary(type_):
        return pa.array(values, type_), pa.nulls(len(values), type_)
    return None
