"""A lake that was restored from a copy: its files are the same, and their etags are not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from functions.index.keep import keep_indexes
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
