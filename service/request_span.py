"""A request's span: it goes on with the trace that the client names, and tells the client its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import Scope

from functions import tracing
from service.requests import header

__all__ = ["answered", "request_span"]

_QUIET = frozenset(("/healthz", "/readyz", "/metrics"))
"""Asked for every few seconds by machines: a trace of each would bury the others."""
_NAMED = frozenset(("tables", "statements", "lookup"))
_SEGMENTS_MAX = 4
_FAILED = 500


@contextmanager
def request_span(scope: Scope) -> Iterator[tracing.Span]:
    """Record a request; what it runs is below it."""
    path = scope["path"]
    if path in _QUIET:
        yield tracing.current()
        return
    given = header(scope, b"traceparent")
    if not tracing.is_on():
        with tracing.within(tracing.named(given)) as span:
            yield span
        return
    attributes = {"http.request.method": scope["method"], "url.path": path[:200]}
    with tracing.span(f"{scope['method']} {_route(path)}", attributes, parent=given, kind="server") as span:
        yield span


def answered(scope: Scope, span: tracing.Span, status: int) -> list[tuple[bytes, bytes]]:
    """Note a request's answer; return the headers that tell the client of the trace."""
    if not span.recorded:
        return []
    span.set({
        "http.response.status_code": status,
        "firnline.request_id": scope.get("firnline.request_id"),
        "firnline.statement_id": scope.get("firnline.statement_id"),
    })  # fmt: skip
    if status >= _FAILED:
        span.failed(str(status))
    return [(b"traceresponse", span.traceparent.encode())]


def _route(path: str) -> str:
    """Return a path without the names in it, so that spans of one kind have one name."""
    parts = path.split("/")[: _SEGMENTS_MAX + 1]
    if len(parts) > 3 and parts[1] == "v1" and parts[2] in _NAMED:
        parts[3] = "{name}"
        return "/".join(parts)
    return "/".join(parts[:3])
