"""A physical plan cut into stages: pieces whose partitions run anywhere, with exchanges of rows between them.

The plan is cut below every hash repartitioning, coalescing and sort-preserving merge. A piece's partition k is what
``ExecutionPlan.execute(k)`` gives: it reads the k-th file group and the k-th bucket of its inputs, and nothing else. A
cut leaves a leaf that reads pages; the plan's protobuf is changed there, and only there.

Sources: Graefe: "Volcano" (the exchange operator), IEEE TKDE 6(1), 1994; Apache DataFusion Ballista's planner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
from datafusion import ExecutionPlan, SessionContext

from functions.tasks import TaskKind

__all__ = ["Exchange", "Stage", "Stages", "split"]


@dataclass(frozen=True)
class Exchange:
    """How a stage's rows reach the stage above.

    kind : *hash* by ``keys`` (column numbers) into ``n_buckets``; *gather* into one; *broadcast* to every partition;
        *ordered* gathers sorted partitions, which stay apart
    """

    kind: Literal["hash", "gather", "broadcast", "ordered"]
    keys: tuple[int, ...] = ()
    n_buckets: int = 1


@dataclass(frozen=True)
class Stage:
    """A piece of the plan.

    plan : its protobuf, leaves named ``inputs``
    inputs : numbers of the stages whose pages its leaves read, with the leaves' names
    n_partitions : tasks it can be
    schema : of its rows
    """

    number: int
    kind: TaskKind
    plan: bytes
    inputs: Sequence[tuple[str, int]]
    n_partitions: int
    schema: pa.Schema
    exchange: Exchange


@dataclass(frozen=True)
class Stages:
    """The stages of a plan, inputs first; the last one gives the statement's rows. ``reason``: why it is not cut."""

    stages: Sequence[Stage]
    reason: str = ""


def split(context: SessionContext, plan: ExecutionPlan) -> Stages:
    """Cut a plan; one that cannot be cut is one stage, and the reason says why."""
    raise NotImplementedError
