"""Joins of tables that lie alike are made bucket by bucket, without a shuffle, and give the rows of one process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from service.coordinate.tasks import Tasks
from service.executor import InlineExecutor
from service.settings import FunctionAccess
from service.statement import Limits, Receipt, Statement
from tests.support.lakes import Lake, open_lake
from tests.support.stage_run import assert_same

pytestmark = pytest.mark.anyio

N_TASKS = 5
"""More than some tables here have buckets with rows, and no divisor of their number."""

LAYOUTS = {
    "delta": ("delta", "k", "k"),
    "iceberg buckets": ("iceberg", "bucket(8, k)", "bucket(8, k)"),
    "iceberg values": ("iceberg", "k", "k"),
    "iceberg bucket and day": ("iceberg", "s, bucket(4, k)", "bucket(4, k)"),
}
UNLIKE = {
    "other counts": ("iceberg", "bucket(8, k)", "bucket(4, k)"),
    "one side": ("delta", "k", ""),
    "another column": ("iceberg", "bucket(8, k)", "bucket(8, w)"),
}


async def ask(lake: Lake, sql: str, functions: Any = "fan-out") -> tuple[pa.Table, Receipt]:
    statement = Statement(sql, lake.engine.clock.new_id(), limits=Limits(timeout_ms=60_000), functions=functions)
    result = await InlineExecutor(lake.engine, lake.engine.clock).run(statement)
    batches = [batch async for batch in result.batches]
    return pa.Table.from_batches(batches, result.schema), result.receipt


async def stages(lake: Lake, sql: str) -> str:
    table, _ = await ask(lake, f"EXPLAIN {sql}")
    return str(dict(zip(*table.to_pydict().values(), strict=True))["tasks"])


async def filled(lake: Lake, layout: tuple[str, str, str]) -> None:
    """Make tables a and b: keys 0–11 and NULL in a, 4–19 and NULL in b, several rows of each, some buckets empty."""
    format_, *by = layout
    for name, first, n, partition in (("a", 0, 12, by[0]), ("b", 4, 16, by[1])):
        clause = f"PARTITIONED BY ({partition})" if partition else ""
        await lake.table(f"CREATE TABLE {name} (k BIGINT, w BIGINT, s VARCHAR) USING {format_} {clause}")
        rows = f"SELECT value % {n} + {first} AS k, value AS w, 's' || (value % 3) AS s FROM generate_series(0, 299)"
        await lake.table(f"INSERT INTO {name} {rows}")
        await lake.table(f"INSERT INTO {name} SELECT NULL, value, 's0' FROM generate_series(0, 2)")
        await lake.table(f"OPTIMIZE {name}")


@pytest.fixture
async def lake(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Lake]:
    access = FunctionAccess(place="inline", broadcast_bytes=0, concurrency=4)
    async with open_lake(tmp_path, functions=access) as opened:
        await filled(opened, request.param)
        coordinator = opened.engine._fan_out
        assert coordinator is not None
        chosen = coordinator.choose

        async def choose(statement: Statement, *given: Any, **options: Any) -> Tasks:
            found = await chosen(statement, *given, **options)
            return replace(found, n_tasks=N_TASKS) if found.n_tasks else found

        coordinator.choose = choose  # type: ignore[method-assign]
        yield opened


ALIGNED = [
    "SELECT a.k, count(*), sum(a.w + b.w) FROM a JOIN b ON a.k = b.k GROUP BY a.k",
    "SELECT a.k, a.w, b.w, b.s FROM a LEFT JOIN b ON a.k = b.k AND b.w < 20",
    "SELECT a.k, a.w, b.k, b.w FROM a RIGHT JOIN b ON a.k = b.k AND a.w < 20",
    "SELECT a.k, a.w, b.k, b.w FROM a FULL JOIN b ON a.k = b.k AND a.w < 30 AND b.w < 30",
    "SELECT k, w FROM a WHERE EXISTS (SELECT 1 FROM b WHERE b.k = a.k AND b.w > 250)",
    "SELECT k, w FROM a WHERE NOT EXISTS (SELECT 1 FROM b WHERE b.k = a.k)",
    "SELECT count(*) FROM a JOIN b ON a.s = b.s AND a.k = b.k",
    "SELECT k FROM a INTERSECT SELECT k FROM b",
    "SELECT a.k, sum(b.w) AS t FROM a JOIN b ON a.k = b.k WHERE a.k > 6 GROUP BY a.k ORDER BY t DESC LIMIT 3",
    "SELECT x.k, y.n FROM a x JOIN (SELECT k, count(*) AS n FROM b WHERE w > 5 GROUP BY k) y ON x.k = y.k",
]


@pytest.mark.parametrize("lake", LAYOUTS.values(), ids=LAYOUTS.keys(), indirect=True)
async def test_tables_that_lie_alike_are_joined_without_a_shuffle(lake: Lake) -> None:
    plan = await stages(lake, ALIGNED[0])
    assert "co-located by k" in plan
    assert "stage 0: aggregate" in plan, plan
    n_aligned = 0
    for sql in ALIGNED:
        n_aligned += "co-located" in await stages(lake, sql)
        wanted, _ = await ask(lake, sql, "inline")
        got, _ = await ask(lake, sql)
        assert wanted.num_rows, sql
        assert_same(got, wanted, ordered="ORDER BY" in sql)
    assert n_aligned >= 7


@pytest.mark.parametrize("lake", UNLIKE.values(), ids=UNLIKE.keys(), indirect=True)
async def test_tables_that_lie_otherwise_are_shuffled(lake: Lake) -> None:
    for sql in ALIGNED:
        assert "co-located" not in await stages(lake, sql)
        wanted, _ = await ask(lake, sql, "inline")
        got, _ = await ask(lake, sql)
        assert_same(got, wanted, ordered="ORDER BY" in sql)


@pytest.mark.parametrize("lake", [LAYOUTS["delta"], LAYOUTS["iceberg buckets"]], indirect=True)
async def test_what_meets_rows_that_are_hashed_is_hashed_too(lake: Lake) -> None:
    await lake.table("CREATE TABLE c (k BIGINT, z BIGINT)")
    await lake.table("INSERT INTO c SELECT value, value * 2 FROM generate_series(0, 30)")
    three = "SELECT a.k, a.w, b.w, c.z FROM a JOIN b ON a.k = b.k JOIN c ON c.k = b.k"
    same = "SELECT x.k, x.w, y.w, z.w FROM a x JOIN b y ON x.k = y.k JOIN a z ON z.k = x.k WHERE z.w < 40 AND y.w < 40"
    union = "SELECT a.k, b.w FROM a JOIN b ON a.k = b.k UNION SELECT k, z FROM c"
    for sql in (three, same, union):
        wanted, _ = await ask(lake, sql, "inline")
        got, _ = await ask(lake, sql)
        assert wanted.num_rows
        assert_same(got, wanted)


@pytest.mark.parametrize("lake", [LAYOUTS["delta"], LAYOUTS["iceberg buckets"]], indirect=True)
async def test_rows_that_only_the_log_has_are_joined_too(lake: Lake) -> None:
    await lake.table("INSERT INTO a VALUES (5, -1, 'new'), (100, -2, 'new')")
    await lake.table("INSERT INTO b VALUES (100, -3, 'new')")
    for sql in ALIGNED[:4]:
        wanted, _ = await ask(lake, sql, "inline")
        got, _ = await ask(lake, sql)
        assert_same(got, wanted)


@pytest.mark.parametrize("lake", [LAYOUTS["iceberg buckets"]], indirect=True)
async def test_a_column_that_was_renamed_is_not_taken_for_another(lake: Lake) -> None:
    await lake.table("ALTER TABLE a RENAME COLUMN w TO old")
    await lake.table("ALTER TABLE a RENAME COLUMN k TO w")
    await lake.table("ALTER TABLE a RENAME COLUMN old TO k")
    for on in ("a.k = b.k", "a.w = b.k"):
        sql = f"SELECT a.k, a.w, b.w FROM a JOIN b ON {on}"
        assert "co-located" not in await stages(lake, sql)
        wanted, _ = await ask(lake, sql, "inline")
        got, _ = await ask(lake, sql)
        assert_same(got, wanted)
