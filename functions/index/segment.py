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
from storage.tables.slices import FileLayout

__all__ = ["Located", "Segment", "decode"]


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class Segment:
    """An index of files; see the module.

    paths, sizes, etags : of its files, in its order; an etag that was not known is ""
    layouts : of its files
    types : of the key's columns, Arrow's own names
    n_keys : rows that have a key; those whose key has a NULL or NaN have none
    n_bytes : of the models in memory
    error : of a learned model, rows
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

    def locate(self, keys: pa.Table) -> Located:
        """Return where rows with each of the keys may be; nothing for a key that is in none of the files.

        Parameters
        ----------
        keys : columns of the key in its order, of exactly the types of ``types``; without NULL and NaN
        """
        raise NotImplementedError

    def locate_range(self, low: Any | None, high: Any | None) -> Located:
        """Return where rows may be whose first key column is from ``low`` to ``high``, both included; None: no bound.

        The bounds are values of that column's type (`pa.scalar`). Raises `UnsupportedError` for a locator.
        """
        raise NotImplementedError

    def encode(self) -> bytes:
        """Return the stored form: magic, version, header, sections, checksums."""
        raise NotImplementedError


def decode(data: bytes) -> Segment:
    """Return the segment of `Segment.encode`. Raises `CorruptError`."""
    raise NotImplementedError
