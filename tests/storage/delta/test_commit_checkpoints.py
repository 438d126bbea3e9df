"""Checkpoints that we write, and what the log tells: read by us, deltalake and DuckDB, mixed with deltalake's own."""

from __future__ import annotations

import asyncio
from pathlib import Path

import deltalake
import pyarrow as pa
import pytest

from storage.errors import NotFoundError
from storage.tables.delta.clean_log import clean_log
from storage.tables.delta.commit import DeltaWriter
from storage.tables.delta.history import changed_snapshots, commit_actions, find_fact, history, tombstones
from storage.tables.delta.log import list_log
from storage.tables.delta.write_checkpoint import write_checkpoint
from storage.tables.snapshot import At, Snapshot
from storage.tables.write import Change, Watermark
from tests.support.clock import ManualClock
from tests.support.delta_read import load_folder, local_stores, multiset, read_rows
from tests.support.delta_write import data_file, make_spec
from tests.support.duckdb_readers import duckdb_with

pytestmark = pytest.mark.anyio

SCHEMA = pa.schema([("id", pa.int64()), ("part", pa.string())])
DAY_MS = 86_400_000


def rows(number: int) -> pa.Table:
    return pa.table({"id": [number * 10, number * 10 + 1], "part": [f"p {number % 3}%/é"] * 2}, SCHEMA)


class Folder:
    """A table that grows by one file a commit and loses one now and then."""

    def __init__(self, path: Path, **properties: str) -> None:
        self.path, self.where, self.stores = path, f"file://{path}", local_stores()
        self.clock = ManualClock(1_795_000_000_000)
        self.writer = DeltaWriter(self.stores, self.where, self.clock)
        self.spec = make_spec(SCHEMA, partition_by=["part"], properties=properties)
        self.locations: list[str] = []

    async def add(self, number: int, *, removes: int | None = None) -> None:
        data, part = rows(number), rows(number).column("part")[0].as_py()
        file = await data_file(self.stores, self.where, f"part=p%25 {number}.parquet", data, {"part": part})
        self.locations.append(file.location)
        gone = () if removes is None else (self.locations[removes],)
        facts, mark = {"n": str(number)}, Watermark("0", number, number + 1)
        await self.writer.commit(await self.load(), Change("fold", (file,), gone, watermark=mark, facts=facts))

    async def load(self, at: At = At()) -> Snapshot:  # noqa: B008
        return await load_folder(self.path, at)


async def grown(path: Path, n_commits: int, **properties: str) -> Folder:
    folder = Folder(path, **properties)
    await folder.writer.create(folder.spec)
    for number in range(n_commits):
        await folder.add(number, removes=number - 3 if number % 4 == 3 else None)
    return folder


async def same_for_all(folder: Folder, expected: pa.Table) -> None:
    assert multiset(await read_rows(folder.stores, await folder.load())) == multiset(expected)
    assert multiset(pa.table(deltalake.DeltaTable(str(folder.path)).to_pyarrow_table())) == multiset(expected)
    answer = duckdb_with("delta").sql(f"SELECT id, part FROM delta_scan('{folder.path}')").to_arrow_table()
    assert multiset(answer) == multiset(expected)


def expected_rows(n_commits: int) -> pa.Table:
    gone = {number - 3 for number in range(n_commits) if number % 4 == 3}
    return pa.concat_tables([SCHEMA.empty_table(), *(rows(n) for n in range(n_commits) if n not in gone)])


async def test_a_table_with_our_checkpoints_reads_the_same_for_everyone(tmp_path: Path) -> None:
    folder = await grown(tmp_path, 23)
    assert sorted((await list_log(folder.stores, folder.where)).checkpoints) == [10, 20]
    await same_for_all(folder, expected_rows(23))
    for version in range(20):  # what is left can only be read through the checkpoint
        (tmp_path / "_delta_log" / f"{version:020}.json").unlink()
    await same_for_all(folder, expected_rows(23))
    snapshot = await folder.load()
    assert folder.writer.watermark(snapshot, "0") == 23
    assert deltalake.DeltaTable(str(tmp_path)).transaction_version("firnline-log-0") == 23
    assert snapshot.files.stats("id").minimum.to_pylist() != [None] * len(snapshot.files)


async def test_checkpoints_of_deltalake_and_ours_build_on_each_other(tmp_path: Path) -> None:
    folder = await grown(tmp_path, 8)
    deltalake.DeltaTable(str(tmp_path)).create_checkpoint()
    deltalake.write_deltalake(str(tmp_path), rows(8), mode="append")
    for number in range(9, 16):
        data, part = rows(number), rows(number).column("part")[0].as_py()
        file = await data_file(folder.stores, folder.where, f"{number}.parquet", data, {"part": part})
        await folder.writer.commit(await folder.load(), Change("insert", (file,)))
    assert sorted((await list_log(folder.stores, folder.where)).checkpoints) == [8, 10]
    expected = pa.concat_tables([expected_rows(8), *(rows(n) for n in range(8, 16))])
    await same_for_all(folder, expected)
    for version in range(10):
        (tmp_path / "_delta_log" / f"{version:020}.json").unlink()
    await same_for_all(folder, expected)


