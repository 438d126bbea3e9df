"""OpenTelemetry's SDK, for `functions.tracing`: imported only where traces are asked for (0.25 CPU seconds)."""

from __future__ import annotations

import re

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, TraceFlags, Tracer, set_span_in_context

__all__ = ["begin_span", "open_provider"]

_KINDS = {"internal": SpanKind.INTERNAL, "server": SpanKind.SERVER, "client": SpanKind.CLIENT}
_SEND_EVERY_MS = 500
"""Workers may be killed at any time; what they did half a second ago is known by then."""


def open_provider(role: str) -> TracerProvider:
    """Return what makes spans and sends them over OTLP/HTTP, as the ``OTEL_*`` variables say."""
    told = OTELResourceDetector().detect().attributes
    resource = Resource.create({"service.name": "firnline", "firnline.role": role, **told})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(), schedule_delay_millis=_SEND_EVERY_MS))
    return provider


def begin_span(tracer: Tracer, name: str, parent: re.Match[str] | None, kind: str) -> tuple[Span, str]:
    """Return a span that begins now, and its ``traceparent``."""
    span = tracer.start_span(name, context=_context(parent), kind=_KINDS[kind])
    own = span.get_span_context()
    return span, f"00-{own.trace_id:032x}-{own.span_id:016x}-{own.trace_flags:02x}"


def _context(parent: re.Match[str] | None) -> Context:
    if parent is None or parent[1] == "ff" or (parent[1] == "00" and parent[5]):
        return Context()
    trace_id, span_id = int(parent[2], 16), int(parent[3], 16)
    if not trace_id or not span_id:
        return Context()
    above = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(int(parent[4], 16) & 1))
    return set_span_in_context(NonRecordingSpan(above), Context())
