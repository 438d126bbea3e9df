"""A collector that speaks OTLP over HTTP on the loopback, and keeps the spans that it was sent."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

__all__ = ["Collector", "Received", "collecting"]

_WITHIN_S = 15.0


@dataclass(frozen=True)
class Received:
    """A span as it came in. ``parent`` is "" for a trace's first."""

    name: str
    trace: str
    id: str
    parent: str
    role: str
    service: str
    kind: int
    failed: bool
    start_ns: int
    end_ns: int
    attributes: dict[str, Any] = field(compare=False)


class Collector:
    """What was received so far."""

    def __init__(self) -> None:
        self.url = ""
        self._spans: list[Received] = []
        self._lock = threading.Lock()

    def spans(self, trace: str = "") -> list[Received]:
        """Return the spans, of one trace if it is named."""
        with self._lock:
            return [each for each in self._spans if not trace or each.trace == trace]

    def wait(self, trace: str, names: set[str], *, n: Mapping[str, int] | None = None) -> list[Received]:
        """Return a trace's spans once it has spans of these names, ``n`` of some, and all that these lie in.

        Processes send theirs when they like. Raises `TimeoutError` with the spans that it has.
        """
        limit_s = time.monotonic() + _WITHIN_S
        wanted = Counter(dict.fromkeys(names, 1) | dict(n or {}))
        while time.monotonic() < limit_s:
            found = self.spans(trace)
            missing = wanted - Counter(each.name for each in found)
            roots = {each.parent for each in found} - {each.id for each in found}
            if not missing and (not trace or len(roots) == 1):
                return found
            time.sleep(0.05)
        raise TimeoutError(f"missing {missing}, below {roots}, of {sorted({each.name for each in found})}")

    def take(self, body: bytes) -> None:
        """Keep the spans of one request."""
        request = ExportTraceServiceRequest.FromString(body)
        with self._lock:
            for group in request.resource_spans:
                resource = {each.key: _value(each.value) for each in group.resource.attributes}
                for scope in group.scope_spans:
                    self._spans += [_received(span, resource) for span in scope.spans]


def _received(span: Any, resource: dict[str, Any]) -> Received:
    return Received(
        span.name, span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex(),
        resource.get("firnline.role", ""), resource.get("service.name", ""), span.kind, span.status.code == 2,
        span.start_time_unix_nano, span.end_time_unix_nano,
        {each.key: _value(each.value) for each in span.attributes},
    )  # fmt: skip


def _value(value: Any) -> Any:
    return getattr(value, value.WhichOneof("value"))


@contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector; its ``url`` is what ``OTEL_EXPORTER_OTLP_ENDPOINT`` takes."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                import gzip

                body = gzip.decompress(body)
            if self.path == "/v1/traces":
                collector.take(body)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_arguments: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    collector.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
