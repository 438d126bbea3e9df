"""What to do about a task's error: one table, by class."""

from __future__ import annotations

from typing import Any, Literal

from storage.errors import (
    CorruptError,
    FirnlineError,
    IndeterminateError,
    LimitError,
    NotFoundError,
    OverloadedError,
    StatementTimeoutError,
    UnavailableError,
)

__all__ = ["Verdict", "attempts_of", "page_of", "told", "verdict"]

Verdict = Literal["again", "slower", "page", "fail"]
"""Send it again; the same, but slow down; run the task again that wrote the page; fail the statement."""

_MEMORY = ("worker_memory", "worker_memory_bytes")
_SILENCE = "timeout_ms"
_AT_LIMIT_MAX = 2
"""A worker may have been crowded, or may hang; a second one that ends alike is the task's own doing."""


def verdict(error: FirnlineError, *, of_reply: bool = False) -> Verdict:
    """Return what an error asks for.

    Parameters
    ----------
    of_reply : the reply itself was damaged or answered another task, which says nothing of stored bytes
    """
    if isinstance(error, OverloadedError):
        return "slower"
    if isinstance(error, LimitError) and error.facts.get("limit") in _MEMORY:
        return "again"
    # A task is pure: whether it happened makes no difference to sending it again.
    if isinstance(error, (UnavailableError, IndeterminateError, StatementTimeoutError)):
        return "again"
    if isinstance(error, CorruptError) and of_reply:
        return "again"
    return "page" if page_of(error) is not None else "fail"


def attempts_of(error: FirnlineError, most: int) -> int:
    """Return how many attempts a task may have that failed like this, of ``most`` for one whose worker was lost.

    A task that was ended by its worker's memory, or of whose worker nothing was heard in the time of a task, is tried
    once more. One that worked until its time was up would do the same again.
    """
    if error.facts.get("limit") in (*_MEMORY, _SILENCE):
        return min(_AT_LIMIT_MAX, most)
    return 1 if isinstance(error, StatementTimeoutError) else most


def page_of(error: FirnlineError) -> str | None:
    """Return the location of the page that an error is about, if it is one that lies somewhere."""
    if not isinstance(error, (CorruptError, NotFoundError)):
        return None
    page = error.facts.get("page")
    return page if isinstance(page, str) and "://" in page else None


def told(error: FirnlineError, **facts: Any) -> FirnlineError:
    """Return a task's error as its statement's, with more facts: a page that is gone is nothing that a client named."""
    facts = {**error.facts, **facts}
    if isinstance(error, NotFoundError) and page_of(error) is not None:
        return UnavailableError(f"{error.message}; send the statement again", **facts)
    return type(error)(error.message, **facts)
