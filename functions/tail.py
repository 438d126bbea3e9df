"""The tail of the log: rows that are acknowledged and not yet in their table, as every query of this process sees them.

1. A statement that begins after an acknowledgement sees the row: `Tails.of` reads the log anew, and shares a read only
   if it began after the statement did.
2. What is held belongs to one epoch of the log's writer, or is in the object store. When the epoch changes all of it
   is dropped and read again, since records may have other positions now (``storage/log/access.py``, rule 3).
3. A statement whose table was loaded too early for what is still held gets `NotFoundError`, and begins anew.

Rows are decoded once. A table with a primary key is kept as its last row of each key, brought forward by what is new
(`functions.tail_rows`), so a query pays for what is new and not for the tail.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from catalog.tables import TableEntry
from functions.records import plain
from functions.tail_rows import TailRows
from storage.errors import ConflictError, NotFoundError
from storage.log import LogRecord
from storage.log.access import Log, Logs
from storage.tables.snapshot import Snapshot

__all__ = ["TableTail", "Tails"]

READ_BYTES = 64 << 20
_HERE_BYTES = 128 << 10
"""What waits and is not more is decoded on the event loop: a thread would cost more than it frees."""
_READS_MAX = 8


@dataclass(frozen=True)
class TableTail:
    """Records of one table in sequences [start, limit) of its log.

    since : (epoch, limit) of the range that was read, for `storage.log.access.Touched`
    batches : live rows, in the snapshot's columns, without its metadata
    keys : for a table with a primary key, the keys that are written or deleted, each once
    state : differs whenever the rows could
    n_bytes : that its rows take in memory
    source : the same rows as they are held, for `functions.tail_index`; None: there are none
    """

    schema: pa.Schema
    since: tuple[int, int]
    start: int
    batches: tuple[pa.RecordBatch, ...] = ()
    keys: tuple[pa.RecordBatch, ...] | None = None
    state: object = None
    n_bytes: int = 0
    source: TailRows | None = None

    @property
    def limit(self) -> int:
        return self.since[1]

    @property
    def n_rows(self) -> int:
        """Live rows."""
        return sum(batch.num_rows for batch in self.batches)

    @property
    def n_keys(self) -> int:
        """Keys that are written or deleted."""
        return sum(batch.num_rows for batch in self.keys or ())

    @property
    def is_empty(self) -> bool:
        """Whether the table is as its snapshot says."""
        return not self.batches and not self.keys

    @property
    def row_schema(self) -> pa.Schema:
        """Of the rows: the snapshot's columns, which may all be null, without metadata."""
        return pa.schema([plain(each).with_nullable(True) for each in self.schema])

    @property
    def rows(self) -> pa.Table:
        """Live rows as one table."""
        return pa.Table.from_batches(self.batches, self.row_schema)


class Tails:
    """What this process holds of the lake's logs."""

    def __init__(self, logs: Logs, *, bytes_max: int = 1 << 30) -> None:
        self._logs, self._bytes_max = logs, bytes_max
        self._shards: dict[int, _Shard] = {}

    async def folded(self) -> Mapping[int, int]:
        """Return the folded marks: to be asked before a statement loads its snapshots, and given to `of`."""
        return await self._logs.folded()

    async def of(
        self, entry: TableEntry, snapshot: Snapshot, watermark: int, folded_before: Mapping[int, int],
        quiet: int | None = None,
    ) -> TableTail:  # fmt: skip
        """Return what the table's snapshot lacks.

        Parameters
        ----------
        entry : of a managed table
        watermark : of ``snapshot``
        folded_before : the marks as they were before the snapshot was loaded
        quiet : `storage.log.access.Marks.quiet` of the log, asked for after the statement began and while ``snapshot``
            was the table's newest: then what is held up to there is the log at that moment, and need not be read

        Raises
        ------
        NotFoundError, ConflictError : the table moved on meanwhile; load its entry and snapshot and begin anew
        UnavailableError : the log cannot be read
        """
        assert entry.managed is not None
        number = entry.managed.shard
        shard = self._shards.setdefault(number, _Shard())
        mark = folded_before.get(number, 0)
        for attempt in range(_READS_MAX):
            if attempt or quiet is None or not shard.reaches(quiet, mark):
                await shard.refresh(await self._logs.log(number), mark)
            found = await shard.table(entry, snapshot, max(watermark, mark))
            if found is not None:
                shard.evict(self._bytes_max)
                return found
        raise ConflictError("the log keeps more than this process can hold; try again", shard=number)


