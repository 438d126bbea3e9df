"""An invoker around a real one, which delays, refuses, damages and loses as it is told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from functions.invoke import Invoker, InvokerLimits

__all__ = ["FaultyInvoker"]

Before = Callable[[int, bytes], Awaitable[bytes]]
After = Callable[[int, bytes], Awaitable[bytes]]


@dataclass
class FaultyInvoker:
    """``before`` may change a message or raise in place of the worker; ``after`` sees each reply.

    Both get the number of the call, from 0.
    """

    inner: Invoker
    before: Before | None = None
    after: After | None = None
    calls: int = 0
    name: str = "faulty"
    limits: InvokerLimits = field(init=False)

    def __post_init__(self) -> None:
        self.limits = self.inner.limits

    async def invoke(self, message: bytes, *, timeout_ms: int) -> bytes:
        number, self.calls = self.calls, self.calls + 1
        if self.before is not None:
            message = await self.before(number, message)
        reply = await self.inner.invoke(message, timeout_ms=timeout_ms)
        return await self.after(number, reply) if self.after is not None else reply

    async def close(self) -> None:
        await self.inner.close()