async def test_a_checkpoint_keeps_a_tombstone_for_the_retention_only(tmp_path: Path) -> None:
    folder = await grown(tmp_path, 5, **{"delta.deletedFileRetentionDuration": "interval 2 days"})
    gone = [folder.locations[0]]
    assert [stone.location for stone in await tombstones(folder.stores, folder.where)] == gone
    assert await write_checkpoint(folder.stores, folder.where, 5, folder.clock)
    assert not await write_checkpoint(folder.stores, folder.where, 5, folder.clock)
    found = await tombstones(folder.stores, folder.where)
    assert [(stone.location, stone.deleted_ms) for stone in found] == [(gone[0], folder.clock.now_ms())]
    folder.clock.advance(2 * DAY_MS)
    await folder.add(5)
    assert await write_checkpoint(folder.stores, folder.where, 6, folder.clock)
    assert await tombstones(folder.stores, folder.where) == []
    await same_for_all(folder, pa.concat_tables([expected_rows(5), rows(5)]))


async def test_the_history_names_operations_facts_files_and_rows(tmp_path: Path) -> None:
    folder = await grown(tmp_path, 5)
    deltalake.write_deltalake(str(tmp_path), rows(7), mode="append")
    commits = await history(folder.stores, folder.where, 4)
    assert [(c.version, c.operation, c.n_files_added, c.n_files_removed, c.n_rows_added) for c in commits] == [
        (6, "WRITE", 1, 0, 2),
        (5, "FOLD", 1, 0, 2),
        (4, "FOLD", 1, 1, 2),
        (3, "FOLD", 1, 0, 2),
    ]
    assert commits[1].facts == {"n": "4"}
    assert commits[1].transactions == {"firnline-log-0": 5}
    assert commits[0].timestamp_ms == (await folder.load()).timestamp_ms
    assert [c.version for c in await history(folder.stores, folder.where, 2, before=2)] == [1, 0]
    assert await find_fact(folder.stores, folder.where, "n", "2") == 3
    assert await find_fact(folder.stores, folder.where, "n", "2", commits_max=3) is None
    with pytest.raises(NotFoundError):
        await history(folder.stores, folder.where + "/none", 1)


async def test_the_changed_rows_of_a_version_are_those_of_its_files(tmp_path: Path) -> None:
    folder = await grown(tmp_path, 6)
    before, after = await changed_snapshots(folder.stores, folder.where, 4)
    assert before is not None
    assert multiset(await read_rows(folder.stores, before)) == multiset(rows(0))
    assert multiset(await read_rows(folder.stores, after)) == multiset(rows(3))
    created = await changed_snapshots(folder.stores, folder.where, 0)
    assert created[0] is None
    deltalake.DeltaTable(str(tmp_path)).optimize.compact()
    assert (await commit_actions(folder.stores, folder.where, 7)).added == frozenset()
    with pytest.raises(NotFoundError):
        await commit_actions(folder.stores, folder.where, 8)


async def test_cleaning_the_log_leaves_every_version_within_the_retention(tmp_path: Path) -> None:
    folder = await grown(tmp_path, 23, **{"delta.logRetentionDuration": "interval 1 days"})
    metadata = (await folder.load()).state.metadata  # type: ignore[attr-defined]
    clock = ManualClock((await folder.load()).timestamp_ms)
    assert await clean_log(folder.stores, folder.where, metadata, clock) == 0
    clock.advance(2 * DAY_MS)
    assert await clean_log(folder.stores, folder.where, metadata, clock) == 21
    await same_for_all(folder, expected_rows(23))
    assert (await folder.load(At(version=20))).version == 20
    with pytest.raises(NotFoundError):
        await folder.load(At(version=19))


async def test_a_commit_does_not_fail_with_its_checkpoint(tmp_path: Path) -> None:
    folder = await grown(tmp_path, 9)
    (tmp_path / "_delta_log" / f"{10:020}.checkpoint.parquet").mkdir()
    await folder.add(9)
    assert (await folder.load()).version == 10
    (tmp_path / "_delta_log" / f"{10:020}.checkpoint.parquet").rmdir()
    await same_for_all(folder, pa.concat_tables([expected_rows(9), rows(9)]))


async def test_many_checkpointing_writers_do_not_get_in_each_others_way(tmp_path: Path) -> None:
    folder = await grown(tmp_path, 0, **{"delta.checkpointInterval": "2"})

    async def write(number: int) -> None:
        data, part = rows(number), rows(number).column("part")[0].as_py()
        file = await data_file(folder.stores, folder.where, f"{number}.parquet", data, {"part": part})
        await folder.writer.commit(await folder.load(), Change("insert", (file,)))

    await asyncio.gather(*map(write, range(12)))
    await same_for_all(folder, pa.concat_tables([rows(n) for n in range(12)]))
