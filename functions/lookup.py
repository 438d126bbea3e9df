"""Rows by their keys: models → row ranges → ranged reads with the layout already known → decode → compare the keys.

`plan` says what would be read, without reading: routes are chosen by it and EXPLAIN shows it. `read` reads all files at
once and trusts nothing: a file that is not what was indexed (its etag differs, or its bytes do not decode) is named in
`Found.distrusted`, and each row's own key decides whether it is wanted.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from functions.index.models import Coverage
from functions.index.segment import Located
from functions.records import plain
from storage.errors import ConflictError, CorruptError
from storage.stores import Stores
from storage.tables.merge_on_read import equals_any, live_rows, with_ids
from storage.tables.project import constants_of, is_direct, project_batch, source_of
from storage.tables.slices import FileLayout, Slice, SliceRead, decode, plan_reads
from storage.tables.snapshot import Deletes, EqualityDelete, LoadedDeletes, Snapshot

__all__ = ["FileRead", "Found", "KeyRange", "LookupPlan", "Memory", "Pinned", "found_schema", "lookup", "plan", "read"]

CONCURRENCY = 64
"""Ranged reads that wait at once."""
HERE_BYTES = 1 << 20
"""What is read and is not more is decoded on the event loop: a thread would cost more than it frees."""


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
class Found:
    """Live rows of the covered files whose key is among those asked for, deletes applied.

    rows : the columns asked for and the key's, in the snapshot's order and types
    n_blocks, n_requests, n_bytes : that were read
    distrusted : numbers of files of the snapshot that are not what was indexed; their rows are not in ``rows``
    """

    rows: pa.Table
    n_blocks: int
    n_requests: int
    n_bytes: int
    distrusted: tuple[int, ...] = ()


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
    shape: _Shape
    read: SliceRead


@dataclass(frozen=True)
class LookupPlan:
    """What a look-up reads.

    covered : bool[n_files], files whose rows it finds
    n_blocks, n_requests, n_bytes : that it reads
    """

    snapshot: Snapshot
    asked: Pinned | KeyRange
    columns: tuple[str, ...]
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
class _Shape:
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

    def __init__(self, entries_max: int = 4096) -> None:
        self._entries_max = entries_max
        self._shapes: OrderedDict[tuple[object, ...], _Shape] = OrderedDict()
        self._deletes: OrderedDict[Deletes, LoadedDeletes] = OrderedDict()
        self._distrusted: OrderedDict[tuple[str, str], None] = OrderedDict()

    def shape(self, snapshot: Snapshot, layout: FileLayout, names: tuple[str, ...]) -> _Shape:
        """Return how columns of the table lie in a file."""
        key = (snapshot.location, snapshot.etag, id(layout.file_schema), names)
        known = self._shapes.get(key) if snapshot.etag else None
        if known is None or known.file_schema is not layout.file_schema:
            known = self._shapes[key] = _shape(snapshot, layout, names)
            while len(self._shapes) > self._entries_max:
                self._shapes.popitem(last=False)
        return known

    async def deletes(self, stores: Stores, wanted: Deletes) -> LoadedDeletes:
        """Return the deleted rows, read once."""
        known = self._deletes.get(wanted)
        if known is None:
            known = self._deletes[wanted] = await wanted.load(stores)
            while len(self._deletes) > self._entries_max:
                self._deletes.popitem(last=False)
        return known

    def distrust(self, location: str, etag: str) -> None:
        """Keep in mind that the file is not the one of this etag."""
        self._distrusted[location, etag] = None
        while len(self._distrusted) > self._entries_max:
            self._distrusted.popitem(last=False)

    @property
    def distrusts_some(self) -> bool:
        """Whether there is any file that is not what was indexed."""
        return bool(self._distrusted)

    def trusts(self, location: str, etag: str) -> bool:
        """Tell whether nothing is known against the file."""
        return (location, etag) not in self._distrusted


def found_schema(snapshot: Snapshot, names: Sequence[str]) -> pa.Schema:
    """Return the schema of rows found: these columns in the table's order, nullable, without metadata."""
    wanted = set(names)
    return pa.schema([plain(each).with_nullable(True) for each in snapshot.schema if each.name in wanted])


async def lookup(
    stores: Stores, snapshot: Snapshot, coverage: Coverage, asked: Pinned | KeyRange, columns: Sequence[str],
    wanted: np.ndarray, memory: Memory | None = None,
) -> Found:  # fmt: skip
    """Return the rows of those files that ``coverage`` covers and ``wanted`` (bool[n_files]) names.

    Raises
    ------
    NotFoundError : a file is no more; the table moved on
    CorruptError : a file's delete information is damaged
    """
    memory = memory or Memory()
    return await read(stores, plan(snapshot, coverage, asked, columns, wanted, memory), memory)


