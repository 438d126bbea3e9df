"""`LookupWorker`: the server's side of the one process that answers many look-ups at once.

1. It is started when the first look-up comes, and ends when none came for a while. Until it is ready, and whenever it
   is gone, look-ups go to the other workers, as do those that take more than a few ranged reads.
2. At most `IN_FLIGHT_MAX` look-ups are with the process and as many as ``queue_max`` wait; the next one gets
   `OverloadedError`.
3. A look-up past its time fails alone; a process that then says nothing for a second is killed, and so is one past its
   memory. What was with it goes to the other workers: a look-up only reads.
"""

from __future__ import annotations

import asyncio
import json
import logging
import pickle
import re
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import pyarrow as pa

from functions.frames import Kind
from functions.worker_pool import WorkerSettings, closing_error
from functions.worker_process import WorkerProcess, error_of, start_worker
from service.encode import Chunk
from service.executor import EncodedResult, timeout_error
from service.lookup_process import ANSWER, NUMBER
from service.statement import Format, Receipt, Statement
from service.streams import Stream
from service.worker import COUNTS, OpenRunner
from storage.clock import Clock
from storage.counts import Counts
from storage.errors import CancelledError, FirnlineError, OverloadedError

__all__ = ["IN_FLIGHT_MAX", "LookupWorker", "shape_of"]

IN_FLIGHT_MAX = 256
_MODULE = "service.lookup_process"
_ELSEWHERE_S = 2.0
"""How long look-ups of a shape that the process left to others are not offered to it again."""
_SHAPES_MAX = 1_024
_SILENCE_S = 1.0
_WATCH_S = 0.25
_RESTART_S, _RESTART_MAX_S = 0.5, 10.0
_TEXT_MAX = 20_000
_NAME = r'(?:[A-Za-z_]\w*|"[^"]+")'
_POINT = re.compile(
    rf"\s*SELECT\s+(?:\*|{_NAME}(?:\s*,\s*{_NAME})*)\s+FROM\s+({_NAME}(?:\.{_NAME})?)\s+WHERE\s+({_NAME})\s*(?:=|IN\b)",
    re.IGNORECASE | re.ASCII,
)

_Answered = tuple[Kind, memoryview]

_log = logging.getLogger("firnline.workers")


def shape_of(statement: Statement) -> tuple[str, ...] | None:
    """Return by what a statement looks up, as far as its text tells; None for one that looks up nothing."""
    if statement.lookup is not None:
        return (*statement.lookup.table, *statement.lookup.by) if statement.route != "scan" else None
    if statement.route == "scan" or len(statement.sql) > _TEXT_MAX:
        return None
    found = _POINT.match(statement.sql)
    return found.groups() if found else None


class _Gone(Exception):  # noqa: N818 — never leaves the module
    """The process that had the statement is no more."""


