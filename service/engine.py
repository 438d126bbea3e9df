"""The read path: one statement from text to a running plan.

parse → load the tables' snapshots → plan once over empty tables → prune each table's files by the plan's filters →
make scans → plan again → execute. The first plan costs about a millisecond and is what lets a table of 10,000 files
open one of them. ``docs/read-path.md`` names every step.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TypeVar

import pyarrow as pa

from catalog.kv import KV
from catalog.tables import TableEntry, Tables
from functions.adaptive import LateMaterialization
from functions.errors import is_panic, translate
from functions.execute import metrics_of, stream
from functions.scan import ScanCache
from functions.session import Session
from service.blame import name_the_file
from service.commands import run_command
from service.parse import Parsed, parse
from service.planner import Planned, Planner, retyped
from service.snapshots import SnapshotCache
from service.statement import Receipt, Result, Statement
from storage.clock import Clock
from storage.errors import FirnlineError, NotFoundError
from storage.log.access import Logs
from storage.stores import Stores
from storage.tables.footers import FooterCache
from storage.tables.snapshot import At, Snapshot

__all__ = ["Engine"]

T = TypeVar("T")


class Engine:
    """Runs statements in this process. See `service.components.open_engine` for how one is made.

    Of a statement's limits it holds the bytes scanned only; executors hold the others (`service.executor`).
    """

    def __init__(self, session: Session, stores: Stores, kv: KV, clock: Clock, *, logs: Logs) -> None:
        self.tables = Tables(kv, clock)
        self.logs = logs
        self.kv, self.clock, self.stores = kv, clock, stores
        self._session = session
        self._footers = FooterCache()
        self._snapshots = SnapshotCache(self._footers)
        self._scans = ScanCache()
        self._late = LateMaterialization()

    async def run(self, statement: Statement) -> Result:
        """Plan and start the statement (see `service.statement.Runner`)."""
        started = time.perf_counter(), time.process_time()
        receipt = Receipt(statement_id=statement.statement_id)
        parsed = parse(statement.sql, statement.params)
        stores = self.stores.scoped()
        if parsed.kind == "command":
            text = await run_command(parsed, statement.role, self.tables, stores, self._snapshots, self.clock)
            table = pa.table({"status": [text]})
            return Result(table.schema, self._finish(_batches(table), receipt, stores, started), receipt)
        planner = Planner(
            self._session, stores, self.tables, self._snapshots, self._footers, self._scans,
            statement, parsed, receipt, self._late.choose(parsed.text),
        )  # fmt: skip
        planned = await planner.plan()
        receipt.planning_ms = (time.perf_counter() - started[0]) * 1000
        rows = self._execute(planned, parsed, receipt)
        return Result(planned.schema, self._finish(rows, receipt, stores, started), receipt)

    async def close(self) -> None:
        """Release the logs, the stores and the catalog."""
        self._session.close()
        try:
            await self.logs.close()
        finally:
            await self.kv.close()
            await self.stores.close()

    async def describe_table(self, namespace: str, name: str) -> tuple[TableEntry, Snapshot]:
        """Return a table's catalog entry and its newest snapshot. Raises `NotFoundError`."""
        for entry in await self.tables.all():
            if (entry.namespace, entry.name) == (namespace, name):
                return entry, await self._snapshots.resolve(
                    self.stores.scoped(), entry.format, entry.location, At(), entry.options
                )
        raise NotFoundError("no such table", table=f"{namespace}.{name}")

    async def _execute(
        self, planned: Planned, parsed: Parsed, receipt: Receipt
    ) -> AsyncGenerator[pa.RecordBatch, None]:
        for batch in planned.rows:
            yield batch
        if planned.plan is None:
            return
        waited_s = 0.0
        try:
            async with aclosing(stream(self._session.context, planned.plan)) as batches:
                before_s = time.perf_counter()
                async for batch in batches:
                    waited_s += time.perf_counter() - before_s
                    if batch.num_rows:
                        yield retyped(batch, planned.schema)
                    before_s = time.perf_counter()
                waited_s += time.perf_counter() - before_s
        except FirnlineError:
            raise
        except BaseException as error:
            if not isinstance(error, Exception) and not is_panic(error):
                raise
            translated = translate(error, parsed.sql)
            raise await name_the_file(self._session, translated, planned.scans.values()) from error
        receipt.bytes_scanned = metrics_of(planned.plan).bytes_scanned
        self._late.learn(parsed.text, planned.late, waited_s * 1000)

    async def _finish(
        self,
        batches: AsyncGenerator[pa.RecordBatch, None],
        receipt: Receipt,
        stores: Stores,
        started: tuple[float, float],
    ) -> AsyncGenerator[pa.RecordBatch, None]:
        async with aclosing(batches):
            async for batch in batches:
                receipt.rows += batch.num_rows
                yield batch
        receipt.requests, receipt.metadata_bytes = stores.count.requests, stores.count.bytes
        receipt.wall_ms = (time.perf_counter() - started[0]) * 1000
        receipt.cpu_ms = (time.process_time() - started[1]) * 1000


async def _batches(table: pa.Table) -> AsyncGenerator[pa.RecordBatch, None]:
    for batch in table.to_batches():
        yield batch
