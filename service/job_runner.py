"""Runs asynchronous statements of this server, and keeps house: leases, cancellations from elsewhere, expiry."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace

import pyarrow as pa

from service.encode import columns_of
from service.executor import Executor, describe_crash, interrupted_error
from service.jobs import FINAL, Job, JobStore, Page, paged
from service.journal import Entry, Journal
from service.problems import problem_of
from service.progress import Tell
from service.statement import Format, Statement
from storage.clock import Clock
from storage.errors import (
    CancelledError,
    FirnlineError,
    IndeterminateError,
    LimitError,
    NotFoundError,
    OverloadedError,
)

__all__ = ["JobRunner", "JobSettings"]

_log = logging.getLogger("firnline.jobs")
_PAGES_MAX = 5000
_LEASE_S = 15.0
_BEAT_S = 1.0
_SWEEP_S = 60.0


@dataclass(frozen=True, slots=True)
class JobSettings:
    """Asynchronous statements.

    result_ttl_s : how long a statement and its result can be fetched, from its submission
    jobs_max : how many of one server may be queued or running
    """

    result_ttl_s: int = 3600
    jobs_max: int = 256


class JobRunner:
    """Use it between `open` and `close`, on one event loop."""

    def __init__(
        self, executor: Executor, store: JobStore, journal: Journal, clock: Clock, settings: JobSettings
    ) -> None:
        self._executor = executor
        self._store = store
        self._journal = journal
        self._clock = clock
        self._settings = settings
        self._server = clock.new_id()
        self._lease: int | None = None
        self._running: dict[str, asyncio.Task[None]] = {}
        self._house: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Start the housekeeping."""
        self._house = asyncio.create_task(self._keep_house())

    async def close(self) -> None:
        """Stop what runs; its statements end as failed."""
        tasks = [*self._running.values(), *([self._house] if self._house else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._lease is not None:
            with suppress(FirnlineError):
                await self._store.leave(self._lease)

    async def submit(self, statement: Statement, entry: Entry, form: Format) -> Job:
        """Store the statement as queued and run it in the background. Raises `OverloadedError`."""
        if len(self._running) >= self._settings.jobs_max:
            raise OverloadedError("too many asynchronous statements; try again later", retry_after_s=5)
        if self._lease is None:
            self._lease = await self._store.announce(self._server, _LEASE_S)
        job = Job(
            statement_id=statement.statement_id,
            state="queued",
            owner=entry.owner,
            server=self._server,
            format=form,
            created_ms=entry.created_ms,
            expires_ms=entry.created_ms + self._settings.result_ttl_s * 1000,
        )
        await self._store.create(job)
        limits = replace(statement.limits, result_bytes_max=0)
        task = asyncio.create_task(self._run(replace(statement, limits=limits), entry))
        self._running[job.statement_id] = task
        task.add_done_callback(lambda _done: self._running.pop(job.statement_id, None))
        return job

    async def state(self, statement_id: str) -> Job:
        """Return a job; one whose server is gone has failed. Raises `NotFoundError`."""
        job = await self._store.get(statement_id)
        if job.state in FINAL or job.server == self._server or await self._store.alive(job.server):
            return job
        gone = IndeterminateError(
            "the server that ran this statement is gone; one that only reads may be sent again, of one that writes it "
            "is not known whether it took effect"
        )
        problem = problem_of(gone, statement_id)
        return await self._store.update(statement_id, state="failed", error=problem, finished_ms=self._clock.now_ms())

    async def cancel(self, statement_id: str) -> Job:
        """Ask for the end of a job, here or on another server, and return it. Raises `NotFoundError`."""
        job = await self._store.update(statement_id, cancel_requested=True)
        if job.state not in FINAL and statement_id in self._running:
            self._stop(statement_id)
            with suppress(asyncio.CancelledError, TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._running[statement_id]), 2.0)
            job = await self._store.get(statement_id)
        return job

    def _stop(self, statement_id: str) -> None:
        if not self._executor.cancel(statement_id):
            self._running[statement_id].cancel()

    async def _run(self, statement: Statement, entry: Entry) -> None:
        try:
            job = await self._store.update(statement.statement_id, state="running")
            if job.cancel_requested:
                raise CancelledError("the statement was cancelled")
            await self._store_result(statement, entry)
            self._journal.end(entry)
        except asyncio.CancelledError:
            await self._end(statement, entry, await self._why_stopped(statement))
            raise
        except BaseException as error:  # whatever it was, the statement's record must say that it ended
            await self._end(statement, entry, describe_crash(error))
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise

    async def _why_stopped(self, statement: Statement) -> FirnlineError:
        if await self._was_cancelled(statement.statement_id):
            return CancelledError("the statement was cancelled")
        return interrupted_error(statement)

    async def _was_cancelled(self, statement_id: str) -> bool:
        try:
            return (await self._store.get(statement_id)).cancel_requested
        except FirnlineError:
            return False

    async def _store_result(self, statement: Statement, entry: Entry) -> None:
        result = await self._executor.run(statement)
        entry.receipt = result.receipt
        pages: list[Page] = []
        async with (
            self._store.telling(statement.statement_id) as tell,
            aclosing(paged(_told(result.batches, tell), result.schema)) as tables,
        ):
            async for table in tables:
                if len(pages) >= _PAGES_MAX:
                    raise LimitError("the result has too many pages; COPY it to files instead", pages_max=_PAGES_MAX)
                pages.append(await self._store.put_page(statement.statement_id, len(pages), table))
        if not pages:
            pages.append(await self._store.put_page(statement.statement_id, 0, result.schema.empty_table()))
        await self._store.update(
            statement.statement_id,
            state="succeeded",
            finished_ms=self._clock.now_ms(),
            columns=columns_of(result.schema),
            pages=pages,
            row_count=sum(page.rows for page in pages),
            receipt=result.receipt.to_dict(),
        )

    async def _end(self, statement: Statement, entry: Entry, error: FirnlineError) -> None:
        self._journal.end(entry, error)
        state = "cancelled" if isinstance(error, CancelledError) else "failed"
        try:
            await self._store.update(
                statement.statement_id,
                state=state,
                finished_ms=self._clock.now_ms(),
                error=problem_of(error, statement.statement_id),
            )
        except FirnlineError as failure:
            _log.error("a statement's end was not stored: %s", failure)

    async def _keep_house(self) -> None:
        sweep_at_s = 0.0
        while True:
            try:
                await self._beat()
                if self._clock.monotonic_s() >= sweep_at_s:
                    sweep_at_s = self._clock.monotonic_s() + _SWEEP_S
                    await self._store.sweep()
            except FirnlineError as error:
                _log.warning("housekeeping failed and goes on: %s", error)
            await asyncio.sleep(_BEAT_S)

    async def _beat(self) -> None:
        """Keep the lease, and stop what was cancelled elsewhere."""
        if self._lease is not None:
            try:
                await self._store.keep(self._lease)
            except NotFoundError:
                self._lease = await self._store.announce(self._server, _LEASE_S)
        for statement_id in list(self._running):
            if await self._was_cancelled(statement_id) and statement_id in self._running:
                self._stop(statement_id)


async def _told(batches: AsyncIterator[pa.RecordBatch], tell: Tell) -> AsyncGenerator[pa.RecordBatch, None]:
    n_rows = 0
    async for batch in batches:
        n_rows += batch.num_rows
        tell(n_rows, None, "rows of the result")
        yield batch
