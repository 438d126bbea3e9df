"""The read path: one statement from text to a running plan.

parse → load the tables' snapshots → plan once over empty tables → prune each table's files by the plan's filters →
make scans → plan again → execute. The first plan costs about a millisecond and is what lets a table of 10,000 files
open one of them. ``docs/read-path.md`` names every step.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from catalog.indexes import Indexes
from catalog.kv import KV
from catalog.tables import Tables
from functions import tracing
from functions.adaptive import LateMaterialization
from functions.cpu_time import cpu_s
from functions.errors import UNREADABLE, ReadError, is_panic, translate
from functions.execute import metrics_of, stream
from functions.index.models import Models
from functions.session import Session
from functions.tail import Tails
from service.answer_schema import retyped
from service.blame import name_the_file
from service.caches import count_caches
from service.commands import run_command
from service.coordinate.releases import WorkersDifferError
from service.cost import Prices
from service.explain import explained
from service.loading import Known, Loaded, Loading, TableName
from service.parse import Parsed, parse
from service.planned import Planned
from service.planner import Planner
from service.point import point_query, run_point
from service.progress import telling
from service.query import Query
from service.reading import Reading
from service.snapshots import SnapshotCache
from service.statement import Receipt, Result, Statement
from service.traced import traced
from storage.clock import Clock
from storage.counts import Counts
from storage.errors import CorruptError, FirnlineError, ForbiddenError, LimitError, NotFoundError
from storage.log.access import Logs
from storage.stores import Stores
from storage.tables.footers import FooterCache

if TYPE_CHECKING:
    from service.coordinate.fan_out import FanOut
    from service.coordinate.jobs import Jobs

__all__ = ["Engine"]


class Engine:
    """Runs statements in this process. See `service.components.open_engine` for how one is made.

    Of a statement's limits it holds the bytes scanned only; executors hold the others (`service.executor`).
    """

    def __init__(
        self, session: Session, stores: Stores, kv: KV, clock: Clock, *, logs: Logs, lake: str,
        index_memory_bytes: int = 512 << 20, fan_out: FanOut | None = None,
        counts: Counts | None = None,
    ) -> None:  # fmt: skip
        self.tables = Tables(kv, clock)
        self.logs, self.tails, self.lake = logs, Tails(logs), lake
        self.kv, self.clock, self.stores = kv, clock, stores
        self._session = session
        self._fan_out = fan_out
        footers = FooterCache()
        self._snapshots = SnapshotCache(footers)
        self.indexes = Indexes(kv, clock)
        self.models = Models(kv, stores, lake, bytes_max=index_memory_bytes)
        self._reading = Reading(session, self._snapshots, self.indexes, self.models, footers)
        self._known = Known()
        self.names_gets = 0
        """Requests of an object store that listing the catalog takes; it is the opener's to say."""
        self.counts = counts or Counts()
        if fan_out is not None:
            fan_out.counts = self.counts
            fan_out.telling = partial(telling, kv, clock)
        count_caches(self.counts, footers, self._snapshots, self.models)
        self.late = LateMaterialization()

    @property
    def jobs(self) -> Jobs | None:
        """What runs whole jobs on tables as tasks of workers; None: they are run here."""
        workers = None if self._fan_out is None else self._fan_out.workers
        if workers is None:
            return None
        # Imported here: a process that only reads never pays for what writes.
        from service.coordinate.jobs import Jobs

        return Jobs(workers, self.stores, self.kv, self.clock, self.lake)

    async def run(self, statement: Statement) -> Result:
        """Plan and start the statement (see `service.statement.Runner`)."""
        span = tracing.begin(
            "statement", {"firnline.statement_id": statement.statement_id}, parent=statement.traceparent or None
        )
        with tracing.within(span):
            result = await self._run(replace(statement, traceparent=span.traceparent))
        return traced(result, span) if span.recorded else result

    async def _run(self, statement: Statement) -> Result:
        started = time.perf_counter(), cpu_s()
        receipt = Receipt(statement_id=statement.statement_id)
        stores = self.stores.scoped()
        if statement.lookup is not None:
            from service.lookup import run_lookup

            rows = await run_lookup(self, self._reading, self._loading(stores, receipt), statement, receipt)
            assert rows is not None
            return self._result(rows, receipt, stores, started)
        with tracing.span("parse"):
            parsed = parse(statement.sql, statement.params)
        if parsed.kind == "command":
            text = await run_command(parsed, statement.role, self.tables, stores, self._snapshots, self.clock)
            return self._result(pa.table({"status": [text]}), receipt, stores, started)
        if parsed.kind == "write":
            return self._result(await self._write(parsed, statement, receipt), receipt, stores, started)
        loading = self._loading(stores, receipt)
        found = await self._by_key(statement, parsed, loading)
        if found is not None:
            return self._result(found, receipt, stores, started)
        planned = await self._plan(statement, parsed, loading)
        receipt.planning_ms = (time.perf_counter() - started[0]) * 1000
        rows = self._execute(planned, parsed, statement, receipt)
        return Result(planned.schema, self._finish(rows, receipt, stores, started), receipt)

    async def point(self, statement: Statement) -> Result | None:
        """Return the answer of a statement that takes a few ranged reads; None if it takes the planner."""
        span = tracing.begin(
            "statement", {"firnline.statement_id": statement.statement_id}, parent=statement.traceparent or None
        )
        with tracing.within(span):
            result = await self._point(statement)
        # A span that is not ended is never sent: others will answer.
        return traced(result, span) if result is not None and span.recorded else result

    async def _point(self, statement: Statement) -> Result | None:
        started = time.perf_counter(), cpu_s()
        receipt = Receipt(statement_id=statement.statement_id)
        stores = self.stores.scoped()
        loading = self._loading(stores, receipt)
        if statement.lookup is None:
            rows = await self._by_key(statement, parse(statement.sql, statement.params), loading)
        else:
            from service.lookup import run_lookup

            rows = await run_lookup(self, self._reading, loading, statement, receipt, plans=False)
        return None if rows is None else self._result(rows, receipt, stores, started)

    async def _by_key(self, statement: Statement, parsed: Parsed, loading: Loading) -> pa.Table | None:
        asked = point_query(parsed)
        if asked is None:
            return None
        limit = statement.limits.scan_bytes_max
        return await run_point(self._reading, loading, asked, statement.route, loading.receipt, bytes_max=limit)

    async def query(
        self,
        sql: str,
        params: Sequence[Any] | Mapping[str, Any] | None,
        statement: Statement,
        receipt: Receipt,
        tables: Mapping[str, pa.Table] | None = None,
    ) -> Query:
        """Plan and start a query on behalf of ``statement``, which writes. Names of ``tables`` mean those rows.

        Its files, its tail and its requests are added to ``receipt``, its rows are not.
        """
        parsed = parse(sql, params)
        stores = self.stores.scoped()
        if statement.route == "lookup" and statement.lookup is None:
            # A look-up is asked of what the statement reads, and several queries may do that: each as it can.
            statement = replace(statement, route="auto")
        planned = await self._plan(statement, parsed, self._loading(stores, receipt), tables)
        receipt.requests += stores.count.requests
        receipt.metadata_bytes += stores.count.bytes
        read = {_named(name, found): found for name, found in planned.tables.items()}
        return Query(
            planned.schema,
            self._execute(planned, parsed, statement, receipt),
            {name: found.tail.since for name, found in read.items() if found.tail is not None},
            {name: found.snapshot for name, found in read.items()},
            {shown: scan.files for shown, scan in planned.scans.items()},
        )

    async def _plan(
        self, statement: Statement, parsed: Parsed, loading: Loading, given: Mapping[str, pa.Table] | None = None
    ) -> Planned:
        late = self.late.choose(parsed.text)
        return await Planner(self._reading, loading, statement, parsed, late, given, self._fan_out).plan()

    def _loading(self, stores: Stores, receipt: Receipt) -> Loading:
        return Loading(self.tables, self.indexes, self._snapshots, self.tails, self._known, stores, receipt,
                       names_gets=self.names_gets)  # fmt: skip

    async def _write(self, parsed: Parsed, statement: Statement, receipt: Receipt) -> pa.Table:
        if statement.role == "reader":
            raise ForbiddenError("a reader may not write; use a writer's or an admin's token", role=statement.role)
        # Imported here: a process that only reads never pays for what writes.
        from service.write import run_write

        return await run_write(self, parsed, statement, receipt)

    def _result(self, table: pa.Table, receipt: Receipt, stores: Stores, started: tuple[float, float]) -> Result:
        return Result(table.schema, self._finish(_batches(table), receipt, stores, started), receipt)

    async def close(self) -> None:
        """Release the logs, the stores and the catalog."""
        self._session.close()
        try:
            if self._fan_out is not None:
                await self._fan_out.close()
        finally:
            await self._close_lake()

    async def _close_lake(self) -> None:
        try:
            await self.logs.close()
        finally:
            await self.kv.close()
            await self.stores.close()

    async def describe_table(self, namespace: str, name: str) -> Loaded:
        """Return a table as of now. Raises `NotFoundError`."""
        loading = self._loading(self.stores.scoped(), Receipt())
        await loading.names()
        entry = loading.entry((namespace, name))
        if entry is None:
            raise NotFoundError("no such table", table=f"{namespace}.{name}")
        return await loading.load(entry)

    async def _execute(
        self, planned: Planned, parsed: Parsed, statement: Statement, receipt: Receipt
    ) -> AsyncGenerator[pa.RecordBatch, None]:
        for batch in planned.rows:
            yield batch
        if planned.remote:
            from functions.engine_reads import planning_gets

            self._count_gets(receipt, planning_gets(planned.locations, self._session.footers))
        if planned.stages is not None and self._fan_out is not None:
            try:
                async with aclosing(self._by_tasks(self._fan_out, planned, parsed, statement, receipt)) as batches:
                    async for batch in batches:
                        yield batch
            except WorkersDifferError as error:
                assert planned.here is not None
                planned = replace(planned, plan=await planned.here())
                receipt.workers_differ, receipt.tasks = True, 1
                if parsed.explained:
                    yield explained(planned.schema, {"tasks as they ran": f"in this process: {error.message}"})
        if planned.plan is None:
            return
        waited_s = 0.0
        try:
            async with aclosing(stream(self._session.running, planned.plan)) as batches:
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
            if receipt.workers_differ and self._fan_out is not None and isinstance(translated, LimitError):
                raise self._fan_out.releases.told("without workers it does not fit", translated) from error
            raise await name_the_file(self._session, translated, planned.scans.values()) from error
        receipt.bytes_scanned += metrics_of(planned.plan).bytes_scanned
        if planned.remote:
            from functions.engine_reads import run_gets

            self._count_gets(receipt, run_gets(planned.plan, self._session.context, self._reading.footers.at))
        self.late.learn(parsed.text, planned.late, waited_s * 1000)

    async def _by_tasks(
        self, fan_out: FanOut, planned: Planned, parsed: Parsed, statement: Statement, receipt: Receipt
    ) -> AsyncGenerator[pa.RecordBatch, None]:
        assert planned.stages is not None
        if parsed.explained:
            told = await fan_out.measure(planned.stages, statement, receipt)
            yield explained(planned.schema, {"tasks with metrics": told})
            return
        try:
            async with aclosing(fan_out.rows(planned.stages, statement, receipt)) as batches:
                async for batch in batches:
                    if batch.num_rows:
                        yield retyped(batch, planned.schema)
        except CorruptError as error:
            if error.message != UNREADABLE:
                raise
            unnamed = ReadError(error.message, **error.facts)
            raise await name_the_file(self._session, unnamed, planned.scans.values()) from error

    def _count_gets(self, receipt: Receipt, gets: int, puts: int = 0) -> None:
        prices = self._fan_out.prices if self._fan_out is not None else Prices()
        receipt.gets += gets
        receipt.puts += puts
        receipt.cost_usd += prices.of_requests(gets, puts)

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
        receipt.requests += stores.count.requests
        receipt.metadata_bytes += stores.count.bytes
        self._count_gets(receipt, stores.count.gets, stores.count.puts)
        receipt.wall_ms = (time.perf_counter() - started[0]) * 1000
        receipt.cpu_ms = (cpu_s() - started[1]) * 1000


def _named(name: TableName, found: Loaded) -> TableName:
    """Return the name in the catalog of what a plan names, or the plan's own if it is not there."""
    return (found.entry.namespace, found.entry.name) if found.entry is not None else name


async def _batches(table: pa.Table) -> AsyncGenerator[pa.RecordBatch, None]:
    for batch in table.to_batches():
        yield batch
