"""`InlineInvoker`: tasks in this process, some at a time.

A cancelled task is cancelled as a coroutine is: what it has in the engine's threads may go on for a while, and keeps
its place until it ends.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from dataclasses import replace

from functions.invoke import InvokerLimits
from functions.invoke.outcome import allowed, check_message, check_reply, closed, seconds, timed_out
from functions.invoke.worker import OpenTasks, RunsTasks
from storage.errors import FirnlineError, InternalError

__all__ = ["InlineInvoker"]

_log = logging.getLogger("firnline.invoke")
_CLOSE_S = 5.0


class InlineInvoker:
    """An `functions.invoke.Invoker` of this process.

    Parameters
    ----------
    open_tasks : called at the first task; what it opens is closed by `close`
    limits : ``concurrency`` tasks run at once, the others wait for them
    """

    name = "inline"

    def __init__(self, open_tasks: OpenTasks, limits: InvokerLimits) -> None:
        self.limits = replace(limits, stops=False)
        self._open_tasks = open_tasks
        self._runner: RunsTasks | None = None
        self._opening = asyncio.Lock()
        self._stack = AsyncExitStack()
        self._places = asyncio.Semaphore(max(1, limits.concurrency))
        self._running: set[asyncio.Task[bytes]] = set()
        self._closed = False

    async def invoke(self, message: bytes, *, timeout_ms: int) -> bytes:
        if self._closed:
            raise closed(self.name)
        check_message(message, self.limits)
        timeout_s = seconds(timeout_ms, self.limits)
        work = asyncio.create_task(self._run(message))
        self._running.add(work)
        work.add_done_callback(self._ended)
        try:
            done, _ = await asyncio.wait({work}, timeout=timeout_s)
        except asyncio.CancelledError:
            work.cancel()
            raise
        if not done:
            work.cancel()
            raise timed_out(timeout_s)
        if work.cancelled():
            raise closed(self.name)
        return check_reply(work.result(), self.limits)

    async def close(self) -> None:
        self._closed = True
        running = list(self._running)
        for work in running:
            work.cancel()
        if running:
            await asyncio.wait(running, timeout=_CLOSE_S)
        await self._stack.aclose()

    async def _run(self, message: bytes) -> bytes:
        async with self._places:
            try:
                runner = self._runner or await self._open()
                return await runner.run(message)
            except FirnlineError as error:
                raise allowed(error) from error
            except Exception as error:
                _log.exception("a task failed internally")
                raise allowed(InternalError("the log has the details", reason=type(error).__name__)) from error

    async def _open(self) -> RunsTasks:
        async with self._opening:
            if self._runner is None:
                self._runner = await self._stack.enter_async_context(self._open_tasks())
            return self._runner

    def _ended(self, work: asyncio.Task[bytes]) -> None:
        self._running.discard(work)
        if not work.cancelled():
            work.exception()  # of a task that nobody waits for any more
