"""What was chosen for one statement: how many tasks, why, and at what price; as EXPLAIN shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from functions.stages import Stage, Stages
    from service.coordinate.terms import Tally
    from service.cost import Estimate

__all__ = ["SHUFFLED_TASKS_MAX", "Tasks", "measured"]

SHUFFLED_TASKS_MAX = 256
"""Tasks of a stage whose rows are hashed: each writes up to as many pages as the next stage has tasks, so that their
number grows with the square: 65,536 pages are 0.33 USD of PUTs, those of 1,000 tasks would be 5."""


_MEASURED = ("tasks", "rows", "page_bytes", "bytes_scanned", "cpu_ms", "wall_ms")
"""Of a stage: sums, and of ``wall_ms`` the longest."""


@dataclass(frozen=True, slots=True)
class Tasks:
    """A choice.

    n_tasks : of the widest stage; 0: the statement runs in this process
    forced : the statement asks for tasks, so that also what cannot be cut runs as one
    broadcast_bytes : of all copies of a join's smaller side; None: `functions.stages.BROADCAST_BYTES`
    differ : it would have tasks, were the workers not of another release
    """

    n_tasks: int = 0
    reason: str = ""
    estimate: Estimate | None = None
    forced: bool = False
    broadcast_bytes: int | None = None
    differ: bool = False

    def runs(self, stages: Stages) -> bool:
        """Tell whether a plan that was made to be cut runs as tasks."""
        last = stages.stages[-1]
        if not last.whole:
            return len(stages.stages) > 1
        return self.forced and bool(last.plan)

    def shuffles_too_widely(self, stages: Stages) -> bool:
        """Tell whether the plan is better cut into `SHUFFLED_TASKS_MAX` tasks."""
        return self.n_tasks > SHUFFLED_TASKS_MAX and any(each.exchange.kind == "hash" for each in stages.stages)

    def describe(self, stages: Stages | None) -> str:
        """Return a line for the statement and one for each stage; nothing where no workers are set."""
        if not self.reason:
            return ""
        if stages is None or not self.runs(stages):
            why = stages.reason if stages is not None else self.reason
            return f"in this process: {why}"
        head = f"{self.reason}; {self.estimate}"
        lines = [_line(each, each is stages.stages[-1] and not each.whole) for each in stages.stages]
        notes = [f"one task: {stages.reason}"] if stages.reason else []
        return "\n".join([head, *lines, *notes])


def measured(stages: Stages, tally: Tally, n_rows: int) -> str:
    """Return a line for the statement's tasks as they were run, and one for each stage."""
    head = (
        f"tasks={tally.tasks} attempts={tally.attempts} retries={tally.retries} hedges={tally.hedges} "
        f"bytes_moved={tally.bytes_moved} most_at_once={tally.most_running} gb_s={tally.gb_s:.3g} rows={n_rows}"
    )
    lines = [head]
    for stage in stages.stages:
        found = tally.stages.get(stage.number)
        if found is None:
            lines.append(_line(stage, here=True))
            continue
        used = " ".join(f"{name}={round(found[name])}" for name in _MEASURED if name in found)
        lines.append(f"stage {stage.number}: {stage.kind} {used}")
    return "\n".join(lines)


def _line(stage: Stage, here: bool) -> str:
    reads = f" reads={','.join(str(number) for _name, number in stage.inputs)}" if stage.inputs else ""
    size = f" scan_bytes={stage.scan_bytes}" if stage.scan_bytes else ""
    if here or stage.local:
        what = f"{stage.kind} in this process" if here else "what lies in this process"
        return f"stage {stage.number}: {what}{reads}{size}"
    exchange = stage.exchange
    size += " merges on read" if stage.merges else ""
    size += f" co-located by {stage.aligned_by}" if stage.aligned_by else ""
    buckets = f" into {exchange.n_buckets}" if exchange.kind == "hash" else ""
    return f"stage {stage.number}: {stage.kind} tasks={stage.n_partitions}{reads}{size} {exchange.kind}{buckets}"
