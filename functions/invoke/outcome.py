"""What every backend of `functions.invoke.Invoker` says in the same words: sizes, time, and what a worker refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from functions.invoke import InvokerLimits
from storage.errors import (
    FirnlineError,
    InvalidError,
    LimitError,
    OverloadedError,
    StatementTimeoutError,
    TooLargeError,
    UnavailableError,
    from_wire,
)

__all__ = ["SMALLER", "allowed", "check_message", "check_reply", "closed", "refused", "seconds", "timed_out"]

RETRY_AFTER_S = 1.0
"""Where nobody says when to come again."""
SMALLER = "let the statement have more tasks, of less each (max_tasks, FIRN_TASKS_MAX, FIRN_FUNCTIONS_CONCURRENCY)"
"""What helps against a worker's limits of memory and time."""
_TOLD = (InvalidError, LimitError, UnavailableError)


def check_message(message: bytes, limits: InvokerLimits) -> None:
    """Raise `LimitError` for a message that is larger than the platform takes."""
    if limits.message_bytes and len(message) > limits.message_bytes:
        raise LimitError(
            "the task is larger than these workers take; cut the statement into more tasks",
            limit="message_bytes", n_bytes=len(message), message_bytes=limits.message_bytes,
        )  # fmt: skip


def check_reply(reply: bytes, limits: InvokerLimits) -> bytes:
    """Return the reply. Raises `LimitError` for one that is larger than the platform gives."""
    if limits.reply_bytes and len(reply) > limits.reply_bytes:
        raise reply_too_large(limits, len(reply))
    return reply


def reply_too_large(limits: InvokerLimits, n_bytes: int | None = None) -> LimitError:
    """Return the error of a reply that does not fit."""
    return LimitError(
        "the reply is larger than these workers give; let the task write pages (inline_bytes_max)",
        limit="reply_bytes", n_bytes=n_bytes, reply_bytes=limits.reply_bytes,
    )  # fmt: skip


def seconds(timeout_ms: int, limits: InvokerLimits) -> float | None:
    """Return the time of a task in seconds; None: no end."""
    found = [each / 1000 for each in (timeout_ms, limits.timeout_ms) if each > 0]
    return min(found, default=None)


def timed_out(timeout_s: float | None, while_: str = "running") -> StatementTimeoutError:
    """Return the error of a task whose time is up."""
    timeout_ms = None if timeout_s is None else round(timeout_s * 1000)
    return StatementTimeoutError(
        f"the task's time is up, {while_}; {SMALLER}, or raise FIRN_FUNCTIONS_TIMEOUT_MS",
        limit="timeout_ms", timeout_ms=timeout_ms,
    )  # fmt: skip


def closed(name: str) -> UnavailableError:
    """Return the error of a task that the end of its invoker stopped."""
    return UnavailableError("the functions are shut down; send the statement again", functions=name)


def refused(wire: Mapping[str, Any]) -> FirnlineError:
    """Return the error that a worker answered in place of a reply, as one of those that the contract knows."""
    return allowed(from_wire(dict(wire)))


def allowed(error: FirnlineError) -> FirnlineError:
    """Return the error as one of the contract's: what a worker should not have failed with is `UnavailableError`."""
    if isinstance(error, TooLargeError):
        return LimitError(error.message, **{"limit": "message_bytes", **error.facts})
    if isinstance(error, OverloadedError):
        error.facts.setdefault("retry_after_s", RETRY_AFTER_S)
    if isinstance(error, _TOLD):
        return error
    return UnavailableError(
        f"a worker failed without a reply: {error.message}", **{**error.facts, "kind": error.to_wire()["error"]}
    )
