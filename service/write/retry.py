"""Beginning a statement anew after it lost a race: bounded, with jittered pauses that grow."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from service.write.context import Work
from storage.errors import ConflictError

__all__ = ["LostError", "retried"]

T = TypeVar("T")
ATTEMPTS_MAX = 40
_PAUSE_S, _PAUSE_MAX_S = 0.002, 0.25


class LostError(ConflictError):
    """Another writer was faster; the statement may begin anew. Goes by `ConflictError` on the wire."""


async def retried(work: Work, act: Callable[[], Awaitable[T]]) -> T:
    """Return what ``act`` does, begun anew when it raises `LostError`. Raises it after `ATTEMPTS_MAX` tries."""
    for attempt in range(ATTEMPTS_MAX):
        try:
            return await act()
        except LostError as error:
            if attempt == ATTEMPTS_MAX - 1:
                raise ConflictError(
                    "other writers changed the same rows again and again; nothing was written, try again",
                    attempts=ATTEMPTS_MAX, reason=error.message,
                ) from error  # fmt: skip
            work.receipt.retries += 1
        await asyncio.sleep(work.engine.clock.uniform(0, min(_PAUSE_S * 2**attempt, _PAUSE_MAX_S)))
    raise AssertionError("unreachable")
