"""A row's way, told by the keys in the bucket: log, table, merge, vacuum, and a crash at the worst moments."""

from __future__ import annotations

import re

import pytest

from functions.compact import optimize
from functions.fold_log import fold_all
from functions.vacuum import vacuum
from storage.log import Position, RecordKind
from storage.log.sweep import sweep
from tests.support.clock import ManualClock
from tests.support.faults import CrashBlobs, SimulatedCrash
from tests.support.folding import FAST, LOG, FoldLake, table_of

pytestmark = pytest.mark.anyio
APPEND = RecordKind.APPEND
DAY = 86_400_000


async def keys(lake: FoldLake) -> list[str]:
    """The bucket's keys, ids shortened."""
    found = []
    async for meta in lake.blobs.list():
        key = re.sub(r"/t-[0-9a-f]{8}/", "/t/", meta.key.removeprefix("lake/"))
        key = re.sub(r"part-[0-9a-f]{32}", "part-*", key)
        key = re.sub(r"(\d{20})-(\d{20})", lambda m: f"{int(m[1])}-{int(m[2])}", key)
        found.append(re.sub(r"_delta_log/0{19}(\d)\.json", r"_delta_log/\1.json", key))
    return sorted(found)


async def fold(lake: FoldLake) -> None:
    report = await fold_all(lake.stores, lake.logs, lake.tables, lake.clock)
    assert not report.errors


async def test_00_a_table_is_its_first_commit() -> None:
    lake = FoldLake()
    await lake.create("t", "delta")
    assert await keys(lake) == ["tables/default/t/_delta_log/0.json"]


async def test_10_an_acknowledged_row_is_in_the_log_alone() -> None:
    lake = FoldLake()
    entry = await lake.create("t", "delta")
    await lake.append((entry, APPEND, table_of([(1, "a")])))
    assert await keys(lake) == [
        "_firnline/log/0/segments/0-0",
        "_firnline/log/0/segments/1-0",
        "tables/default/t/_delta_log/0.json",
    ]
    await lake.close()


async def test_20_a_fold_adds_one_file_and_one_commit_and_leaves_the_log() -> None:
    lake = FoldLake()
    entry = await lake.create("t", "delta")
    await lake.append((entry, APPEND, table_of([(1, "a")])))
    await fold(lake)
    assert await keys(lake) == [
        "_firnline/log/0/segments/0-0",
        "_firnline/log/0/segments/1-0",
        "tables/default/t/_delta_log/0.json",
        "tables/default/t/_delta_log/1.json",
        "tables/default/t/part-*.parquet",
    ]
    await lake.close()


async def test_25_a_fold_that_crashes_before_its_commit_leaves_a_file_that_is_no_part_of_the_table() -> None:
    lake = FoldLake()
    entry = await lake.create("t", "delta")
    await lake.append((entry, APPEND, table_of([(1, "a")])))
    crash_at = 0
    while len(await lake.keys(entry)) < 1:
        crash_at += 1
        with pytest.raises(SimulatedCrash):
            await fold(lake.again(CrashBlobs(lake.blobs, crash_at, "after")))
    assert "tables/default/t/_delta_log/1.json" not in await keys(lake)
    assert await lake.rows(entry) == []
    await fold(lake)
    assert len(await lake.keys(entry)) == 2
    assert await lake.rows(entry) == [(1, "a")]
    await lake.close()


async def test_40_a_merge_leaves_the_old_files_and_a_vacuum_takes_them() -> None:
    clock = ManualClock()
    lake = FoldLake(clock=clock)
    entry = await lake.create("t", "delta")
    for n in range(2):
        await lake.append((entry, APPEND, table_of([(n, "a")])))
        await fold(lake)
    await optimize(lake.stores, lake.tables, clock, entry)
    data = [key for key in await keys(lake) if key.endswith(".parquet")]
    assert data == ["tables/default/t/part-*.parquet"] * 3
    clock.advance(8 * DAY)
    await vacuum(lake.stores, lake.tables, clock, entry)
    data = [key for key in await keys(lake) if key.endswith(".parquet")]
    assert data == ["tables/default/t/part-*.parquet"]
    assert await lake.rows(entry) == [(0, "a"), (1, "a")]
    await lake.close()


async def test_90_what_is_folded_is_swept_but_for_seals_and_the_last_segment() -> None:
    clock = ManualClock()
    lake = FoldLake(clock=clock)
    entry = await lake.create("t", "delta")
    for n in range(3):
        await lake.append((entry, APPEND, table_of([(n, "a")])))
    await fold(lake)
    clock.advance(DAY)
    mark = (await lake.logs.folded())[0]
    await sweep(lake.blobs, LOG, Position(0, mark), FAST, clock)
    assert [key for key in await keys(lake) if "log/0/segments" in key] == [
        "_firnline/log/0/segments/0-0",
        "_firnline/log/0/segments/1-2",
    ]
    await fold(lake)
    assert await lake.rows(entry) == [(n, "a") for n in range(3)]
    await lake.close()
