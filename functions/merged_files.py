"""Files that are merged on read, as the engine plans them when a statement is cut into tasks.

What a plan's bytes cannot carry is the Python reader, and so a scan of Parquet files stands for it whose files hold
nothing but a footer: it says the table's columns, and about how many rows and bytes there are, so that the engine
chooses joins as it does for native scans, and cuts the files by bytes. The files are sparse and as long as all files
that they stand for, one behind another; a range of them is a range of these (`MergedFiles.parts`).

The footer's numbers are guesses, and no answer may come from them: the rows stand below a filter by `LIVE`, a column
that is true in every row, so that nothing above takes them as exact. Nothing ever reads these files:
`functions.stage_merge` puts marks in the scan's place, and a worker the rows.

Source: Apache Parquet format, "File Metadata".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from functions.scratch import Scratch
from storage.tables.slices.thrift import STRUCT, ThriftReader, integer
from storage.tables.snapshot import LoadedDeletes, Snapshot

__all__ = ["LIVE", "FilePart", "MergedFiles", "merged_files"]

LIVE: Final = "__firn_live"
FOREVER: Final = 2**63 - 1
_SPLIT_BYTES: Final = 10 << 20
"""The engine does not cut files that are smaller together."""
_SMALL_SHARES: Final = 8
_STAND_BYTES: Final = 1 << 40
"""File systems have bounds for the length of a file."""
_SELECTED: Final = 5
"""The engine thinks that a filter leaves a fifth."""
_DECODED: Final = 3
"""Bytes of rows in memory for each of Parquet files, about."""
_ROW_BYTES: Final = 64
"""Of a row, where nobody knows how many there are."""
_MAGIC: Final = b"PAR1"
_NUM_ROWS, _ROW_GROUPS, _GROUP_BYTES, _GROUP_ROWS = 3, 4, 2, 3
"""Fields of a ``FileMetaData``, and of a ``RowGroup``."""
_ONE_STRUCT: Final = 1 << 4 | STRUCT


@dataclass(frozen=True, slots=True)
class FilePart:
    """Bytes [start, limit) of file ``index`` of a snapshot."""

    index: int
    start: int
    limit: int


@dataclass(frozen=True, eq=False)
class MergedFiles:
    """Files ``indices`` of a snapshot, and the files that stand for them.

    ends : int64[len(indices)], where each ends if all lie one behind another
    stands : path of a file that stands for some → the first of ``indices`` that it stands for, and how many these are
    """

    snapshot: Snapshot
    indices: Sequence[int]
    deletes: Mapping[int, LoadedDeletes]
    live: str
    ends: np.ndarray
    stands: Mapping[str, tuple[int, int]]
    scratch: Scratch = field(repr=False)

    def parts(self, path: str, start: int, limit: int) -> Iterator[FilePart]:
        """Yield what bytes [start, limit) of a file stand for; the parts of ranges that cover it are all there is."""
        first, n_files = self.stands[path]
        before = int(self.ends[first - 1]) if first else 0
        start, limit = start + before, limit + before
        for place in range(max(first, int(np.searchsorted(self.ends, start, "right"))), first + n_files):
            begin, end = int(self.ends[place - 1]) if place else 0, int(self.ends[place])
            if begin >= limit:
                return
            # The last part of a file has what is beyond the size that its table tells, too.
            yield FilePart(self.indices[place], max(0, start - begin), FOREVER if limit >= end else limit - begin)

    @property
    def n_bytes(self) -> int:
        """Of all files together."""
        return int(self.ends[-1])

    @property
    def urls(self) -> list[str]:
        return [f"file://{path}" for path in self.stands]


def merged_files(
    snapshot: Snapshot, indices: Sequence[int], deletes: Mapping[int, LoadedDeletes], folder: str | None
) -> MergedFiles:
    """Return the files with those that stand for them, which lie below ``folder`` until the value is dropped.

    Raises ``OSError`` if they cannot be written, ``pyarrow.ArrowException`` if Parquet lacks a type of the table.
    """
    live = LIVE
    while live in snapshot.schema.names:
        live += "_"
    fields = [pa.field(each.name, each.type) for each in snapshot.schema]
    schema = pa.schema([*fields, pa.field(live, pa.bool_())])
    scratch = Scratch(folder)
    places = np.asarray(indices, dtype=np.int64)
    # A file of which no size is known has a byte, or no range would have it.
    ends = np.cumsum(np.maximum(np.asarray(snapshot.files.sizes)[places], 1))
    n_bytes = int(ends[-1])
    n_stands = min(len(indices), _SMALL_SHARES if n_bytes < _SPLIT_BYTES else 1 + n_bytes // _STAND_BYTES)
    footer, stands = _footer(schema), {}
    for number in range(n_stands):
        first, limit = (len(indices) * each // n_stands for each in (number, number + 1))
        own = int(ends[limit - 1]) - (int(ends[first - 1]) if first else 0)
        path = scratch.folder / f"{number}.parquet"
        _write(path, _told(footer, _n_rows(snapshot, places[first:limit], own), own * _DECODED), own)
        stands[str(path)] = first, limit - first
    return MergedFiles(snapshot, indices, deletes, live, ends, stands, scratch)


def _n_rows(snapshot: Snapshot, places: np.ndarray, n_bytes: int) -> int:
    known = np.asarray(snapshot.files.n_rows)[places]
    return max(1, int(known.sum())) if known.min() >= 0 else n_bytes // _ROW_BYTES + 1


def _footer(schema: pa.Schema) -> bytes:
    """Return the footer of a file of one row without values."""
    sink = pa.BufferOutputStream()
    row = pa.Table.from_arrays([pa.nulls(1, each.type) for each in schema], schema=schema)
    pq.write_table(row, sink, compression="none", use_dictionary=False, write_statistics=False)
    data = sink.getvalue().to_pybytes()
    (length,) = struct.unpack("<I", data[-8:-4])
    footer: bytes = data[-8 - length : -8]
    return footer


def _told(footer: bytes, n_rows: int, n_bytes: int) -> bytes:
    """Return a footer that says so many rows and bytes."""
    n_rows, n_bytes = n_rows * _SELECTED, n_bytes * _SELECTED
    fields = []
    for number, kind, value in _fields(footer):
        if number == _NUM_ROWS:
            value = integer(n_rows)
        elif number == _ROW_GROUPS:
            assert value[0] == _ONE_STRUCT
            told = {_GROUP_ROWS: integer(n_rows), _GROUP_BYTES: integer(n_bytes)}
            group = [(number, kind, told.get(number, value)) for number, kind, value in _fields(value[1:])]
            value = value[:1] + _struct(group)
        fields.append((number, kind, value))
    return _struct(fields)


def _fields(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield number, type and encoded value of a struct's fields."""
    reader = ThriftReader(data)
    for number, kind in reader.fields():
        start = reader.at
        reader.skip(kind)
        yield number, kind, data[start : reader.at]


def _struct(fields: Sequence[tuple[int, int, bytes]]) -> bytes:
    out, last = bytearray(), 0
    for number, kind, value in fields:
        out += bytes(((number - last) << 4 | kind,)) + value
        last = number
    return bytes(out) + b"\0"


def _write(path: Path, footer: bytes, n_bytes: int) -> None:
    end = footer + struct.pack("<I", len(footer)) + _MAGIC
    with path.open("wb") as file:
        file.write(_MAGIC)
        file.truncate(max(n_bytes - len(end), len(_MAGIC)))
        file.seek(0, 2)
        file.write(end)
