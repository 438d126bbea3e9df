"""Primary keys of rows: checked, hashed alike in every process, and the last row of each.

Equal keys have equal hashes whatever their width: an ``int`` and the ``long`` it was widened to agree, and so do 0.0
and -0.0. The mixing function is SplitMix64's finalizer (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number
Generators", OOPSLA 2014, section 4). Strings are hashed by words of eight bytes, each mixed with its place.
Large batches are hashed by `functions.kernels.hashing` where numba is installed, into the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from functions.kernels import pays
from storage.errors import InvalidError, UnsupportedError

__all__ = ["check_keys", "key_columns", "key_hashes", "last_indices", "last_of_each"]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31 = np.uint64(27), np.uint64(30), np.uint64(31)
_WORD = 0xFFFF_FFFF_FFFF_FFFF
_FEW = 8
"""Byte strings up to which plain Python is faster than numpy, which takes some 0.2 ms."""
_ROW = "__firnline_row"


def key_hashes(rows: pa.Table, names: Sequence[str]) -> np.ndarray:
    """Return a hash of each row's key, the same in every process.

    Parameters
    ----------
    names : columns of the key, in its order; at least one

    Returns
    -------
    uint64[n]
        A null counts as a zero or an empty string; keys have none (`check_keys`).

    Raises
    ------
    UnsupportedError : a column whose type cannot be a key
    """
    with np.errstate(over="ignore"):
        total = _mixed(_hashed(_one_chunk(rows.column(names[0])), names[0]))
        for name in names[1:]:
            total = _mixed(total * _FIRST + _hashed(_one_chunk(rows.column(name)), name))
    return total


def check_keys(rows: pa.Table, names: Sequence[str]) -> None:
    """Raise `InvalidError` for the first row, counted from 0, whose key has a null or a NaN."""
    for name in names:
        column = rows.column(name)
        wrong, what = pc.is_null(column), "NULL"
        if column.null_count == 0:
            if not pa.types.is_floating(column.type):
                continue
            wrong, what = pc.is_nan(column), "NaN"
        row = pc.index(wrong, pa.scalar(True)).as_py()
        if row >= 0:
            raise InvalidError(f"a column of the primary key is {what}; give it a value", column=name, row=row)
        if pa.types.is_floating(column.type) and what == "NULL":
            check_keys(rows.select([name]).drop_null(), [name])


def key_columns(rows: pa.Table, names: Sequence[str]) -> pa.Table:
    """Return the key's columns, with -0.0 as 0.0, so that equal keys are equal bits."""
    columns = [rows.column(name) for name in names]
    plain = [
        pc.add(column, pa.scalar(0.0, column.type)) if pa.types.is_floating(column.type) else column
        for column in columns
    ]
    return pa.Table.from_arrays(plain, schema=pa.schema([rows.schema.field(name) for name in names]))


def last_of_each(rows: pa.Table, names: Sequence[str]) -> pa.Table:
    """Return the last row of each key, in the order of the rows; ``rows`` itself if all keys differ."""
    kept = last_indices(rows, names)
    return rows if len(kept) == rows.num_rows else rows.take(pa.array(kept))


def last_indices(rows: pa.Table, names: Sequence[str]) -> np.ndarray:
    """Return the numbers of the rows that are the last of their keys: int64[k], growing."""
    n = rows.num_rows
    shared = _shared(key_hashes(rows, names))
    if not len(shared):
        return np.arange(n)
    # Only rows whose hashes meet are compared by their keys.
    keys = key_columns(rows.select(list(names)).take(pa.array(shared)), names)
    grouped = keys.append_column(_ROW, pa.array(shared)).group_by(list(names), use_threads=False)
    last = grouped.aggregate([(_ROW, "max")]).column(f"{_ROW}_max").to_numpy()
    kept = np.ones(n, dtype=bool)
    kept[shared] = False
    kept[last] = True
    return np.flatnonzero(kept)


def _shared(hashes: np.ndarray) -> np.ndarray:
    """Return the places of all hashes that occur more than once, growing: int64[k]."""
    ordered = np.sort(hashes)
    if not (ordered[1:] == ordered[:-1]).any():
        return np.empty(0, np.int64)
    order = np.argsort(hashes)
    same = hashes[order[1:]] == hashes[order[:-1]]
    met = np.zeros(len(hashes), dtype=bool)
    met[order[1:][same]] = True
    met[order[:-1][same]] = True
    return np.flatnonzero(met)


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    if column.num_chunks == 1:
        return column.chunk(0)
    combined = column.combine_chunks()
    return pa.concat_arrays(combined.chunks) if isinstance(combined, pa.ChunkedArray) else combined


def _mixed(values: np.ndarray) -> np.ndarray:
    if pays(len(values)):
        from functions.kernels.hashing import mix_words

        at_once: np.ndarray = mix_words(np.ascontiguousarray(values))
        return at_once
    values = (values ^ (values >> _S30)) * _FIRST
    values = (values ^ (values >> _S27)) * _SECOND
    mixed: np.ndarray = values ^ (values >> _S31)
    return mixed


