"""The tail of the log against a plain model: appends, upserts, deletes, folds, takeovers and schema changes."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.tables import Managed, TableEntry
from functions.tail import TableTail, Tails
from storage.errors import ConflictError, NotFoundError
from storage.log import AckMode, LogRecord, Position, Receipt, Record, RecordKind
from storage.log.access import Log, LogRange, Touched
from storage.tables.snapshot import FIELD_ID, FileSet, Snapshot
from storage.tables.write import TableSpec

pytestmark = pytest.mark.anyio
APPEND, UPSERT, DELETE = RecordKind.APPEND, RecordKind.UPSERT, RecordKind.DELETE


@dataclass
class ListLog:
    """A log in a list. ``gate`` holds reads back; ``n_reads`` counts them."""

    records: list[Record] = field(default_factory=list)
    epoch: int = 1
    base: int = 0
    n_reads: int = 0
    records_max: int = 1 << 30
    gate: asyncio.Event | None = None
    begun: asyncio.Event = field(default_factory=asyncio.Event)

    async def append(
        self, records: Sequence[Record], *, ack: AckMode | None = None, touched: Touched | None = None
    ) -> Receipt:
        del touched
        self.records += records
        return Receipt(Position(self.epoch, len(self.records) - len(records)), len(records), ack or AckMode.OBJECT)

    async def find(self, table_id: str, idempotency_key: str) -> Receipt | None:
        raise NotImplementedError(table_id, idempotency_key)

    async def read(self, start: int, *, bytes_max: int = 0) -> LogRange:
        self.n_reads += 1
        self.begun.set()
        limit = min(len(self.records), start + self.records_max)
        found = [LogRecord(Position(self.epoch, n), self.records[n]) for n in range(start, limit)]
        result = LogRange(start, max(start, limit), found, self.epoch, limit < len(self.records))
        if self.gate is not None:
            await self.gate.wait()
        if start < self.base:
            raise NotFoundError("swept", start=start)
        return result

    async def flush(self) -> int:
        return len(self.records)


@dataclass
class ListLogs:
    """One log for every shard, and its folded mark."""

    only: ListLog
    mark: int = 0

    async def log(self, shard: int) -> Log:
        del shard
        return self.only

    async def stored(self, shard: int) -> Log:
        return await self.log(shard)

    async def folded(self) -> dict[int, int]:
        return {0: self.mark}

    async def set_folded(self, shard: int, sequence: int) -> None:
        del shard
        self.mark = max(self.mark, sequence)

    async def close(self) -> None:
        return


def column(name: str, kind: Any, number: int) -> pa.Field:
    return pa.field(name, kind, metadata={FIELD_ID: str(number)})


PLAIN = pa.schema([column("k", pa.int64(), 1), column("v", pa.string(), 2)])


def entry_of(
    schema: pa.Schema = PLAIN, key: tuple[str, ...] = (), older: Sequence[pa.Schema] = (), table: str = "t"
) -> TableEntry:
    schemas = dict(enumerate([*older, schema]))
    spec = TableSpec(table, schema, len(older), 9, key)
    return TableEntry("default", "t", table, "delta", "file:///t", 0, managed=Managed(spec, schemas))


def snapshot_of(schema: pa.Schema = PLAIN) -> Snapshot:
    nothing = FileSet([], np.empty(0, np.int64), np.empty(0, np.int64))
    return Snapshot("delta", "file:///t", 1, 0, schema, nothing)


def record_of(rows: pa.Table, kind: RecordKind = APPEND, schema_id: int = 0, table: str = "t") -> Record:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return Record(table, schema_id, kind, sink.getvalue())


def rows_of(*pairs: tuple[int, str]) -> pa.Table:
    return pa.table({"k": pa.array([k for k, _ in pairs], pa.int64()), "v": pa.array([v for _, v in pairs])})


def keys_of(*keys: int) -> pa.Table:
    return pa.table({"k": pa.array(keys, pa.int64())})


def shown(tail: TableTail) -> list[tuple[Any, ...]]:
    return sorted(tuple(row.values()) for row in tail.rows.to_pylist())


def touched(tail: TableTail) -> list[int]:
    return sorted(key for batch in tail.keys or () for key in batch.column(0).to_pylist())


async def test_a_log_that_was_quiet_when_the_statement_began_is_read_once_only() -> None:
    log = ListLog(epoch=0)
    tails = Tails(ListLogs(log))
    await log.append([record_of(rows_of((1, "a"), (2, "b"))), record_of(rows_of((3, "c")))])
    for _ in range(3):
        tail = await tails.of(entry_of(), snapshot_of(), 0, {}, quiet=2)
        assert (shown(tail), tail.since, log.n_reads) == ([(1, "a"), (2, "b"), (3, "c")], (0, 2), 1)
    await log.append([record_of(rows_of((4, "d")))])
    assert len(shown(await tails.of(entry_of(), snapshot_of(), 0, {}, quiet=3))) == 4
    assert log.n_reads == 2
    assert len(shown(await tails.of(entry_of(), snapshot_of(), 0, {0: 2}, quiet=3))) == 1
    assert log.n_reads == 3  # what was folded since is let go of
    log.epoch = 5
    await log.append([record_of(rows_of((5, "e")))])
    assert len(shown(await tails.of(entry_of(), snapshot_of(), 2, {0: 2}))) == 2
    assert len(shown(await tails.of(entry_of(), snapshot_of(), 2, {0: 2}, quiet=4))) == 2
    assert log.n_reads == 5  # what a writer told is asked for anew


async def test_appended_rows_are_seen_at_once_and_decoded_once() -> None:
    log = ListLog()
    tails = Tails(ListLogs(log))
    none = await tails.of(entry_of(), snapshot_of(), 0, {})
    assert (none.is_empty, none.since) == (True, (1, 0))
    await log.append([record_of(rows_of((1, "a"), (2, "b"))), record_of(rows_of((9, "z")), table="other")])
    first = await tails.of(entry_of(), snapshot_of(), 0, {})
    assert (shown(first), first.since, first.keys) == ([(1, "a"), (2, "b")], (1, 2), None)
    again = await tails.of(entry_of(), snapshot_of(), 0, {})
    assert again.state is first.state
    await log.append([record_of(rows_of((3, "c")))])
    assert shown(await tails.of(entry_of(), snapshot_of(), 0, {})) == [(1, "a"), (2, "b"), (3, "c")]
    assert shown(first) == [(1, "a"), (2, "b")]


async def test_records_before_the_watermark_or_the_folded_mark_are_in_the_table() -> None:
    log = ListLog([record_of(rows_of((number, "x"))) for number in range(6)])
    tails = Tails(ListLogs(log))
    assert len(shown(await tails.of(entry_of(), snapshot_of(), 2, {}))) == 4
    assert len(shown(await tails.of(entry_of(), snapshot_of(), 2, {0: 3}))) == 3
    with pytest.raises(NotFoundError, match="load its newer snapshot"):
        await tails.of(entry_of(), snapshot_of(), 2, {})
    assert (await tails.of(entry_of(), snapshot_of(), 6, {0: 6})).is_empty


async def test_a_swept_range_is_told_and_what_is_held_outlives_a_sweep() -> None:
    log = ListLog([record_of(rows_of((number, "x"))) for number in range(6)], base=4)
    tails = Tails(ListLogs(log))
    with pytest.raises(NotFoundError):
        await tails.of(entry_of(), snapshot_of(), 0, {0: 3})
    assert len(shown(await tails.of(entry_of(), snapshot_of(), 4, {0: 4}))) == 2
    log.base = 5
    assert len(shown(await tails.of(entry_of(), snapshot_of(), 4, {0: 4}))) == 2


async def test_another_epoch_drops_what_was_held() -> None:
    log = ListLog([record_of(rows_of((1, "lost"), (2, "kept")))])
    tails = Tails(ListLogs(log))
    assert len(shown(await tails.of(entry_of(), snapshot_of(), 0, {}))) == 2
    log.records, log.epoch = [record_of(rows_of((2, "moved"))), record_of(rows_of((3, "new")))], 2
    tail = await tails.of(entry_of(), snapshot_of(), 0, {})
    assert (shown(tail), tail.since) == ([(2, "moved"), (3, "new")], (2, 2))


async def test_a_read_that_began_before_a_statement_is_not_enough_for_it() -> None:
    log = ListLog([record_of(rows_of((1, "a")))], gate=asyncio.Event())
    tails = Tails(ListLogs(log))
    assert log.gate is not None
    early = asyncio.create_task(tails.of(entry_of(), snapshot_of(), 0, {}))
    await log.begun.wait()
    await log.append([record_of(rows_of((2, "b")))])
    late = [asyncio.create_task(tails.of(entry_of(), snapshot_of(), 0, {})) for _ in range(5)]
    await asyncio.sleep(0)
    log.gate.set()
    assert shown(await early)[0] == (1, "a")
    for tail in await asyncio.gather(*late):
        assert shown(tail) == [(1, "a"), (2, "b")]
    assert log.n_reads == 2


async def test_a_cancelled_statement_does_not_fail_those_that_wait_with_it() -> None:
    log = ListLog([record_of(rows_of((1, "a")))], gate=asyncio.Event())
    tails = Tails(ListLogs(log))
    assert log.gate is not None
    first = asyncio.create_task(tails.of(entry_of(), snapshot_of(), 0, {}))
    second = asyncio.create_task(tails.of(entry_of(), snapshot_of(), 0, {}))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    log.gate.set()
    assert shown(await second) == [(1, "a")]


async def test_a_long_range_is_read_in_parts_and_seen_whole() -> None:
    log = ListLog([record_of(rows_of((number, "x"))) for number in range(20)], records_max=3)
    assert len(shown(await Tails(ListLogs(log)).of(entry_of(), snapshot_of(), 0, {}))) == 20


async def test_the_last_writer_of_a_key_wins_and_deletions_are_keys_without_rows() -> None:
    log = ListLog()
    tails, entry = Tails(ListLogs(log)), entry_of(key=("k",))
    await log.append([record_of(rows_of((1, "a"), (2, "b"), (1, "aa")), UPSERT), record_of(keys_of(2, 7), DELETE)])
    tail = await tails.of(entry, snapshot_of(), 0, {})
    assert (shown(tail), touched(tail)) == ([(1, "aa")], [1, 2, 7])
    await log.append([record_of(rows_of((2, "again")), UPSERT), record_of(keys_of(1), DELETE)])
    later = await tails.of(entry, snapshot_of(), 0, {})
    assert (shown(later), touched(later)) == ([(2, "again")], [1, 2, 7])
    assert shown(tail) == [(1, "aa")]


async def test_tables_that_were_not_asked_for_lately_are_read_again() -> None:
    big = rows_of(*[(number, "x" * 100) for number in range(200)])
    log = ListLog([record_of(big), record_of(big, table="u")])
    tails = Tails(ListLogs(log), bytes_max=40_000)
    for _ in range(2):
        for name in ("t", "u"):
            assert len(shown(await tails.of(entry_of(table=name), snapshot_of(), 0, {}))) == 200
    assert log.n_reads > 4


async def test_records_of_older_schemas_are_read_as_the_table_is_now() -> None:
    point = pa.struct([column("x", pa.int32(), 4), column("y", pa.int32(), 5)])
    old = pa.schema([column("k", pa.int32(), 1), column("gone", pa.string(), 2), column("p", point, 3)])
    newer = pa.struct([column("yy", pa.int64(), 5), column("z", pa.string(), 6), column("x", pa.int32(), 4)])
    new = pa.schema([column("key", pa.int64(), 1), column("p", newer, 3), column("fresh", pa.date32(), 7)])
    rows = pa.table(
        {
            "k": pa.array([1, 2], pa.int32()),
            "gone": ["a", "b"],
            "p": pa.array([{"x": 1, "y": 2}, None], pa.struct([("x", pa.int32()), ("y", pa.int32())])),
        }
    )
    log = ListLog([record_of(rows)])
    tail = await Tails(ListLogs(log)).of(entry_of(new, older=[old]), snapshot_of(new), 0, {})
    assert tail.rows.to_pylist() == [
        {"key": 1, "p": {"yy": 2, "z": None, "x": 1}, "fresh": None},
        {"key": 2, "p": None, "fresh": None},
    ]
    assert all(field.metadata is None for field in tail.rows.schema)


async def test_a_schema_change_between_statements_is_followed() -> None:
    wide = pa.schema([*PLAIN, column("w", pa.int64(), 3)])
    log = ListLog([record_of(rows_of((1, "a")), UPSERT), record_of(keys_of(5), DELETE)])
    tails = Tails(ListLogs(log))
    assert shown(await tails.of(entry_of(key=("k",)), snapshot_of(), 0, {})) == [(1, "a")]
    await log.append([record_of(rows_of((2, "b")).append_column("w", [[3]]), UPSERT, 1)])
    with pytest.raises(ConflictError, match="schema changed meanwhile"):
        await tails.of(entry_of(key=("k",)), snapshot_of(), 0, {})
    entry = entry_of(wide, ("k",), [PLAIN])
    assert shown(await tails.of(entry, snapshot_of(wide), 0, {})) == [(1, "a", None), (2, "b", 3)]
    # The catalog's entry is ahead of the snapshot, or behind it: columns are followed by their ids all the same.
    assert shown(await tails.of(entry, snapshot_of(), 0, {})) == [(1, "a"), (2, "b")]


_steps = st.lists(
    st.one_of(
        st.tuples(st.just("upsert"), st.lists(st.integers(0, 30), min_size=1, max_size=40)),
        st.tuples(st.just("delete"), st.lists(st.integers(0, 30), min_size=1, max_size=10)),
        st.tuples(st.just("read"), st.just([])),
        st.tuples(st.just("fold"), st.lists(st.floats(0, 1), min_size=1, max_size=1)),
        st.tuples(st.just("mark"), st.just([])),
        st.tuples(st.just("takeover"), st.just([])),
    ),
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(_steps)
def test_a_table_and_its_tail_are_what_was_written(steps: list[tuple[str, list[Any]]]) -> None:
    asyncio.run(_play(steps))


async def _play(steps: list[tuple[str, list[Any]]]) -> None:
    """``table`` is what folds made of the log up to ``watermark``, ``truth`` what was written."""
    log = ListLog()
    logs = ListLogs(log)
    tails, entry = Tails(logs, bytes_max=2_000), entry_of(key=("k",))
    done: list[dict[int, str]] = [{}]
    watermark = 0
    for number, (step, values) in enumerate(steps):
        if step == "upsert":
            await log.append([record_of(rows_of(*[(k, f"{number}.{at}") for at, k in enumerate(values)]), UPSERT)])
            done.append(done[-1] | {k: f"{number}.{at}" for at, k in enumerate(values)})
        elif step == "delete":
            await log.append([record_of(keys_of(*values), DELETE)])
            done.append({k: v for k, v in done[-1].items() if k not in values})
        elif step == "fold":
            watermark = max(watermark, int(values[0] * len(log.records)))
        elif step == "mark":
            await logs.set_folded(0, watermark)
            log.base = logs.mark
        elif step == "takeover":
            log.epoch += 1
        folded = await tails.folded()
        tail = await tails.of(entry, snapshot_of(), watermark, folded)
        gone = set(touched(tail))
        assert len(gone) == tail.n_keys
        merged = {k: v for k, v in done[watermark].items() if k not in gone} | dict(shown(tail))
        assert merged == done[-1]


async def test_two_keys_of_one_hash_are_two_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    import functions.keys
    import functions.tail_rows

    def same(rows: pa.Table, names: Sequence[str]) -> np.ndarray:
        del names
        return np.full(rows.num_rows, 7, np.uint64)

    monkeypatch.setattr(functions.keys, "key_hashes", same)
    monkeypatch.setattr(functions.tail_rows, "key_hashes", same)
    await _play([("upsert", [1, 2, 3, 2]), ("delete", [1]), ("upsert", [4, 1]), ("delete", [2, 9]), ("upsert", [3])])
