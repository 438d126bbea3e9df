"""What a statement that writes works with: the engine, as it sees it, and one answer of its queries."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from catalog.kv import KV
from catalog.tables import TableEntry, Tables
from catalog.writers import writer_of
from service.cursor import TableName
from service.parsed import Parsed
from service.progress import Tell, untold
from service.query import Query
from service.statement import Receipt, Statement
from storage.clock import Clock
from storage.errors import InvalidError, NotFoundError
from storage.log import AckMode
from storage.log import Receipt as LogReceipt
from storage.log.access import Logs
from storage.stores import Stores
from storage.tables.snapshot import At, Snapshot
from storage.tables.write import TableWriter

if TYPE_CHECKING:
    from service.coordinate.jobs import Jobs

__all__ = ["Outcome", "Work", "WriteContext"]


class WriteContext(Protocol):
    """What of `service.engine.Engine` a write needs."""

    tables: Tables
    kv: KV
    clock: Clock
    stores: Stores
    logs: Logs
    lake: str

    @property
    def jobs(self) -> Jobs | None:
        """What runs whole jobs on tables as tasks of workers; None: they are run here."""
        ...

    async def query(
        self,
        sql: str,
        params: Sequence[Any] | Mapping[str, Any] | None,
        statement: Statement,
        receipt: Receipt,
        tables: Mapping[str, pa.Table] | None = None,
    ) -> Query:
        """Plan and start a query; names of ``tables`` mean those rows."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a statement did, in words and in rows."""

    status: str
    rows: int = 0


@dataclass
class Work:
    """One statement at work.

    stores : count for this statement alone
    tell : takes how far it is
    """

    engine: WriteContext
    parsed: Parsed
    statement: Statement
    receipt: Receipt
    stores: Stores
    facts: dict[str, str] = field(default_factory=dict)
    tell: Tell = untold

    @property
    def key(self) -> str | None:
        """The client's idempotency key."""
        return self.statement.idempotency_key

    async def managed(self, name: TableName) -> TableEntry:
        """Return the entry of a table that can be written. Raises `NotFoundError`, `InvalidError`."""
        entry = await self.engine.tables.get(*name)
        if entry.managed is None:
            raise InvalidError(
                "this table is external and is only read; CREATE TABLE … AS SELECT makes one that can be written",
                table=".".join(name),
            )
        return entry

    def writer(self, entry: TableEntry) -> TableWriter:
        """Return what commits to the table."""
        return writer_of(entry, self.stores, self.engine.tables, self.engine.clock)

    async def load(self, entry: TableEntry) -> Snapshot:
        """Return the table's newest snapshot, without what the log holds. Raises `NotFoundError` if it was dropped."""
        module = importlib.import_module(f"storage.tables.{entry.format}")
        source = entry.source
        if entry.managed is not None and entry.managed.metadata_location is not None:
            newest = await self.engine.tables.get(entry.namespace, entry.name)
            if newest.id != entry.id:
                raise NotFoundError("no such table; it was dropped", table=f"{entry.namespace}.{entry.name}")
            source = newest.source
        snapshot: Snapshot = await module.load(self.stores, source, At(), None)
        return snapshot

    def acknowledged(self, receipt: LogReceipt) -> None:
        """Note in the statement's receipt where its rows are."""
        if receipt.n_records:
            self.receipt.ack = receipt.ack.value
            self.receipt.log_position = receipt.position.sequence

    def committed(self) -> None:
        """Note that the rows are in the table's own files."""
        self.receipt.ack = AckMode.OBJECT.value
