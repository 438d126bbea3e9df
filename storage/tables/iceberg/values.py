"""Iceberg's single values as Arrow arrays: column bounds (binary) and partition values (as Avro holds them).

Bounds that cannot be trusted become null: NaN, text cut inside a character, and ``uuid`` (the Java library ordered
UUIDs as pairs of signed numbers, so its bounds may exclude rows under any other order). Bounds written before a type
was promoted have the old type's width.

Sources: Iceberg spec, "Appendix D: Single-value serialization", "Schema Evolution" (promotions).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["bounds_array", "decimal_array", "is_primitive", "partition_array", "scatter"]

_DAY = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}


def is_primitive(type_: pa.DataType) -> bool:
    """Tell whether bounds of a column of this type exist and can be used."""
    return not pa.types.is_nested(type_) and not pa.types.is_null(type_)


def scatter(rows: np.ndarray, values: pa.Array, n: int) -> pa.Array:
    """Return an array of length n that holds ``values`` at ``rows`` and null elsewhere."""
    if len(rows) == n:
        return values
    index = np.full(n, -1, np.int64)
    index[rows] = np.arange(len(rows))
    return values.take(pa.array(index, mask=index < 0))


def bounds_array(bounds: pa.Array, type_: pa.DataType, is_uuid: bool = False) -> pa.Array:
    """Decode serialised bounds of one column.

    Parameters
    ----------
    bounds : binary[n], null where a file has none
    type_ : the column's logical type now

    Returns
    -------
    array[n] of ``type_``, null where there is no bound or none that can be trusted
    """
    if is_uuid or not is_primitive(type_):
        return pa.nulls(len(bounds), type_)
    if pa.types.is_string(type_):
        return _text(bounds)
    if pa.types.is_fixed_size_binary(type_) and not pa.types.is_decimal(type_):
        fits = pc.equal(pc.binary_length(bounds), type_.byte_width)
        return pc.if_else(fits, bounds, pa.scalar(None, pa.binary())).cast(type_)
    if pa.types.is_binary(type_):
        return bounds
    if pa.types.is_decimal(type_):
        return decimal_array(bounds.to_pylist(), type_)
    return _fixed_width(bounds, type_)


def _text(bounds: pa.Array) -> pa.Array:
    try:
        return bounds.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([_decoded(value) for value in bounds.to_pylist()], pa.string())


def _decoded(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def decimal_array(values: Sequence[bytes | None], type_: pa.DataType) -> pa.Array:
    """Return decimals from unscaled big-endian two's complement numbers of any width; null where one does not fit."""
    limit = 10**type_.precision
    unscaled = [None if not v else int.from_bytes(v, "big", signed=True) for v in values]
    return unscaled_array([u if u is None or abs(u) < limit else None for u in unscaled], type_)


def unscaled_array(values: Sequence[int | None], type_: pa.DataType) -> pa.Array:
    """Return decimals from their unscaled values."""
    data = b"".join((v or 0).to_bytes(16, "little", signed=True) for v in values)
    valid = pa.array([v is not None for v in values], pa.bool_())
    whole = pa.Array.from_buffers(type_, len(values), [None, pa.py_buffer(data)])
    return pc.if_else(valid, whole, pa.scalar(None, type_))


def _fixed_width(bounds: pa.Array, type_: pa.DataType) -> pa.Array:
    """Decode numbers, dates and times: one pass per width that occurs, nearly always one."""
    lengths = pc.fill_null(pc.binary_length(bounds), 0).to_numpy()
    out: pa.Array = pa.nulls(len(bounds), type_)
    for width in np.unique(lengths[lengths > 0]):
        reader = _reader(int(width), type_)
        if reader is None:
            continue
        rows = np.flatnonzero(lengths == width)
        joined = b"".join(bounds.take(pa.array(rows)).to_pylist())
        decoded = scatter(rows, reader(joined), len(bounds))
        out = decoded if out.null_count == len(out) else pc.coalesce(out, decoded)
    return out


def _reader(width: int, type_: pa.DataType) -> Callable[[bytes], pa.Array] | None:
    if pa.types.is_boolean(type_):
        return (lambda data: pa.array(np.frombuffer(data, np.uint8) != 0)) if width == 1 else None
    if pa.types.is_floating(type_):
        dtypes = {4: "<f4", 8: "<f8"} if pa.types.is_float64(type_) else {4: "<f4"}
        return (lambda data: _floats(np.frombuffer(data, dtypes[width]), type_)) if width in dtypes else None
    if pa.types.is_timestamp(type_) and width == 4:
        return lambda data: _integers(np.frombuffer(data, "<i4").astype(np.int64) * _DAY[type_.unit], type_)
    if width == 8 and type_.bit_width == 64:
        return lambda data: _integers(np.frombuffer(data, "<i8"), type_)
    if width == 4 and not pa.types.is_time(type_):
        return lambda data: _integers(np.frombuffer(data, "<i4"), type_)
    return None


def _floats(values: np.ndarray, type_: pa.DataType) -> pa.Array:
    wide = values.astype(np.float64 if pa.types.is_float64(type_) else np.float32)
    return pa.array(wide, mask=np.isnan(wide))


def _integers(values: np.ndarray, type_: pa.DataType) -> pa.Array:
    """Return integers as a column of ``type_``, of the same or twice the width."""
    dtype = np.int64 if type_.bit_width == 64 else np.int32
    return pa.array(values.astype(dtype)).view(type_)


def partition_array(values: Sequence[Any], type_: pa.DataType) -> pa.Array:
    """Return identity partition values as a column of the source's type.

    Parameters
    ----------
    values : as Avro holds them without logical types: days, microseconds, unscaled bytes, …

    Raises
    ------
    pa.ArrowException, TypeError, ValueError
        a value is not of the type
    """
    if pa.types.is_decimal(type_):
        return decimal_array(values, type_)
    if pa.types.is_fixed_size_binary(type_):
        return pa.array([_fixed(value) for value in values], type_)
    if pa.types.is_date(type_):
        return pa.array(values, pa.int32()).view(type_)
    if pa.types.is_temporal(type_):
        return pa.array(values, pa.int64()).view(type_)
    return pa.array(values, type_)


def _fixed(value: bytes | str | None) -> bytes | None:
    return bytes.fromhex(value.replace("-", "")) if isinstance(value, str) else value
