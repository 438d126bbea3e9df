"""Scans of files that are merged on read, in a plan that is cut: who runs a piece puts their rows in their place.

The engine plans such a scan over files that only stand for the real ones (`functions.merged_files`). Before a plan is
cut it is made a scan of an Arrow file, with a mark, and the cut gets a stage that the planning process runs itself: its
rows tell of the real files (`functions.merge_wire`), one bucket for each partition of the scan. A task reads its
bucket, merges what it names into an Arrow file of its own (`functions.merge_spool`), and the scan reads that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

import pyarrow as pa

from functions.merge_wire import PARTS, head_of, rows_of
from functions.merged_files import MergedFiles
from functions.plan_proto import Field, Kind, Node, fields_of, join_fields
from functions.stage_leaf import Leaf, leaf_node
from functions.stage_mark import CONFIG, FILE, PATH, PREFIX, SIZE, ScanMark, mark_of, with_mark
from functions.stage_rows import stream_of

__all__ = ["Merges", "marked"]

Merges = Mapping[str, MergedFiles]
"""Path of a file that stands for others → what it stands for."""
_SCHEMA, _STATISTICS, _PROJECTION = 2, 6, 13
"""Fields of a scan's configuration."""
_COLUMN_STATISTICS: Final = 3
_RANGE: Final = 5
"""Field of a file."""
_EXPRESSION, _FETCH = 2, 11
"""Fields of a filter."""
_COLUMN: Final = 1
"""Field of an expression."""
_TYPE: Final = 2
"""Field of a column."""
_MAP: Final = 33
_OF_FIELDS: Final = frozenset((25, 26, 27, 28))
"""Types: lists of three kinds and structs, which hold fields as a map does."""


def marked(node: Node, merges: Merges, stage: int) -> tuple[Node, Node, pa.Schema] | None:
    """Return a scan of files that stand for others with its mark, and the plan of ``stage``, which tells of these, with
    the schema of its rows; None for any other node. A filter above such a scan that takes only some rows, and any, is
    taken with it."""
    if node.kind == Kind.FILTER:
        return _some(node, merges, stage)
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
    config = [
        (field, _with_entries(value) if field == _SCHEMA and isinstance(value, bytes) else value)
        for each in node.data(CONFIG) for field, value in fields_of(each)
    ]  # fmt: skip
    wanted = _wanted(config, merged)
    plain = _narrowed(config, wanted)
    names = [*merged.snapshot.schema.names] if plain is None else wanted
    scan = replace(node, kind=Kind.ARROW_SCAN, fields=((CONFIG, join_fields(plain or config)),))
    mark = ScanMark(f"{PREFIX}{stage}", stage, None, head_of(merged, names, wanted))
    return with_mark(scan, mark), told.with_field(1, *rows), PARTS


def _some(node: Node, merges: Merges, stage: int) -> tuple[Node, Node, pa.Schema] | None:
    """Return a filter that lets every row pass but not more than so many, over a scan that reads no more."""
    below = node.inputs[0]
    fetch, merged = node.number(_FETCH), _merged(below, merges) if below.kind == Kind.PARQUET_SCAN else None
    if merged is None or not fetch or not _is_column(node, merged.live):
        return None
    found = marked(below, merges, stage)
    mark = mark_of(found[0]) if found is not None else None
    if found is None or mark is None:
        return None
    scan = with_mark(found[0], replace(mark, head={**mark.head, "rows": fetch}))
    return node.with_inputs([scan]), found[1], found[2]


def _is_column(node: Node, name: str) -> bool:
    """Tell whether a filter's predicate is just a column."""
    [predicate] = node.data(_EXPRESSION)
    fields = dict(fields_of(predicate))
    column = fields.get(_COLUMN)
    return len(fields) == 1 and isinstance(column, bytes) and dict(fields_of(column)).get(1) == name.encode()


