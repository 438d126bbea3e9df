"""One event loop on a background thread, which plain threads hand coroutines to."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections.abc import Coroutine
from concurrent.futures import CancelledError as FutureCancelled
from concurrent.futures import Future
from concurrent.futures import wait as waiting
from typing import Any, TypeVar

from storage.errors import CancelledError, InvalidError

__all__ = ["BackgroundLoop"]

T = TypeVar("T")
_JOIN_S = 5.0
_WAKE_S = 0.1


class BackgroundLoop:
    """Runs coroutines for other threads until it is closed; closes itself when it is collected or Python ends."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=_spin, args=(self._loop,), name="firnline", daemon=True)
        self._thread.start()
        self._close = weakref.finalize(self, _stop, self._loop, self._thread)

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine. Raises `InvalidError` on a closed loop."""
        if not self._close.alive:
            work.close()
            raise InvalidError("the connection is closed")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end; an interrupt (Ctrl-C) cancels it and is raised."""
        return wait(self.submit(work))

    def close(self) -> None:
        """Cancel what runs and end the thread."""
        self._close()


def wait(future: Future[T]) -> T:
    """Return the future's result; an interrupt cancels it. Raises `CancelledError` when another thread did.

    It wakes up now and then by itself: other libraries install a handler (Polars does) after which an interrupt no
    longer ends a wait.
    """
    try:
        while not future.done():
            waiting([future], _WAKE_S)
        return future.result()
    except FutureCancelled:
        raise CancelledError("the statement was cancelled") from None
    except BaseException:
        future.cancel()
        raise


def _spin(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _stop(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    if not thread.is_alive():
        return
    with contextlib.suppress(Exception):
        asyncio.run_coroutine_threadsafe(_cancel_all(), loop).result(_JOIN_S)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(_JOIN_S)