class LookupWorker:
    """Owns the look-up process. Used from one event loop."""

    def __init__(
        self, open_runner: OpenRunner, clock: Clock, settings: WorkerSettings, counts: Counts | None = None
    ) -> None:
        self._open_runner, self._clock, self._settings = open_runner, clock, settings
        self._counts = counts or Counts()
        self._worker: WorkerProcess | None = None
        self._starting: asyncio.Task[None] | None = None
        self._failures = 0
        self._not_before_s = 0.0
        self._heard_s = self._asked_s = clock.monotonic_s()
        self._count = 0
        self._room = asyncio.Semaphore(IN_FLIGHT_MAX)
        self._asked: dict[int, asyncio.Future[_Answered]] = {}
        self._numbers: dict[str, int] = {}
        self._elsewhere: dict[tuple[str, ...], float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def pid(self) -> int | None:
        """Of the process, None while there is none that is ready."""
        return self._worker.pid if self._worker is not None and not self._worker.dead.is_set() else None

    @property
    def n_running(self) -> int:
        """How many look-ups are with the process or wait for it."""
        return len(self._numbers)

    async def wait_ready(self) -> None:
        """Wait for a process that is being started, if one is."""
        if self._starting is not None:
            await asyncio.shield(self._starting)

    async def ask(self, statement: Statement, kind: Format) -> EncodedResult | None:
        """Return the answer; None if the other workers should give it. Raises the statement's error."""
        shape = shape_of(statement)
        now_s = self._clock.monotonic_s()
        if shape is None or self._closed or self._elsewhere.get(shape, 0.0) > now_s:
            return None
        self._asked_s = now_s
        if self._worker is None or self._worker.dead.is_set():
            self._start(now_s)
            return None
        if len(self._numbers) >= IN_FLIGHT_MAX + self._settings.queue_max:
            raise OverloadedError("too many look-ups run and wait already; try again in a moment", retry_after_s=1)
        timeout_ms = statement.limits.timeout_ms
        self._count += 1
        number = self._numbers[statement.statement_id] = self._count
        future = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout_ms / 1000 if timeout_ms else None), self._its_turn(future):
                answered, payload = await self._exchange(number, future, statement, kind)
        except TimeoutError:
            self._spawn(self._look_alive(self._clock.monotonic_s()))
            raise timeout_error(statement, "running") from None
        except _Gone:
            return None
        finally:
            self._numbers.pop(statement.statement_id, None)
            self._asked.pop(number, None)
        if answered is Kind.ELSEWHERE:
            self._leave(shape)
            return None
        return _answer(payload, self._counts)

    def cancel(self, statement_id: str) -> bool:
        """Stop a look-up; False when there is none of this id."""
        return self._fail(statement_id, CancelledError("the statement was cancelled"))

    def stop_all(self) -> None:
        """Stop every look-up: each fails with `UnavailableError`."""
        for statement_id in list(self._numbers):
            self._fail(statement_id, closing_error())

    async def close(self) -> None:
        """Kill the process; look-ups that run fail as with `stop_all`."""
        self._closed = True
        self.stop_all()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._worker is not None:
            await self._worker.kill()

    def _fail(self, statement_id: str, error: FirnlineError) -> bool:
        future = self._asked.get(self._numbers.get(statement_id, 0))
        if future is None or future.done():
            return False
        future.set_exception(error)
        return True

    @asynccontextmanager
    async def _its_turn(self, future: asyncio.Future[_Answered]) -> AsyncIterator[None]:
        """Hold one of the places with the process. Raises why the look-up that waits for it is stopped."""
        entering = asyncio.ensure_future(self._room.acquire()) if self._room.locked() else None
        if entering is None:
            await self._room.acquire()
        try:
            if entering is not None:
                await asyncio.wait((entering, future), return_when=asyncio.FIRST_COMPLETED)
            if future.done():
                future.result()
            yield
        finally:
            if entering is None or (entering.done() and not entering.cancelled()):
                self._room.release()
            else:
                entering.cancel()

    async def _exchange(
        self, number: int, future: asyncio.Future[_Answered], statement: Statement, kind: Format
    ) -> _Answered:
        worker = self._worker
        if worker is None or worker.dead.is_set():
            raise _Gone
        answered = False
        try:
            with suppress(OSError):
                await worker.send(Kind.RUN, NUMBER.pack(number) + pickle.dumps((statement, kind)))
            found = await future
            answered = True
            return found
        finally:
            if not answered and not worker.dead.is_set():
                self._spawn(_cancel(worker, number))

    def _leave(self, shape: tuple[str, ...]) -> None:
        if len(self._elsewhere) >= _SHAPES_MAX:
            self._elsewhere.clear()
        self._elsewhere[shape] = self._clock.monotonic_s() + _ELSEWHERE_S

    # The process

    def _start(self, now_s: float) -> None:
        if self._starting is None and now_s >= self._not_before_s:
            self._starting = self._spawn(self._started())

    async def _started(self) -> None:
        worker = start_worker(_MODULE)
        try:
            await worker.open(self._open_runner, self._settings.start_timeout_s)
        except BaseException as error:
            self._failures += 1
            pause_s = min(_RESTART_MAX_S, _RESTART_S * 2**self._failures)
            self._not_before_s = self._clock.monotonic_s() + pause_s
            await worker.kill()
            if not isinstance(error, FirnlineError):
                raise
            _log.error("the look-up worker did not start: %s", error)
            return
        finally:
            self._starting = None
        self._failures = 0
        self._worker = worker
        self._spawn(self._dispatch(worker))
        self._spawn(self._watch(worker))

    async def _dispatch(self, worker: WorkerProcess) -> None:
        """Hand the process's frames to those who wait for them, until it is dead."""
        try:
            while (frame := await worker.receive()) is not None:
                kind, payload = frame
                self._heard_s = self._clock.monotonic_s()
                future = self._asked.get(NUMBER.unpack_from(payload)[0])
                rest = payload[NUMBER.size :]
                if kind is Kind.ERROR:
                    error, broken = error_of(rest)
                    if future is not None and not future.done():
                        future.set_exception(error)
                    if broken:
                        await worker.kill()
                elif future is not None and not future.done():
                    future.set_result((kind, rest))
        finally:
            for future in list(self._asked.values()):
                if not future.done():
                    future.set_exception(_Gone())

    async def _watch(self, worker: WorkerProcess) -> None:
        """Hold the process to its memory, and end it when nobody asks."""
        limit = self._settings.worker_memory_bytes
        idle_s = 5 * self._settings.idle_s
        while not worker.dead.is_set():
            await asyncio.sleep(_WATCH_S)
            size = worker.rss_bytes()
            too_large = bool(limit) and size > limit
            if too_large:
                _log.warning("the look-up worker is past its memory", extra={"pid": worker.pid, "rss_bytes": size})
            swollen = size > self._settings.recycle_rss_bytes and not self._asked
            idle = not self._numbers and self._clock.monotonic_s() - self._asked_s > idle_s
            if too_large or swollen or idle:
                await worker.kill()

    async def _look_alive(self, since_s: float) -> None:
        """Kill a process that says nothing for a second after a look-up's time was up, while it has others."""
        await asyncio.sleep(_SILENCE_S)
        if self._heard_s < since_s and self._worker is not None:
            await self._worker.kill()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a task of the look-up worker failed", exc_info=error)


async def _cancel(worker: WorkerProcess, number: int) -> None:
    with suppress(OSError):
        await worker.send(Kind.CANCEL, NUMBER.pack(number))


def _answer(payload: memoryview, counts: Counts) -> EncodedResult:
    n_schema, n_receipt = ANSWER.unpack_from(payload)
    start = ANSWER.size
    schema = pa.ipc.read_schema(pa.py_buffer(payload[start : start + n_schema]))
    start += n_schema
    told = json.loads(bytes(payload[start : start + n_receipt]))
    counts.merge(told.pop(COUNTS, {}), "lookups")
    receipt = Receipt(**told)
    return EncodedResult(schema, Stream(_once(payload[start + n_receipt :]), _nothing), receipt)


async def _once(body: memoryview) -> AsyncGenerator[Chunk, None]:
    if body:
        yield body


async def _nothing() -> None:
    """Nothing is held."""
