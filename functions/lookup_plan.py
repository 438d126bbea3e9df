"""What a look-up reads: keys → row ranges of covered files → byte ranges. Asks nothing of a store."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from functions.index.models import Coverage
from functions.index.segment import Located, Segment
from functions.records import plain
from storage.stores import Stores
from storage.tables.merge_on_read import with_ids
from storage.tables.project import is_direct, source_of
from storage.tables.slices import FileLayout, Slice, SliceRead, plan_reads
from storage.tables.snapshot import Deletes, LoadedDeletes, Snapshot

__all__ = [
    "FileRead",
    "KeyRange",
    "LookupPlan",
    "Memory",
    "Pinned",
    "Shape",
    "found_schema",
    "key_names",
    "plan",
    "shape_of",
]


_SEGMENTS_MAX = 16


@dataclass(frozen=True)
class Pinned:
    """Keys that are asked for: columns of the key as the table names them, in the index's order and types, distinct."""

    keys: pa.Table


@dataclass(frozen=True, slots=True)
class KeyRange:
    """Values of the first key column that are asked for, both bounds included; None: no bound."""

    column: str
    low: Any | None
    high: Any | None


@dataclass(frozen=True)
class FileRead:
    """What is read of file ``index`` of the snapshot.

    keys : int64[k], numbers of the asked keys that may be there; of a range empty
    shape : how the columns lie in it
    """

    index: int
    layout: FileLayout
    slices: tuple[Slice, ...]
    keys: np.ndarray
    shape: Shape
    read: SliceRead


@dataclass(frozen=True)
class LookupPlan:
    """What a look-up reads.

    schema : of the rows that it finds
    covered : bool[n_files], files whose rows it finds
    n_blocks, n_requests, n_bytes : that it reads
    """

    snapshot: Snapshot
    asked: Pinned | KeyRange
    columns: tuple[str, ...]
    schema: pa.Schema
    reads: tuple[FileRead, ...]
    covered: np.ndarray
    n_segments: int
    n_blocks: int
    n_requests: int
    n_bytes: int

    @property
    def files(self) -> tuple[int, ...]:
        """Numbers of the files that may hold wanted rows."""
        return tuple(each.index for each in self.reads)


@dataclass(frozen=True)
class Shape:
    """How columns of a table lie in files of one schema.

    columns : stored ones that hold them
    sources : column of the table → the stored one that is the same, if that is so for all; else None
    """

    file_schema: object
    columns: tuple[str, ...]
    sources: Mapping[str, str] | None


class Memory:
    """What a process remembers of the files it looked into: how their columns are the table's, their deleted rows, and
    which are not to be trusted."""

    def __init__(self, entries_max: int = 4096, deletes_bytes_max: int = 64 << 20) -> None:
        self._entries_max, self._deletes_bytes_max = entries_max, deletes_bytes_max
        self._deletes_bytes = 0
        self._shapes: OrderedDict[tuple[object, ...], Shape] = OrderedDict()
        self._schemas: OrderedDict[tuple[object, ...], pa.Schema] = OrderedDict()
        self._deletes: OrderedDict[Deletes, LoadedDeletes] = OrderedDict()
        self._distrusted: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._n_distrusted = 0
        self._trusted: OrderedDict[int, tuple[Segment, int, np.ndarray]] = OrderedDict()

    def schema(self, snapshot: Snapshot, names: tuple[str, ...]) -> pa.Schema:
        """Return `found_schema` of the snapshot, made once."""
        key = (snapshot.location, snapshot.etag, names)
        known = self._schemas.get(key) if snapshot.etag else None
        if known is None:
            known = self._schemas[key] = found_schema(snapshot, names)
            while len(self._schemas) > self._entries_max:
                self._schemas.popitem(last=False)
        return known

    def shape(self, snapshot: Snapshot, layout: FileLayout, names: tuple[str, ...]) -> Shape:
        """Return how columns of the table lie in a file."""
        key = (snapshot.location, snapshot.etag, id(layout.file_schema), names)
        known = self._shapes.get(key) if snapshot.etag else None
        if known is None or known.file_schema is not layout.file_schema:
            known = self._shapes[key] = shape_of(snapshot, layout, names)
            while len(self._shapes) > self._entries_max:
                self._shapes.popitem(last=False)
        return known

    async def deletes(self, stores: Stores, wanted: Deletes) -> LoadedDeletes:
        """Return the deleted rows, read once."""
        known = self._deletes.get(wanted)
        if known is not None:
            self._deletes.move_to_end(wanted)
            return known
        known = await wanted.load(stores)
        if wanted not in self._deletes:
            self._deletes[wanted] = known
            self._deletes_bytes += _n_bytes(known)
        while self._deletes and (
            len(self._deletes) > self._entries_max or self._deletes_bytes > self._deletes_bytes_max
        ):
            self._deletes_bytes -= _n_bytes(self._deletes.popitem(last=False)[1])
        return known

    def distrust(self, location: str, etag: str) -> None:
        """Keep in mind that the file is not the one of this etag."""
        self._distrusted[location, etag] = None
        self._n_distrusted += 1
        while len(self._distrusted) > self._entries_max:
            self._distrusted.popitem(last=False)

    def trusted(self, segment: Segment) -> np.ndarray | None:
        """Return which of a segment's files nothing is known against: bool[f]; None: all."""
        if not self._distrusted:
            return None
        known = self._trusted.get(id(segment))
        if known is None or known[0] is not segment or known[1] != self._n_distrusted:
            files = zip(segment.paths, segment.etags, strict=True)
            mask = np.fromiter((file not in self._distrusted for file in files), bool, len(segment.paths))
            known = self._trusted[id(segment)] = (segment, self._n_distrusted, mask)
            while len(self._trusted) > _SEGMENTS_MAX:
                self._trusted.popitem(last=False)
        return known[2]


