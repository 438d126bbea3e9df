"""All plans of a statement see one moment."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator
from pathlib import Path

import pyarrow as pa
import pytest
from datafusion import SessionConfig, SessionContext

from functions.session import TIME_WORDS
from tests.support.lakes import Lake, open_lake

pytestmark = pytest.mark.anyio


@pytest.fixture
async def lake(tmp_path: Path) -> AsyncIterator[Lake]:
    async with open_lake(tmp_path) as opened:
        yield opened


async def test_types_and_names_are_the_engines_own(lake: Lake) -> None:
    context = SessionContext(SessionConfig().set("datafusion.execution.time_zone", "UTC"))
    for brackets in ("", "()"):
        sql = "SELECT now(), " + ", ".join(f"{word}{brackets}" for word in sorted(TIME_WORDS - {"now", "today"}))
        native = context.sql(sql).schema()
        found = (await lake.table(sql)).schema
        assert found.names == native.names
        assert found.types == native.types


async def test_a_statement_that_is_planned_twice_has_one_now(lake: Lake) -> None:
    for number in range(3):
        lake.write(f"t/{number}.parquet", {"at": pa.array([dt.datetime(2024, 1, number + 1)], pa.timestamp("us"))})
    table = f"parquet('{lake.folder}/t/*.parquet')"
    before = dt.datetime.now(dt.UTC)
    rows = await lake.rows(f"SELECT now(), now() AS again, current_timestamp FROM {table} WHERE at < now() ORDER BY at")
    assert len(rows) == 3
    assert len({row[0] for row in rows} | {row[1] for row in rows}) == 1
    assert before <= rows[0][0].floor("us").to_pydatetime() <= dt.datetime.now(dt.UTC)
    (again,) = await lake.rows("SELECT now()")
    assert again[0] > rows[0][0]
    assert await lake.value(f"SELECT count(*) FROM {table} WHERE at > now() - INTERVAL '20000 days'") == 3
    assert lake.receipt.files_pruned == 0
    assert await lake.value(f"SELECT count(*) FROM {table} WHERE at > now()") == 0
    assert lake.receipt.files_pruned == 3


async def test_it_stands_wherever_the_engines_did(lake: Lake) -> None:
    values = "(VALUES (1), (2)) AS t(v)"
    for word in TIME_WORDS:
        assert await lake.value(f"SELECT count(DISTINCT n) FROM (SELECT {word}() AS n, v FROM {values}) AS u") == 1
        assert await lake.value(f"SELECT count(*) FROM {values} WHERE {word}() IS NOT NULL") == 2
        assert await lake.value(f"SELECT count({word}()) FROM {values}") == 2
        assert await lake.value(f"SELECT count(CASE WHEN v > 1 THEN {word}() END) FROM {values}") == 1
        assert (await lake.rows(f"EXPLAIN SELECT {word}()"))[0]
    await lake.table("CREATE TABLE w (id BIGINT, at TIMESTAMP)")
    await lake.table("INSERT INTO w VALUES (1, now()), (2, now())")
    await lake.table("UPDATE w SET at = now() WHERE at <= now()")
    assert await lake.value("SELECT count(DISTINCT at) FROM w WHERE at IS NOT NULL") == 1
