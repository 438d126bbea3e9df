"""Some rows of a Parquet file in one ranged read: where each row group's and page's bytes lie, known beforehand.

A *slice* is a range of rows of one file. What its bytes are follows from a `FileLayout`, which is read from the footer
(and page index) once and kept in the index, so a slice needs neither. The bytes are decoded by giving them a footer of
their own: a Parquet file in memory that holds just these pages.

Source: Apache Parquet format, "File format", "Page index"; Thrift compact protocol.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from storage.stores import Stores

__all__ = ["BLOCK_ROWS", "FileLayout", "Slice", "SliceRead", "decode", "pack", "plan_reads", "read_layouts", "unpack"]

BLOCK_ROWS = 8_192
"""Rows of a block: what an index points to. A row group of no more than twice as many rows is one block."""


@dataclass(frozen=True)
class FileLayout:
    """Where the bytes of one file's rows lie.

    n_rows : of the file
    etag : of the file as it was read, "" where the store has none
    block_rows : int64[b + 1], first row of each block, then ``n_rows``. A block lies within one row group.

    What else the owner of this module needs is its own affair.
    """

    n_rows: int
    etag: str
    block_rows: np.ndarray


@dataclass(frozen=True, slots=True)
class Slice:
    """Rows [start, limit) of a file."""

    start: int
    limit: int


@dataclass(frozen=True)
class SliceRead:
    """What is read of one file for some slices, and how it is decoded.

    ranges : byte ranges [start, limit) of the file, ascending, near ones as one; each is a request
    n_bytes : of all ranges
    """

    ranges: tuple[tuple[int, int], ...]
    n_bytes: int


async def read_layouts(stores: Stores, files: Sequence[tuple[str, int, str]]) -> list[FileLayout | str]:
    """Return the layout of each (location, size in bytes, etag or ""), or why it has none (not Parquet, encrypted, …).

    Raises `CorruptError` naming a file that is damaged.
    """
    raise NotImplementedError


def pack(layouts: Sequence[FileLayout]) -> bytes:
    """Return the stored form of layouts: compact, shared parts once."""
    raise NotImplementedError


def unpack(data: bytes) -> Sequence[FileLayout]:
    """Return the layouts of `pack`, each made when it is first asked for. Raises `CorruptError`."""
    raise NotImplementedError


def plan_reads(layout: FileLayout, slices: Sequence[Slice], columns: Sequence[str]) -> SliceRead:
    """Return what to read for the rows of ``slices`` (ascending, disjoint) and the top-level stored ``columns``."""
    raise NotImplementedError


def decode(layout: FileLayout, read: SliceRead, parts: Sequence[bytes]) -> list[tuple[int, pa.RecordBatch]]:
    """Return the rows as (first row's number in the file, batch of the stored columns); at least those of the slices.

    Parameters
    ----------
    parts : the bytes of ``read.ranges``

    Raises
    ------
    CorruptError : the bytes are not what the layout says
    """
    raise NotImplementedError
