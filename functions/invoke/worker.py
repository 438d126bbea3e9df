"""What runs tasks at the far end of an invoker, as a callable that can be sent to another process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

__all__ = ["OpenTasks", "RunsTasks"]


class RunsTasks(Protocol):
    """Runs tasks; `functions.run_task.TaskRunner` is one.

    It may have ``broken``, which is true once its process should be replaced.
    """

    def run(self, message: bytes) -> Awaitable[bytes]:
        """Return the reply to a message. Raises `storage.errors.FirnlineError` for a message that it refuses."""
        ...


OpenTasks = Callable[[], AbstractAsyncContextManager[RunsTasks]]
"""Picklable: a function of a module, or a `functools.partial` of one with plain values."""
