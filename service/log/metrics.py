"""The logs in Prometheus' words: appends and group commits as they happen, backlogs when it is asked."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.log.open import LakeLogs

__all__ = ["LogMetrics"]

_SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_RECORDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
_BYTES = (256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)


class LogMetrics:
    """A `service.log.observe.LogObserver`, and what ``/metrics`` shows of logs; in ``registry``, or one of its own."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self._appends = Counter(
            "firnline_log_appends", "Appends, by outcome.", ["shard", "outcome"], registry=self.registry
        )
        self._seconds = Histogram(
            "firnline_log_append_seconds", "From an append to its acknowledgement.", ["shard"],
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self._batches = Histogram(
            "firnline_log_batch_appends", "Appends of one group commit.", ["shard"],
            buckets=_RECORDS, registry=self.registry,
        )  # fmt: skip
        self._records = Histogram(
            "firnline_log_batch_records", "Records of one group commit.", ["shard"],
            buckets=_RECORDS, registry=self.registry,
        )  # fmt: skip
        self._bytes = Histogram(
            "firnline_log_batch_bytes", "Bytes of one group commit.", ["shard"],
            buckets=_BYTES, registry=self.registry,
        )  # fmt: skip

    def appended(self, shard: int, outcome: str, seconds: float) -> None:
        """See `LogObserver`."""
        self._appends.labels(shard, outcome).inc()
        self._seconds.labels(shard).observe(seconds)

    def committed(self, shard: int, n_appends: int, n_records: int, n_bytes: int) -> None:
        """See `LogObserver`."""
        self._batches.labels(shard).observe(n_appends)
        self._records.labels(shard).observe(n_records)
        self._bytes.labels(shard).observe(n_bytes)

    def watch(self, logs: LakeLogs) -> None:
        """Show the state of these logs too."""
        self.registry.register(_Logs(logs))

    def exposition(self) -> bytes:
        """Return all values in Prometheus' text format."""
        return generate_latest(self.registry)


class _Logs(Collector):
    """Asks the logs when it is scraped."""

    def __init__(self, logs: LakeLogs) -> None:
        self._logs = logs

    def collect(self) -> Iterable[Metric]:
        gauges = [
            ("owned", "Whether this process owns the log."),
            ("epoch", "The epoch that this process appends under."),
            ("next_sequence", "The sequence of the next record."),
            ("lag_records", "Records that are acknowledged and not in their table."),
            ("unflushed_bytes", "Accepted and not in the object store."),
            ("unfolded_bytes", "In the object store and not in a table."),
            ("unfolded_age_seconds", "How long the oldest record has waited that is in no table."),
        ]
        families = {name: GaugeMetricFamily(f"firnline_log_{name}", text, labels=["shard"]) for name, text in gauges}
        fenced = CounterMetricFamily("firnline_log_fenced", "Epochs that ended unasked.", labels=["shard"])
        for shard, log in self._logs.all().items():
            label = [str(shard)]
            fenced.add_metric(label, log.n_fenced)
            owned = log.owned
            families["owned"].add_metric(label, float(owned is not None))
            if owned is None:
                continue
            following = owned.writer.next_position.sequence
            families["epoch"].add_metric(label, owned.epoch)
            families["next_sequence"].add_metric(label, following)
            families["lag_records"].add_metric(label, max(0, following - owned.folded))
            families["unflushed_bytes"].add_metric(label, owned.writer.unflushed_bytes)
            families["unfolded_bytes"].add_metric(label, owned.writer.unfolded_bytes)
            families["unfolded_age_seconds"].add_metric(label, owned.unfolded_age_s())
        yield from families.values()
        yield fenced