@dataclass
class _Held:
    """One table's records: those not yet decoded, and the rows of the others.

    start : no record of the table before this sequence is held
    is_evicted : nor is any other
    """

    start: int
    waiting: list[LogRecord] = field(default_factory=list)
    rows: TailRows | None = None
    is_evicted: bool = False
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Of the statement that decodes what waits."""

    @property
    def n_bytes(self) -> int:
        return sum(len(each.record.body) for each in self.waiting) + (self.rows.n_bytes if self.rows else 0)

    def forget(self, before: int) -> None:
        """Leave out the records before a sequence."""
        if before > self.start:
            self.waiting = [each for each in self.waiting if each.position.sequence >= before]
            self.start = before
            if self.rows is not None:
                self.rows = self.rows.since(before)

    def evict(self) -> None:
        """Leave out all."""
        self.waiting, self.rows, self.is_evicted = [], None, True

    async def decode(self, entry: TableEntry, schema: pa.Schema) -> TailRows | None:
        """Bring the rows forward by what waits now, in a thread if that is much, and return them; None: evicted."""
        async with self.turn:
            while not self.is_evicted:
                rows = self.rows or TailRows.empty(entry, schema)
                self.rows, waiting, start = rows, self.waiting, self.start
                n = len(waiting)
                if sum(len(each.record.body) for each in waiting) <= _HERE_BYTES:
                    forward = rows.then(waiting, entry)
                else:
                    forward = await asyncio.to_thread(rows.then, waiting[:n], entry)
                if self.rows is rows and self.start == start:
                    self.rows, self.waiting = forward, waiting[n:]
                    return forward
            return None


@dataclass
class _Shard:
    """One log from sequence ``start`` to ``limit``; changes only between awaits, so it is whole whenever it is seen."""

    start: int = 0
    limit: int = 0
    epoch: int | None = None
    tables: OrderedDict[str, _Held] = field(default_factory=OrderedDict)
    _running: asyncio.Task[None] | None = None
    _next: asyncio.Task[None] | None = None

    def reaches(self, end: int, mark: int) -> bool:
        """Tell whether what is held came from the object store alone, has all from ``mark`` to ``end``, and nothing
        before it."""
        return self.epoch == 0 and self.start == mark and self.limit >= end

    async def refresh(self, log: Log, mark: int) -> None:
        """Return once what a read of the log found that began after this call is held."""
        if self._next is None:
            self._next = asyncio.create_task(self._after(self._running, log, mark))
            # Every statement that waits may be cancelled; then nobody asks how it ended.
            self._next.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(self._next)

    async def _after(self, before: asyncio.Task[None] | None, log: Log, mark: int) -> None:
        if before is not None and not before.done():
            await asyncio.wait([before])
        self._running, self._next = self._next, None
        for _ in range(_READS_MAX):
            if await self._read(log, mark):
                return
        raise ConflictError("the log changed its writer again and again; try again")

    async def _read(self, log: Log, mark: int) -> bool:
        """Read to the end; False if what is held is of another epoch, and is held no more."""
        goes_on = self.epoch is not None and self.limit >= mark
        start = self.limit if goes_on else mark
        epoch = self.epoch if goes_on else None
        records: list[LogRecord] = []
        try:
            while True:
                found = await log.read(start, bytes_max=READ_BYTES)
                # What came from the object store alone (epoch 0) stays what it is, whoever tells the rest.
                if found.limit < start or (epoch not in (None, 0) and found.epoch != epoch):
                    self.epoch = None
                    return False
                start, epoch = found.limit, found.epoch
                records += found.records
                if not found.more:
                    break
        except NotFoundError:
            if not goes_on:
                raise
            self.epoch = None
            return False
        if not goes_on:
            self.tables.clear()
            self.start = mark
        self.epoch, self.limit = epoch, start
        self._take(records)
        self._forget(mark)
        return True

    def _take(self, records: Sequence[LogRecord]) -> None:
        for each in records:
            held = self.tables.get(each.record.table_id)
            if held is None:
                held = self.tables[each.record.table_id] = _Held(self.start)
            if not held.is_evicted:
                held.waiting.append(each)

    def _forget(self, mark: int) -> None:
        """Leave out what is in the tables for every statement that begins from now on."""
        if mark > self.start:
            self.start = mark
            for held in self.tables.values():
                held.forget(mark)

    def evict(self, bytes_max: int) -> None:
        """Let the tables go that were asked for least recently; the last one stays."""
        sizes = [held.n_bytes for held in self.tables.values()]
        total = sum(sizes)
        for held, size in list(zip(self.tables.values(), sizes, strict=True))[:-1]:
            if total <= bytes_max:
                return
            held.evict()
            total -= size

    async def table(self, entry: TableEntry, snapshot: Snapshot, start: int) -> TableTail | None:
        """Return the records of a table from sequence ``start`` on; None if they must be read again."""
        if self.epoch is None:
            return None
        since = (self.epoch, self.limit)
        held = self.tables.get(entry.id)
        if start < (self.start if held is None else held.start):
            raise NotFoundError("this part of the log is in the table by now; load its newer snapshot", start=start)
        if held is None:
            return TableTail(snapshot.schema, since, start)
        if held.is_evicted or (held.rows is not None and not held.rows.fits(entry, snapshot.schema)):
            self.epoch = None
            return None
        self.tables.move_to_end(entry.id)
        held.forget(start)
        rows = await held.decode(entry, snapshot.schema)
        if rows is None or held.start != start or not rows.fits(entry, snapshot.schema):
            # Another statement went on with it meanwhile.
            return None
        return TableTail(snapshot.schema, since, start, rows.batches, rows.keys, rows.state, rows.n_bytes, rows)
