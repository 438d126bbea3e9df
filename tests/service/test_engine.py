"""Whole statements in process: every kind, on tables of all three formats."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.lakes import Lake, open_lake

pytestmark = pytest.mark.anyio


@pytest.fixture
async def lake(tmp_path: Path) -> AsyncIterator[Lake]:
    async with open_lake(tmp_path / "lake") as opened:
        yield opened


async def external(lake: Lake, name: str, location: str, kind: str = "parquet") -> None:
    await lake.rows(f"CREATE EXTERNAL TABLE {name} STORED AS {kind} LOCATION '{location}'")


async def test_the_catalog_listing_joins_with_tables_that_hold_rows(lake: Lake) -> None:
    await external(lake, "t", lake.write("t.parquet", {"x": [1, 2, 3]}))
    assert await lake.value("SELECT count(*) FROM information_schema.columns JOIN t ON true") == 3


async def test_a_column_may_be_called_information_schema(lake: Lake) -> None:
    await external(lake, "t", lake.write("t.parquet", {"x": [1, 2, 3]}))
    assert await lake.rows("SELECT x AS information_schema FROM t ORDER BY 1") == [(1,), (2,), (3,)]


async def test_many_statements_that_load_tables_while_they_plan_end(lake: Lake) -> None:
    for number in range(4):
        await external(lake, f"t{number}", lake.write(f"t{number}.parquet", {"x": [1]}))
    async with asyncio.timeout(30):
        answers = await asyncio.gather(
            *[lake.value("SELECT count(*) FROM information_schema.columns") for _ in range(16)]
        )
    assert answers == [4] * 16


async def test_explain_names_versions_and_pruning_before_the_plan(lake: Lake) -> None:
    for part in range(4):
        lake.write(f"t/part{part}.parquet", {"x": [part * 10, part * 10 + 9]})
    await external(lake, "t", str(lake.folder / "t"))
    rows = await lake.rows("EXPLAIN SELECT * FROM t WHERE x > 25")
    assert rows[0][0] == "tables"
    assert "files=2 of 4 (2 pruned)" in rows[0][1]
    assert {row[0] for row in rows} >= {"tables", "logical_plan", "physical_plan"}


async def test_a_long_explain_analyze_does_not_hold_up_other_statements(lake: Lake) -> None:
    await external(lake, "t", lake.write("t.parquet", {"x": list(range(3000))}))
    long = asyncio.create_task(
        lake.rows("EXPLAIN ANALYZE SELECT count(*) FROM t a, t b, t c WHERE a.x + b.x + c.x < 0")
    )
    await asyncio.sleep(0.2)
    async with asyncio.timeout(10):
        assert await lake.value("SELECT 1") == 1
    assert not long.done()
    long.cancel()
    await asyncio.gather(long, return_exceptions=True)
