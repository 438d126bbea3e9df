"""`storage.counts.Counts` in Prometheus' words: the one list of what they may hold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from storage.counts import BOUNDS_S, Counts

__all__ = ["COUNTED", "Counted", "register_counts", "register_process"]


@dataclass(frozen=True, slots=True)
class Counted:
    """One name: of a total, of durations, or of levels."""

    kind: Literal["total", "durations", "level"]
    name: str
    text: str
    labels: tuple[str, ...] = ()


_STORE = (
    Counted("total", "firnline_store_requests", "Requests to object stores and folders.",
            ("store", "operation", "outcome")),
    Counted("durations", "firnline_store_seconds", "Time of such a request, retries included.", ("store", "operation")),
    Counted("total", "firnline_store_bytes", "Bytes of such requests.", ("store", "direction")),
    Counted("total", "firnline_catalog_requests", "Calls of the catalog's store.", ("operation", "outcome")),
    Counted("durations", "firnline_catalog_seconds", "Time of such a call.", ("operation",)),
)  # fmt: skip
_CACHES = (
    Counted("total", "firnline_cache_hits", "Wanted and at hand.", ("cache",)),
    Counted("total", "firnline_cache_misses", "Wanted and read.", ("cache",)),
    Counted("level", "firnline_cache_bytes", "Held, in all processes that told of it.", ("cache",)),
)
_TASKS = (
    Counted("total", "firnline_tasks", "Attempts of tasks, as their statement saw them end.",
            ("kind", "outcome", "attempt")),
    Counted("total", "firnline_task_retries", "Attempts after one that failed or was throttled."),
    Counted("total", "firnline_task_throttles", "Attempts that workers had no room for."),
    Counted("total", "firnline_task_hedges", "Second copies of stragglers, by whether they were first.", ("won",)),
    Counted("total", "firnline_task_moved_bytes", "Between coordinators and workers, and through pages."),
    Counted("total", "firnline_task_fallbacks",
            "Statements that did without workers, since these are of another release.", ("outcome",)),
)  # fmt: skip
_STATEMENTS = (
    Counted("total", "firnline_statement_cost_usd", "What statements cost by the price list."),
    Counted("total", "firnline_lookups", "Tables of statements whose index had a say, by the way taken.", ("route",)),
    Counted("total", "firnline_index_files", "Files of tables asked for keys, by whether the index covers them.",
            ("covered",)),
    Counted("durations", "firnline_statement_queue_seconds", "Wait of a statement for a worker."),
)  # fmt: skip
_COMPACTION = (
    Counted("total", "firnline_compaction_passes", "Passes over the lake."),
    Counted("total", "firnline_compaction_commits", "Commits of folds and merges.", ("what",)),
    Counted("total", "firnline_compaction_records", "Records of the log that were folded into tables."),
    Counted("total", "firnline_compaction_files", "Data files that merges removed and added.", ("what",)),
    Counted("total", "firnline_compaction_errors", "Tables and indexes that a pass could not mend.", ("error",)),
    Counted("total", "firnline_compaction_segments_swept", "Segments of the log that no snapshot needs."),
    Counted("total", "firnline_index_segments_built", "Segments of indexes that were built."),
    Counted("durations", "firnline_compaction_seconds", "Time of a pass."),
    Counted("total", "firnline_compactor_starts", "Starts of the compactor's process."),
)
COUNTED = (*_STATEMENTS, *_TASKS, *_STORE, *_CACHES, *_COMPACTION)


class _Counts(Collector):
    """Asks the counts when it is scraped."""

    def __init__(self, counts: Counts, shown: Iterable[Counted]) -> None:
        self._counts, self._shown = counts, tuple(shown)

    def collect(self) -> Iterable[Metric]:
        for each in self._shown:
            yield {"total": self._total, "durations": self._durations, "level": self._level}[each.kind](each)

    def _total(self, each: Counted) -> Metric:
        family = CounterMetricFamily(each.name, each.text, labels=each.labels)
        for labels, value in self._counts.totals(each.name):
            family.add_metric([labels.get(name, "") for name in each.labels], value)
        if not each.labels and not family.samples:
            family.add_metric([], 0)
        return family

    def _level(self, each: Counted) -> Metric:
        family = GaugeMetricFamily(each.name, each.text, labels=each.labels)
        for labels, value in self._counts.levels(each.name):
            family.add_metric([labels.get(name, "") for name in each.labels], value)
        return family

    def _durations(self, each: Counted) -> Metric:
        family = HistogramMetricFamily(each.name, each.text, labels=each.labels)
        for labels, found in self._counts.durations(each.name):
            buckets, seen = [], 0
            for bound, n in zip((*map(str, BOUNDS_S), "+Inf"), found.n, strict=True):
                seen += n
                buckets.append((bound, float(seen)))
            family.add_metric([labels.get(name, "") for name in each.labels], buckets, found.sum_s)
        return family


def register_counts(registry: CollectorRegistry, counts: Counts, names: Iterable[str] = ("",)) -> None:
    """Show the counts whose names begin with one of ``names``."""
    begins = tuple(f"firnline_{name}" for name in names)
    registry.register(_Counts(counts, (each for each in COUNTED if each.name.startswith(begins))))


def register_process(registry: CollectorRegistry, role: str) -> None:
    """Show memory, CPU time and open files of this process, and the version that it runs."""
    # Half as many series again, which no expression of ours asks for.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    ProcessCollector(registry=registry)
    try:
        running = version("firnline")
    except PackageNotFoundError:
        running = "unknown"
    info = Gauge("firnline_build_info", "1, with the version that runs.", ["version", "role"], registry=registry)
    info.labels(running, role).set(1)
