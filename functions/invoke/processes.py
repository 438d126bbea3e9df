"""`ProcessInvoker`: tasks in worker processes of this machine, one at a time each, that can be killed.

1. A task past its time, and one that is cancelled, is asked to stop; 0.3 s later its process is killed. Whoever waited
   is free at once.
2. A process past its memory is killed, and costs the task that it ran.
3. A process that dies is replaced, and its task fails with `UnavailableError`.
4. No process outlives this one, however it ends.
"""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress

from functions.frames import Kind
from functions.invoke import InvokerLimits
from functions.invoke.outcome import (
    SMALLER,
    check_message,
    check_reply,
    closed,
    refused,
    seconds,
    timed_out,
)
from functions.invoke.process_worker import BROKEN
from functions.invoke.worker import OpenTasks
from functions.signed import MESSAGE_BYTES_MAX
from functions.worker_pool import WorkerPool, WorkerSettings
from functions.worker_process import Frame, WorkerProcess, error_of
from storage.clock import Clock
from storage.errors import CancelledError, LimitError, UnavailableError

__all__ = ["ProcessInvoker", "process_settings"]

_MODULE = "functions.invoke.process_worker"
_GRACE_S = 0.3
_POLL_S = 0.05
_QUEUE_MAX = 100_000
"""Tasks that wait for a process: the coordinator bounds them, not this."""


def process_settings(n_processes: int, *, memory_bytes: int = 0) -> WorkerSettings:
    """Return the settings of a pool of up to ``n_processes`` (0: one for each core), of which one is kept warm."""
    workers_max = n_processes or len(os.sched_getaffinity(0))
    return WorkerSettings(
        workers_min=1, workers_max=workers_max, queue_max=_QUEUE_MAX, worker_memory_bytes=memory_bytes
    )


class ProcessInvoker:
    """An `functions.invoke.Invoker` of processes; they are started by the first task, from the event loop's thread.

    Parameters
    ----------
    open_tasks : picklable; each process calls it once
    """

    name = "processes"

    def __init__(
        self, open_tasks: OpenTasks, clock: Clock, settings: WorkerSettings, limits: InvokerLimits | None = None
    ) -> None:
        self.limits = limits or InvokerLimits(
            message_bytes=MESSAGE_BYTES_MAX, reply_bytes=MESSAGE_BYTES_MAX, concurrency=settings.workers_max
        )
        self._pool = WorkerPool(open_tasks, clock, settings, _MODULE)
        self._opening: asyncio.Task[None] | None = None
        self._closed = False
        self._memory_bytes = settings.worker_memory_bytes

    async def invoke(self, message: bytes, *, timeout_ms: int) -> bytes:
        if self._closed:
            raise closed(self.name)
        check_message(message, self.limits)
        timeout_s = seconds(timeout_ms, self.limits)
        phase = "waiting for a worker process"
        try:
            async with asyncio.timeout(timeout_s):
                worker = self._pool.take_idle() or await self._acquire()
                phase = "running"
                return check_reply(await self._run(worker, message), self.limits)
        except TimeoutError:
            raise timed_out(timeout_s, phase) from None

    async def close(self) -> None:
        self._closed = True
        if self._opening is not None:
            await asyncio.gather(self._opening, return_exceptions=True)
        await self._pool.close()

    async def _acquire(self) -> WorkerProcess:
        if self._opening is None:
            self._opening = asyncio.create_task(self._pool.open())
        await asyncio.shield(self._opening)
        return await self._pool.acquire()

    async def _run(self, worker: WorkerProcess, message: bytes) -> bytes:
        """Return the reply, and give the worker back to the pool, or what is left of it."""
        rest = self._recover
        try:
            await worker.start(message)
            kind, payload = await self._next(worker)
            if kind is Kind.ERROR:
                error, broken = error_of(payload)
                rest = self._discard if broken else self._offer
                raise refused(error.to_wire())
            reply = bytes(payload)
            kind, payload = await self._next(worker)
            rest = self._discard if payload == BROKEN else self._offer
            return reply
        except (LimitError, UnavailableError):
            rest = self._discard if rest == self._recover else rest
            raise
        finally:
            if rest == self._offer:
                self._pool.offer(worker)
            else:
                self._pool.spawn(rest(worker))

    async def _next(self, worker: WorkerProcess) -> Frame:
        frame = await (self._watched(worker) if self._memory_bytes else worker.receive())
        if frame is not None:
            return frame
        if self._closed:
            raise closed(self.name)
        crash = await worker.crash()
        if isinstance(crash, LimitError):
            raise crash
        code = worker.exit_code
        how = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        raise UnavailableError("the worker process of this task died; the log has its last words", how=how)

    async def _watched(self, worker: WorkerProcess) -> Frame | None:
        """Wait for a frame, and kill the worker when it holds too much memory."""
        receiving = asyncio.create_task(worker.receive())
        try:
            while True:
                done, _ = await asyncio.wait({receiving}, timeout=_POLL_S)
                if done:
                    return receiving.result()
                if worker.rss_bytes() > self._memory_bytes:
                    raise LimitError(
                        "the task used more memory than its worker process may and was stopped; raise "
                        f"FIRN_FUNCTIONS_MEMORY, or {SMALLER}",
                        limit="worker_memory_bytes", worker_memory_bytes=self._memory_bytes,
                    )  # fmt: skip
        finally:
            receiving.cancel()

    async def _offer(self, worker: WorkerProcess) -> None:
        self._pool.offer(worker)

    async def _discard(self, worker: WorkerProcess) -> None:
        await self._pool.discard(worker)

    async def _recover(self, worker: WorkerProcess) -> None:
        """Stop a task that nobody waits for, by the gentlest means that works."""
        answered = False
        with suppress(TimeoutError):
            async with asyncio.timeout(_GRACE_S):
                await worker.cancel("")
                answered = await self._answered(worker)
        if answered and await worker.settled():
            self._pool.offer(worker)
        else:
            await self._pool.discard(worker)

    async def _answered(self, worker: WorkerProcess) -> bool:
        """Read what the worker says last of its task; tell whether it can be used again."""
        while (frame := await worker.receive()) is not None:
            kind, payload = frame
            if kind is Kind.ERROR:
                error, broken = error_of(payload)
                return not broken or isinstance(error, CancelledError)
            if kind is Kind.END:
                return payload != BROKEN
        return False
