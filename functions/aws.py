"""The worker as an AWS Lambda function: handler ``functions.aws.worker``.

An event is ``{"task": base64}`` (`functions.invoke.lambda_event`), the answer ``{"reply": base64}``. A message that the
worker refuses is raised, and Lambda tells the caller the class and the words of the error. Rows past what an answer may
hold become pages; the engine spills to /tmp; a task ends a little before the function's own time does, so that its
reply says so. What is opened by the first event serves the next ones.
"""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, Protocol

from functions import run_piece as _run_piece  # noqa: F401 - before the first event: this is the time that is not billed
from functions import tracing
from functions.invoke.lambda_event import answer_of, message_of
from functions.json_lines import log_json
from functions.lambda_settings import function_settings
from functions.run_task import TaskRunner
from functions.task_worker import TaskWorkerSettings, open_task_runner, settings_of
from storage.clock import Clock, SystemClock
from storage.errors import UnavailableError

__all__ = ["LambdaWorker", "worker"]

INLINE_BYTES_MAX = 4_000_000
"""Of rows in an answer, whose base64 and the rest of the reply stay below Lambda's 6 MB."""
MARGIN_MS = 500
"""Kept of the function's time for the reply that says that the task's is up."""
_MEMORY_SHARE = 0.6
"""Of the function's memory; the rest is for what the engine does not count, and for pages."""


class Context(Protocol):
    """What Lambda says of an invocation."""

    @property
    def memory_limit_in_mb(self) -> int | str:
        """Return the function's memory in MiB."""
        ...

    def get_remaining_time_in_millis(self) -> int:
        """Return how long the function may still run."""
        ...


class LambdaWorker:
    """One environment of the function: runs one event at a time.

    Parameters
    ----------
    settings : memory 0 means a share of the function's
    exit : ends the process, when a task before left the engine in doubt; Lambda then starts another
    """

    def __init__(
        self, settings: TaskWorkerSettings, clock: Clock | None = None, exit: Callable[[int], Any] = os._exit
    ) -> None:
        self._settings, self._clock, self._exit = settings, clock or SystemClock(), exit
        self._loop = asyncio.Runner()
        self._stack = AsyncExitStack()
        self._runner: TaskRunner | None = None

    def handle(self, event: Mapping[str, Any], context: Context) -> dict[str, str]:
        """Return the answer to an event. Raises what `TaskRunner.run` and `message_of` refuse a message with."""
        if self._runner is not None and self._runner.broken:
            self._exit(1)
            raise UnavailableError("the worker is started anew after a task that did not stop; send the task again")
        return self._loop.run(self._answer(event, context))

    def close(self) -> None:
        """Close what is open."""
        self._loop.run(self._stack.aclose())
        self._loop.close()

    async def _answer(self, event: Mapping[str, Any], context: Context) -> dict[str, str]:
        runner = self._runner or await self._open(int(context.memory_limit_in_mb))
        message = await message_of(event, runner.stores)
        until_ms = self._clock.now_ms() + max(context.get_remaining_time_in_millis() - MARGIN_MS, 0)
        return answer_of(await runner.run(message, until_ms=until_ms))

    async def _open(self, memory_mb: int) -> TaskRunner:
        memory_bytes = self._settings.memory_bytes or int(memory_mb * _MEMORY_SHARE * (1 << 20))
        opened = open_task_runner(
            replace(self._settings, memory_bytes=memory_bytes), self._clock, inline_bytes_max=INLINE_BYTES_MAX,
            extra_usage={"billed_memory_mb": float(memory_mb)},
        )  # fmt: skip
        self._runner = await self._stack.enter_async_context(opened)
        return self._runner


@functools.cache
def _environment() -> LambdaWorker:
    log_json()
    return LambdaWorker(settings_of(function_settings()))


def worker(event: Mapping[str, Any], context: Context) -> dict[str, str]:
    """Run one task. Raises a `FirnlineError` for a message that is refused."""
    try:
        return _environment().handle(event, context)
    finally:
        tracing.flush()  # nothing runs between two events
