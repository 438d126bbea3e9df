"""After the load: what the tables hold at the end, against what was acknowledged."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.support.history import Fault, Operation, check_registers, check_set
from tests.support.write_load import ROOM, Story, Table, Target

__all__ = ["Verdict", "judge"]


@dataclass
class Verdict:
    """What a soak is about: writes acknowledged, and how many of them were found, lost and doubled.

    wrong : everything else that a correct store does not tell: stale reads, lost updates, phantoms
    """

    acknowledged: int = 0
    found: int = 0
    lost: int = 0
    doubled: int = 0
    faults: list[Fault] = field(default_factory=list)
    problems: Counter[str] = field(default_factory=Counter)
    rows: dict[str, list[tuple[Any, ...]]] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        return not (self.lost or self.doubled or self.faults or self.problems)

    def add(self, other: Verdict) -> None:
        """Add another lake's."""
        self.acknowledged += other.acknowledged
        self.found += other.found
        self.lost += other.lost
        self.doubled += other.doubled
        self.faults += other.faults
        self.problems += other.problems


async def judge(story: Story, target: Target, tables: Sequence[Table]) -> Verdict:
    """Read everything once more, add these reads to the history, and check it whole."""
    verdict = Verdict(acknowledged=story.n_acknowledged, problems=Counter(story.problems))
    operations = list(story.operations.values())
    for table in tables:
        start = time.monotonic()
        rows = await target.sql(f"SELECT * FROM {table.name}")
        end = time.monotonic()
        verdict.rows[table.name] = sorted(rows)
        final = _registers(table, story, rows, verdict) if table.keyed else _sets(table, story, rows)
        operations += [Operation(kind, key, value, start, end, "ok") for kind, key, value in final]
    verdict.faults = check_set(operations) + check_registers(operations)
    bad = {fault.what for fault in verdict.faults}
    verdict.lost = sum(fault.kind in ("lost", "order") for fault in verdict.faults)
    verdict.doubled += sum(fault.kind == "doubled" for fault in verdict.faults)
    verdict.found = sum(
        op.outcome == "ok" and op.kind not in ("read", "scan") and op.value not in bad and op.key not in bad
        for op in story.operations.values()
    )
    return verdict


def _sets(table: Table, story: Story, rows: list[tuple[Any, ...]]) -> list[tuple[Any, Any, Any]]:
    """One scan for each run; a run is a set of its own."""
    runs = {op.key[1] for op in story.operations.values() if op.key[0] == table.name}
    of_run: dict[int, list[int]] = {run: [] for run in runs}
    for row in rows:
        of_run.setdefault(row[0] // ROOM, []).append(row[0])
    return [("scan", (table.name, run), ids) for run, ids in of_run.items()]


def _registers(table: Table, story: Story, rows: list[tuple[Any, ...]], verdict: Verdict) -> list[tuple[Any, Any, Any]]:
    """One read for each key; a key that is there twice is doubled."""
    verdict.doubled += sum(count > 1 for count in Counter(row[0] for row in rows).values())
    values = dict(rows)
    keys = {op.key[1] for op in story.operations.values() if op.key[0] == table.name}
    return [("read", (table.name, key), values.get(key)) for key in keys | set(values)]
