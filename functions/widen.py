"""All files of a table written anew in wider types, for formats whose readers take a column's type from the schema.

A Delta table's files must have the types of its schema unless it has the feature ``typeWidening``, which would lock out
most of its other readers. So the files are written anew, and change together with the schema in one commit.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pyarrow as pa

from functions.layout import write_files
from functions.live_rows import live_rows
from functions.rewrite import format_of
from storage.clock import Clock
from storage.stores import Stores
from storage.tables.snapshot import Snapshot
from storage.tables.write import Change, TableSpec

__all__ = ["rewrite_wider"]


async def rewrite_wider(stores: Stores, clock: Clock, snapshot: Snapshot, change: Change, spec: TableSpec) -> Change:
    """Write the live rows of all files in the types of ``spec``, and return ``change`` with the new files for the old.

    The rows are the same, so readers of the table's changes skip the commit. It is true only while no other file has
    come: `storage.tables.delta.evolve` holds it to that.

    Parameters
    ----------
    spec : has the snapshot's columns, in its order, each with its type or a wider one

    Raises
    ------
    CorruptError, NotFoundError : a file is damaged or missing
    """
    fields = [
        each if each.type.equals(wanted.type) or pa.types.is_nested(each.type) else each.with_type(wanted.type)
        for each, wanted in zip(snapshot.schema, spec.schema, strict=True)
    ]
    schema = pa.schema(fields)

    async def rows() -> AsyncIterator[pa.RecordBatch]:
        for index in sorted(range(len(snapshot.files)), key=lambda index: snapshot.files.paths[index]):
            async for batch in live_rows(stores, snapshot, index):
                columns = [
                    column if pa.types.is_nested(each.type) else column.cast(each.type)
                    for column, each in zip(batch.columns, schema, strict=True)
                ]
                yield pa.RecordBatch.from_arrays(columns, schema=schema)

    files = await write_files(stores, clock, snapshot.location, schema, spec, rows(), table_format=format_of(snapshot))
    return replace(change, add=tuple(files), remove=tuple(snapshot.files.paths), data_change=False)
