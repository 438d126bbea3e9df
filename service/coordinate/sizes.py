"""How much a statement's stages are thought to move, before they run: what `service.cost.estimate_stages` reckons with.

How many rows a filter leaves or a join makes is not known: shares stand for it. What follows from the plan alone is
exact: how many tasks and pages there are, who reads which, and that sides of a join which lie alike move nothing.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from service.coordinate.board import COPIED_BYTES_MAX, INLINE_BYTES_MAX, MESSAGE_BYTES_MAX
from service.cost import StageSize

if TYPE_CHECKING:
    from functions.stages import Stage, Stages

__all__ = ["stage_sizes"]

_ROWS_SHARE, _GROUPS_SHARE = 0.25, 0.02
"""Of the bytes that a stage reads, what its rows are: a few columns of files, and groups of an aggregate (TPC-H)."""


def stage_sizes(stages: Stages) -> list[StageSize]:
    """Return the size of each stage; the last is none where the coordinator runs it itself."""
    last = stages.stages[-1]
    readers: dict[int, int] = defaultdict(int)
    for stage in stages.stages:
        for _name, number in stage.inputs:
            readers[number] += 1 if stage is last else stage.n_partitions
    n_bytes: dict[int, float] = {}
    found = []
    for stage in stages.stages:
        read = stage.scan_bytes + sum(n_bytes[number] for _name, number in stage.inputs)
        n_bytes[stage.number] = read * (_GROUPS_SHARE if stage.kind == "aggregate" else _ROWS_SHARE)
        if stage is not last or stage.whole:
            found.append(_size(stage, n_bytes[stage.number], readers[stage.number]))
    return found


def _size(stage: Stage, n_bytes: float, n_readers: int) -> StageSize:
    n_tasks, kind = stage.n_partitions, stage.exchange.kind
    n_pages = n_reads = n_tasks
    copies, inline = 1, float(n_tasks * INLINE_BYTES_MAX)
    if kind == "hash":
        n_pages = n_reads = n_tasks * stage.exchange.n_buckets
        inline = MESSAGE_BYTES_MAX
    elif kind == "broadcast":
        copies, n_reads, inline = n_readers, n_tasks * n_readers, COPIED_BYTES_MAX
    if n_bytes <= inline:
        n_pages = n_reads = 0
    return StageSize(0 if stage.local else n_tasks, stage.scan_bytes, n_pages, n_reads, n_bytes * copies)
