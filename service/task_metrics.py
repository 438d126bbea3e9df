"""What ``/metrics`` of a worker shows."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from functions.tasks import Reply, Task
from service.counted import register_counts, register_process
from storage.counts import Counts
from storage.errors import STATUS, FirnlineError

__all__ = ["TaskMetrics"]

_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900)


class TaskMetrics:
    """Counts tasks: how they ended, how long they took, what they read and gave."""

    def __init__(self, counts: Counts | None = None) -> None:
        self.registry = CollectorRegistry()
        register_counts(self.registry, counts or Counts(), ("store",))
        register_process(self.registry, "worker")
        self._tasks = Counter(
            "firnline_worker_tasks", "Tasks that ran, by kind and outcome.", ["kind", "outcome"],
            registry=self.registry,
        )  # fmt: skip
        self._refused = Counter(
            "firnline_worker_refused", "Requests that ran no task, by error.", ["error"], registry=self.registry
        )
        self._seconds = Histogram(
            "firnline_worker_task_seconds", "From a task to its reply.", ["kind"], buckets=_SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self._cpu = Counter("firnline_worker_cpu_seconds", "CPU time of tasks.", registry=self.registry)
        self._scanned = Counter("firnline_worker_scanned_bytes", "Bytes read from data files.", registry=self.registry)
        self._pages = Counter("firnline_worker_page_bytes", "Bytes of rows in replies.", registry=self.registry)
        self._running = Gauge("firnline_worker_tasks_running", "Tasks that run now.", registry=self.registry)
        self._places = Gauge("firnline_worker_concurrency", "Tasks that may run at once.", registry=self.registry)

    def watch(self, running: Callable[[], int], concurrency: int) -> None:
        """Show how busy the worker is."""
        self._running.set_function(running)
        self._places.set(concurrency)

    def done(self, task: Task, reply: Reply) -> None:
        """Count a task that ran."""
        outcome = "succeeded" if reply.error is None else str(reply.error.get("error"))
        self._tasks.labels(task.kind, outcome).inc()
        self._seconds.labels(task.kind).observe(reply.usage["wall_ms"] / 1000)
        self._cpu.inc(max(reply.usage["cpu_ms"], 0) / 1000)
        self._scanned.inc(reply.usage.get("bytes_scanned", 0))
        self._pages.inc(reply.usage["page_bytes"])

    def refused(self, error: FirnlineError) -> None:
        """Count a request that ran no task."""
        self._refused.labels(next(cls.__name__ for cls in type(error).__mro__ if cls in STATUS)).inc()

    def exposition(self) -> bytes:
        """Return all values in Prometheus' text format."""
        return generate_latest(self.registry)
