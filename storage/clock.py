"""Time and chance as arguments. The only module that asks the machine for either."""

from __future__ import annotations

import random
import time
import uuid
from typing import Protocol

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    """What the code may know of time and chance."""

    def now_ms(self) -> int:
        """Wall clock, milliseconds since 1970-01-01 UTC."""
        ...

    def monotonic_s(self) -> float:
        """Seconds from an arbitrary start, never backwards."""
        ...

    def uniform(self, low: float, high: float) -> float:
        """A random float in [low, high), for jitter."""
        ...

    def new_id(self) -> str:
        """A fresh unique identifier: 32 hexadecimal digits."""
        ...


_MONOTONIC = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class SystemClock:
    """The machine's own clock and randomness."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        # Goes on while the machine is suspended, as a lease in the catalog does.
        return time.clock_gettime(_MONOTONIC)

    def uniform(self, low: float, high: float) -> float:
        return random.uniform(low, high)

    def new_id(self) -> str:
        return uuid.uuid4().hex
