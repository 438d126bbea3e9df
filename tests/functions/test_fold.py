"""Records of the log folded into tables, for both formats."""

from __future__ import annotations

import asyncio
from typing import Any

import pyarrow as pa
import pytest

from catalog.logs import LogCatalog
from functions.fold import Extra, FoldSettings, fold_table
from functions.fold_log import fold_all, fold_tables
from storage.log import RecordKind
from storage.log.access import Log, LogRange
from storage.tables.write import PartitionField
from tests.support.folding import SCHEMA, FoldLake, Format, StoredLogs, column, table_of

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("format_", ["delta", "iceberg"])]
APPEND, UPSERT, DELETE = RecordKind.APPEND, RecordKind.UPSERT, RecordKind.DELETE
KEY = pa.schema([SCHEMA.field("id")])


async def fold(lake: FoldLake, **settings: Any) -> Any:
    return await fold_all(lake.stores, lake.logs, lake.tables, lake.clock, FoldSettings(**settings))


async def test_appended_rows_are_in_the_table_once(format_: Format) -> None:
    lake = FoldLake()
    entry = await lake.create("t", format_)
    await lake.append((entry, APPEND, table_of([(1, "a"), (1, "a")])), (entry, APPEND, table_of([(2, None)])))
    report = await fold(lake)
    assert report.total["rows"] == 3
    assert report.total["commits"] == 1
    assert not (await fold(lake)).total
    assert await lake.rows(entry) == [(1, "a"), (1, "a"), (2, None)]
    table = await lake.load(entry)
    assert table.watermark == 2
    assert await lake.logs.folded() == {0: 2}
    await lake.close()


async def test_the_last_writer_of_a_key_wins_within_and_across_folds(format_: Format) -> None:
    lake = FoldLake()
    entry = await lake.create("t", format_, ("id",))
    await lake.append((entry, UPSERT, table_of([(1, "a"), (2, "b"), (3, "c")])))
    await lake.append((entry, UPSERT, table_of([(2, "B")])), (entry, DELETE, table_of([(3,)], KEY)))
    await fold(lake)
    assert await lake.rows(entry) == [(1, "a"), (2, "B")]
    await lake.append((entry, DELETE, table_of([(1,), (9,)], KEY)), (entry, UPSERT, table_of([(3, "again"), (1, "x")])))
    await lake.append((entry, DELETE, table_of([(2,)], KEY)))
    await fold(lake)
    assert await lake.rows(entry) == [(1, "x"), (3, "again")]
    await lake.close()


async def test_only_files_that_hold_a_key_are_written_anew(format_: Format) -> None:
    lake = FoldLake()
    entry = await lake.create("t", format_, ("id",))
    for start in range(0, 40, 10):
        await lake.append((entry, UPSERT, table_of([(n, str(n)) for n in range(start, start + 10)])))
        await fold(lake)
    before = {*(await lake.load(entry)).snapshot.files.paths}
    assert len(before) == 4
    await lake.append((entry, UPSERT, table_of([(15, "new")])), (entry, DELETE, table_of([(100,)], KEY)))
    report = await fold(lake)
    assert report.total["files_removed"] == 1
    after = {*(await lake.load(entry)).snapshot.files.paths}
    assert len(before & after) == 3
    assert (await lake.rows(entry)).count((15, "new")) == 1
    assert len(await lake.rows(entry)) == 40
    await lake.close()


async def test_a_deletion_of_all_rows_leaves_no_file(format_: Format) -> None:
    lake = FoldLake()
    entry = await lake.create("t", format_, ("id",))
    await lake.append((entry, UPSERT, table_of([(1, "a"), (2, "b")])))
    await fold(lake)
    await lake.append((entry, DELETE, table_of([(2,), (1,)], KEY)))
    await fold(lake)
    table = await lake.load(entry)
    assert len(table.snapshot.files) == 0
    assert table.watermark == 2
    await lake.close()


async def test_ranges_of_bounded_bytes_make_one_commit_each(format_: Format) -> None:
    lake = FoldLake()
    entry, other = await lake.create("t", format_), await lake.create("u", format_)
    for n in range(6):
        await lake.append((entry if n % 2 else other, APPEND, table_of([(n, "x")])))
    report = await fold(lake, range_bytes=1)
    assert report.total["commits"] == 6
    assert await lake.rows(entry) == [(1, "x"), (3, "x"), (5, "x")]
    assert await lake.logs.folded() == {0: 6}
    await lake.close()


async def test_several_folds_at_once_fold_each_row_once(format_: Format) -> None:
    lake = FoldLake()
    entry = await lake.create("t", format_)
    for n in range(5):
        await lake.append((entry, APPEND, table_of([(n, "x")])))
    await asyncio.gather(*(fold(lake.again(), range_bytes=1) for _ in range(4)))
    assert await lake.rows(entry) == [(n, "x") for n in range(5)]
    live = (await lake.load(entry)).snapshot.files.paths
    assert sorted(key.rpartition("/")[2] for key in await lake.keys(entry)) == sorted(
        path.rpartition("/")[2] for path in live
    )
    await lake.close()


