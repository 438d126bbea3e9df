"""An event loop whose time passes only when nothing else can be done: hours of waiting take milliseconds."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

from tests.support.clock import ManualClock

__all__ = ["VirtualClock", "run_virtually"]

T = TypeVar("T")


class VirtualClock(ManualClock):
    """The time of the loop that runs now; randomness is seeded."""

    def now_ms(self) -> int:
        return super().now_ms() + round(self.monotonic_s() * 1000)

    def monotonic_s(self) -> float:
        return asyncio.get_running_loop().time()


class _Selector(selectors.DefaultSelector):
    """Lets the time pass that it is told to wait."""

    passed_s = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("the simulation waits for nothing")
        self.passed_s += max(timeout, 0.0)
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.passed_s


def run_virtually(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that uses no threads and no files; `asyncio.sleep` takes no time."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(work)
