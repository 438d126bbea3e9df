"""Whether a statement is worth tasks, and how many: by the bytes that it scans after pruning."""

from __future__ import annotations

from dataclasses import dataclass

from service.cost import ENGINE_BYTES_PER_S

__all__ = ["MERGE_TASK_BYTES", "TASK_BYTES", "TASK_OVERHEAD_S", "Choice", "choose", "tasks_to_merge"]

TASK_BYTES = 64 << 20
"""What one task scans: about a quarter of a second of work, and longer from an object store."""
MERGE_TASK_BYTES = 128 << 20
"""Of files that one task merges on read: their rows lie on its disk, and take three times as much there."""
_MEMORY_SHARE = 4
"""A task scans files of at most a quarter of its worker's memory: their rows, decoded, hashed and sorted, take more. Of
TPC-H at scale factor 10, query 18 ends workers of 1,769 MB in 2 tasks."""
TASK_OVERHEAD_S = 0.05
"""Of a task on a warm worker: its message, its plan, its reply. In a process of this machine 10 ms."""
STAGES_S = 0.3
"""What a statement in stages takes longer than one that is not cut: stages wait for their slowest task."""
_GAIN_MIN = 1.5
_TASKS_MAX = 1000
_UNKNOWN_PLACES = 64
"""Workers that are reckoned with where the platform does not say."""


@dataclass(frozen=True, slots=True)
class Choice:
    """``n_tasks`` of the widest stage, or 0: in this process; and why."""

    n_tasks: int
    reason: str


def choose(
    asked: str, scan_bytes: int, *, concurrency: int, n_cores: int, tasks_max: int = 0, memory_bytes: int = 0
) -> Choice:
    """Return the choice for a statement.

    Parameters
    ----------
    asked : "auto", "inline" or "fan-out", as the statement says
    concurrency : tasks that the workers run at once; 0: not known
    n_cores : that this process would use by itself
    tasks_max : at once, of settings and statement; 0: no limit
    memory_bytes : of a worker, for which there may be more tasks than run at once; 0: not known
    """
    if asked == "inline":
        return Choice(0, "the statement asks for this process")
    places = min(each for each in (concurrency or _UNKNOWN_PLACES, tasks_max or _TASKS_MAX, _TASKS_MAX))
    n_tasks = min(places, max(1, -(-scan_bytes // TASK_BYTES)))
    fitting = min(-(-scan_bytes * _MEMORY_SHARE // memory_bytes), _TASKS_MAX) if memory_bytes else 0
    if asked == "fan-out":
        return Choice(max(n_tasks, min(2, places), fitting), "the statement asks for tasks")
    here_s = scan_bytes / ENGINE_BYTES_PER_S / n_cores
    there_s = scan_bytes / ENGINE_BYTES_PER_S / n_tasks + TASK_OVERHEAD_S + STAGES_S
    if here_s < there_s * _GAIN_MIN:
        return Choice(
            0, f"scanning {scan_bytes} bytes takes about {here_s:.2g} s here and {there_s:.2g} s in {n_tasks} tasks"
        )
    return Choice(max(n_tasks, fitting), f"about {here_s:.2g} s here, {there_s:.2g} s in {n_tasks} tasks")


def tasks_to_merge(n_tasks: int, n_bytes: int) -> int:
    """Return how many tasks a statement gets that was to get ``n_tasks`` and merges so many bytes of files on read. No
    more run at once than otherwise."""
    return max(n_tasks, min(-(-n_bytes // MERGE_TASK_BYTES), _TASKS_MAX))
