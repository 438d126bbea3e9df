"""Which rows differ between two tables of the same columns, counted: a row that is there twice may go once.

Rows are numbered so that equal rows have equal numbers, column by column: each column's values are numbered, and pairs
of numbers are numbered again. Nulls equal nulls, and floating-point values are equal if their bits are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

__all__ = ["CHANGE_TYPE", "changed_rows"]

CHANGE_TYPE = "_change_type"


def changed_rows(before: pa.Table, after: pa.Table, key: Sequence[str] = ()) -> pa.Table:
    """Return the rows that only one of the tables has, with what became of them in `CHANGE_TYPE`.

    Parameters
    ----------
    key : columns of the primary key; a row that was replaced by one of its key is ``update_preimage`` and then
        ``update_postimage``. All others are ``delete`` or ``insert``

    Returns
    -------
    pa.Table
        Deletions, updates, insertions.
    """
    old, new = _numbers([before, after])
    gone, come = _surplus(old, new)
    left, right = before.take(pa.array(gone)), after.take(pa.array(come))
    paired_left, paired_right = _pairs(left, right, key)
    updates = pa.concat_tables([left.take(pa.array(paired_left)), right.take(pa.array(paired_right))])
    n = len(paired_left)
    # Each preimage goes before its postimage.
    interleaved = np.arange(2 * n).reshape(2, n).T.ravel()
    return pa.concat_tables(
        [
            _said(_others(left, paired_left), ["delete"]),
            _said(updates.take(pa.array(interleaved)), ["update_preimage", "update_postimage"]),
            _said(_others(right, paired_right), ["insert"]),
        ]
    )


def _said(rows: pa.Table, words: Sequence[str]) -> pa.Table:
    said = pa.array(words).take(pa.array(np.arange(rows.num_rows) % len(words)))
    return rows.append_column(CHANGE_TYPE, said)


def _others(rows: pa.Table, taken: np.ndarray) -> pa.Table:
    mask = np.ones(rows.num_rows, dtype=bool)
    mask[taken] = False
    return rows.filter(pa.array(mask))


def _pairs(left: pa.Table, right: pa.Table, key: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the places, in both, of rows with the same key; the n-th of a key goes with the n-th."""
    if not key or not left.num_rows or not right.num_rows:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    old, new = _numbers([left.select(list(key)), right.select(list(key))])
    width = max(left.num_rows, right.num_rows)
    _same, at_left, at_right = np.intersect1d(
        old * width + _ranks(old), new * width + _ranks(new), assume_unique=True, return_indices=True
    )
    order = np.argsort(at_left)
    return at_left[order], at_right[order]


def _surplus(old: np.ndarray, new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of the numbers that each side has more often than the other."""
    size = int(max(old.max(initial=-1), new.max(initial=-1))) + 1
    n_old, n_new = np.bincount(old, minlength=size), np.bincount(new, minlength=size)
    common = np.minimum(n_old, n_new)
    return np.flatnonzero(_ranks(old) >= common[old]), np.flatnonzero(_ranks(new) >= common[new])


def _ranks(numbers: np.ndarray) -> np.ndarray:
    """Return for each element how many equal ones come before it."""
    order = np.argsort(numbers, kind="stable")
    ordered = numbers[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1]))) if len(ordered) else order
    lengths = np.diff(np.append(starts, len(ordered)))
    ranks = np.empty(len(numbers), np.int64)
    ranks[order] = np.arange(len(numbers)) - np.repeat(starts, lengths)
    return ranks


def _numbers(tables: Sequence[pa.Table]) -> list[np.ndarray]:
    """Return a number for each row of each table, equal where the rows are: int64[n] each."""
    n = sum(table.num_rows for table in tables)
    total = np.zeros(n, np.int64)
    for index in range(tables[0].num_columns):
        column = pa.chunked_array(
            [chunk for table in tables for chunk in table.column(index).chunks], tables[0].schema.field(index).type
        )
        total = _joined(total, _of_column(_whole(column)))
    return list(np.split(total, np.cumsum([table.num_rows for table in tables])[:-1]))


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _joined(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return a number for each pair, below the number of pairs."""
    if not len(first) or not second.any():
        return first
    _values, numbers = np.unique(first * (int(second.max()) + 1) + second, return_inverse=True)
    return numbers.astype(np.int64)


def _of_column(values: pa.Array) -> np.ndarray:
    """Return a number for each value, below the number of values."""
    kind = values.type
    if pa.types.is_struct(kind):
        total = np.asarray(values.is_null().to_numpy(zero_copy_only=False), dtype=np.int64)
        for child in values.flatten():
            total = _joined(total, _of_column(child))
        return total
    if pa.types.is_nested(kind):
        # Lists and maps have no numbering of their own; their text tells them apart.
        values = pa.array([None if each is None else repr(each) for each in values.to_pylist()], pa.string())
    elif pa.types.is_floating(kind):
        bits = pa.int64() if kind == pa.float64() else pa.int32()
        values = values.view(bits)
    encoded = values.dictionary_encode(null_encoding="encode")
    numbers: np.ndarray = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return numbers
