"""The `Invoker` contract: hand a task to a worker, wherever workers are.

1. `invoke` returns the worker's reply, or raises; it never gives half a reply. It does not retry: who calls does.
2. Errors say what is known: `UnavailableError` (not started, or ended without an answer: a task may be sent again, it
   is pure), `OverloadedError` (throttled: slow down, ``retry_after_s``), `LimitError` (the message or the reply is
   larger than `InvokerLimits` allows), `StatementTimeoutError` (its time is up), `ForbiddenError` (a worker refused).
3. Cancelling an `invoke` frees the caller at once, and stops the worker where the platform can (``stops``).
4. `close` leaves no process and no connection behind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = ["Invoker", "InvokerLimits"]


@dataclass(frozen=True, slots=True)
class InvokerLimits:
    """What a platform allows; 0: no limit.

    concurrency : tasks at once, as the platform or the account allows
    memory_bytes : of a worker, which ends past it; 0: not known
    stops : whether a cancelled task stops working
    """

    message_bytes: int = 0
    reply_bytes: int = 0
    timeout_ms: int = 0
    concurrency: int = 1
    stops: bool = True
    memory_bytes: int = 0


class Invoker(Protocol):
    """Somewhere tasks run. Safe for concurrent use by tasks of one event loop."""

    name: str
    limits: InvokerLimits

    async def invoke(self, message: bytes, *, timeout_ms: int) -> bytes:
        """Run one encoded task (`functions.tasks.encode_task`) and return the encoded reply."""
        ...

    async def close(self) -> None:
        """Stop what runs."""
        ...
