"""Spans of traces, as OpenTelemetry has them; nothing at all in a process where nobody asked for traces.

1. Until `start` was called, every call here is a few attribute reads, and imports nothing.
2. A trace goes on across processes and machines as a W3C ``traceparent`` text: in headers, statements and tasks. Where
   no spans are made, the text is passed on as it came, so that logs still name the trace.
3. A failure is recorded by its class. No message is: messages may quote data.
4. Where spans go, and how many, is told by the standard ``OTEL_*`` variables, which OpenTelemetry's SDK reads.

Spans are kept per process, as loggers are: whoever makes one needs no object handed down.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar, Token
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

__all__ = ["Attributes", "Kind", "Span", "begin", "current", "flush", "is_on", "named", "span", "start", "trace_id",
           "within"]  # fmt: skip

_log = logging.getLogger("firnline.traces")
Kind = Literal["internal", "server", "client"]
Value = str | int | float | bool | None
Attributes = Mapping[str, Value]

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_FLUSH_S = 2.0


class Span:
    """A piece of work with a beginning and an end, or the mere name of one that somebody else records."""

    __slots__ = ("_span", "traceparent")

    def __init__(self, traceparent: str = "", span: Any = None) -> None:
        self.traceparent = traceparent
        self._span = span

    @property
    def recorded(self) -> bool:
        """Whether this process sends it somewhere."""
        return self._span is not None

    def set(self, attributes: Attributes) -> None:
        """Add what is known of the work; None says nothing."""
        if self._span is not None:
            self._span.set_attributes({name: value for name, value in attributes.items() if value is not None})

    def fail(self, error: BaseException) -> None:
        """Say that the work failed, by the error's class."""
        self.failed(type(error).__name__)

    def failed(self, name: str) -> None:
        """Say that the work failed with an error of this class."""
        if self._span is not None:
            from opentelemetry.trace import Status, StatusCode

            self._span.set_attribute("error.type", name)
            self._span.set_status(Status(StatusCode.ERROR, name))

    def end(self) -> None:
        """Say that the work is over; again does nothing."""
        if self._span is not None and self._span.is_recording():
            self._span.end()


_NOTHING = Span()
_current: ContextVar[Span] = ContextVar("firnline_span", default=_NOTHING)


class _Process:
    """What this process has: a tracer once `start` was called where OpenTelemetry is installed."""

    tracer: Tracer | None = None
    provider: TracerProvider | None = None


def start(role: str) -> None:
    """Record spans from now on, as the ``OTEL_*`` variables say; a second call does nothing.

    Parameters
    ----------
    role : of this process, such as ``serve`` or ``worker``; all are one service, ``OTEL_SERVICE_NAME`` or ``firnline``
    """
    if _Process.tracer is not None:
        return
    try:
        from functions.tracing_sdk import open_provider
    except ModuleNotFoundError as error:
        _log.warning("no traces: the environment asks for them, and %s is missing; install firnline[otel]", error.name)
        return
    _Process.provider = open_provider(role)
    _Process.tracer = _Process.provider.get_tracer("firnline")


def is_on() -> bool:
    """Whether spans are recorded."""
    return _Process.tracer is not None


def flush(timeout_s: float = _FLUSH_S) -> None:
    """Send the spans that have ended, and wait for that at most so long; call it before the process ends or sleeps."""
    if _Process.provider is not None:
        work = threading.Thread(target=_Process.provider.force_flush, daemon=True)
        work.start()
        work.join(timeout_s)


def current() -> Span:
    """Return the span whose work runs here."""
    return _current.get()


def trace_id() -> str | None:
    """Return the trace that the work here belongs to, if any."""
    return _current.get().traceparent[3:35] or None


def named(traceparent: str) -> Span:
    """Return a span that somebody else records; nothing if the text does not read."""
    return Span(traceparent) if traceparent and _TRACEPARENT.fullmatch(traceparent) else _NOTHING


def begin(
    name: str, attributes: Attributes | None = None, *, parent: str | None = None, kind: Kind = "internal"
) -> Span:
    """Return a span that begins now, for whoever calls its `Span.end`.

    Parameters
    ----------
    parent : a ``traceparent``; "" begins a trace, and so does one that does not read; None: the work that runs here
    """
    if _Process.tracer is None:
        return _current.get() if parent is None else named(parent)
    above = _current.get().traceparent if parent is None else parent
    from functions.tracing_sdk import begin_span

    span, traceparent = begin_span(_Process.tracer, name, _TRACEPARENT.fullmatch(above), kind)
    found = Span(traceparent, span)
    if attributes:
        found.set(attributes)
    return found


def within(span: Span) -> AbstractContextManager[Span]:
    """Make ``span`` the one whose work runs here; an error ends it, the block's end does not."""
    return _Within(span, ends=False)


def span(
    name: str, attributes: Attributes | None = None, *, parent: str | None = None, kind: Kind = "internal"
) -> AbstractContextManager[Span]:
    """Record the block as a span; see `begin`."""
    return _Within(begin(name, attributes, parent=parent, kind=kind), ends=True)


class _Within:
    """A block of work; a class, since most are of spans that nobody records and should cost nothing."""

    __slots__ = ("_ends", "_span", "_token")

    def __init__(self, span: Span, *, ends: bool) -> None:
        self._span, self._ends = span, ends
        self._token: Token[Span] | None = None

    def __enter__(self) -> Span:
        self._token = _current.set(self._span)
        return self._span

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is not None:
            _current.reset(self._token)
        if error is not None:
            self._span.fail(error)
        if error is not None or self._ends:
            self._span.end()
