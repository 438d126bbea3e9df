"""What ``/metrics`` shows of rows that came in."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

__all__ = ["IngestMetrics"]

_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class IngestMetrics:
    """Counts requests that bring rows: how they ended, how long they took, how much they brought."""

    def __init__(self, registry: CollectorRegistry) -> None:
        requests = Counter(
            "firnline_ingest_requests", "Requests with rows, by outcome.", ["outcome"], registry=registry
        )
        self._requests = requests
        self._succeeded = requests.labels("succeeded")
        self._seconds = Histogram(
            "firnline_ingest_seconds",
            "From a request with rows to its acknowledgement or error.",
            buckets=_BUCKETS_S,
            registry=registry,
        )
        self._rows = Counter("firnline_ingest_rows", "Rows acknowledged to requests.", registry=registry)
        self._bytes = Counter("firnline_ingest_bytes", "Bytes of bodies with rows, as sent.", registry=registry)

    def request(self, outcome: str, seconds: float, *, rows: int, n_bytes: int) -> None:
        """Count one request; ``outcome`` is "succeeded" or the name of its error's class."""
        (self._succeeded if outcome == "succeeded" else self._requests.labels(outcome)).inc()
        self._seconds.observe(seconds)
        self._rows.inc(rows)
        self._bytes.inc(n_bytes)
