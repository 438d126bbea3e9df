"""The keys of one file as an index needs them: their hashes and ordinals, by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from functions.index.keyspace import KeySpace
from functions.index.ordinals import Ordinals, hashes, one_chunk, ordinals

__all__ = ["FileKeys", "KeyPart", "key_part"]


@dataclass(frozen=True, eq=False)
class KeyPart:
    """Keys of some rows of a file that follow one another; rows whose key has a NULL or NaN have none.

    first_row : of the file
    with_key : int64[k], growing: rows from ``first_row`` on that have a key; None: all
    hashes : uint64[k]
    columns : of the key
    ends : the first and the last key, one row each; the same where there is one, none where there is none
    is_sorted : the keys do not decrease
    """

    first_row: int
    with_key: np.ndarray | None
    hashes: np.ndarray
    columns: tuple[Ordinals, ...]
    ends: pa.Table
    is_sorted: bool

    @property
    def rows(self) -> np.ndarray:
        """Return the rows of the file that have a key: int64[k]."""
        return self.first_row + (np.arange(len(self.hashes)) if self.with_key is None else self.with_key)


@dataclass(frozen=True, eq=False)
class FileKeys:
    """All keys of one file, its parts in the order of the rows.

    block_rows : int64[b + 1] of its layout
    """

    parts: tuple[KeyPart, ...]
    block_rows: np.ndarray

    @property
    def n_keys(self) -> int:
        return sum(len(part.hashes) for part in self.parts)

    @property
    def is_sorted(self) -> bool:
        """Whether the keys do not decrease from row to row."""
        filled = [part for part in self.parts if len(part.hashes)]
        return all(part.is_sorted for part in filled) and all(
            _is_sorted(pa.concat_tables([before.ends.slice(before.ends.num_rows - 1), after.ends.slice(0, 1)]))
            for before, after in pairwise(filled)
        )

    def rows(self) -> np.ndarray:
        """Return the rows that have a key: int64[k]."""
        return _joined([part.rows for part in self.parts], np.int64)

    def without_order(self) -> FileKeys:
        """Return what a locator needs: the keys' hashes and the bounds of the ordinals."""
        parts = [replace(part, columns=tuple(each.without_words() for each in part.columns)) for part in self.parts]
        return FileKeys(tuple(parts), self.block_rows)

    def hashes(self) -> np.ndarray:
        """Return the hash of each key: uint64[k]."""
        return _joined([part.hashes for part in self.parts], np.uint64)

    def numbers(self, space: KeySpace) -> np.ndarray:
        """Return the number of each key: uint64[k]."""
        return _joined([space.kept(part.columns) for part in self.parts], np.uint64)

    def blocks(self) -> np.ndarray:
        """Return the number of the block, in the file, of each key: uint32[k]."""
        return (self.block_rows.searchsorted(self.rows(), "right") - 1).astype(np.uint32)


def _joined(parts: Sequence[np.ndarray], kind: type) -> np.ndarray:
    return np.concatenate(parts) if parts else np.empty(0, kind)


def key_part(keys: pa.Table, first_row: int) -> KeyPart:
    """Return the keys of rows from ``first_row`` on, given the key's columns in its order."""
    table = keys.combine_chunks()
    valid = _valid(table)
    if valid is not None:
        table = table.filter(pa.array(valid)).combine_chunks()
    with_key = None if valid is None else np.flatnonzero(valid)
    columns = tuple(ordinals(one_chunk(column)) for column in table.columns)
    ends = table.take([0, table.num_rows - 1]) if table.num_rows > 1 else table
    return KeyPart(first_row, with_key, hashes(table), columns, ends, _is_sorted(table, columns))


def _valid(keys: pa.Table) -> np.ndarray | None:
    """Return bool[n] of the rows without NULL and NaN; None if these are all."""
    valid: np.ndarray | None = None
    for column in keys.columns:
        if column.null_count:
            there = pc.is_valid(column).to_numpy()
            valid = there if valid is None else valid & there
        if pa.types.is_floating(column.type):
            number = ~pc.fill_null(pc.is_nan(column), True).to_numpy()
            valid = number if valid is None else valid & number
    return None if valid is None or valid.all() else valid


def _is_sorted(keys: pa.Table, columns: Sequence[Ordinals] | None = None) -> bool:
    """Tell whether no key is less than the one before it, column by column in the key's order."""
    if keys.num_rows < 2:
        return True
    equal = np.ones(keys.num_rows - 1, bool)
    for place, column in enumerate(keys.columns):
        values = one_chunk(column)
        less, same = _steps(values, columns[place] if columns else ordinals(values))
        if (equal & less).any():
            return False
        equal &= same
        if not equal.any():
            break
    return True


def _steps(values: pa.Array, column: Ordinals) -> tuple[np.ndarray, np.ndarray]:
    """Return of each value but the first whether it is less than, and whether it equals, the one before it."""
    words = column.words
    less, same = words[1:] < words[:-1], words[1:] == words[:-1]
    if column.halves is not None:
        halves = column.halves
        return less | (same & (halves[1:] < halves[:-1])), same & (halves[1:] == halves[:-1])
    if column.exact_bytes > 8 + len(column.prefix) and same.any():
        plain = values.cast(pa.large_binary())
        tied = pa.array(np.flatnonzero(same))
        before, after = plain.take(tied), plain.take(pc.add(tied, 1))
        less[same] = pc.less(after, before).to_numpy(zero_copy_only=False)
        same[same] = pc.equal(after, before).to_numpy(zero_copy_only=False)
    return less, same
