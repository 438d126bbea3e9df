"""Values of a key's columns as *ordinals*: integers that grow with the value.

Integers, dates and timestamps have their sign bit flipped; floats are their IEEE bits (-0.0 as 0.0); decimals are
128-bit integers; strings and bytes are the eight bytes behind what all of them begin with. Also which types these are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from functions.keys import key_hashes
from storage.errors import UnsupportedError

__all__ = [
    "Ordinals",
    "byte_words",
    "check_type",
    "common_prefix",
    "decimal_words",
    "hashes",
    "is_bytes",
    "one_chunk",
    "ordinals",
    "plain_words",
    "type_of",
]

PREFIX_MAX = 256
"""Bytes that strings have in common are skipped up to here: they are part of the stored form."""
_SIGN = np.uint64(1 << 63)
_NO_WORDS = np.empty(0, np.uint64)
_FEW = 32


def check_type(name: str, type_: pa.DataType) -> None:
    """Raise `UnsupportedError`, naming the types that can, if a column of this type cannot be in an index's key."""
    t = pa.types
    whole = t.is_integer(type_) and not t.is_uint64(type_)
    if not (
        whole
        or (t.is_floating(type_) and not t.is_float16(type_))
        or t.is_date32(type_)
        or (t.is_timestamp(type_) and type_.unit == "us")
        or t.is_decimal128(type_)
        or is_bytes(type_)
    ):
        raise UnsupportedError(
            "a column of this type cannot be in an index; integers of up to 64 bits with a sign, floats, dates, "
            "timestamps in microseconds, decimals of up to 38 digits, strings and binary can",
            column=name,
            type=str(type_),
        )


def type_of(name: str) -> pa.DataType:
    """Return the type that Arrow calls so, of those that `check_type` admits. Raises ValueError."""
    if found := re.fullmatch(r"decimal128\((\d+), (-?\d+)\)", name):
        return pa.decimal128(int(found[1]), int(found[2]))
    if found := re.fullmatch(r"fixed_size_binary\[(\d+)\]", name):
        return pa.binary(int(found[1]))
    if found := re.fullmatch(r"timestamp\[us, tz=(.+)\]", name):
        return pa.timestamp("us", found[1])
    return pa.type_for_alias(name)


def is_bytes(type_: pa.DataType) -> bool:
    t = pa.types
    text = t.is_string(type_) or t.is_large_string(type_) or t.is_string_view(type_)
    binary = t.is_binary(type_) or t.is_large_binary(type_) or t.is_binary_view(type_)
    return bool(text or binary or t.is_fixed_size_binary(type_))