async def test_a_dropped_table_does_not_stop_the_log(format_: Format) -> None:
    lake = FoldLake()
    gone, entry = await lake.create("gone", format_), await lake.create("t", format_)
    await lake.append((gone, APPEND, table_of([(1, "a")])), (entry, APPEND, table_of([(2, "b")])))
    await lake.tables.drop("default", "gone")
    await fold(lake)
    assert await lake.rows(entry) == [(2, "b")]
    assert await lake.logs.folded() == {0: 2}
    await lake.close()


async def test_a_renamed_table_is_found_by_its_id(format_: Format) -> None:
    lake = FoldLake()
    entry = await lake.create("t", format_)
    await lake.append((entry, APPEND, table_of([(1, "a")])))
    await lake.tables.rename(("default", "t"), ("default", "u"))
    await fold_tables(lake.stores, lake.logs, lake.tables, lake.clock, [entry])
    assert await lake.rows(entry) == [(1, "a")]
    assert await lake.logs.folded() == {}
    await lake.close()


async def test_a_table_that_cannot_be_folded_keeps_its_part_of_the_log(format_: Format) -> None:
    lake = FoldLake()
    bad, entry = await lake.create("bad", format_), await lake.create("t", format_)
    await lake.append((bad, APPEND, pa.table({"id": ["no number"], "v": ["a"]})), (entry, APPEND, table_of([(2, "b")])))
    await lake.append((bad, APPEND, table_of([(3, "c")])), (entry, APPEND, table_of([(4, "d")])))
    report = await fold(lake, range_bytes=1)
    assert list(report.errors) == ["default.bad"]
    assert await lake.rows(entry) == [(2, "b"), (4, "d")]
    assert await lake.rows(bad) == []
    assert await lake.logs.folded() == {}
    await lake.close()


async def test_extra_rows_are_part_of_the_commit_and_come_last(format_: Format) -> None:
    lake = FoldLake()
    entry = await lake.create("t", format_, ("id",))
    limit = await lake.append((entry, UPSERT, table_of([(1, "a"), (2, "b")])))
    found = await (await lake.logs.stored(0)).read(0)
    extra = Extra(UPSERT, table_of([(2, "bulk"), (3, "bulk")]))
    await fold_table(lake.stores, lake.tables, lake.clock, entry, found.records, limit, extra=extra)
    assert await lake.rows(entry) == [(1, "a"), (2, "bulk"), (3, "bulk")]
    await fold(lake)
    assert await lake.rows(entry) == [(1, "a"), (2, "bulk"), (3, "bulk")]
    await lake.close()


async def test_rows_go_to_their_partitions_and_survivors_stay_in_theirs(format_: Format) -> None:
    lake = FoldLake()
    parts = (PartitionField(2, "identity", "v"),)
    schema = pa.schema([column("id", 1, pa.int64(), False), column("v", 2, pa.string()), column("n", 3, pa.int32())])
    entry = await lake.create("t", format_, ("id",), parts, schema=schema)
    rows = [(n, "ab"[n % 2], n) for n in range(10)]
    await lake.append((entry, UPSERT, table_of(rows, schema)))
    await fold(lake)
    await lake.append((entry, UPSERT, table_of([(3, "a", -3)], schema)))
    await fold(lake)
    assert await lake.rows(entry) == sorted([row for row in rows if row[0] != 3] + [(3, "a", -3)], key=repr)
    await lake.close()


class StuckLog:
    """A log that always has more, and never tells it."""

    def __init__(self, log: Log) -> None:
        self._log = log

    async def read(self, start: int, *, bytes_max: int = 0) -> LogRange:
        found = await self._log.read(start, bytes_max=bytes_max)
        return LogRange(start, found.limit, found.records, found.epoch, more=True)


class StuckLogs(StoredLogs):
    async def stored(self, shard: int) -> Log:
        return StuckLog(await super().stored(shard))  # type: ignore[return-value]


async def test_a_log_that_makes_no_progress_does_not_hold_a_fold_forever(format_: Format) -> None:
    lake = FoldLake()
    entry = await lake.create("t", format_)
    await lake.append((entry, RecordKind.APPEND, table_of([(1, "a")])))
    logs = StuckLogs(lake.blobs, LogCatalog(lake.kv, lake.clock))
    async with asyncio.timeout(10):
        report = await fold_tables(lake.stores, logs, lake.tables, lake.clock, [entry])
        assert report.total["records"] == 1
        assert (await fold_all(lake.stores, logs, lake.tables, lake.clock)).errors == {}
