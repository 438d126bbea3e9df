"""An engine's tasks: whether a statement has any, where they run, and how their rows become its answer."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, field, replace

import pyarrow as pa

from functions.errors import is_panic, translate
from functions.exchange import delete_results, read_pages, read_streams, results_prefix, sweep_results
from functions.execute import stream
from functions.invoke import Invoker
from functions.run_piece import run_piece
from functions.run_task import Work
from functions.session import Session
from functions.stages import BROADCAST_BYTES, Stage, Stages, bind, pages_of
from functions.tasks import Page, Reply, Task
from service.coordinate.choose import TASK_OVERHEAD_S, Choice, choose
from service.coordinate.counted import count_fallback, count_tasks
from service.coordinate.releases import Releases, WorkersDifferError
from service.coordinate.run import StageRun
from service.coordinate.sizes import stage_sizes
from service.coordinate.tasks import Tasks, measured
from service.coordinate.terms import Tally, Terms, Workers
from service.coordinate.verdict import page_of, told
from service.cost import Estimate, Prices, check_cost, estimate, estimate_stages
from service.progress import Tell
from service.statement import Receipt, Statement
from storage.clock import Clock
from storage.counts import Counts
from storage.errors import CorruptError, FirnlineError, LimitError, NotFoundError, UnavailableError
from storage.stores import RequestCount, Stores

__all__ = ["FanOut", "FanOutOptions"]

Telling = Callable[[str], AbstractAsyncContextManager[Tell]]
"""Statement id → `service.progress.telling`."""

_log = logging.getLogger("firnline.coordinate")

_LIFETIME_MS = 24 * 3600 * 1000
"""Of a statement without a time limit, while its tasks run."""
_GRACE_MS = 600_000
"""Pages outlive their statement's deadline by this: clocks differ, and a late worker may still write."""
_SWEEP_S = 600.0


@dataclass(frozen=True, slots=True)
class FanOutOptions:
    """Values.

    place : the text of ``FIRN_FUNCTIONS``; ``inline`` gives tasks only to statements that ask for them
    max_usd : that a statement may be estimated to cost; 0: no limit
    broadcast_bytes : of all copies of a join's smaller side (`functions.stages.broadcast_options`)
    task_timeout_ms : of one task, where the platform allows as much
    """

    place: str
    secret: bytes = field(repr=False)
    tasks_max: int = 0
    max_usd: float = 0.0
    n_cores: int = 1
    prices: Prices = field(default_factory=Prices)
    broadcast_bytes: int = BROADCAST_BYTES
    task_timeout_ms: int = 900_000


