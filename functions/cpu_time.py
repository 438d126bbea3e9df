"""CPU time of one piece of work, in a process that may have many at once.

A task of an event loop that is `metered` is charged what runs between its waits, and what it does `in_thread`. All else
is charged the process's CPU time, which counts the engine's own threads, and is right where one statement runs at a
time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Generator
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

__all__ = ["charging", "cpu_s", "in_thread", "metered"]

P = ParamSpec("P")
T = TypeVar("T")


class _Meter:
    """CPU seconds that were used so far; ``since_s`` is the thread's time at which the step that runs began."""

    def __init__(self) -> None:
        self.used_s = 0.0
        self.since_s: float | None = None

    def now_s(self) -> float:
        return self.used_s + (time.thread_time() - self.since_s if self.since_s is not None else 0.0)


_meter: ContextVar[_Meter | None] = ContextVar("firnline_cpu_meter", default=None)


def cpu_s() -> float:
    """Return the CPU seconds of what runs now; differences of it count."""
    meter = _meter.get()
    return time.process_time() if meter is None else meter.now_s()


class _Charged:
    """Awaits ``work`` and charges its steps to a meter."""

    def __init__(self, work: Coroutine[Any, Any, Any], meter: _Meter) -> None:
        self._work, self._meter = work, meter

    def __await__(self) -> Generator[Any, Any, Any]:
        work, meter = self._work, self._meter
        step: Callable[[Any], Any] = work.send
        given: Any = None
        try:
            while True:
                meter.since_s = time.thread_time()
                try:
                    waited_for = step(given)
                except StopIteration as end:
                    return end.value
                finally:
                    meter.used_s, meter.since_s = meter.now_s(), None
                try:
                    step, given = work.send, (yield waited_for)
                except BaseException as error:  # noqa: BLE001 - a cancellation is the work's to see
                    step, given = work.throw, error
        finally:
            work.close()


async def metered(work: Coroutine[Any, Any, T]) -> T:
    """Return what ``work`` does; in it `cpu_s` counts what it alone uses, its own tasks among it (see `charging`)."""
    meter = _Meter()
    token = _meter.set(meter)
    try:
        found: T = await _Charged(work, meter)
        return found
    finally:
        _meter.reset(token)


def charging(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any] | Generator[Any, None, Any], /, **options: Any
) -> asyncio.Task[Any]:
    """Make a task, as a loop's task factory; one that metered work makes is charged to it."""
    meter = _meter.get()
    charged = work if meter is None or not isinstance(work, Coroutine) else _steps(work, meter)
    return asyncio.Task(charged, loop=loop, **options)


async def _steps(work: Coroutine[Any, Any, Any], meter: _Meter) -> Any:
    return await _Charged(work, meter)


async def in_thread(act: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run ``act`` in another thread, and charge it to who waits for it."""
    meter = _meter.get()
    if meter is None:
        return await asyncio.to_thread(act, *args, **kwargs)

    def timed() -> tuple[T, float]:
        began_s = time.thread_time()
        return act(*args, **kwargs), time.thread_time() - began_s

    found, took_s = await asyncio.to_thread(timed)
    meter.used_s += took_s
    return found
