"""Partition transforms of whole columns: the value that all rows of one data file share.

Source: Iceberg spec, "Partition Transforms" and Appendix B, "32-bit Hash Requirements" (Murmur3, x86 variant, seed 0,
Austin Appleby's `MurmurHash3_x86_32`).
"""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.errors import InvalidError

__all__ = ["transform_column", "transformed_type"]

_SIZED = re.compile(r"(bucket|truncate)\[(\d{1,9})\]")
_UNITS = {"year": "Y", "month": "M", "day": "D", "hour": "h"}
_UINT32 = np.uint32


def transformed_type(transform: str, type_: pa.DataType) -> pa.DataType:
    """Return the type of the partition values. Raises `InvalidError` when the transform does not take the type."""
    sized = _SIZED.fullmatch(transform)
    if sized and int(sized[2]) > 0:
        if sized[1] == "bucket" and _has_bucket(type_):
            return pa.int32()
        if sized[1] == "truncate" and _has_truncate(type_):
            return type_
    elif transform == "identity" and not pa.types.is_nested(type_):
        return type_
    elif transform in _UNITS and (pa.types.is_timestamp(type_) or (pa.types.is_date(type_) and transform != "hour")):
        return pa.int32()
    elif transform not in ("identity", *_UNITS):
        raise InvalidError(
            "unknown partition transform; use identity, bucket[n], truncate[n], year, month, day or hour",
            transform=transform,
        )
    raise InvalidError("this partition transform does not take this type", transform=transform, type=str(type_))


def transform_column(transform: str, column: pa.Array) -> pa.Array:
    """Return the partition value of each row; null stays null. Raises `InvalidError`, see `transformed_type`."""
    type_ = transformed_type(transform, column.type)
    if transform == "identity":
        return column
    if transform in _UNITS:
        return _ordinals(_UNITS[transform], column)
    sized = _SIZED.fullmatch(transform)
    assert sized is not None
    width = int(sized[2])
    if sized[1] == "bucket":
        buckets = (_hash(column) & _UINT32(0x7FFFFFFF)) % _UINT32(width)
        return pa.array(buckets.astype(np.int32), type_, mask=_nulls(column))
    return _truncate(width, column)


def _has_bucket(type_: pa.DataType) -> bool:
    numbers = pa.types.is_signed_integer(type_) or pa.types.is_decimal(type_)
    times = pa.types.is_date(type_) or pa.types.is_timestamp(type_)
    return bool(numbers or times or pa.types.is_string(type_) or pa.types.is_binary(type_))


def _has_truncate(type_: pa.DataType) -> bool:
    numbers = pa.types.is_signed_integer(type_) or pa.types.is_decimal(type_)
    return bool(numbers or pa.types.is_string(type_) or pa.types.is_binary(type_))


def _nulls(column: pa.Array) -> np.ndarray:
    return np.asarray(pc.is_null(column))


def _int64(column: pa.Array) -> np.ndarray:
    """Return the column's numbers (days, microseconds) with 0 for null."""
    if pa.types.is_date(column.type):
        column = column.cast(pa.int32())
    return np.asarray(pc.fill_null(column.cast(pa.int64()), 0))


def _ordinals(unit: str, column: pa.Array) -> pa.Array:
    precision = "D" if pa.types.is_date(column.type) else column.type.unit
    moments = _int64(column).astype(f"datetime64[{precision}]")
    ordinals = moments.astype(f"datetime64[{unit}]").astype(np.int64)
    return pa.array(ordinals.astype(np.int32), pa.int32(), mask=_nulls(column))


def _truncate(width: int, column: pa.Array) -> pa.Array:
    if pa.types.is_string(column.type):
        return pc.utf8_slice_codeunits(column, 0, width)
    if pa.types.is_binary(column.type):
        return pc.binary_slice(column, 0, width)
    if pa.types.is_decimal(column.type):
        import decimal

        with decimal.localcontext() as context:
            context.prec = 76
            scale = column.type.scale
            unscaled = [None if v is None else int(v.scaleb(scale)) for v in column.to_pylist()]
            cut = [None if v is None else decimal.Decimal(v - v % width).scaleb(-scale) for v in unscaled]
            return pa.array(cut, column.type)
    numbers = _int64(column)
    cut = numbers - np.mod(numbers, width)
    return pa.array(cut, pa.int64(), mask=_nulls(column)).cast(column.type)