def one_chunk(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Return the column as one array."""
    if isinstance(column, pa.Array):
        return column
    if column.num_chunks == 1:
        return column.chunk(0)
    combined = column.combine_chunks()
    return pa.concat_arrays(combined.chunks) if isinstance(combined, pa.ChunkedArray) else combined


def hashes(keys: pa.Table) -> np.ndarray:
    """Return `functions.keys.key_hashes` of all columns, those of fixed-size bytes as bytes: uint64[n]."""
    names = keys.column_names
    for place, column in enumerate(keys.columns):
        if pa.types.is_fixed_size_binary(column.type):
            keys = keys.set_column(place, names[place], one_chunk(column).cast(pa.large_binary()))
    return key_hashes(keys, names)


@dataclass(frozen=True)
class Ordinals:
    """One column of some rows: all that is kept of its values.

    words : uint64[n], of a decimal the upper half
    halves : of a decimal the lower half, uint64[n]
    prefix : bytes that all values begin with; ``words`` are the eight behind it
    smallest, greatest : of the ordinals; 0 and -1 without any row
    exact : for bytes, whether no value is longer than ``exact_bytes`` (0: not even then) and all differ if padded
    """

    words: np.ndarray
    halves: np.ndarray | None = None
    prefix: bytes = b""
    smallest: int = 0
    greatest: int = -1
    exact_bytes: int = 0

    def without_words(self) -> Ordinals:
        """Return what a `KeySpace` is fitted on, without what its numbers are made of."""
        return replace(self, words=_NO_WORDS, halves=None)

    def bounds(self, prefix: bytes) -> tuple[int, int]:
        """Return the smallest and the greatest ordinal behind a prefix that is no longer than its own."""
        high, shift = self._between(prefix)
        return high | self.smallest >> shift, high | self.greatest >> shift

    def rebased(self, prefix: bytes) -> np.ndarray:
        """Return the eight bytes behind a prefix that is no longer than its own: uint64[n]."""
        high, shift = self._between(prefix)
        if shift == 0:
            return self.words
        # All 64 bits leave nothing of the words, as numpy shifts.
        return np.uint64(high) | (self.words >> np.uint64(shift))

    def _between(self, prefix: bytes) -> tuple[int, int]:
        """Return the bytes behind ``prefix`` that all have, and the bits by which they move the words."""
        between = self.prefix[len(prefix) : len(prefix) + 8]
        return int.from_bytes(between.ljust(8, b"\0"), "big"), 8 * len(between)


def ordinals(column: pa.Array) -> Ordinals:
    """Return the ordinals of a column without NULL and NaN, of a type that `check_type` admits."""
    if is_bytes(column.type):
        return _of_bytes(column)
    if pa.types.is_decimal(column.type):
        words, halves = decimal_words(column)
        return Ordinals(words, halves, b"", *_decimal_bounds(words, halves))
    words = plain_words(column)
    return Ordinals(words, None, b"", int(words.min()), int(words.max())) if len(words) else Ordinals(words)


def plain_words(column: pa.Array) -> np.ndarray:
    kind = column.type
    if pa.types.is_floating(kind):
        bits = (column.to_numpy(zero_copy_only=False).astype(np.float64) + 0.0).view(np.uint64)
        ordered: np.ndarray = np.where(bits & _SIGN, ~bits, bits | _SIGN)
        return ordered
    if pa.types.is_date32(kind):
        column = column.view(pa.int32())
    elif pa.types.is_timestamp(kind):
        column = column.view(pa.int64())
    words: np.ndarray = column.to_numpy(zero_copy_only=False).astype(np.int64, copy=False).view(np.uint64) ^ _SIGN
    return words


def decimal_words(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    if not len(column):
        return np.empty(0, np.uint64), np.empty(0, np.uint64)
    both = np.frombuffer(column.buffers()[1], np.uint64, 2 * len(column), 16 * column.offset)
    return both[1::2] ^ _SIGN, both[0::2].copy()


def _decimal_bounds(words: np.ndarray, halves: np.ndarray) -> tuple[int, int]:
    if not len(words):
        return 0, -1
    low, high = words.min(), words.max()
    return (
        int(low) << 64 | int(halves[words == low].min()),
        int(high) << 64 | int(halves[words == high].max()),
    )


def _of_bytes(column: pa.Array) -> Ordinals:
    column = column.cast(pa.large_binary())
    if not len(column):
        return Ordinals(np.empty(0, np.uint64))
    ends = pc.min_max(column)
    prefix = common_prefix([ends["min"].as_py(), ends["max"].as_py()])[:PREFIX_MAX]
    words = byte_words(column, len(prefix))
    offsets, data = _byte_buffers(column)
    lengths = np.diff(offsets)
    widest = int(lengths.max())
    last = data[np.maximum(offsets[1:] - 1, 0)] if len(data) else np.ones(len(lengths), np.uint8)
    # Zeros are what shorter values are padded with: "a" and "a\0" would be one.
    plain = int(lengths.min()) == widest or bool(((last != 0) | (lengths == 0)).all())
    return Ordinals(words, None, prefix, int(words.min()), int(words.max()), widest if plain else PREFIX_MAX + 9)


def common_prefix(values: Sequence[bytes]) -> bytes:
    low, high = min(values), max(values)
    place = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    return low[:place]


def _byte_buffers(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """``column`` is large_binary; the offsets are into the data."""
    _valid, offsets, data = column.buffers()
    return (
        np.frombuffer(offsets, np.int64, len(column) + 1, 8 * column.offset),
        np.frombuffer(data, np.uint8) if data else np.empty(0, np.uint8),
    )


def byte_words(column: pa.Array, skipped: int) -> np.ndarray:
    """Return the eight bytes behind the first ``skipped`` of each value, the first the highest: uint64[n]."""
    if len(column) <= _FEW:
        cut = [value[skipped : skipped + 8].ljust(8, b"\0") for value in column.to_pylist()]
        return np.frombuffer(b"".join(cut), ">u8").astype(np.uint64)
    offsets, data = _byte_buffers(column)
    lengths = np.diff(offsets)
    n, width = len(lengths), int(lengths[0])
    padded = np.zeros((n, 8), np.uint8)
    if (lengths == width).all():
        taken = data[offsets[0] : offsets[-1]].reshape(n, width)[:, skipped : skipped + 8]
        padded[:, : taken.shape[1]] = taken
    else:
        for place in range(8):
            wanted = offsets[:-1] + (skipped + place)
            there = wanted < offsets[1:]
            padded[there, place] = data[wanted[there]]
    return padded.view(">u8")[:, 0].astype(np.uint64)
