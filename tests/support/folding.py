"""A lake of blobs and a catalog, tables in it, a log that is appended to, and what the tables hold after a fold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pyarrow as pa

from catalog.kv.memory import MemoryKV
from catalog.logs import LogCatalog
from catalog.tables import Managed, TableEntry, Tables
from catalog.writers import create_table
from functions.append import bare_schema
from functions.fold import ManagedTable, load_managed
from functions.live_rows import live_rows
from service.log.stored import StoredLog
from storage.blobs import Blobs
from storage.blobs.memory import MemoryBlobs
from storage.clock import Clock
from storage.log import Record, RecordKind
from storage.log.access import Log
from storage.log.settings import LogSettings
from storage.log.writer import LogWriter, open_log
from storage.stores import Stores
from storage.tables.write import PartitionField, SortField, TableSpec
from tests.support.clock import ManualClock
from tests.support.logs import TestLease

__all__ = ["FAST", "LOG", "SCHEMA", "FoldLake", "StoredLogs", "ipc", "table_of"]

LOG = "lake/_firnline/log/0"
FAST = LogSettings(flush_interval_ms=0, retry_delay_ms=0)
Format = Literal["delta", "iceberg"]


def column(name: str, number: int, type_: pa.DataType, nullable: bool = True) -> pa.Field:
    return pa.field(name, type_, nullable, {b"PARQUET:field_id": str(number).encode()})


SCHEMA = pa.schema([column("id", 1, pa.int64(), False), column("v", 2, pa.string())])


def table_of(rows: Sequence[tuple[Any, ...]], schema: pa.Schema = SCHEMA) -> pa.Table:
    """Rows as tuples in the schema's columns."""
    columns = list(zip(*rows, strict=True)) if rows else [[] for _ in schema]
    arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
    return pa.table(arrays, schema=bare_schema(schema))


def ipc(rows: pa.Table) -> bytes:
    """The body of a record."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows.combine_chunks())
    return bytes(sink.getvalue().to_pybytes())


class StoredLogs:
    """A `storage.log.access.Logs` that only reads."""

    def __init__(self, blobs: Blobs, catalog: LogCatalog) -> None:
        self._blobs, self._catalog = blobs, catalog
        self.marks: dict[int, int] = {}

    async def log(self, shard: int) -> Log:
        return await self.stored(shard)

    async def stored(self, shard: int) -> Log:
        return StoredLog(self._blobs, f"lake/_firnline/log/{shard}")

    async def folded(self) -> dict[int, int]:
        return {shard: state.folded for shard, state in (await self._catalog.load()).by_shard.items()}

    async def set_folded(self, shard: int, sequence: int) -> None:
        await self._catalog.raise_folded(shard, sequence)

    async def close(self) -> None:
        pass


class FoldLake:
    """A lake in ``s3://bucket/lake``. ``blobs`` and ``kv`` may be wrapped to fail."""

    def __init__(self, blobs: Blobs | None = None, kv: Any = None, clock: Clock | None = None) -> None:
        self.clock = clock or ManualClock()
        self.blobs: Blobs = blobs if blobs is not None else MemoryBlobs(self.clock)
        self.kv = kv if kv is not None else MemoryKV(self.clock)
        self.stores = Stores(lambda _root: self.blobs)
        self.tables = Tables(self.kv, self.clock)
        self.logs = StoredLogs(self.blobs, LogCatalog(self.kv, self.clock))
        self._writer: LogWriter | None = None

    def again(self, blobs: Blobs | None = None, kv: Any = None) -> FoldLake:
        """The same lake as another process sees it, through other blobs or another catalog."""
        return FoldLake(blobs if blobs is not None else self.blobs, kv if kv is not None else self.kv, self.clock)

    async def create(
        self,
        name: str,
        format_: Format,
        primary_key: tuple[str, ...] = (),
        partition_by: tuple[PartitionField, ...] = (),
        order_by: tuple[SortField, ...] = (),
        schema: pa.Schema = SCHEMA,
        properties: dict[str, str] | None = None,
    ) -> TableEntry:
        """Make a managed table."""
        table_id = self.clock.new_id()
        spec = TableSpec(
            table_id, schema, 0, len(schema), primary_key, partition_by, order_by, properties=properties or {}
        )
        location = f"s3://bucket/lake/tables/default/{name}-{table_id[:8]}"
        entry = TableEntry("default", name, table_id, format_, location, 0, {}, Managed(spec, {0: schema}))
        created = await create_table(entry, self.stores, self.tables, self.clock)
        assert created is not None
        return created

    async def append(self, *records: tuple[TableEntry, RecordKind, pa.Table]) -> int:
        """Append records, flushed; return the sequence after them."""
        if self._writer is None:
            self._writer = await open_log(self.blobs, LOG, TestLease(1), FAST, self.clock)
        limit = 0
        for entry, kind, rows in records:
            assert entry.managed is not None
            record = Record(entry.id, entry.managed.spec.schema_id, kind, ipc(rows))
            limit = (await self._writer.append([record])).position.sequence + 1
        return limit

    async def load(self, entry: TableEntry) -> ManagedTable:
        return await load_managed(self.stores, self.tables, self.clock, entry)

    async def rows(self, entry: TableEntry) -> list[tuple[Any, ...]]:
        """The table's rows, sorted."""
        table = await self.load(entry)
        found: list[tuple[Any, ...]] = []
        for index in range(len(table.snapshot.files)):
            async for batch in live_rows(self.stores, table.snapshot, index):
                found += list(zip(*(column.to_pylist() for column in batch.columns), strict=True))
        return sorted(found, key=repr)

    async def keys(self, entry: TableEntry) -> list[str]:
        """Keys of the table's data files, live or not."""
        prefix = entry.location.removeprefix("s3://bucket/")
        return [meta.key async for meta in self.blobs.list(prefix) if meta.key.endswith(".parquet")]

    async def close(self) -> None:
        if self._writer is not None:
            await self._writer.close()