def plan(
    snapshot: Snapshot, coverage: Coverage, asked: Pinned | KeyRange, columns: Sequence[str], wanted: np.ndarray,
    memory: Memory,
) -> LookupPlan:  # fmt: skip
    """Return what a look-up reads. Asks nothing of a store."""
    covered = np.zeros(len(snapshot.files), dtype=bool)
    reads: list[FileRead] = []
    n_segments = 0
    every = tuple(dict.fromkeys([*_key_names(asked), *columns]))
    for by in coverage.segments:
        segment = by.segment
        mine = _wanted(by.files, wanted)
        if memory.distrusts_some:
            for place in np.flatnonzero(mine).tolist():
                mine[place] = memory.trusts(segment.paths[place], segment.etags[place])
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
        snapshot, asked, every, tuple(reads), covered, n_segments,
        sum(_n_blocks(each) for each in reads), sum(len(each.read.ranges) for each in reads),
        sum(each.read.n_bytes for each in reads),
    )  # fmt: skip


def _wanted(files: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return bool[f]: files of a segment that are covered and wanted."""
    mine = files >= 0
    if not wanted.all():
        mine[mine] = wanted[files[mine]]
    return mine


def _key_names(asked: Pinned | KeyRange) -> list[str]:
    return list(asked.keys.column_names) if isinstance(asked, Pinned) else [asked.column]


def _by_file(located: Located, mine: np.ndarray) -> list[tuple[int, tuple[Slice, ...], np.ndarray]]:
    """Return for each file of a segment its row ranges, ascending and disjoint, and the keys that may be there."""
    kept = mine[located.file] & (located.limit > located.start)
    key, file = located.key[kept], located.file[kept]
    start, limit = located.start[kept], located.limit[kept]
    if not len(file):
        return []
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
    total = 0
    for part in each.slices:
        first, last = np.searchsorted(each.layout.block_rows, [part.start, part.limit - 1], side="right")
        total += int(last - first) + 1
    return total


def _shape(snapshot: Snapshot, layout: FileLayout, names: Sequence[str], more: Sequence[pa.Field] = ()) -> _Shape:
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
    return _Shape(layout.file_schema, columns, sources)


async def read(stores: Stores, planned: LookupPlan, memory: Memory) -> Found:
    """Read what was planned. Raises as `lookup`."""
    snapshot = planned.snapshot
    waiting = asyncio.Semaphore(CONCURRENCY)
    deletes = await _load_deletes(stores, planned, memory)
    reads = [_with_deletes(snapshot, each, deletes.get(each.index), planned.columns) for each in planned.reads]

    async def one(each: FileRead) -> list[bytes] | None:
        async with waiting:
            try:
                location = snapshot.files.paths[each.index]
                return await stores.get_ranges(location, each.read.ranges, if_match=each.layout.etag, exact=True)
            except ConflictError:
                return None

    if len(reads) == 1:
        parts: Sequence[list[bytes] | None] = [await one(reads[0])]
    else:
        parts = await asyncio.gather(*map(one, reads))
    if sum(each.read.n_bytes for each in reads) <= HERE_BYTES:
        found = _decoded(planned, reads, parts, deletes)
    else:
        found = await asyncio.to_thread(_decoded, planned, reads, parts, deletes)
    for index in found.distrusted:
        layout = next(each.layout for each in reads if each.index == index)
        memory.distrust(snapshot.files.paths[index], layout.etag)
    return found


async def _load_deletes(stores: Stores, planned: LookupPlan, memory: Memory) -> dict[int, LoadedDeletes]:
    held = planned.snapshot.files.deletes
    indices = [each.index for each in planned.reads if each.index in held] if held else []
    loaded = await asyncio.gather(*(memory.deletes(stores, held[index]) for index in indices))
    return dict(zip(indices, loaded, strict=True))


def _with_deletes(snapshot: Snapshot, each: FileRead, deletes: LoadedDeletes | None, names: Sequence[str]) -> FileRead:
    """Return the read with the columns that its equality deletes compare."""
    if deletes is None or not deletes.equality:
        return each
    more = [field for delete in deletes.equality for field in delete.schema]
    shape = _shape(snapshot, each.layout, names, more)
    return replace(each, shape=shape, read=plan_reads(each.layout, each.slices, shape.columns))


def _decoded(
    planned: LookupPlan, reads: Sequence[FileRead], parts: Sequence[list[bytes] | None],
    deletes: dict[int, LoadedDeletes],
) -> Found:  # fmt: skip
    snapshot = planned.snapshot
    schema = found_schema(snapshot, planned.columns)
    batches: list[pa.RecordBatch] = []
    distrusted = []
    for each, data in zip(reads, parts, strict=True):
        try:
            if data is None:
                raise CorruptError("the file is not the one that was indexed")
            found = [_matching(planned, each, first, batch, deletes.get(each.index)) for first, batch in
                     decode(each.layout, each.read, data)]  # fmt: skip
        except CorruptError:
            distrusted.append(each.index)
            continue
        batches += [pa.RecordBatch.from_arrays(batch.columns, schema=schema) for batch in found if batch is not None]
    rows = pa.Table.from_batches(batches, schema)
    n_requests = sum(len(each.read.ranges) for each in reads)
    n_bytes = sum(each.read.n_bytes for each in reads)
    return Found(rows, planned.n_blocks, n_requests, n_bytes, tuple(distrusted))


def _matching(
    planned: LookupPlan, each: FileRead, first_row: int, stored: pa.RecordBatch, deletes: LoadedDeletes | None
) -> pa.RecordBatch | None:
    """Return the live rows of a batch whose key is asked for, in the table's columns; None if there are none."""
    snapshot = planned.snapshot
    constants = constants_of(snapshot, each.index) if each.shape.sources is None else {}
    batch = with_ids(stored, snapshot) if each.shape.sources is None or deletes is not None else stored
    keys = _columns(planned, each, batch, _key_names(planned.asked), constants)
    places = np.flatnonzero(_asked_for(planned.asked, each.keys, keys))
    if not len(places):
        return None
    batch = _taken(batch, places)
    if deletes is not None:
        gone = np.flatnonzero(np.isin(first_row + places, deletes.positions))
        keep = live_rows(batch, 0, replace(deletes, positions=gone), constants_of(snapshot, each.index))
        if keep is not None:
            batch = batch.filter(pa.array(keep))
    if not batch.num_rows:
        return None
    wanted = set(planned.columns)
    return _columns(planned, each, batch, [name for name in snapshot.schema.names if name in wanted], constants)


def _columns(
    planned: LookupPlan, each: FileRead, batch: pa.RecordBatch, names: Sequence[str],
    constants: Mapping[str, pa.Scalar],
) -> pa.RecordBatch:  # fmt: skip
    """Return columns of the table, of a batch of stored ones."""
    snapshot, sources = planned.snapshot, each.shape.sources
    schema = pa.schema([snapshot.schema.field(name) for name in names])
    if sources is None:
        return project_batch(batch, schema, snapshot.matching, constants)
    return pa.RecordBatch.from_arrays([batch.column(sources[name]) for name in names], schema=schema)


def _taken(batch: pa.RecordBatch, places: np.ndarray) -> pa.RecordBatch:
    if places[-1] - places[0] + 1 == len(places):
        return batch.slice(int(places[0]), len(places))
    return batch.take(pa.array(places))


def _asked_for(asked: Pinned | KeyRange, numbers: np.ndarray, rows: pa.RecordBatch) -> np.ndarray:
    """Return bool[rows]; ``rows`` has the columns of the key, or of a range its first."""
    if isinstance(asked, KeyRange):
        column = rows.column(0)
        mask = pc.is_valid(column)
        if asked.low is not None:
            mask = pc.and_(mask, pc.fill_null(pc.greater_equal(column, pa.scalar(asked.low, column.type)), False))
        if asked.high is not None:
            mask = pc.and_(mask, pc.fill_null(pc.less_equal(column, pa.scalar(asked.high, column.type)), False))
        return np.asarray(mask)
    if len(numbers) == 1:
        row = int(numbers[0])
        masks = [pc.equal(column, asked.keys.column(at)[row]) for at, column in enumerate(rows.columns)]
        mask = masks[0]
        for other in masks[1:]:
            mask = pc.and_(mask, other)
        return np.asarray(pc.fill_null(mask, False))
    keys = asked.keys if len(numbers) == asked.keys.num_rows else asked.keys.take(pa.array(numbers))
    if rows.num_columns == 1:
        return np.asarray(pc.is_in(rows.column(0), value_set=keys.column(0).combine_chunks()))
    return equals_any(rows, EqualityDelete((), keys, rows.schema))
