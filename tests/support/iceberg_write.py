"""A managed Iceberg table over blobs and a catalog, for tests of its writer."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from catalog.kv import KV
from catalog.kv.memory import MemoryKV
from catalog.tables import Managed, TableEntry, Tables
from catalog.writers import create_table, writer_of
from storage.blobs import Blobs
from storage.blobs.local import LocalBlobs
from storage.blobs.memory import MemoryBlobs
from storage.clock import Clock, SystemClock
from storage.stores import Stores
from storage.tables.iceberg import IcebergSnapshot, load
from storage.tables.iceberg.commit import IcebergWriter
from storage.tables.snapshot import FIELD_ID, At, Snapshot
from storage.tables.write import Change, DataFile, PartitionField, SortField, TableSpec
from tests.support.delta_write import with_ids
from tests.support.iceberg_read import read_table

__all__ = ["IcebergTable", "make_entry", "open_table"]


@dataclass
class IcebergTable:
    """One table, and what a test does with it. ``with_stores`` gives another process's view of it."""

    entry: TableEntry
    stores: Stores
    tables: Tables
    clock: Clock
    kv: KV
    blobs: Blobs
    known: Snapshot | None = field(default=None, repr=False)

    @property
    def schema(self) -> pa.Schema:
        assert self.entry.managed is not None
        return self.entry.managed.spec.schema

    @property
    def writer(self) -> IcebergWriter:
        writer = writer_of(self.entry, self.stores, self.tables, self.clock)
        assert isinstance(writer, IcebergWriter)
        return writer

    def seen_through(self, blobs: Blobs | None = None, kv: KV | None = None) -> IcebergTable:
        """The table as another process sees it, through faulty wrappers perhaps."""
        blobs, kv = blobs or self.blobs, kv or self.kv
        return replace(
            self, blobs=blobs, kv=kv, stores=Stores(lambda _root: blobs), tables=Tables(kv, self.clock), known=None
        )

    async def source(self) -> str:
        """The location of the current metadata file."""
        self.entry = await self.tables.get(self.entry.namespace, self.entry.name)
        return self.entry.source

    async def snapshot(self, at: At | None = None) -> IcebergSnapshot:
        snapshot = await load(self.stores, await self.source(), at or At(), self.known)
        assert isinstance(snapshot, IcebergSnapshot)
        self.known = snapshot if at is None else self.known
        return snapshot

    async def file(
        self, rows: pa.Table | Sequence[Mapping[str, Any]], partition: Mapping[str, Any] | None = None, **options: Any
    ) -> DataFile:
        """Write a data file of the table's current columns."""
        table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows), self.schema)
        sink = io.BytesIO()
        pq.write_table(table, sink, **options)
        location = f"{self.entry.location}/data/{self.clock.new_id()}.parquet"
        blobs, key = self.stores.resolve(location)
        await blobs.put(key, sink.getvalue(), if_absent=True)
        return DataFile(location, len(sink.getvalue()), partition or {}, pq.read_metadata(io.BytesIO(sink.getvalue())))

    async def append(self, rows: pa.Table | Sequence[Mapping[str, Any]], **partition: Any) -> Snapshot:
        """Commit rows and return the snapshot after it."""
        file = await self.file(rows, partition)
        await self.writer.commit(await self.snapshot(), Change("insert", (file,)))
        return await self.snapshot()

    async def rows(self, at: At | None = None) -> list[dict[str, Any]]:
        """The table's rows, sorted by all columns."""
        rows: list[dict[str, Any]] = (await read_table(self.stores, await self.snapshot(at))).to_pylist()
        return sorted(rows, key=repr)


def make_entry(
    schema: pa.Schema,
    clock: Clock,
    root: str = "file:///lake",
    *,
    primary_key: Sequence[str] = (),
    partition_by: Sequence[tuple[str, str]] = (),
    order_by: Sequence[str] = (),
    properties: Mapping[str, str] | None = None,
    name: str = "t",
) -> TableEntry:
    """An entry that is not in the catalog yet; ``partition_by`` has (column, transform)."""
    fields, next_id = with_ids(schema)
    ids = {each.name: int(each.metadata[FIELD_ID]) for each in fields}
    spec = TableSpec(
        clock.new_id(),
        pa.schema(fields),
        last_column_id=next_id - 1,
        primary_key=tuple(primary_key),
        partition_by=tuple(
            PartitionField(ids[column], transform, f"{column}_{transform.partition('[')[0]}")
            for column, transform in partition_by
        ),
        order_by=tuple(SortField(ids[column]) for column in order_by),
        properties=properties or {},
    )
    location = f"{root}/tables/default/{name}-{spec.table_id[:8]}"
    managed = Managed(spec, {0: spec.schema})
    return TableEntry("default", name, spec.table_id, "iceberg", location, clock.now_ms(), {}, managed)


async def open_table(
    schema: pa.Schema, folder: Path | None = None, *, clock: Clock | None = None, **shape: Any
) -> IcebergTable:
    """Create a table, in memory or below ``folder``."""
    clock = clock or SystemClock()
    blobs: Blobs = LocalBlobs("/", clock) if folder else MemoryBlobs(clock)
    kv, stores = MemoryKV(clock), Stores(lambda _root: blobs)
    tables = Tables(kv, clock)
    root = f"file://{folder}" if folder else "file:///lake"
    entry = await create_table(make_entry(schema, clock, root, **shape), stores, tables, clock)
    assert entry is not None
    return IcebergTable(entry, stores, tables, clock, kv, blobs)
