"""`ProcessRunner`: statements in worker processes that can be killed, which is what makes a limit hard.

1. A statement has one worker to itself. Past its time it is asked to stop, and 0.3 s later its worker is killed; past
   its memory the worker is killed at once. Either way the memory is back and the statement's error names the limit.
2. A worker that crashes costs the statement that it ran, with an error that says so, and nothing else.
3. The bytes of a slow reader wait in the worker: between it and the client are a few frames and the socket's buffers.
4. Look-ups that take a few ranged reads share one process more (`service.lookup_worker`).
5. At most ``workers_max`` statements run and ``queue_max`` wait; the next one gets `OverloadedError`.
6. No worker outlives this process, however it ends.
"""

from __future__ import annotations

import asyncio
import json
import pickle
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType

import pyarrow as pa

from functions.frames import Kind
from functions.worker_pool import WorkerPool, WorkerSettings, closing_error
from functions.worker_process import WorkerProcess, error_of
from service.encode import Chunk
from service.executor import EncodedResult, Load, interrupted_error, timeout_error
from service.lookup_worker import LookupWorker
from service.statement import Format, Receipt, Result, Statement
from service.streams import Stream
from service.worker import COUNTS, OpenRunner
from storage.clock import Clock
from storage.counts import Counts
from storage.errors import CancelledError, FirnlineError, InternalError, InvalidError, LimitError

__all__ = ["ProcessRunner", "WorkerSettings"]

_POLL_S = 0.05
_GRACE_S = 0.3
_MEMORY_SLACK_BYTES = 256 << 20


@dataclass(eq=False)
class _Run:
    """One statement from its submission on."""

    statement: Statement
    deadline_s: float | None
    failure: FirnlineError | None = None
    acquiring: asyncio.Task[WorkerProcess] | None = None
    worker: WorkerProcess | None = None
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    """The worker has said its last word about the statement, or is dead."""


