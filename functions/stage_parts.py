"""What stages are made of: exchanges, pieces of plans for one task, and which pages these read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import pyarrow as pa

from functions.plan_proto import Node, decode, encode
from functions.stage_leaf import leaf_of, narrowed
from functions.stage_mark import PREFIX, mark_of
from functions.stage_seal import sealed
from functions.tasks import Page, TaskKind

__all__ = ["Exchange", "Piece", "Read", "Stage", "Stages", "pages_of"]


@dataclass(frozen=True)
class Exchange:
    """How a stage's rows reach the stage above.

    kind : *hash* by ``keys`` (column numbers, where the keys are plain columns) into ``n_buckets``; *gather* into one;
        *broadcast* to every partition; *ordered* gathers sorted partitions, which stay apart

    Who runs a task has nothing to hash: its plan has one partition for each bucket.
    """

    kind: Literal["hash", "gather", "broadcast", "ordered"]
    keys: tuple[int, ...] = ()
    n_buckets: int = 1


@dataclass(frozen=True, slots=True)
class Read:
    """What one task's leaf reads of a stage below.

    bucket : pages of this bucket of all of its tasks; None: all pages
    apart : whether each of its tasks is a partition of the leaf
    """

    name: str
    stage: int
    bucket: int | None = None
    apart: bool = False


@dataclass(frozen=True)
class Piece:
    """One task of a stage: its own share of the plan. Its partitions, when it is bound, are the task's buckets."""

    plan: bytes = field(repr=False)
    reads: tuple[Read, ...] = ()


@dataclass(frozen=True)
class Stage:
    """A piece of the plan.

    plan : its protobuf for all partitions, leaves named ``inputs``; a task takes its `piece`
    inputs : the leaves' names with the numbers of the stages whose pages they read
    n_partitions : tasks it can be
    schema : of its rows
    scan_bytes : sizes of the files that it reads, of each its part that is read
    whole : whether it is one task with all partitions of its plan, as it is
    local : whether its rows lie in the memory of the process that planned, which best makes pages of them itself
    aligned_by : the key of a join in it whose sides are read as they lie, not shuffled; "": none
    """

    number: int
    kind: TaskKind
    plan: bytes = field(repr=False)
    inputs: Sequence[tuple[str, int]]
    n_partitions: int
    schema: pa.Schema
    exchange: Exchange
    scan_bytes: int = 0
    whole: bool = False
    local: bool = False
    aligned_by: str = ""

    @cached_property
    def _node(self) -> Node:
        return decode(self.plan)

    @property
    def passes(self) -> bool:
        """Whether its rows are those of its only input, so that running it would only copy them."""
        leaf = leaf_of(self._node) if self.plan and not self.whole else None
        return leaf is not None and leaf.how == "all"

    @property
    def merges(self) -> bool:
        """Whether its tasks merge files on read."""
        return any(name.startswith(PREFIX) for name, _stage in self.inputs)

    def piece(self, partition: int) -> Piece:
        """Return what the task of one partition runs: only its own files and rows are in the plan."""
        if self.whole and not self.inputs:
            return Piece(sealed(self.plan))
        node = self._node if self.whole else narrowed(self._node, partition)
        reads = []
        for each in node.walk():
            leaf = leaf_of(each)
            if leaf is not None:
                bucket = leaf.bucket if leaf.how == "bucket" else None
                reads.append(Read(leaf.name, leaf.stage, bucket, leaf.how == "apart"))
            mark = mark_of(each)
            if mark is not None:
                reads.append(Read(mark.name, mark.stage, mark.bucket))
        return Piece(sealed(encode(node)), tuple(reads))


@dataclass(frozen=True)
class Stages:
    """The stages of a plan, inputs first; the last one is one task, and gives the statement's rows.

    reason : why the plan is not cut, or what of it is done in one task; "" for neither
    """

    stages: Sequence[Stage]
    reason: str = ""


def pages_of(read: Read, replies: Sequence[Sequence[Page]]) -> list[Page]:
    """Return the pages that a leaf reads, with the leaf's partition as their bucket (see `functions.stages.bind`).

    Parameters
    ----------
    replies : pages of each task of the stage below, in the tasks' order
    """
    return [
        replace(page, bucket=task if read.apart else 0)
        for task, pages in enumerate(replies)
        for page in pages
        if read.bucket is None or page.bucket == read.bucket
    ]
