"""What the log lines of the work at hand say beside their own words: whose statement it is, which task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["logged_as", "logged_facts"]

_NONE: Mapping[str, str] = {}
_facts: ContextVar[Mapping[str, str]] = ContextVar("firnline_log_facts", default=_NONE)


@contextmanager
def logged_as(**facts: str) -> Iterator[None]:
    """Have every log line that the block writes, and the tasks that it begins, name these facts."""
    token = _facts.set({**_facts.get(), **facts})
    try:
        yield
    finally:
        _facts.reset(token)


def logged_facts() -> Mapping[str, str]:
    """Return the facts that hold here."""
    return _facts.get()
