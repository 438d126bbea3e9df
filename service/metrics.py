"""What ``/metrics`` shows, in a registry of each app's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from service.counted import register_counts, register_process
from service.executor import Load
from storage.counts import Counts
from storage.errors import STATUS

__all__ = ["METRICS_TYPE", "Metrics"]

METRICS_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class _LoadCollector(Collector):
    """Asks the executor for its load when it is scraped."""

    def __init__(self, load: Callable[[], Load]) -> None:
        self._load = load

    def collect(self) -> Iterable[Metric]:
        load = self._load()
        yield GaugeMetricFamily("firnline_statements_running", "Statements that run now.", value=load.running)
        yield GaugeMetricFamily("firnline_statements_queued", "Statements that wait for a worker.", value=load.queued)
        yield GaugeMetricFamily("firnline_workers", "Worker processes that are ready or busy.", value=load.workers)
        yield GaugeMetricFamily("firnline_workers_resident_bytes", "Memory of these.", value=load.resident_bytes)
        yield CounterMetricFamily("firnline_worker_restarts", "Workers that died or were killed.", value=load.restarts)


class Metrics:
    """Counts statements: how they ended, how long they took, what went out."""

    def __init__(self, load: Callable[[], Load], counts: Counts | None = None) -> None:
        self.registry = CollectorRegistry()
        self._counts = counts or Counts()
        self.registry.register(_LoadCollector(load))
        register_counts(self.registry, self._counts)
        register_process(self.registry, "serve")
        self._statements = Counter(
            "firnline_statements", "Statements, by outcome.", ["outcome"], registry=self.registry
        )
        for name in ("succeeded", *(cls.__name__ for cls in STATUS)):
            # There from the start: a rate sees no series that begins with its first count.
            self._statements.labels(name)
        self._seconds = Histogram(
            "firnline_statement_seconds",
            "From the request to the last byte of its answer.",
            buckets=_BUCKETS_S,
            registry=self.registry,
        )
        self._rows = Counter("firnline_result_rows", "Rows sent to clients.", registry=self.registry)
        self._bytes = Counter("firnline_result_bytes", "Result bytes sent to clients.", registry=self.registry)
        self._scanned = Counter("firnline_scanned_bytes", "Bytes read from data files.", registry=self.registry)

    def statement(
        self, outcome: str, seconds: float, *, rows: int, bytes_out: int, bytes_scanned: int, cost_usd: float = 0.0,
        routes: Iterable[str] = (),
    ) -> None:  # fmt: skip
        """Count one statement; ``outcome`` is "succeeded" or the name of its error's class."""
        for route in routes:
            self._counts.add("firnline_lookups", route=route.partition(":")[0])
        if cost_usd:
            self._counts.add("firnline_statement_cost_usd", cost_usd)
        self._statements.labels(outcome).inc()
        self._seconds.observe(seconds)
        self._rows.inc(rows)
        self._bytes.inc(bytes_out)
        self._scanned.inc(bytes_scanned)

    def exposition(self) -> bytes:
        """Return all values in Prometheus' text format."""
        return generate_latest(self.registry)
