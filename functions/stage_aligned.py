"""Joins whose sides lie alike: files of both tables are grouped by the bucket of a join key, and nothing is shuffled.

A file's bucket is one of two things: the constant that a join key is in it (a partition column, which a scan's
projection gives as a literal), or the value of an Iceberg ``bucket`` transform of the key. Rows that join have equal
keys, so equal buckets, so they are in files of one task. A task may have files of several buckets, of one side only,
or none: each row of either side is in one task, which is all that outer joins ask.

What is above such a join may rely on its rows lying together by the key, as they do, but not on the engine's own hash:
a join with a third table that was hashed would lose rows. `functions.stage_cut` then cuts the plan without any of this.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from functions.plan_constants import NULL, Constant, constant_of
from functions.plan_proto import Kind, Node, fields_of, join_fields
from functions.stage_leaf import interleaved

__all__ = ["Buckets", "FileBucket", "aligned", "aligned_by", "file_bytes", "is_aligned"]


@dataclass(frozen=True, slots=True)
class FileBucket:
    """What is known of a data file: its rows' ``column`` (as files name it) hashes to ``value`` of ``n_buckets``, as
    Iceberg's ``bucket`` transform has it; or, of 0 buckets, is ``value``. None: all are NULL."""

    column: str
    n_buckets: int
    value: Hashable


Buckets = Mapping[str, Sequence[FileBucket]]
"""By the file's location."""

_ALIGNED: Final = 1003
"""Field of a join whose sides lie alike: the name of the key. The engine ignores it."""
_PLAIN = frozenset((Kind.COALESCE_BATCHES, Kind.COOPERATIVE))
_Class = tuple[str, int]


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of a scan's files, or what all its rows have."""

    name: str = ""
    constant: Constant | None = None


def aligned(join: Node, n: int, buckets: Buckets) -> Node | None:
    """Return a partitioned hash join of two repartitionings as one of ``n`` partitions that repartitions nothing;
    None if its sides do not lie alike."""
    sides = [side.inputs[0] for side in join.inputs if side.kind == Kind.REPARTITION]
    if len(sides) != 2 or join.number(10):
        return None
    for pair in join.data(3):
        keys = dict(fields_of(pair))
        columns = [_column_of(keys.get(side)) for side in (1, 2)]
        if columns[0] is None or columns[1] is None:
            continue
        found = [_buckets_of(side, column[1], buckets) for side, column in zip(sides, columns, strict=True) if column]
        if found[0] is None or found[1] is None or found[0][0] != found[1][0]:
            continue
        places = _places([found[0][1], found[1][1]], n)
        if len(places) * 2 < n:
            continue
        regrouped = [
            _regrouped(side, column[1], buckets, places, n)
            for side, column in zip(sides, columns, strict=True) if column
        ]  # fmt: skip
        return replace(join.with_inputs(regrouped).with_field(_ALIGNED, columns[0][0].encode()), n_partitions=n)
    return None


def aligned_by(node: Node) -> str:
    """Return the key of the first join below a node, or itself, whose sides lie alike; "" for none."""
    for each in node.walk():
        marks = each.data(_ALIGNED) if each.kind == Kind.HASH_JOIN else ()
        if marks:
            return marks[0].decode(errors="replace")
    return ""


def is_aligned(node: Node) -> bool:
    """Tell whether the partitions of a node's rows are those of such a join rather than of the engine's hash."""
    return bool(aligned_by(node))


def _column_of(expression: int | bytes | None) -> tuple[str, int] | None:
    """Return name and number of the column that an expression is; None for any other."""
    if not isinstance(expression, bytes):
        return None
    column = dict(fields_of(expression)).get(1)
    if not isinstance(column, bytes):
        return None
    parts = dict(fields_of(column))
    name, number = parts.get(1, b""), parts.get(2, 0)
    if not isinstance(name, bytes) or not isinstance(number, int):
        return None
    return name.decode(errors="replace"), number


def _scans(node: Node, column: int) -> Iterator[tuple[Node, _Column] | None]:
    """Yield the scans that a chain reads, each with what a column of its rows is there; None where nobody knows."""
    if node.kind == Kind.UNION:
        for child in node.inputs:
            yield from _scans(child, column)
    elif node.kind in _PLAIN:
        yield from _scans(node.inputs[0], column)
    elif node.kind == Kind.FILTER:
        kept = _packed(node.data(9))
        if kept and column >= len(kept):
            yield None
        else:
            yield from _scans(node.inputs[0], kept[column] if kept else column)
    elif node.kind == Kind.PROJECTION:
        yield from _projected(node, column)
    elif node.kind == Kind.PARQUET_SCAN:
        yield _scanned(node, column)
    else:
        yield None


def _projected(node: Node, column: int) -> Iterator[tuple[Node, _Column] | None]:
    expressions = node.data(2)
    if column >= len(expressions):
        yield None
        return
    constant, below = constant_of(expressions[column]), _column_of(expressions[column])
    if constant is not None:
        for scan in _leaves(node.inputs[0]):
            yield None if scan is None else (scan, _Column(constant=constant))
    elif below is not None:
        yield from _scans(node.inputs[0], below[1])
    else:
        yield None


