"""A segment: the index of some files of a table, immutable, and its stored form.

*learned*: the files' keys are sorted. Files that do not overlap are a *run*, one after another; each run has one
piecewise-linear model of its keys, which says about where a key is, and one filter for the segment says of most keys
that are in no file that they are not. *locator*: keys lie anywhere. A static map says for each key in which block
(`storage.tables.slices.BLOCK_ROWS`) it is, and for the few keys that are in several blocks, in which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from catalog.indexes import IndexKind
from functions.index.keyspace import KeySpace
from functions.index.learned import NOTHING, Learned, Ranges
from functions.index.locator import Locator
from functions.index.ordinals import hashes, type_of
from storage.errors import UnsupportedError
from storage.tables.slices import FileLayout

__all__ = ["Located", "Segment", "decode"]


@dataclass(frozen=True, eq=False)
class Located:
    """Row ranges that may hold keys: rows [start, limit) of a file of the segment, for one key.

    key : int64[k] number of the key that was asked for, from 0; for a range of keys all 0
    file : int64[k] number of the file in the segment
    start, limit : int64[k]
    """

    key: np.ndarray
    file: np.ndarray
    start: np.ndarray
    limit: np.ndarray


@dataclass(frozen=True, eq=False)
class Segment:
    """An index of files; see the module.

    paths, sizes, etags : of its files, in its order; an etag that was not known is ""
    layouts : of its files
    types : of the key's columns, Arrow's own names
    n_keys : rows that have a key; those whose key has a NULL or NaN have none
    n_bytes : of the models in memory
    error : of a learned model, rows
    space : turns keys into numbers; None if no row has a key
    model : None if no row has a key
    """

    kind: IndexKind
    types: tuple[str, ...]
    paths: Sequence[str]
    sizes: np.ndarray
    etags: Sequence[str]
    layouts: Sequence[FileLayout]
    n_keys: int
    n_bytes: int
    error: int
    space: KeySpace | None = None
    model: Learned | Locator | None = None

    def locate(self, keys: pa.Table) -> Located:
        """Return where rows with each of the keys may be; nothing for a key that is in none of the files.

        Parameters
        ----------
        keys : columns of the key in its order, of exactly the types of ``types``; without NULL and NaN
        """
        if self.space is None or self.model is None or not keys.num_rows:
            return Located(*NOTHING)
        numbers, inside = self.space.numbers(keys)
        if inside.all():
            return Located(*self._ranges(keys, numbers))
        asked = np.flatnonzero(inside)
        if not len(asked):
            return Located(*NOTHING)
        key, file, start, limit = self._ranges(keys.take(pa.array(asked)), numbers[asked])
        return Located(asked[key], file, start, limit)

    def _ranges(self, keys: pa.Table, numbers: np.ndarray) -> Ranges:
        if isinstance(self.model, Locator):
            return self.model.locate(hashes(keys))
        assert self.model is not None
        return self.model.locate(hashes(keys) if self.model.filter else None, numbers)

    def locate_range(self, low: Any | None, high: Any | None) -> Located:
        """Return where rows may be whose first key column is from ``low`` to ``high``, both included; None: no bound.

        The bounds are values of that column's type (`pa.scalar`). Raises `UnsupportedError` for a locator.
        """
        if self.kind == "locator":
            raise UnsupportedError("a locator finds single keys, not ranges of them; create an index USING learned")
        if self.space is None or not isinstance(self.model, Learned):
            return Located(*NOTHING)
        between = self.space.between(low, high, type_of(self.types[0]))
        return Located(*NOTHING) if between is None else Located(*self.model.locate_range(*between))

    def encode(self) -> bytes:
        """Return the stored form: magic, version, header, sections, checksums."""
        from functions.index.stored import encode

        return encode(self)


def decode(data: bytes) -> Segment:
    """Return the segment of `Segment.encode`. Raises `CorruptError`."""
    from functions.index.stored import decode

    return decode(data)