class FanOut:
    """The coordinator of one engine; its invoker is opened by the first statement that needs it."""

    def __init__(
        self, options: FanOutOptions, open_invoker: Callable[[], Awaitable[Invoker]], session: Session, stores: Stores,
        clock: Clock, lake: str,
    ) -> None:  # fmt: skip
        self._options, self._open, self._session = options, open_invoker, session
        self._stores, self._clock, self._lake = stores, clock, lake
        self._invoker: Invoker | None = None
        self.releases = Releases(clock, options.n_cores)
        self.counts = Counts()
        self.telling: Telling | None = None
        """Where statements tell how far they are; it is the engine's to say."""
        self._opening = asyncio.Lock()
        self._swept_s: float | None = None
        self._sweeping: asyncio.Task[None] | None = None

    async def choose(self, statement: Statement, scan_bytes: int, n_files: int, *, checked: bool = True) -> Tasks:
        """Return how many tasks a statement gets: none while the workers are known to be of another release.

        Raises `LimitError` with the estimate if that is past its limit, and `UnavailableError` for a statement that
        needs workers while there are none of this release, unless it is not ``checked``.
        """
        options = self._options
        limits = [each for each in (options.tasks_max, statement.max_tasks) if each]
        is_set = options.place != "inline"
        if statement.functions == "fan-out" or (statement.functions == "auto" and is_set):
            invoker = await self.invoker()
            choice = choose(
                statement.functions, scan_bytes, concurrency=invoker.limits.concurrency, n_cores=options.n_cores,
                tasks_max=min(limits, default=0), memory_bytes=invoker.limits.memory_bytes,
            )  # fmt: skip
        else:
            choice = Choice(0, "the statement asks for this process" if is_set else "")
        differ = self.releases.reason if choice.n_tasks else ""
        if differ:
            choice = Choice(0, differ)
            if checked:
                self._check_here(scan_bytes, statement)
        found = estimate(choice.n_tasks, scan_bytes, n_files, options.prices, overhead_s=TASK_OVERHEAD_S)
        if checked:
            self._check_cost(found, statement)
        forced = statement.functions == "fan-out"
        return Tasks(choice.n_tasks, choice.reason, found, forced, options.broadcast_bytes, bool(differ))

    def priced(self, tasks: Tasks, stages: Stages, n_files: int, statement: Statement, *, checked: bool) -> Tasks:
        """Return the choice with the price of the stages that its plan was cut into. Raises as `choose`."""
        if not tasks.runs(stages):
            return tasks
        found = estimate_stages(stage_sizes(stages), n_files, self._options.prices, overhead_s=TASK_OVERHEAD_S)
        if checked:
            self._check_cost(found, statement)
        return replace(tasks, estimate=found)

    def _check_cost(self, found: Estimate, statement: Statement) -> None:
        for most in (self._options.max_usd, statement.limits.cost_usd_max):
            check_cost(found, most)

    def _check_here(self, scan_bytes: int, statement: Statement) -> None:
        """Count a statement that has to do without its workers. Raises `UnavailableError` if it cannot."""
        fits = self.releases.fits_here(scan_bytes, statement.limits.timeout_ms)
        count_fallback(self.counts, ran=fits)
        if not fits:
            raise self.releases.too_large(scan_bytes, statement.limits.timeout_ms)

    @property
    def prices(self) -> Prices:
        """Return what statements are reckoned with."""
        return self._options.prices

    @property
    def workers(self) -> Workers | None:
        """Where whole jobs on tables run; None: in this process."""
        options = self._options
        if options.place == "inline":
            return None
        return Workers(self.invoker, options.secret, options.task_timeout_ms)

    async def invoker(self) -> Invoker:
        """Return where tasks run. Raises what opening it raises."""
        async with self._opening:
            if self._invoker is None:
                self._invoker = await self._open()
            return self._invoker

    async def close(self) -> None:
        """Stop what runs."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.gather(self._sweeping, return_exceptions=True)
        if self._invoker is not None:
            await self._invoker.close()

    async def measure(self, stages: Stages, statement: Statement, receipt: Receipt) -> str:
        """Run the stages as tasks, drop the rows, and return what each stage came to. Raises as `rows`."""
        tally, n_rows = Tally(), 0
        async with aclosing(self.rows(stages, statement, receipt, tally)) as batches:
            async for batch in batches:
                n_rows += batch.num_rows
        return measured(stages, tally, n_rows)

    async def rows(
        self, stages: Stages, statement: Statement, receipt: Receipt, tally: Tally | None = None
    ) -> AsyncGenerator[pa.RecordBatch, None]:
        """Run the stages as tasks and yield the last one's rows; closing it stops all and deletes the pages.
        ``tally`` gets the count.

        Raises the error of a task that failed for good; `WorkersDifferError` if the workers refuse the tasks since they
        are of another release, the statement can run in this process, and no row is gone out.
        """
        invoker = await self.invoker()
        self._sweep_sometimes()
        terms, tally, stores = self._terms(statement), tally or Tally(), self._stores.scoped()
        last = stages.stages[-1]
        body = stages.stages if last.whole else stages.stages[:-1]
        run = StageRun(body, None if last.whole else last, invoker, self._clock, terms, tally, self._local)
        n_sent = 0
        try:
            await self._run(run, statement)
            answer = self._answered(run, last, stores, terms.memory_bytes)
            async with aclosing(answer) as batches:
                async for batch in batches:
                    n_sent += 1
                    yield batch
        except FirnlineError as error:
            if self.releases.learn(error) is None:
                raise
            if n_sent:
                raise self.releases.told("rows of the statement are gone out already; send it again", error) from error
            self._check_here(sum(stage.scan_bytes for stage in stages.stages), statement)
            raise WorkersDifferError(self.releases.reason) from error
        finally:
            count_tasks(self.counts, tally)
            if run.untidy or run.stored:
                await self._clean(stores, terms.results)
            self._count(receipt, tally, stores.count)

    async def _run(self, run: StageRun, statement: Statement) -> None:
        if self.telling is None:
            await run.run()
            return
        async with self.telling(statement.statement_id) as tell:
            await run.run(tell)

    def _terms(self, statement: Statement) -> Terms:
        now_ms, timeout_ms = self._clock.now_ms(), statement.limits.timeout_ms
        # Without a time limit too: nobody who has a task's message may run it for ever.
        deadline_ms = now_ms + (timeout_ms or _LIFETIME_MS)
        # An id may come twice, and a statement that writes may have several queries: their pages must not meet.
        id_ = re.sub(r"[^A-Za-z0-9_.-]", "-", statement.statement_id)[:80].lstrip("_.-") or "s"
        name = f"{id_}-{self._clock.new_id()[:12]}"
        limits = [each for each in (self._options.tasks_max, statement.max_tasks) if each]
        return Terms(
            statement_id=name,
            secret=self._options.secret,
            results=results_prefix(self._lake, name, deadline_ms + _GRACE_MS),
            deadline_ms=deadline_ms,
            tasks_max=min(limits, default=0),
            memory_bytes=statement.limits.memory_bytes,
            task_timeout_ms=self._options.task_timeout_ms,
            traceparent=statement.traceparent,
        )

    async def _local(self, task: Task) -> Reply:
        """Make pages of rows that this process holds already."""
        stores = self._stores.scoped()
        outcome = await run_piece(Work(self._session, stores, self._clock, {}), task)
        return Reply(task.statement_id, task.id, task.attempt, outcome.pages)

    # The answer

    async def _answered(
        self, run: StageRun, last: Stage, stores: Stores, memory_bytes: int
    ) -> AsyncGenerator[pa.RecordBatch, None]:
        if last.whole or last.passes:
            number = last.number if last.whole else last.inputs[0][1]
            async with aclosing(self._passed(run, number, stores)) as passed:
                async for batch in passed:
                    yield batch
            return
        piece = last.piece(0)
        pages = {each.name: pages_of(each, run.board.outputs(each.stage)) for each in piece.reads}
        self._check_room(sum(page.n_bytes for each in pages.values() for page in each), memory_bytes)
        while True:
            try:
                inputs = {name: await self._read(each, stores) for name, each in pages.items()}
                break
            except (CorruptError, NotFoundError) as error:
                if not run.lost(error):
                    raise told(error) from error
                await run.run()
                pages = {each.name: pages_of(each, run.board.outputs(each.stage)) for each in piece.reads}
        context = self._session.context
        try:
            plan = await self._session.in_planner(bind, context, piece.plan, inputs)
            del inputs
            async with aclosing(stream(context, plan)) as batches:
                async for batch in batches:
                    yield batch
        except BaseException as error:
            if not isinstance(error, Exception) and not is_panic(error):
                raise
            raise translate(error) from error

    def _check_room(self, n_bytes: int, memory_bytes: int) -> None:
        """Raise `LimitError` for pages that this process has no memory for: the last piece has all of them at once."""
        most = min((each for each in (self._session.options.memory_bytes, memory_bytes) if each), default=0)
        if most and n_bytes > most:
            raise LimitError(
                "the rows that are put together last need more memory than the limit; add a LIMIT, ask for fewer "
                "columns, or raise the memory limit",
                limit="memory", n_bytes=n_bytes, memory_bytes=most,
            )  # fmt: skip

    async def _read(self, pages: Sequence[Page], stores: Stores) -> Mapping[int, Sequence[bytes]]:
        """Return the rows of a leaf's partitions."""
        found: dict[int, Sequence[bytes]] = {}
        for bucket in sorted({page.bucket for page in pages}):
            own = [page for page in pages if page.bucket == bucket]
            found[bucket] = await read_streams(stores, own)
        return found

    async def _passed(self, run: StageRun, number: int, stores: Stores) -> AsyncGenerator[pa.RecordBatch, None]:
        """Yield a stage's rows as they are read, task by task."""
        done = 0
        while True:
            outputs = run.board.outputs(number)
            pages = [(task, page) for task in range(done, len(outputs)) for page in outputs[task]]
            try:
                async with aclosing(read_pages(stores, [page for _task, page in pages])) as batches:
                    async for batch in batches:
                        yield batch
                return
            except (CorruptError, NotFoundError) as error:
                place = next((n for n, (_, page) in enumerate(pages) if page.location == page_of(error)), None)
                # A task whose first rows are gone out already cannot run again: it may give them in another order.
                if place is None or (place and pages[place - 1][0] == pages[place][0]) or not run.lost(error):
                    raise told(error) from error
                done = pages[place][0]
            await run.run()
            if run.board.outputs(number)[:done] != outputs[:done]:
                # What they read was given otherwise, so they ran again too.
                raise UnavailableError(
                    "rows that are gone out already were made of pages that are lost; send the statement again"
                )

    # Afterwards

    def _count(self, receipt: Receipt, tally: Tally, own: RequestCount) -> None:
        prices, usage = self._options.prices, tally.usage
        gets, puts = int(usage["gets"]) + own.gets, int(usage["puts"]) + own.puts
        receipt.tasks = tally.tasks
        receipt.retries += tally.retries
        receipt.hedges += tally.hedges
        receipt.bytes_moved += tally.bytes_moved
        receipt.bytes_scanned += int(usage["bytes_scanned"])
        receipt.requests += int(usage["requests"]) + own.requests
        receipt.gets += gets
        receipt.puts += puts
        receipt.task_cpu_ms += usage["cpu_ms"]
        receipt.task_gb_s += tally.gb_s
        receipt.cost_usd += (
            tally.gb_s * prices.gb_second + tally.attempts * prices.invocation + prices.of_requests(gets, puts)
        )

    async def _clean(self, stores: Stores, prefix: str) -> None:
        try:
            await delete_results(stores, prefix)
        except FirnlineError as error:
            _log.warning("pages are left for the sweep: %s", error)

    def _sweep_sometimes(self) -> None:
        """Delete what coordinators that were killed have left, now and then and beside the statement."""
        now_s = self._clock.monotonic_s()
        if self._swept_s is not None and now_s - self._swept_s < _SWEEP_S:
            return
        self._swept_s = now_s
        self._sweeping = asyncio.create_task(self._sweep())

    async def _sweep(self) -> None:
        try:
            n = await sweep_results(self._stores, self._lake, self._clock)
            if n:
                _log.info("%d pages of statements that are over are deleted", n)
        except FirnlineError as error:
            _log.warning("the sweep of pages failed: %s", error)
