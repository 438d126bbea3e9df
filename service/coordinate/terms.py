"""On which terms a statement's tasks are sent, and the count of what came of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from functions.invoke import Invoker

__all__ = ["Tally", "Terms", "Workers"]


@dataclass(frozen=True)
class Workers:
    """Where whole jobs on tables run, and on which terms.

    open_invoker : returns it, the same each time; whoever gave it closes it
    timeout_ms : of one attempt
    """

    open_invoker: Callable[[], Awaitable[Invoker]]
    secret: bytes = field(repr=False)
    timeout_ms: int = 900_000


@dataclass(frozen=True, slots=True)
class Terms:
    """Values for one statement's tasks.

    results : location prefix of its pages (`functions.exchange.results_prefix`)
    deadline_ms : since the epoch; 0: none
    tasks_max : at once; 0: as many as the invoker takes
    attempts_max : of a task, before its statement fails; those that were throttled do not count
    throttles_max : of a task in a row
    task_timeout_ms : of one attempt, where the platform allows as much; 0: as the platform says
    hedge_factor, hedge_after_s : a task is a straggler past both ``hedge_factor`` times its stage's 95th percentile
        and ``hedge_after_s``; a factor of 0: never
    hedge_share : copies, as a share of the stage's tasks; one is always allowed
    """

    statement_id: str
    secret: bytes = field(repr=False)
    results: str = ""
    deadline_ms: int = 0
    tasks_max: int = 0
    memory_bytes: int = 0
    traceparent: str = ""
    attempts_max: int = 4
    throttles_max: int = 30
    backoff_s: float = 0.1
    backoff_max_s: float = 10.0
    task_timeout_ms: int = 900_000
    hedge_factor: float = 2.0
    hedge_after_s: float = 1.0
    hedge_share: float = 0.1


@dataclass(slots=True)
class Tally:
    """What a statement's tasks came to; complete when its rows are exhausted.

    tasks : that gave rows which count
    retries : attempts after one that failed or was throttled
    hedges : second copies of stragglers, and ``hedges_won`` those that answered first
    bytes_moved : messages, replies and stored pages
    usage : sums over all replies, failed tasks' and losers' included
    stages : number → sums over the replies that count; ``wall_ms`` is the longest
    ended : kind, outcome ("succeeded", "dropped" or an error's class) and number of an attempt → how many
    gb_s : memory that replies say they held, times their wall time; of attempts without a reply, an estimate
    """

    tasks: int = 0
    attempts: int = 0
    retries: int = 0
    throttles: int = 0
    hedges: int = 0
    hedges_won: int = 0
    reruns: int = 0
    bytes_moved: int = 0
    gb_s: float = 0.0
    most_running: int = 0
    usage: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    stages: dict[int, dict[str, float]] = field(default_factory=dict)
    ended: Counter[tuple[str, str, int]] = field(default_factory=Counter)

    def add_usage(self, usage: Mapping[str, float]) -> None:
        """Count what a reply says of itself."""
        for name, value in usage.items():
            if name in ("memory_mb", "billed_memory_mb"):
                self.usage[name] = max(self.usage[name], value)
            else:
                self.usage[name] += value
        self.gb_s += usage.get("wall_ms", 0.0) / 1000 * _memory_mb(usage) / 1024

    def add_task(self, stage: int, usage: Mapping[str, float]) -> None:
        """Count a task whose rows count."""
        self.tasks += 1
        found = self.stages.setdefault(stage, defaultdict(float))
        found["tasks"] += 1
        found["wall_ms"] = max(found["wall_ms"], usage.get("wall_ms", 0.0))
        for name in ("cpu_ms", "rows", "page_bytes", "bytes_scanned"):
            found[name] += usage.get(name, 0.0)

    def add_lost(self, elapsed_s: float) -> None:
        """Count an attempt that gave no reply: it worked for as long as it was waited for, like the others."""
        self.gb_s += elapsed_s * _memory_mb(self.usage) / 1024


def _memory_mb(usage: Mapping[str, float]) -> float:
    """Return what the platform bills, or else what the worker held."""
    return usage.get("billed_memory_mb") or usage.get("memory_mb", 0.0)
