"""`WorkerPool`: how many worker processes there are, which one is next, and who waits for one.

Idle workers are used most recently used first, since their caches are warm. Beyond the minimum they are started when
statements wait and end when they are idle for long. A worker that dies is replaced.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from functions.worker_process import WorkerProcess, start_worker, sweep_scratch
from storage.clock import Clock
from storage.errors import FirnlineError, OverloadedError, UnavailableError

__all__ = ["WorkerPool", "WorkerSettings", "closing_error"]

_log = logging.getLogger("firnline.workers")
_RESTART_DELAY_S = 0.5
_RESTART_DELAY_MAX_S = 10.0
_HOUSE_S = 2.0


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """How many workers there are, and when they end.

    worker_memory_bytes : resident memory at which a worker is killed, whatever its statement; 0 means no limit
    recycle_rss_bytes : a worker that is still larger than this seconds after its statement is replaced
    """

    workers_min: int = 2
    workers_max: int = 4
    queue_max: int = 128
    idle_s: float = 60.0
    start_timeout_s: float = 60.0
    worker_memory_bytes: int = 0
    recycle_rss_bytes: int = 1 << 30


def closing_error() -> UnavailableError:
    """Return the error of a statement that the end of the server stopped."""
    return UnavailableError("the server is shutting down; send the statement again")


class WorkerPool:
    """Owns the worker processes, which run ``module``. Used from one event loop; `close` ends every worker."""

    def __init__(self, open_runner: Callable[[], object], clock: Clock, settings: WorkerSettings, module: str) -> None:
        self.settings = settings
        self.restarts = 0
        self.start_error: FirnlineError | None = None
        self._open_runner = open_runner
        self._module = module
        self._clock = clock
        self._closed = False
        self._ready: set[WorkerProcess] = set()
        self._idle: list[WorkerProcess] = []
        self._living: set[WorkerProcess] = set()
        self._starting = 0
        self._start_failures = 0
        self._queue: deque[asyncio.Future[WorkerProcess]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def n_queued(self) -> int:
        """How many wait for a worker."""
        return len(self._queue)

    @property
    def n_workers(self) -> int:
        """How many workers are ready, busy ones included."""
        return len(self._ready)

    @property
    def resident_bytes(self) -> int:
        """Memory of all workers together."""
        return sum(worker.rss_bytes() for worker in self._living)

    async def open(self) -> None:
        """Start the minimum of workers in the background."""
        await asyncio.to_thread(sweep_scratch)
        self._top_up()
        self.spawn(self._keep_house())

    async def close(self) -> None:
        """Kill every worker; who waits for one gets `UnavailableError`."""
        self._closed = True
        self._tell_waiting(closing_error())
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(worker.kill() for worker in self._living))
        self._living.clear()
        self._ready.clear()
        self._idle.clear()

    def take_idle(self) -> WorkerProcess | None:
        """Return the idle worker that was used last, or None."""
        while self._idle and not self._closed:
            worker = self._idle.pop()
            if not worker.dead.is_set():
                return worker
        return None

    async def acquire(self) -> WorkerProcess:
        """Wait in the queue for a worker. Raises `OverloadedError` when the queue is full."""
        if self._closed:
            raise closing_error()
        if len(self._queue) >= self.settings.queue_max:
            raise OverloadedError(
                "too many statements run and wait already; try again in a moment",
                queue_max=self.settings.queue_max,
                retry_after_s=1,
            )
        waiting: asyncio.Future[WorkerProcess] = asyncio.get_running_loop().create_future()
        self._queue.append(waiting)
        self._top_up()
        try:
            return await waiting
        except asyncio.CancelledError:
            if waiting.done() and not waiting.cancelled() and waiting.exception() is None:
                self.offer(waiting.result())  # handed over just as we were cancelled
            raise
        finally:
            with suppress(ValueError):
                self._queue.remove(waiting)

    def offer(self, worker: WorkerProcess) -> None:
        """Give a worker that has nothing to do to whoever waits longest, or keep it warm."""
        worker.idle_since_s = self._clock.monotonic_s()
        if worker.dead.is_set():
            self.spawn(self.discard(worker))
            return
        while self._queue:
            waiting = self._queue.popleft()
            if not waiting.done():
                waiting.set_result(worker)
                return
        self._idle.append(worker)

    async def discard(self, worker: WorkerProcess) -> None:
        """Kill a worker and have it replaced."""
        self.restarts += 1
        await self._end(worker)
        self._top_up()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work`` in the background until the pool closes."""
        if self._closed:
            work.close()
            return
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a task of the worker pool failed", exc_info=error)

    async def _end(self, worker: WorkerProcess) -> None:
        self._ready.discard(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        await worker.kill()
        self._living.discard(worker)

    def _top_up(self) -> None:
        """Start the workers that are missing: up to the minimum always, beyond it for those who wait."""
        busy = len(self._ready) - len(self._idle)
        wanted = min(max(self.settings.workers_min, busy + len(self._queue)), self.settings.workers_max)
        for _ in range(0 if self._closed else wanted - len(self._ready) - self._starting):
            self._starting += 1
            self.spawn(self._start_one())

    async def _start_one(self) -> None:
        worker = None
        try:
            if self._start_failures:
                await asyncio.sleep(min(_RESTART_DELAY_S * 2**self._start_failures, _RESTART_DELAY_MAX_S))
            worker = start_worker(self._module)
            self._living.add(worker)
            await worker.open(self._open_runner, self.settings.start_timeout_s)
        except FirnlineError as error:
            self._starting -= 1
            if worker is not None:
                self._living.discard(worker)
            self._start_failed(error)
            return
        self._starting -= 1
        self._start_failures, self.start_error = 0, None
        self._ready.add(worker)
        self.spawn(self._mourn(worker))
        self.offer(worker)

    def _start_failed(self, error: FirnlineError) -> None:
        """Tell those who wait, if there is no worker at all, and try again later."""
        _log.error("a worker did not start: %s", error)
        self._start_failures = min(self._start_failures + 1, 8)
        self.start_error = error
        if not self._ready:
            self._tell_waiting(error)
        self._top_up()

    def _tell_waiting(self, error: FirnlineError) -> None:
        while self._queue:
            waiting = self._queue.popleft()
            if not waiting.done():
                waiting.set_exception(error)

    async def _mourn(self, worker: WorkerProcess) -> None:
        """Replace a worker that dies while it is idle."""
        await worker.dead.wait()
        if worker in self._idle:
            await self.discard(worker)

    async def _keep_house(self) -> None:
        """End idle workers that are beyond the minimum for long, and replace those that grew too large."""
        while True:
            await asyncio.sleep(min(self.settings.idle_s / 4, _HOUSE_S))
            now_s = self._clock.monotonic_s()
            # While one ends, another may be given something to do.
            for worker in list(self._idle):
                if worker in self._idle and self._is_large(worker):
                    await self.discard(worker)
            spare = max(0, len(self._ready) - self.settings.workers_min)
            for worker in list(self._idle)[:spare]:
                if worker in self._idle and now_s - worker.idle_since_s >= self.settings.idle_s:
                    await self._end(worker)

    def _is_large(self, worker: WorkerProcess) -> bool:
        return worker.rss_bytes() > self.settings.recycle_rss_bytes
