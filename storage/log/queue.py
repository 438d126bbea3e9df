"""Appends on their way: accepted, in a batch, waiting for the upload. Decides and does no IO."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from storage.log import AckMode, Position, Receipt, Record
from storage.log.segments import RECORDS_MAX

__all__ = ["Queue", "Signal", "Waiting", "fail_all"]


@dataclass(slots=True)
class Waiting:
    """One append: its encoded records, and who waits for it."""

    first_record: Record
    records: list[bytes]
    n_bytes: int
    ack: AckMode
    done: asyncio.Future[Receipt]
    position: Position | None = None
    taken: Callable[[], None] | None = None
    """Is called when a group commit begins with it, for whoever watches."""

    def acknowledge(self, ack: AckMode) -> None:
        """Give the receipt to whoever waits. The position is known by now."""
        if self.position is not None and not self.done.done():
            self.done.set_result(Receipt(self.position, len(self.records), ack))

    def fail(self, error: BaseException) -> None:
        """Raise in whoever waits; nobody needs to."""
        if not self.done.done():
            self.done.set_exception(error)
            # An append that nobody awaits any more is no unhandled error.
            self.done.exception()


def fail_all(appends: list[Waiting], error: BaseException) -> None:
    """Raise ``error`` in each."""
    for waiting in appends:
        waiting.fail(error)


class Queue:
    """Accepted appends in order, and an event that is set while there are any."""

    def __init__(self) -> None:
        self._appends: deque[Waiting] = deque()
        self.filled = asyncio.Event()
        self.n_bytes = 0

    def add(self, waiting: Waiting) -> None:
        """Add one append at the end."""
        self._appends.append(waiting)
        self.n_bytes += waiting.n_bytes
        self.filled.set()

    def take(self, bytes_max: int) -> list[Waiting]:
        """Remove and return whole appends from the front: at least one if there is any, then up to ``bytes_max``."""
        batch: list[Waiting] = []
        n_bytes = n_records = 0
        while self._appends:
            next_one = self._appends[0]
            n_bytes += next_one.n_bytes
            n_records += len(next_one.records)
            if batch and (n_bytes > bytes_max or n_records > RECORDS_MAX):
                break
            batch.append(self._appends.popleft())
            self.n_bytes -= next_one.n_bytes
        if not self._appends:
            self.filled.clear()
        return batch


class Signal:
    """Wakes every task that waits now. A waiter is registered before `wait` gives way, so a wake-up cannot be lost."""

    def __init__(self) -> None:
        self._waiters: set[asyncio.Future[None]] = set()

    def notify(self) -> None:
        """Wake all who wait."""
        for waiter in self._waiters:
            _resolve(waiter)

    async def wait(self, timeout_s: float | None = None) -> None:
        """Return at the next `notify`, or after ``timeout_s``."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(timeout_s, _resolve, waiter) if timeout_s is not None else None
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)
            if timer is not None:
                timer.cancel()


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
