"""What ``/metrics`` of each kind of process may show, from the very objects that show it."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry

from service.executor import Load
from service.ingest.metrics import IngestMetrics
from service.log.metrics import LogMetrics
from service.log.open import LakeLogs
from service.metrics import Metrics
from service.task_metrics import TaskMetrics

__all__ = ["exposed", "registries"]


def registries(logs: LakeLogs) -> Mapping[str, CollectorRegistry]:
    """Return role → registry."""
    from service.counted import register_counts, register_process
    from storage.counts import Counts

    served = Metrics(lambda: Load(0, 0))
    IngestMetrics(served.registry)
    LogMetrics(served.registry).watch(logs)
    wal = LogMetrics()
    wal.watch(logs)
    register_counts(wal.registry, Counts(), ("store", "catalog"))
    register_process(wal.registry, "wal")
    tasks = TaskMetrics()
    tasks.watch(lambda: 0, 1)
    return {"serve": served.registry, "wal": wal.registry, "worker": tasks.registry}


def exposed(found: Mapping[str, CollectorRegistry]) -> dict[str, tuple[str, str, tuple[str, ...]]]:
    """Return name, as it is scraped → type, text, and the roles that show it."""
    told: dict[str, tuple[str, str, tuple[str, ...]]] = {}
    for role, registry in found.items():
        for family in registry.collect():
            name = family.name + ("_total" if family.type == "counter" else "")
            roles = told.get(name, ("", "", ()))[2]
            told[name] = (family.type, family.documentation, (*roles, role))
    return told