class ProcessRunner:
    """Runs statements in a pool of worker processes. Use it with ``async with``.

    Parameters
    ----------
    open_runner : picklable; each worker calls it once and runs its statements on what it opens
    counts : takes in what the workers count
    """

    def __init__(
        self, open_runner: OpenRunner, clock: Clock, settings: WorkerSettings, counts: Counts | None = None
    ) -> None:
        self._clock = clock
        self.counts = counts or Counts()
        self._pool = WorkerPool(open_runner, clock, settings, "service.worker")
        self._lookups = LookupWorker(open_runner, clock, settings, self.counts)
        self._runs: dict[str, _Run] = {}

    async def __aenter__(self) -> ProcessRunner:
        await self._pool.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def run(self, statement: Statement) -> Result:
        run, schema = await self._begin(statement, None)
        receipt = Receipt(statement_id=statement.statement_id)
        chunks = self._stream(run, receipt)
        return Result(schema, Stream(_decoded(chunks), chunks.aclose), receipt)

    async def run_encoded(self, statement: Statement, kind: Format) -> EncodedResult:
        found = await self._lookups.ask(statement, kind)
        if found is not None:
            return found
        run, schema = await self._begin(statement, kind)
        receipt = Receipt(statement_id=statement.statement_id)
        return EncodedResult(schema, self._stream(run, receipt), receipt)

    def cancel(self, statement_id: str) -> bool:
        if self._lookups.cancel(statement_id):
            return True
        run = self._runs.get(statement_id)
        if run is None or run.finished.is_set():
            return False
        self._fail(run, CancelledError("the statement was cancelled"))
        return True

    def load(self) -> Load:
        n_queued = self._pool.n_queued
        n_running = max(0, len(self._runs) - n_queued) + self._lookups.n_running
        return Load(n_running, n_queued, self._pool.n_workers, self._pool.restarts, self._pool.resident_bytes)

    async def ready(self) -> bool:
        return self._pool.n_workers > 0

    async def wait_ready(self) -> None:
        """Wait for the first worker. Raises why none could be started."""
        while not self._pool.n_workers:
            if self._pool.start_error is not None:
                raise self._pool.start_error
            await asyncio.sleep(_POLL_S)

    def stop_all(self) -> None:
        """Stop every statement: each fails with `UnavailableError`, a write with `IndeterminateError`."""
        self._lookups.stop_all()
        for run in list(self._runs.values()):
            self._fail(run, _closing(run))

    async def close(self) -> None:
        """Kill every worker. Statements that run fail as with `stop_all`."""
        for run in self._runs.values():
            run.failure = run.failure or _closing(run)
        await self._lookups.close()
        await self._pool.close()

    async def _begin(self, statement: Statement, kind: Format | None) -> tuple[_Run, pa.Schema]:
        if statement.statement_id in self._runs:
            raise InvalidError("a statement with this id runs already", statement_id=statement.statement_id)
        timeout_ms = statement.limits.timeout_ms
        run = _Run(statement, self._clock.monotonic_s() + timeout_ms / 1000 if timeout_ms else None)
        self._runs[statement.statement_id] = run
        try:
            asked_s = self._clock.monotonic_s()
            run.worker = worker = self._pool.take_idle() or await self._wait_turn(run)
            self.counts.observe("firnline_statement_queue_seconds", self._clock.monotonic_s() - asked_s)
            await worker.start(pickle.dumps((statement, kind)))
            self._pool.spawn(self._watch(run, worker))
            _, payload = await self._next(run, worker)
            return run, pa.ipc.read_schema(pa.py_buffer(payload))
        except BaseException:
            self._release(run)
            raise

    async def _wait_turn(self, run: _Run) -> WorkerProcess:
        left_s = None if run.deadline_s is None else max(0.0, run.deadline_s - self._clock.monotonic_s())
        acquiring = run.acquiring = asyncio.create_task(self._pool.acquire())
        try:
            async with asyncio.timeout(left_s):
                return await acquiring
        except BaseException as error:
            acquiring.cancel()
            acquiring.add_done_callback(self._give_back)
            if run.failure is not None:
                raise run.failure from None
            if isinstance(error, TimeoutError):
                raise timeout_error(run.statement, "waiting for a free worker") from None
            raise
        finally:
            run.acquiring = None

    def _give_back(self, acquiring: asyncio.Task[WorkerProcess]) -> None:
        if not acquiring.cancelled() and acquiring.exception() is None:
            self._pool.offer(acquiring.result())

    async def _next(self, run: _Run, worker: WorkerProcess) -> tuple[Kind, memoryview]:
        frame = await worker.receive()
        if frame is None:
            raise run.failure or await worker.crash()
        kind, payload = frame
        if kind is Kind.ERROR:
            error, broken = error_of(payload)
            run.finished.set()
            if broken:
                await worker.kill()
            raise run.failure or error
        if kind not in (Kind.SCHEMA, Kind.CHUNK, Kind.END):
            raise InternalError("a worker answered out of turn", kind=kind.name)
        return kind, payload

    def _stream(self, run: _Run, receipt: Receipt) -> Stream[Chunk]:
        async def release() -> None:
            self._release(run)

        return Stream(self._chunks(run, receipt), release)

    async def _chunks(self, run: _Run, receipt: Receipt) -> AsyncGenerator[Chunk, None]:
        assert run.worker is not None
        while True:
            kind, payload = await self._next(run, run.worker)
            if kind is Kind.END:
                run.finished.set()
                told = json.loads(bytes(payload))
                self.counts.merge(told.pop(COUNTS, {}), str(run.worker.pid))
                for name, value in told.items():
                    setattr(receipt, name, value)
                return
            yield payload

    async def _watch(self, run: _Run, worker: WorkerProcess) -> None:
        """Hold a running statement to its time and memory."""
        memory_limit, limit_name = self._memory_limit(run.statement, worker)
        while not run.finished.is_set() and not worker.dead.is_set():
            left_s = _POLL_S if run.deadline_s is None else run.deadline_s - self._clock.monotonic_s()
            if left_s <= 0:
                self._fail(run, timeout_error(run.statement, "running"))
                return
            if memory_limit and worker.rss_bytes() > memory_limit:
                run.failure = run.failure or _memory_error(limit_name, memory_limit)
                await worker.kill()
                self._release(run)
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(run.finished.wait(), min(_POLL_S, left_s))

    def _memory_limit(self, statement: Statement, worker: WorkerProcess) -> tuple[int, str]:
        """Return the resident size at which to kill the worker, and the limit's name; 0 means none.

        A statement's own limit comes on top of what the worker holds at its start.
        """
        found: list[tuple[int, str]] = []
        if statement.limits.memory_bytes:
            size = worker.rss_bytes() + statement.limits.memory_bytes + _MEMORY_SLACK_BYTES
            found.append((size, "memory_bytes"))
        if self._pool.settings.worker_memory_bytes:
            found.append((self._pool.settings.worker_memory_bytes, "worker_memory_bytes"))
        return min(found, default=(0, ""))

    def _fail(self, run: _Run, failure: FirnlineError) -> None:
        run.failure = run.failure or failure
        if run.acquiring is not None:
            run.acquiring.cancel()
        elif run.worker is not None:
            self._pool.spawn(self._stop(run, run.worker))

    async def _stop(self, run: _Run, worker: WorkerProcess) -> None:
        """Ask the worker to stop; kill it when it has not by the end of the grace."""
        await worker.cancel(run.statement.statement_id)
        with suppress(TimeoutError):
            await asyncio.wait_for(run.finished.wait(), _GRACE_S)
        if not run.finished.is_set():
            await worker.kill()
            self._release(run)  # its reader may never come to it

    def _release(self, run: _Run) -> None:
        """Take the worker back from a statement that ended, failed, or was abandoned by its reader."""
        if self._runs.pop(run.statement.statement_id, None) is None or run.worker is None:
            return
        if run.finished.is_set() and run.failure is None and not run.worker.dead.is_set():
            self._pool.offer(run.worker)
        else:
            self._pool.spawn(self._recover(run, run.worker))

    async def _recover(self, run: _Run, worker: WorkerProcess) -> None:
        """Make sure that a statement's work has stopped, by the gentlest means that works."""
        if not run.finished.is_set() and not worker.dead.is_set():
            await worker.cancel(run.statement.statement_id)
            with suppress(TimeoutError):
                await asyncio.wait_for(_drain(worker), _GRACE_S)
                run.finished.set()
        stopped = run.finished.is_set() and await worker.settled()
        run.finished.set()
        if stopped:
            self._pool.offer(worker)
        else:
            await self._pool.discard(worker)


def _closing(run: _Run) -> FirnlineError:
    return interrupted_error(run.statement) if run.worker is not None else closing_error()


def _memory_error(name: str, limit: int) -> LimitError:
    return LimitError(
        "the statement used more memory than its limit and was stopped; select less at once or raise the limit",
        limit=name,
        rss_bytes_max=limit,
    )


async def _drain(worker: WorkerProcess) -> None:
    """Read what the worker still says about a cancelled statement."""
    while (frame := await worker.receive()) is not None:
        if frame[0] in (Kind.END, Kind.ERROR):
            return


async def _decoded(chunks: Stream[Chunk]) -> AsyncGenerator[pa.RecordBatch, None]:
    """Read each chunk as an Arrow IPC stream of its own."""
    async for chunk in chunks:
        with pa.ipc.open_stream(pa.py_buffer(chunk)) as reader:
            for batch in reader:
                yield batch