def _n_bytes(deletes: LoadedDeletes) -> int:
    return int(deletes.positions.nbytes) + sum(int(each.keys.nbytes) for each in deletes.equality)


def found_schema(snapshot: Snapshot, names: Sequence[str]) -> pa.Schema:
    """Return the schema of rows found: these columns in the table's order, nullable, without metadata."""
    wanted = set(names)
    return pa.schema([plain(each).with_nullable(True) for each in snapshot.schema if each.name in wanted])


def plan(
    snapshot: Snapshot, coverage: Coverage, asked: Pinned | KeyRange, columns: Sequence[str], wanted: np.ndarray,
    memory: Memory,
) -> LookupPlan:  # fmt: skip
    """Return what a look-up reads. Asks nothing of a store."""
    every_file = bool(wanted.all())
    covered = np.zeros(len(snapshot.files), dtype=bool)
    reads: list[FileRead] = []
    n_segments = 0
    every = tuple(dict.fromkeys([*key_names(asked), *columns]))
    for by in coverage.segments:
        segment = by.segment
        mine = by.files >= 0
        if not every_file:
            mine[mine] = wanted[by.files[mine]]
        trusted = memory.trusted(segment)
        if trusted is not None:
            mine &= trusted
        if not mine.any():
            continue
        n_segments += 1
        covered[by.files[mine]] = True
        located = (
            segment.locate(asked.keys) if isinstance(asked, Pinned) else segment.locate_range(asked.low, asked.high)
        )
        for at, slices, keys in _by_file(located, mine):
            layout = segment.layouts[at]
            shape = memory.shape(snapshot, layout, every)
            read_ = plan_reads(layout, slices, shape.columns)
            reads.append(FileRead(int(by.files[at]), layout, slices, keys, shape, read_))
    return LookupPlan(
        snapshot, asked, every, memory.schema(snapshot, every), tuple(reads), covered, n_segments,
        sum(_n_blocks(each) for each in reads), sum(len(each.read.ranges) for each in reads),
        sum(each.read.n_bytes for each in reads),
    )  # fmt: skip


def key_names(asked: Pinned | KeyRange) -> list[str]:
    return list(asked.keys.column_names) if isinstance(asked, Pinned) else [asked.column]


def _by_file(located: Located, mine: np.ndarray) -> list[tuple[int, tuple[Slice, ...], np.ndarray]]:
    """Return for each file of a segment its row ranges, ascending and disjoint, and the keys that may be there."""
    kept = mine[located.file] & (located.limit > located.start)
    key, file = located.key[kept], located.file[kept]
    start, limit = located.start[kept], located.limit[kept]
    if not len(file):
        return []
    if len(file) == 1:
        return [(int(file[0]), (Slice(int(start[0]), int(limit[0])),), key)]
    order = np.lexsort((start, file))
    key, file, start, limit = key[order], file[order], start[order], limit[order]
    edges = np.flatnonzero(np.diff(file)) + 1
    found = []
    for first, last in zip([0, *edges], [*edges, len(file)], strict=True):
        slices = _merged(start[first:last], limit[first:last])
        found.append((int(file[first]), slices, np.unique(key[first:last])))
    return found


def _merged(start: np.ndarray, limit: np.ndarray) -> tuple[Slice, ...]:
    if len(start) == 1:
        return (Slice(int(start[0]), int(limit[0])),)
    reach = np.maximum.accumulate(limit)
    opens = np.concatenate(([True], start[1:] > reach[:-1]))
    firsts = np.flatnonzero(opens)
    lasts = np.concatenate((firsts[1:], [len(start)])) - 1
    return tuple(Slice(int(a), int(b)) for a, b in zip(start[firsts], reach[lasts], strict=True))


def _n_blocks(each: FileRead) -> int:
    total, before = 0, -1
    for part in each.slices:
        first, last = each.layout.block_rows.searchsorted([part.start, part.limit - 1], side="right").tolist()
        total += last - max(first, before + 1) + 1
        before = last
    return total


def shape_of(snapshot: Snapshot, layout: FileLayout, names: Sequence[str], more: Sequence[pa.Field] = ()) -> Shape:
    """Return how columns of the table, and the fields ``more``, lie in a file."""
    candidates = list(with_ids(layout.schema.empty_table(), snapshot).schema)
    files, matching = snapshot.files, snapshot.matching
    constant = files.partitions if matching != "field_id" else {}
    fields = [snapshot.schema.field(name) for name in names if name not in constant]
    found = {field.name: source_of(field, candidates, matching) for field in fields}
    others = [source_of(field, candidates, matching) for field in more]
    wanted = {source.name for source in (*found.values(), *others) if source is not None}
    columns = tuple(name for name in layout.schema.names if name in wanted)
    same = len(fields) == len(names) and all(
        source is not None and is_direct(field, source, matching) and field.name not in files.absent
        for field, source in zip(fields, found.values(), strict=True)
    )
    sources = {name: source.name for name, source in found.items() if source is not None} if same else None
    return Shape(layout.file_schema, columns, sources)
