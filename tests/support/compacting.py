"""Tables of a real local lake, appended to and folded, without SQL."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pyarrow as pa

from catalog.tables import Managed, TableEntry
from catalog.writers import create_table
from functions.append import append_rows
from functions.fold import load_managed
from functions.live_rows import live_rows
from service.compaction import Compaction
from storage.log import RecordKind
from storage.stores import join, normalize
from storage.tables.write import TableSpec
from tests.support.folding import SCHEMA, Format

__all__ = ["eventually", "make", "put", "rows_of"]


async def make(compaction: Compaction, name: str, format_: Format, key: tuple[str, ...] = ()) -> TableEntry:
    table_id = compaction.clock.new_id()
    spec = TableSpec(table_id, SCHEMA, 0, len(SCHEMA), key)
    location = join(normalize(compaction.lake), "tables/default", f"{name}-{table_id[:8]}")
    entry = TableEntry("default", name, table_id, format_, location, 0, {}, Managed(spec, {0: SCHEMA}))
    created = await create_table(entry, compaction.stores, compaction.tables, compaction.clock)
    assert created is not None
    return created


async def rows_of(compaction: Compaction, entry: TableEntry) -> list[tuple[Any, ...]]:
    table = await load_managed(compaction.stores, compaction.tables, compaction.clock, entry)
    found: list[tuple[Any, ...]] = []
    for index in range(len(table.snapshot.files)):
        async for batch in live_rows(compaction.stores, table.snapshot, index):
            found += list(zip(*(column.to_pylist() for column in batch.columns), strict=True))
    return sorted(found, key=repr)


async def put(compaction: Compaction, entry: TableEntry, kind: RecordKind, rows: pa.Table) -> None:
    await append_rows(await compaction.logs.log(0), entry, rows, kind=kind)


async def eventually(holds: Callable[[], Awaitable[bool]], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not await holds():  # noqa: ASYNC110 — another process decides
            await asyncio.sleep(0.05)