def _hash(column: pa.Array) -> np.ndarray:
    """Return uint32[n]; anything for null."""
    if pa.types.is_string(column.type) or pa.types.is_binary(column.type):
        return _hash_bytes(column.cast(pa.binary()))
    if pa.types.is_decimal(column.type):
        encoded = pc.dictionary_encode(column.fill_null(0))
        values = pa.array([_decimal_bytes(v, column.type.scale) for v in encoded.dictionary.to_pylist()], pa.binary())
        return np.asarray(_hash_bytes(values)[np.asarray(encoded.indices)])
    words = _int64(column).astype("<i8").view("<u4").reshape(-1, 2)
    hashes = _mix(_mix(np.zeros(len(words), _UINT32), words[:, 0]), words[:, 1])
    return _finish(hashes, np.full(len(words), 8, _UINT32))


def _decimal_bytes(value: object, scale: int) -> bytes:
    import decimal

    assert isinstance(value, decimal.Decimal)
    with decimal.localcontext() as context:
        context.prec = 76
        unscaled = int(value.scaleb(scale))
    n_bits = (unscaled if unscaled >= 0 else ~unscaled).bit_length() + 1
    return unscaled.to_bytes((n_bits + 7) // 8, "big", signed=True)


def _hash_bytes(column: pa.Array) -> np.ndarray:
    """Hash all values side by side, four bytes of each at a time; rows leave as their bytes end."""
    n = len(column)
    column = pc.fill_null(column, b"")
    buffers = column.buffers()
    offsets = np.frombuffer(buffers[1], np.int32, n + 1, column.offset * 4).astype(np.int64)
    data = np.frombuffer(buffers[2], np.uint8) if buffers[2] is not None else np.empty(0, np.uint8)
    data = np.concatenate([data, np.zeros(4, np.uint8)])
    starts, lengths = offsets[:-1], np.diff(offsets)
    hashes = np.zeros(n, _UINT32)
    rows, block = np.flatnonzero(lengths >= 4), 0
    while len(rows):
        hashes[rows] = _mix(hashes[rows], _word(data, starts[rows] + 4 * block, 4))
        block += 1
        rows = rows[lengths[rows] >= 4 * (block + 1)]
    for rest in (1, 2, 3):
        rows = np.flatnonzero(lengths % 4 == rest)
        hashes[rows] ^= _scramble(_word(data, starts[rows] + lengths[rows] - rest, rest))
    return _finish(hashes, lengths.astype(_UINT32))


def _word(data: np.ndarray, at: np.ndarray, n_bytes: int) -> np.ndarray:
    word = np.zeros(len(at), _UINT32)
    for byte in range(n_bytes):
        word |= data[at + byte].astype(_UINT32) << _UINT32(8 * byte)
    return word


def _rotate(values: np.ndarray, by: int) -> np.ndarray:
    return np.asarray((values << _UINT32(by)) | (values >> _UINT32(32 - by)))


def _scramble(words: np.ndarray) -> np.ndarray:
    return _rotate(words * _UINT32(0xCC9E2D51), 15) * _UINT32(0x1B873593)


def _mix(hashes: np.ndarray, words: np.ndarray) -> np.ndarray:
    return _rotate(hashes ^ _scramble(words), 13) * _UINT32(5) + _UINT32(0xE6546B64)


def _finish(hashes: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    hashes = hashes ^ lengths
    hashes = (hashes ^ (hashes >> _UINT32(16))) * _UINT32(0x85EBCA6B)
    hashes = (hashes ^ (hashes >> _UINT32(13))) * _UINT32(0xC2B2AE35)
    return np.asarray(hashes ^ (hashes >> _UINT32(16)))
