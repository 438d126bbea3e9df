"""Scans of files that are merged on read, in a plan that is cut: who runs a piece puts their rows in their place.

The engine plans such a scan over files that only stand for the real ones (`functions.merged_files`). Before a plan is
cut the scan gets a mark, in a field that the engine ignores, and the cut a stage that the planning process runs
itself: its rows tell of the files (`functions.merge_wire`), one bucket for each partition of the scan. A task reads its
bucket, merges what it names into a Parquet file of its own, and the scan reads that. Columns that nobody wants are not
in it; the engine takes them for NULL.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import pyarrow as pa

from functions.merge_wire import PARTS, head_of, rows_of
from functions.merged_files import MergedFiles
from functions.plan_proto import Kind, Node, fields_of, join_fields
from functions.stage_leaf import Leaf, leaf_node
from functions.stage_mark import CONFIG, FILE, PATH, PREFIX, SIZE, ScanMark, with_mark
from functions.stage_rows import stream_of

__all__ = ["Merges", "marked"]

Merges = Mapping[str, MergedFiles]
"""Path of a file that stands for others → what it stands for."""
_PREDICATE: Final = 3
"""Field of a scan."""
_PROJECTION: Final = 13
"""Field of its configuration."""
_RANGE: Final = 5
"""Field of a file."""


def marked(node: Node, merges: Merges, stage: int) -> tuple[Node, Node, pa.Schema] | None:
    """Return a scan of files that stand for others with its mark, and the plan of ``stage``, which tells of these, with
    the schema of its rows; None for any other node."""
    merged = _merged(node, merges) if node.kind == Kind.PARQUET_SCAN else None
    if merged is None:
        return None
    rows = []
    for group in node.groups:
        parts = [part for path, start, limit in _ranges(group) for part in merged.parts(path, start, limit)]
        rows.append(stream_of([rows_of(merged, parts)], PARTS))
    told = leaf_node(Leaf("", 0, "all", 1), PARTS)
    # The engine has no use for what a leaf is marked with.
    told = Node(told.kind, tuple(each for each in told.fields if each[0] < 1000), n_partitions=len(rows))
    mark = ScanMark(f"{PREFIX}{stage}", stage, None, head_of(merged, _wanted(node, merged)))
    return with_mark(node.with_field(_PREDICATE), mark), told.with_field(1, *rows), PARTS


def _merged(node: Node, merges: Merges) -> MergedFiles | None:
    for group in node.groups:
        for path, _start, _limit in _ranges(group):
            return merges.get(path)
    return None


def _ranges(group: bytes) -> Iterator[tuple[str, int, int]]:
    """Yield path and range of each file of a group."""
    for field, file in fields_of(group):
        if field != FILE or not isinstance(file, bytes):
            continue
        about = dict(fields_of(file))
        path, size, part = about.get(PATH, b""), about.get(SIZE, 0), about.get(_RANGE)
        assert isinstance(path, bytes)
        assert isinstance(size, int)
        start, limit = 0, size
        if isinstance(part, bytes):
            ends = dict(fields_of(part))
            first, last = ends.get(1, 0), ends.get(2, 0)
            assert isinstance(first, int)
            assert isinstance(last, int)
            start, limit = first, last
        yield "/" + path.decode().lstrip("/"), start, limit


def _wanted(node: Node, merged: MergedFiles) -> list[str]:
    """Return the columns that a scan's expressions may name."""
    config = [each for value in node.data(CONFIG) for each in fields_of(value)]
    projections = [value for field, value in config if field == _PROJECTION and isinstance(value, bytes)]
    names: list[str] = merged.snapshot.schema.names
    if not projections:
        return names
    # A column is a message whose first field is its name.
    return [name for name in names if any(join_fields([(1, name.encode())]) in each for each in projections)]