def _mixed_int(value: int) -> int:
    value = ((value ^ (value >> 30)) * int(_FIRST)) & _WORD
    value = ((value ^ (value >> 27)) * int(_SECOND)) & _WORD
    return value ^ (value >> 31)


def _hashed(column: pa.Array, name: str) -> np.ndarray:
    """Return a hash of each value: uint64[n]."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return _of_words(column if kind == pa.int64() else column.cast(pa.int64()))
    if pa.types.is_date32(kind):
        return _of_words(column.cast(pa.int32()).cast(pa.int64()))
    if pa.types.is_timestamp(kind) and kind.unit == "us":
        return _of_words(column.cast(pa.int64()))
    if pa.types.is_floating(kind):
        plain = pc.add(column.cast(pa.float64()), 0.0)
        return _of_words(plain)
    if pa.types.is_decimal128(kind):
        return _of_decimals(column)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return _of_bytes(column.cast(pa.large_string()).cast(pa.large_binary()))
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return _of_bytes(column.cast(pa.large_binary()))
    raise UnsupportedError("a column of this type cannot be in a primary key", column=name, type=str(kind))


def _of_words(column: pa.Array) -> np.ndarray:
    """``column`` is of a type of 64 bits."""
    filled = column.fill_null(0) if column.null_count else column
    return _mixed(filled.to_numpy(zero_copy_only=False).view(np.uint64) + _GOLDEN)


def _of_decimals(column: pa.Array) -> np.ndarray:
    if column.null_count:
        column = column.fill_null(pa.scalar(0, column.type))
    buffer = column.buffers()[1]
    words = np.frombuffer(buffer, np.uint64, 2 * len(column), 16 * column.offset) if len(column) else _no_words()
    return _mixed(_mixed(words[0::2] + _GOLDEN) + words[1::2])


def _no_words() -> np.ndarray:
    return np.empty(0, np.uint64)


def _of_bytes(column: pa.Array) -> np.ndarray:
    """Hash byte strings: the sum over their words, zero-padded, of the word mixed with its place; then their length."""
    if column.null_count:
        column = column.fill_null(b"")
    if len(column) <= _FEW:
        return np.array([_of_one(text) for text in column.to_pylist()], np.uint64)
    _valid, offsets_buffer, data_buffer = column.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int64, len(column) + 1, 8 * column.offset)
    lengths = np.diff(offsets)
    data = np.frombuffer(data_buffer, np.uint8)[offsets[0] : offsets[-1]] if data_buffer else np.empty(0, np.uint8)
    if pays(len(column)):
        from functions.kernels.hashing import hash_strings

        hashes: np.ndarray = hash_strings(data, offsets - offsets[0])
        return hashes
    widest = int(lengths.max())
    if len(column) * (widest + 7) <= 4 * (len(data) + 8 * len(column)):
        total = _sum_aligned(data, lengths, -(-widest // 8))
    else:
        total = _sum_ragged(data, offsets - offsets[0], lengths)
    return _mixed(total ^ _mixed(lengths.astype(np.uint64) + _GOLDEN))


def _of_one(text: bytes) -> int:
    """Hash one byte string, as `_of_bytes` does."""
    golden, total = int(_GOLDEN), 0
    for place, start in enumerate(range(0, len(text), 8), 1):
        word = int.from_bytes(text[start : start + 8], "little")
        total += _mixed_int((word + golden * place) & _WORD)
    return _mixed_int((total & _WORD) ^ _mixed_int((len(text) + golden) & _WORD))


def _sum_aligned(data: np.ndarray, lengths: np.ndarray, n_words: int) -> np.ndarray:
    """Strings of about one length: a row of words for each."""
    n = len(lengths)
    padded = np.zeros((n, 8 * n_words), np.uint8)
    if len(data) == n * int(lengths[0]) and (lengths == lengths[0]).all():
        padded[:, : int(lengths[0])] = data.reshape(n, int(lengths[0]))
    else:
        padded[np.arange(8 * n_words) < lengths[:, None]] = data
    words = padded.view("<u8").reshape(n, n_words)
    total = np.zeros(n, np.uint64)
    for place in range(n_words):
        mixed = _mixed(words[:, place] + _GOLDEN * np.uint64(place + 1))
        total += np.where(lengths > 8 * place, mixed, np.uint64(0))
    return total


def _sum_ragged(data: np.ndarray, offsets: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Strings of very different lengths: all words in one row, added up by string."""
    n_words = -(-lengths // 8)
    first = np.concatenate(([0], np.cumsum(n_words)))
    padded = np.zeros(int(first[-1]) * 8, np.uint8)
    padded[np.repeat(first[:-1] * 8 - offsets[:-1], lengths) + np.arange(len(data))] = data
    place = np.arange(int(first[-1])) - np.repeat(first[:-1], n_words)
    mixed = _mixed(padded.view("<u8") + _GOLDEN * (place + 1).astype(np.uint64))
    total = np.zeros(len(lengths), np.uint64)
    filled = n_words > 0
    if filled.any():
        total[filled] = np.add.reduceat(mixed, first[:-1][filled])
    return total