def _narrowed(config: Sequence[Field], wanted: Sequence[str]) -> list[Field] | None:
    """Return a scan's configuration for files that have only the columns that are wanted, and the last; None if an
    expression of it is more than a column."""
    schema = [value for field, value in config if field == _SCHEMA and isinstance(value, bytes)]
    columns = [value for each in schema for field, value in fields_of(each) if field == 1 and isinstance(value, bytes)]
    names = [dict(fields_of(each)).get(1) for each in columns]
    kept = [place for place, name in enumerate(names)
            if place == len(names) - 1 or (isinstance(name, bytes) and name.decode() in wanted)]  # fmt: skip
    out: list[Field] = []
    for field, value in config:
        if isinstance(value, bytes) and field in (_SCHEMA, _STATISTICS):
            value = _with_columns(value, 1 if field == _SCHEMA else _COLUMN_STATISTICS, kept)
        elif isinstance(value, bytes) and field == _PROJECTION:
            moved = [_moved(each, kept) for _field, each in fields_of(value)]
            if None in moved:
                return None
            value = join_fields([(1, each) for each in moved if each is not None])
        out.append((field, value))
    return out


def _with_entries(schema: bytes) -> bytes:
    """Return an encoded schema, or a type that holds fields, where maps call their entries as the files of rows do that
    workers write: the scan stands for Parquet files, whose maps have ``key_value``."""
    return join_fields([
        (number, _entries(value) if number == 1 and isinstance(value, bytes) else value)
        for number, value in fields_of(schema)
    ])  # fmt: skip


def _entries(field: bytes, name: bytes | None = None) -> bytes:
    """Return an encoded field whose maps are renamed, and which is itself, if ``name`` is given."""
    out: list[Field] = []
    for number, value in fields_of(field):
        if number == 1 and name is not None:
            value = name
        elif number == _TYPE and isinstance(value, bytes):
            value = join_fields([(kind, _retyped(kind, each)) for kind, each in fields_of(value)])
        out.append((number, value))
    return join_fields(out)


def _retyped(kind: int, type_: int | bytes) -> int | bytes:
    if kind == _MAP and isinstance(type_, bytes):
        return join_fields([
            (number, _entries(value, b"entries") if number == 1 and isinstance(value, bytes) else value)
            for number, value in fields_of(type_)
        ])  # fmt: skip
    return _with_entries(type_) if kind in _OF_FIELDS and isinstance(type_, bytes) else type_


def _with_columns(message: bytes, number: int, kept: Sequence[int]) -> bytes:
    """Return a message that has something for each column, for some of them."""
    fields = list(fields_of(message))
    own = [each for each in fields if each[0] == number]
    return join_fields([*(each for each in fields if each[0] != number), *(own[place] for place in kept)])


def _moved(projection: int | bytes, kept: Sequence[int]) -> bytes | None:
    """Return a named column with its place among those kept; None for any other expression."""
    if not isinstance(projection, bytes):
        return None
    parts = dict(fields_of(projection))
    expression = parts.get(2)
    column = dict(fields_of(expression)) if isinstance(expression, bytes) else {}
    about = column.get(_COLUMN)
    if len(column) != 1 or not isinstance(about, bytes):
        return None
    found = dict(fields_of(about))
    name, place = found.get(1, b""), found.get(2, 0)
    if not isinstance(place, int) or place not in kept:
        return None
    moved = join_fields([(1, name), (2, kept.index(place))])
    others = [each for each in fields_of(projection) if each[0] != 2]
    return join_fields([*others, (2, join_fields([(_COLUMN, moved)]))])


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


def _wanted(config: Sequence[Field], merged: MergedFiles) -> list[str]:
    """Return the columns that a scan's expressions may name."""
    projections = [value for field, value in config if field == _PROJECTION and isinstance(value, bytes)]
    names: list[str] = merged.snapshot.schema.names
    if not projections:
        return names
    # A column is a message whose first field is its name.
    return [name for name in names if any(join_fields([(1, name.encode())]) in each for each in projections)]
