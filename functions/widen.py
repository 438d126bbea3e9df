"""All files of a table written anew in wider types, for formats whose readers take a column's type from the schema.

A Delta table's files must have the types of its schema unless it has the feature ``typeWidening``, which would lock out
most of its other readers. So the files are written anew, and change together with the schema in one commit.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field, replace

import pyarrow as pa

from functions.discard import discard as delete_files
from functions.layout import write_files
from functions.live_rows import live_rows
from functions.rewrite import format_of
from storage.clock import Clock
from storage.stores import Stores
from storage.tables.snapshot import Snapshot
from storage.tables.write import Change, DataFile, TableSpec

__all__ = ["Rewritten", "discard", "rewrite_wider"]


@dataclass
class Rewritten:
    """What was written so far, for a change that is begun anew when other writers were faster.

    schema : of the new files
    by_source : location of an old file → its rows in new ones
    """

    schema: pa.Schema | None = None
    by_source: dict[str, list[DataFile]] = field(default_factory=dict)


async def rewrite_wider(
    stores: Stores, clock: Clock, snapshot: Snapshot, change: Change, spec: TableSpec, known: Rewritten
) -> Change:
    """Write the live rows of all files in the types of ``spec``, and return ``change`` with the new files for the old.

    The rows are the same, so readers of the table's changes skip the commit. It is true only while no other file has
    come: `storage.tables.delta.evolve` holds it to that.

    Parameters
    ----------
    spec : has the snapshot's columns, in its order, each with its type or a wider one
    known : of earlier tries, and of this one afterwards; of a large table only what came meanwhile is written again

    Raises
    ------
    CorruptError, NotFoundError : a file is damaged or missing
    """
    schema = _wider(snapshot.schema, spec.schema)
    if known.schema is None or not known.schema.equals(schema, check_metadata=True):
        await discard(stores, known)
        known.schema = schema
    paths = snapshot.files.paths
    # Of a file with deleted rows more may have been deleted meanwhile.
    kept = {path for index, path in enumerate(paths) if index not in snapshot.files.deletes}
    await discard(stores, known, known.by_source.keys() - kept)
    for index in sorted(range(len(paths)), key=lambda index: paths[index]):
        if paths[index] not in known.by_source:
            known.by_source[paths[index]] = await write_files(
                stores, clock, snapshot.location, schema, spec, _rows(stores, snapshot, index, schema),
                table_format=format_of(snapshot),
            )  # fmt: skip
    added = tuple(file for files in known.by_source.values() for file in files)
    return replace(change, add=added, remove=tuple(paths), data_change=False)


async def discard(stores: Stores, known: Rewritten, sources: Collection[str] | None = None) -> None:
    """Delete what was written of the old files ``sources``; None: of all. No table may have them."""
    for source in list(known.by_source if sources is None else sources):
        await delete_files(stores, [file.location for file in known.by_source.pop(source)])


def _wider(have: pa.Schema, wanted: pa.Schema) -> pa.Schema:
    return pa.schema(
        one if pa.types.is_nested(one.type) else one.with_type(other.type)
        for one, other in zip(have, wanted, strict=True)
    )


async def _rows(stores: Stores, snapshot: Snapshot, index: int, schema: pa.Schema) -> AsyncIterator[pa.RecordBatch]:
    async for batch in live_rows(stores, snapshot, index):
        columns = [
            column if pa.types.is_nested(each.type) else column.cast(each.type)
            for column, each in zip(batch.columns, schema, strict=True)
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=schema)
