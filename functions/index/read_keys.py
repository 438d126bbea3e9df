"""The keys of a file, read from its key columns alone: a bounded number of rows at a time, in few ranged reads."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from functions.index.file_keys import FileKeys, KeyPart, key_part
from storage.errors import CorruptError
from storage.stores import Stores
from storage.tables.project import has_field_ids, project_array, source_of, with_mapped_ids
from storage.tables.slices import FileLayout, Slice, SliceRead, decode, plan_reads
from storage.tables.snapshot import Snapshot

__all__ = ["ROWS_AT_ONCE", "Source", "read_keys"]

ROWS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Source:
    """A table's columns that are read, by the names that it has for them."""

    snapshot: Snapshot
    names: Sequence[str]

    def stored(self, layout: FileLayout) -> list[pa.Field] | str:
        """Return the fields of a file that hold the columns, or which one it lacks."""
        schema = layout.schema
        mapping = self.snapshot.name_mapping
        if mapping is not None and self.snapshot.matching == "field_id" and not has_field_ids(schema):
            schema = with_mapped_ids(schema, mapping)
        candidates, found = list(schema), []
        for name in self.names:
            field = source_of(self.snapshot.schema.field(name), candidates, self.snapshot.matching)
            if field is None:
                return f"it has no column {name}"
            found.append(field)
        return found

    def keys(self, rows: pa.Table, stored: Sequence[pa.Field]) -> pa.Table:
        """Return the columns as the table has them. Raises `CorruptError` for a value that does not fit the type."""
        columns = []
        for name, field in zip(self.names, stored, strict=True):
            logical = self.snapshot.schema.field(name)
            column = rows.column(field.name)
            # What was read may differ from the schema in what the reader chooses, such as the unit of an INT96.
            read = field.with_type(column.type)
            chunks = [project_array(chunk, read, logical, self.snapshot.matching) for chunk in column.chunks]
            columns.append(pa.chunked_array(chunks, logical.type))
        return pa.Table.from_arrays(columns, names=list(self.names))


async def read_keys(stores: Stores, source: Source, file: int, layout: FileLayout) -> FileKeys | str:
    """Return the keys of file number ``file`` of the snapshot, or why there are none.

    Raises
    ------
    CorruptError : the file cannot be decoded, or holds a value that does not fit the column
    ConflictError : it is not the file that the layout was read of
    NotFoundError : it is gone
    """
    stored = source.stored(layout)
    if isinstance(stored, str):
        return stored
    location = source.snapshot.files.paths[file]
    parts = []
    for rows in _stretches(layout):
        read = plan_reads(layout, [rows], sorted({field.name for field in stored}))
        fetched = await stores.get_ranges(location, read.ranges, if_match=layout.etag)
        try:
            parts.append(await asyncio.to_thread(_part, source, layout, stored, rows, read, fetched))
        except pa.ArrowException as error:
            raise CorruptError("key columns of a file cannot be read", file=location, reason=str(error)) from error
    return FileKeys(tuple(parts), layout.block_rows)


def _stretches(layout: FileLayout) -> Iterator[Slice]:
    """Yield the rows of a file in stretches of blocks, each of about `ROWS_AT_ONCE` rows unless a block is larger."""
    limits = layout.block_rows.tolist()
    start = 0
    for at in range(1, len(limits)):
        if at + 1 == len(limits) or limits[at + 1] - start > ROWS_AT_ONCE:
            yield Slice(start, limits[at])
            start = limits[at]


def _part(
    source: Source,
    layout: FileLayout,
    stored: Sequence[pa.Field],
    rows: Slice,
    read: SliceRead,
    fetched: Sequence[bytes],
) -> KeyPart:
    batches, at = [], rows.start
    for first, batch in decode(layout, read, fetched):
        start, limit = max(rows.start, first), min(rows.limit, first + batch.num_rows)
        if start >= limit:
            continue
        if start != at:
            raise CorruptError("rows of a file are not where its layout says", row=at, found=start)
        batches.append(batch.slice(start - first, limit - start))
        at = limit
    if at != rows.limit:
        raise CorruptError("rows of a file are not where its layout says", row=at, rows=rows.limit)
    return key_part(source.keys(pa.Table.from_batches(batches), stored), rows.start)
