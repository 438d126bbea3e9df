"""What pieces of a plan weigh: the bytes that they read, and whether they are little work."""

from __future__ import annotations

from typing import Final

from functions.plan_proto import SCANS, Kind, Node, fields_of
from functions.stage_aligned import file_bytes
from functions.stage_leaf import leaf_of
from functions.stage_mark import mark_of
from functions.tasks import TaskKind

__all__ = ["MEMORY_BYTES", "SMALL_BYTES", "TOP_ROWS", "is_heavy", "is_small", "kind_of", "memory_bytes", "scan_bytes"]

SMALL_BYTES: Final = 4 << 20
"""Files of a broadcast side up to this size are read by each task rather than sent to it."""

MEMORY_BYTES: Final = 256 << 10
"""Rows in memory up to this size go with the plan of a task; more become pages."""
TOP_ROWS: Final = 10_000
"""A sort that keeps no more rows is as cheap as a merge."""
_JOINS = frozenset((Kind.HASH_JOIN, Kind.NESTED_LOOP_JOIN, Kind.CROSS_JOIN, Kind.SORT_MERGE_JOIN))
_CHEAP = SCANS | {Kind.FILTER, Kind.PROJECTION, Kind.COALESCE_BATCHES, Kind.COOPERATIVE, Kind.EMPTY,
                  Kind.PLACEHOLDER_ROW, Kind.MEMORY_SCAN}  # fmt: skip


def is_small(node: Node) -> bool:
    if leaf_of(node) is not None:
        return True
    return all(each.kind in _CHEAP and leaf_of(each) is None for each in node.walk()) and _bytes(node) <= SMALL_BYTES


def is_heavy(node: Node) -> bool:
    """Tell whether a node works on many rows, rather than passing on few, or has work that only workers do."""
    sorts = node.kind == Kind.SORT and not 0 < _signed(node.number(3)) <= TOP_ROWS
    return (
        sorts
        or node.kind in (Kind.WINDOW, Kind.UNNEST, *_JOINS)
        or _file_bytes(node) > SMALL_BYTES
        or mark_of(node) is not None
    )


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _bytes(node: Node) -> int:
    return sum(_file_bytes(each) + memory_bytes(each) for each in node.walk())


def memory_bytes(node: Node) -> int:
    return sum(map(len, node.data(1))) if node.kind == Kind.MEMORY_SCAN else 0


def _file_bytes(node: Node) -> int:
    """Return the sizes of a scan's files, of each its part that is read; 0 for any other node."""
    files = (file for group in node.groups for _number, file in fields_of(group))
    return sum(file_bytes(file) for file in files if isinstance(file, bytes))


def scan_bytes(node: Node) -> int:
    """Return the bytes of files that a piece reads."""
    return sum(map(_file_bytes, node.walk()))


_KINDS: Final[dict[int, TaskKind]] = {
    Kind.AGGREGATE: "aggregate", Kind.HASH_JOIN: "join", Kind.NESTED_LOOP_JOIN: "join", Kind.CROSS_JOIN: "join",
    Kind.SORT_MERGE_JOIN: "join", Kind.SORT: "sort", Kind.SORT_PRESERVING_MERGE: "merge",
    Kind.COALESCE_PARTITIONS: "merge", Kind.WINDOW: "sort", Kind.UNION: "merge", Kind.MEMORY_SCAN: "merge",
}  # fmt: skip


def kind_of(node: Node) -> TaskKind:
    """Return what a piece mostly does: the first of its nodes from the top that says."""
    for each in node.walk():
        if each.kind in _KINDS:
            return _KINDS[each.kind]
    return "scan"
