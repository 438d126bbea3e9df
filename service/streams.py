"""`Stream`: an asynchronous iterator whose end is always tidied up after.

A plain asynchronous generator that is closed before its first item never runs its ``finally``, so a worker or a
connection that it holds would be lost.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, Generic, TypeVar

__all__ = ["Stream", "close_stream"]

T = TypeVar("T")


class Stream(Generic[T]):
    """Items of a generator; ``at_end`` runs once, when they end, fail, or are closed early."""

    def __init__(self, items: AsyncGenerator[T, None], at_end: Callable[[], Awaitable[None]]) -> None:
        self._items = items
        self._at_end: Callable[[], Awaitable[None]] | None = at_end

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        try:
            return await anext(self._items)
        except BaseException:
            await self._end()
            raise

    async def aclose(self) -> None:
        """Stop the items; closing twice is no error."""
        try:
            await self._items.aclose()
        finally:
            await self._end()

    async def _end(self) -> None:
        at_end, self._at_end = self._at_end, None
        if at_end is not None:
            await at_end()


async def close_stream(stream: AsyncIterator[Any]) -> None:
    """Close a stream or an asynchronous generator; other iterators have nothing to close."""
    close = getattr(stream, "aclose", None)
    if close is not None:
        await close()
