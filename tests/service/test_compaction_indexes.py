"""Passes over a lake with indexes: what changed is indexed, and what stops one table stops no other."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from catalog.indexes import IndexEntry
from functions.index.columns import index_columns
from functions.index.keep import indexes_due, keep_indexes
from functions.newest import newest_snapshot
from service.compaction import Compaction, CompactionSettings, PassProgress, compact_lake, indexing_of
from service.compactor import compactor_process
from service.settings import EngineSettings
from tests.support.compacting import eventually
from tests.support.lakes import open_lake

pytestmark = pytest.mark.anyio


async def test_a_pass_indexes_what_changed_and_goes_on_with_what_was_killed(tmp_path: Path) -> None:
    async with open_lake(tmp_path) as lake:
        rows = "SELECT value AS id, value % 7 AS v FROM generate_series(1, 100) AS g(value)"
        place = Path(lake.write("data/a.parquet", pa.table({"id": range(50)}))).parent
        await lake.table("CREATE TABLE k (id BIGINT PRIMARY KEY, v BIGINT)")
        await lake.table(f"INSERT INTO k {rows}")
        await lake.table(f"CREATE TABLE t AS {rows}")
        await lake.table(f"CREATE EXTERNAL TABLE x STORED AS parquet LOCATION '{place}'")
        await lake.table("CREATE INDEX i ON x (id) USING locator")
        engine = lake.engine
        # As CREATE INDEX leaves it when it is killed: an index without segments.
        (entry,) = [each for each in await engine.tables.all() if each.name == "t"]
        snapshot = await newest_snapshot(engine.stores, entry)
        await engine.indexes.create(IndexEntry(entry.id, "half", "locator", index_columns(snapshot, ["v"]), 0))
        lake.write("data/b.parquet", pa.table({"id": range(50, 90)}))
        indexing = indexing_of(engine.stores, engine.kv, engine.clock, engine.lake)
        compaction = Compaction(engine.stores, engine.logs, engine.tables, engine.clock, engine.lake, indexing=indexing)
        await (await engine.logs.log(0)).flush()
        report = await compact_lake(compaction, progress=PassProgress(index=lambda *_told: None))
        assert not report.errors
        assert {table: sorted(found) for table, found in report.indexed.refreshed.items()} == {
            "default.k": ["primary"],
            "default.t": ["half"],
            "default.x": ["i"],
        }
        shown = (await lake.table("SHOW INDEXES")).to_pylist()
        assert {(row["table"], row["name"]): (row["status"], row["keys"]) for row in shown} == {
            ("default.k", "primary"): ("ready", 100),
            ("default.t", "half"): ("ready", 100),
            ("default.x", "i"): ("ready", 90),
        }
        again = await compact_lake(compaction)
        assert not again.indexed.refreshed
        # A table that went without its indexes, as with its schema.
        await engine.tables.drop("default", "t")
        await compact_lake(compaction)
        left = {index.name for found in (await engine.indexes.all()).values() for index in found}
        assert left == {"primary", "i"}


async def test_a_table_whose_index_cannot_be_refreshed_stops_no_other(tmp_path: Path) -> None:
    async with open_lake(tmp_path) as lake:
        place = Path(lake.write("data/a.parquet", pa.table({"id": range(50)}))).parent
        await lake.table("CREATE TABLE k (id BIGINT PRIMARY KEY)")
        await lake.table(f"CREATE EXTERNAL TABLE x STORED AS parquet LOCATION '{place}'")
        await lake.table("CREATE INDEX i ON x (id)")
        shutil.rmtree(place)
        await lake.table("INSERT INTO k VALUES (1), (2)")
        engine = lake.engine
        indexing = indexing_of(engine.stores, engine.kv, engine.clock, engine.lake)
        compaction = Compaction(engine.stores, engine.logs, engine.tables, engine.clock, engine.lake, indexing=indexing)
        await (await engine.logs.log(0)).flush()
        report = await compact_lake(compaction)
        assert list(report.errors) == ["default.x"]
        assert list(report.indexed.refreshed) == ["default.k"]


async def test_a_refresh_is_due_where_files_came_and_not_where_a_column_is_gone(tmp_path: Path) -> None:
    async with open_lake(tmp_path) as lake:
        place = Path(lake.write("data/a.parquet", pa.table({"id": range(50), "v": range(50)}))).parent
        await lake.table(f"CREATE EXTERNAL TABLE x STORED AS parquet LOCATION '{place}'")
        await lake.table("CREATE TABLE odd (b BOOLEAN PRIMARY KEY, v BIGINT)")
        engine = lake.engine
        parts = indexing_of(engine.stores, engine.kv, engine.clock, engine.lake)
        assert not await indexes_due(parts, engine.tables)
        await lake.table("CREATE INDEX i ON x (v) USING locator")
        assert not await indexes_due(parts, engine.tables)
        lake.write("data/b.parquet", pa.table({"id": range(50, 60), "v": range(10)}))
        assert await indexes_due(parts, engine.tables)
        await keep_indexes(parts, await engine.tables.all())
        assert not await indexes_due(parts, engine.tables)
        for name in ("a", "b"):
            lake.write(f"data/{name}.parquet", pa.table({"id": range(50)}))
        assert not await indexes_due(parts, engine.tables)
        shutil.rmtree(place)
        assert not await indexes_due(parts, engine.tables)
        await lake.table("CREATE TABLE k (id BIGINT PRIMARY KEY)")
        assert await indexes_due(parts, engine.tables)


async def test_a_servers_compactor_indexes_files_that_no_log_brought(tmp_path: Path) -> None:
    settings = EngineSettings(lake=str(tmp_path))
    async with open_lake(tmp_path) as lake:
        place = Path(lake.write("data/a.parquet", pa.table({"id": range(50)}))).parent
        await lake.table(f"CREATE EXTERNAL TABLE x STORED AS parquet LOCATION '{place}'")
        await lake.table("CREATE INDEX i ON x (id)")
        engine = lake.engine
        indexing = indexing_of(engine.stores, engine.kv, engine.clock, engine.lake)
        watched = Compaction(engine.stores, engine.logs, engine.tables, engine.clock, engine.lake, indexing=indexing)
        often = CompactionSettings(interval_s=0.05, index_interval_s=0.1)

        async def covered() -> bool:
            (row,) = (await lake.table("SHOW INDEXES FROM x")).to_pylist()
            return bool(row["files_covered"] == row["files_total"] == 2)

        async with compactor_process(settings, watched, often) as compactor:
            lake.write("data/b.parquet", pa.table({"id": range(50, 60)}))
            await eventually(covered, 60)
        assert compactor.n_starts == 1
