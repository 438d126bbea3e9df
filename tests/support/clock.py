"""A clock that a test moves by hand, and whose randomness is seeded."""

from __future__ import annotations

import random

__all__ = ["ManualClock"]


class ManualClock:
    """A `storage.clock.Clock` that stands still until `advance`."""

    def __init__(self, now_ms: int = 1_700_000_000_000, seed: int = 0) -> None:
        self._now_ms = now_ms
        self._passed_ms = 0
        self._random = random.Random(seed)

    def advance(self, ms: int) -> None:
        """Let ``ms`` milliseconds pass."""
        self._passed_ms += ms

    def now_ms(self) -> int:
        return self._now_ms + self._passed_ms

    def monotonic_s(self) -> float:
        return self._passed_ms / 1000

    def uniform(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)

    def new_id(self) -> str:
        return f"{self._random.getrandbits(128):032x}"