def _leaves(node: Node) -> Iterator[Node | None]:
    """Yield all scans below a chain; None for what is none."""
    if node.kind == Kind.PARQUET_SCAN:
        yield node
    elif node.kind in _PLAIN or node.kind in (Kind.UNION, Kind.FILTER, Kind.PROJECTION):
        for child in node.inputs:
            yield from _leaves(child)
    else:
        yield None


def _scanned(node: Node, column: int) -> tuple[Node, _Column] | None:
    """Return a scan with the column of its files that one of its rows is."""
    config = [each for value in node.data(1) for each in fields_of(value)]
    projected = [value for field, value in config if field == 13 and isinstance(value, bytes)]
    expressions = [value for each in projected for field, value in fields_of(each) if field == 1]
    if column >= len(expressions):
        return None
    projection = expressions[column]
    expression = dict(fields_of(projection)).get(2) if isinstance(projection, bytes) else None
    found = _column_of(expression)
    if found is not None:
        return node, _Column(found[0])
    constant = constant_of(expression) if isinstance(expression, bytes) else None
    return None if constant is None else (node, _Column(constant=constant))


def _files(scan: Node) -> Iterator[tuple[str, bytes]]:
    """Yield the location and the message of each part of a file that a scan reads."""
    config = [each for value in scan.data(1) for each in fields_of(value)]
    root = next((value for field, value in config if field == 8 and isinstance(value, bytes)), b"")
    for group in scan.groups:
        for field, file in fields_of(group):
            path = dict(fields_of(file)).get(1) if field == 1 and isinstance(file, bytes) else None
            if isinstance(path, bytes) and isinstance(file, bytes):
                yield f"{root.decode().removesuffix('/')}/{path.decode().lstrip('/')}", file


def _bucket(location: str, column: _Column, buckets: Buckets) -> tuple[_Class, Hashable] | None:
    """Return the kind of a file's bucket, which is "" for the bucket of NULLs, and the bucket."""
    if column.constant is not None:
        kind, value = column.constant
        return ("", 0) if column.constant == NULL else (kind, 0), value
    for known in buckets.get(location, ()):
        if column.name and known.column == column.name:
            return ("" if known.value is None else "bucket", known.n_buckets), known.value
    return None


def _buckets_of(side: Node, column: int, buckets: Buckets) -> tuple[_Class, Mapping[Hashable, int]] | None:
    """Return the kind of buckets of a side and the bytes of each; None if a file of it has none, or another kind."""
    found: dict[Hashable, int] = defaultdict(int)
    classes: set[_Class] = set()
    for scan in _scans(side, column):
        if scan is None:
            return None
        for location, file in _files(scan[0]):
            bucket = _bucket(location, scan[1], buckets)
            if bucket is None:
                return None
            if bucket[0][0]:
                classes.add(bucket[0])
            found[bucket[1]] += file_bytes(file)
    return (classes.pop(), found) if len(classes) == 1 else None


def _places(sides: list[Mapping[Hashable, int]], n: int) -> dict[Hashable, int]:
    """Return the task of each bucket: the largest first, each to the task that has the least."""
    sizes: dict[Hashable, int] = defaultdict(int)
    for side in sides:
        for bucket, size in side.items():
            sizes[bucket] += size
    held, places = [0] * n, {}
    for bucket, size in sorted(sizes.items(), key=lambda each: (-each[1], repr(each[0]))):
        place = min(range(n), key=held.__getitem__)
        places[bucket] = place
        held[place] += max(size, 1)
    return places


def _regrouped(node: Node, column: int, buckets: Buckets, places: Mapping[Hashable, int], n: int) -> Node:
    """Return a side whose scans' groups are the tasks' shares."""
    scans = {id(found[0]): found[1] for found in _scans(node, column) if found is not None}

    def visit(each: Node) -> Node:
        if each.kind == Kind.PARQUET_SCAN:
            groups: list[list[tuple[int, int | bytes]]] = [[] for _ in range(n)]
            for location, file in _files(each):
                bucket = _bucket(location, scans[id(each)], buckets)
                assert bucket is not None
                groups[places[bucket[1]]].append((1, file))
            return replace(each, groups=tuple(map(join_fields, groups)), n_partitions=n)
        below = replace(each.with_inputs([visit(child) for child in each.inputs]), n_partitions=n)
        return interleaved(below) if each.kind == Kind.UNION else below

    return visit(node)


def file_bytes(file: bytes) -> int:
    """Return the size of a ``PartitionedFile``, or of its part that is read."""
    fields = dict(fields_of(file))
    part = fields.get(5)
    if isinstance(part, bytes):
        bounds = dict(fields_of(part))
        start, end = bounds.get(1, 0), bounds.get(2, 0)
        if isinstance(start, int) and isinstance(end, int):
            return end - start
    size = fields.get(2, 0)
    return size if isinstance(size, int) else 0


def _packed(values: list[bytes]) -> list[int]:
    """Return the numbers of a packed repeated field."""
    found: list[int] = []
    for value in values:
        number = shift = 0
        for byte in value:
            number |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                found.append(number)
                number = shift = 0
    return found
