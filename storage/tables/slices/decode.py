"""Rows from bytes of a file: pyarrow reads them as a Parquet file in memory (`storage.tables.slices.memory_file`)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import pyarrow as pa

from storage.errors import CorruptError
from storage.tables.project import without_views
from storage.tables.slices.layout import Area, FileLayout, Piece, SliceRead
from storage.tables.slices.memory_file import read_pieces

__all__ = ["decode"]


def decode(layout: FileLayout, read: SliceRead, parts: Sequence[bytes]) -> list[tuple[int, pa.RecordBatch]]:
    """Return the rows as (first row's number in the file, batch of the stored columns); at least those of the slices.

    Parameters
    ----------
    parts : the bytes of ``read.ranges``

    Raises
    ------
    CorruptError : the bytes are not what the layout says
    """
    for (start, limit), part in zip(read.ranges, parts, strict=True):
        if len(part) != limit - start:
            raise CorruptError("the file is shorter than its layout says", start=start, asked=limit - start)
    members: dict[tuple[int, ...], list[Piece]] = {}
    for area in read.areas:
        for piece in area.pieces:
            members.setdefault(piece.columns, []).append(piece)
    fetched = _Fetched(read.ranges, parts)
    tables: dict[int, pa.RecordBatch] = {}
    for pieces in members.values():
        table = _table(layout, pieces, fetched)
        if len(pieces) == 1:
            tables[id(pieces[0])] = _batch(table)
            continue
        at = 0
        for piece in pieces:
            tables[id(piece)] = _batch(table.slice(at, piece.limit - piece.start))
            at += piece.limit - piece.start
    return [(area.start, _joined(area, tables)) for area in read.areas]


class _Fetched:
    """Bytes of the file by their place in it."""

    def __init__(self, ranges: Sequence[tuple[int, int]], parts: Sequence[bytes]) -> None:
        self._starts = [start for start, _limit in ranges]
        self._ranges, self._parts = ranges, [memoryview(part) for part in parts]

    def cut(self, start: int, limit: int) -> list[memoryview]:
        """Return bytes [start, limit), which lie in one range or in several that touch."""
        found = []
        at = bisect_right(self._starts, start) - 1
        while start < limit:
            base, end = self._ranges[at]
            found.append(self._parts[at][start - base : min(limit, end) - base])
            start, at = min(limit, end), at + 1
        return found


def _table(layout: FileLayout, pieces: Sequence[Piece], fetched: _Fetched) -> pa.Table:
    """Decode pieces of the same columns, one row group each."""
    try:
        table = read_pieces(layout.file_schema, pieces, fetched.cut)
    except (pa.ArrowException, OSError, UnicodeDecodeError, MemoryError) as error:
        raise CorruptError("the rows cannot be decoded", reason=str(error)) from error
    n_rows = sum(piece.limit - piece.start for piece in pieces)
    if table.num_rows != n_rows:
        raise CorruptError("the pages hold another number of rows", rows=table.num_rows, expected=n_rows)
    return table.cast(without_views(table.schema)) if layout.file_schema.has_views else table


def _batch(table: pa.Table) -> pa.RecordBatch:
    batches = table.to_batches()
    if len(batches) != 1:
        batches = table.combine_chunks().to_batches()
    return batches[0].replace_schema_metadata(None)


def _joined(area: Area, tables: dict[int, pa.RecordBatch]) -> pa.RecordBatch:
    """Put the pieces' columns side by side, in the file's order, cut to the rows that all of them have."""
    if len(area.pieces) == 1:
        return tables[id(area.pieces[0])].slice(area.start - area.pieces[0].start, area.limit - area.start)
    columns: list[tuple[int, pa.Field, pa.Array]] = []
    for piece in area.pieces:
        batch = tables[id(piece)].slice(area.start - piece.start, area.limit - area.start)
        columns += zip(piece.columns, batch.schema, batch.columns, strict=True)
    columns.sort(key=lambda column: column[0])
    return pa.RecordBatch.from_arrays(
        [array for _number, _field, array in columns], schema=pa.schema([each for _number, each, _array in columns])
    )
