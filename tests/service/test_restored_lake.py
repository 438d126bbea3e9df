"""A lake that was restored from a copy: its files are the same, and their etags are not."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from functions.index.keep import keep_indexes
from functions.index.segment import Segment
from service.compaction import indexing_of
from tests.support.lakes import Lake, open_lake

pytestmark = pytest.mark.anyio
SQL = "SELECT name FROM t WHERE id = 77"


async def route(lake: Lake) -> str:
    assert await lake.rows(SQL) == [("n77",)]
    return lake.receipt.routes["default.t"].partition(":")[0]


@pytest.mark.parametrize("format_", ["delta", "iceberg"])
async def test_the_next_pass_indexes_its_files_anew(tmp_path: Path, format_: str) -> None:
    place = tmp_path / "lake"
    async with open_lake(place) as lake:
        await lake.table(f"CREATE TABLE t (id BIGINT PRIMARY KEY, name VARCHAR) USING {format_} WITH (lookup = 'true')")
        await lake.table("INSERT INTO t SELECT value, 'n' || value FROM range(50000)")
        await lake.table("OPTIMIZE t")
        assert await route(lake) == "lookup"
    shutil.move(place, tmp_path / "old")
    shutil.copytree(tmp_path / "old", place)
    async with open_lake(place) as lake:
        assert await route(lake) == "scan"
        engine = lake.engine
        parts = indexing_of(engine.stores, engine.kv, engine.clock, engine.lake)
        kept = await keep_indexes(parts, await engine.tables.all())
        assert kept.n_built == 1
        assert not kept.errors
        assert await route(lake) == "lookup"
        assert (await keep_indexes(parts, await engine.tables.all())).n_built == 0


async def test_it_is_noticed_though_a_file_of_the_segment_has_left_the_table(tmp_path: Path) -> None:
    place = tmp_path / "lake"
    async with open_lake(place) as lake:
        small = "WITH (lookup = 'true', 'firn.target_file_bytes' = '60000')"
        await lake.table(f"CREATE TABLE t (id BIGINT, name VARCHAR) USING delta {small}")
        await lake.table("INSERT INTO t SELECT value, 'n' || value FROM range(90000)")
        await lake.table("OPTIMIZE t")
        await lake.table("CREATE INDEX by_id ON t (id) USING locator")
        entry = await lake.engine.tables.get("default", "t")
        (index,) = await lake.engine.indexes.of(entry.id)
        (segment,) = await lake.engine.models.segments(index)
        assert isinstance(segment, Segment)
        assert len(segment.paths) >= 3
        path = Path(segment.paths[0].removeprefix("file://"))
        ends = pc.min_max(pq.read_table(path).column("id")).as_py()
        await lake.table(f"DELETE FROM t WHERE id BETWEEN {ends['min']} AND {ends['max']}")
        await asyncio.to_thread(path.unlink)
    shutil.move(place, tmp_path / "old")
    shutil.copytree(tmp_path / "old", place)
    async with open_lake(place) as lake:
        engine = lake.engine
        parts = indexing_of(engine.stores, engine.kv, engine.clock, engine.lake)
        kept = await keep_indexes(parts, await engine.tables.all())
        assert kept.n_built == 1
        id_ = (ends["max"] + 1) % 90_000
        assert await lake.rows(f"SELECT name FROM t WHERE id = {id_}") == [(f"n{id_}",)]
        assert lake.receipt.routes["default.t"].startswith("lookup")
