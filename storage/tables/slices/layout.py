"""Where the bytes of a file's rows lie: what the footer and the page index say, in arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from storage.tables.slices.file_schema import FileSchema

__all__ = ["BLOCK_ROWS", "Area", "Chunks", "FileLayout", "Piece", "Slice", "SliceRead", "Span", "block_rows_of"]

BLOCK_ROWS = 8_192
"""Rows of a block: what an index points to. A row group of no more than twice as many rows is one block."""

_NO_SCHEMA = FileSchema(b"\x00", b"", b"")


def _none() -> np.ndarray:
    return np.zeros(0, np.int64)


@dataclass(frozen=True, eq=False, slots=True)
class Chunks:
    """The column chunks of a file, row group by row group: chunk ``g * n_leaves + leaf``. All arrays are int64.

    start : first byte, of the dictionary page if it has one
    head : bytes in front of the first data page
    size : bytes
    extra : values less rows; not 0 where a leaf is repeated
    codec : the Parquet format's number
    coded : pages from the first that may need the dictionary page; writers that give it up do so for good
    page_first : [n + 1] which pages are a chunk's; none for a row group that is read whole
    page_row : first row of each page in its row group
    page_start, page_size : bytes
    """

    start: np.ndarray = field(default_factory=_none)
    head: np.ndarray = field(default_factory=_none)
    size: np.ndarray = field(default_factory=_none)
    extra: np.ndarray = field(default_factory=_none)
    codec: np.ndarray = field(default_factory=_none)
    coded: np.ndarray = field(default_factory=_none)
    page_first: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))
    page_row: np.ndarray = field(default_factory=_none)
    page_start: np.ndarray = field(default_factory=_none)
    page_size: np.ndarray = field(default_factory=_none)


@dataclass(frozen=True, eq=False)
class FileLayout:
    """Where the bytes of one file's rows lie.

    n_rows : of the file
    etag : of the file as it was read, "" where the store has none
    block_rows : int64[b + 1], first row of each block, then ``n_rows``. A block lies within one row group.
    file_schema : shared by files of one schema
    group_rows : int64[g + 1], first row of each row group, then ``n_rows``; None: the blocks are the row groups
    chunks : where the bytes are
    """

    n_rows: int
    etag: str
    block_rows: np.ndarray
    file_schema: FileSchema = _NO_SCHEMA
    group_rows: np.ndarray | None = None
    chunks: Chunks = field(default_factory=Chunks)

    @property
    def schema(self) -> pa.Schema:
        """The stored columns, field ids (``PARQUET:field_id``) included."""
        return self.file_schema.arrow_schema

    @property
    def groups(self) -> np.ndarray:
        return self.block_rows if self.group_rows is None else self.group_rows


def block_rows_of(group_rows: np.ndarray, paged: np.ndarray) -> np.ndarray:
    """Return the first row of each block, then the number of rows; ``paged`` says which row groups have pages."""
    parts: list[np.ndarray] = []
    for start, limit, has_pages in zip(group_rows[:-1].tolist(), group_rows[1:].tolist(), paged.tolist(), strict=True):
        if limit > start:
            step = BLOCK_ROWS if has_pages and limit - start > 2 * BLOCK_ROWS else limit - start
            parts.append(np.arange(start, limit, step, dtype=np.int64))
    parts.append(group_rows[-1:].astype(np.int64))
    return np.concatenate(parts)


@dataclass(frozen=True, slots=True)
class Slice:
    """Rows [start, limit) of a file."""

    start: int
    limit: int


Span = tuple[int, int, int, int, int, int]
"""Of a column chunk: first byte of the dictionary page, limit, first byte of the other pages, limit, values, codec."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Pages of some columns that begin and end at the same rows, so that they are decoded together.

    columns : their numbers, ascending
    start, limit : rows of the file
    chunks : of each leaf
    """

    columns: tuple[int, ...]
    start: int
    limit: int
    chunks: Sequence[Span]


@dataclass(frozen=True, slots=True)
class Area:
    """Rows [start, limit) of a file that are answered, and the pieces that hold all columns of them."""

    start: int
    limit: int
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class SliceRead:
    """What is read of one file for some slices, and how it is decoded.

    ranges : byte ranges [start, limit) of the file, ascending, near ones as one; each is a request
    n_bytes : of all ranges
    areas : how it is decoded
    """

    ranges: tuple[tuple[int, int], ...]
    n_bytes: int
    areas: tuple[Area, ...] = ()
