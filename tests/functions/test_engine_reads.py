"""The GETs that are reckoned for the engine, held to the log of a store that it read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datafusion import ExecutionPlan, SessionContext
from datafusion.object_store import AmazonS3

from benchmarks.s3_facade import S3Facade, serve
from functions.engine_reads import engine_gets, planning_gets, scans_of
from functions.execute import start, stream
from storage.clock import SystemClock

pytestmark = pytest.mark.anyio
N_ROWS, N_GROUPS, N_COLUMNS = 400_000, 4, 6


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[tuple[S3Facade, str]]:
    folder = tmp_path / "b"
    folder.mkdir()
    chance = np.random.default_rng(1)
    columns = {f"c{n}": chance.integers(0, 1 << 60, N_ROWS) for n in range(N_COLUMNS)}
    pq.write_table(
        pa.table(columns | {"c0": np.arange(N_ROWS)}), folder / "t.parquet", row_group_size=N_ROWS // N_GROUPS,
        compression="none",
    )  # fmt: skip
    facade = S3Facade(tmp_path, SystemClock())
    async with serve(facade) as url:
        yield facade, url


def context_of(url: str) -> SessionContext:
    context = SessionContext()
    store = AmazonS3(bucket_name="b", region="us-east-1", access_key_id="k", secret_access_key="s", endpoint=url,
                     allow_http=True)  # fmt: skip
    context.register_object_store("s3://", store, host="b")
    return context


async def ran(context: SessionContext, plan: ExecutionPlan) -> None:
    async for _batch in stream(context, plan):
        pass


@pytest.mark.parametrize(
    ("sql", "row_groups", "ranges"),
    [
        ("SELECT bit_xor(c2) FROM t", 4, 1),
        ("SELECT bit_xor(c2), bit_xor(c3) FROM t", 4, 1),
        ("SELECT bit_xor(c0), bit_xor(c5) FROM t", 4, 2),
        ("SELECT bit_xor(c1 + c3 + c5) FROM t", 4, 1),
        ("SELECT bit_xor(c3) FROM t WHERE c0 < 150000", 2, 2),
        ("SELECT bit_xor(c3) FROM t WHERE c0 < 0", 0, 1),
    ],
)
async def test_reads_of_row_groups_are_reckoned(
    store: tuple[S3Facade, str], sql: str, row_groups: int, ranges: int
) -> None:
    facade, url = store

    context = context_of(url)
    await asyncio.to_thread(
        lambda: context.sql("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 's3://b/t.parquet'")
    )
    plan = await asyncio.to_thread(lambda: context.sql(sql).execution_plan())
    facade.counts.clear()
    await ran(context, plan)
    assert facade.counts["GET"] == row_groups * ranges
    assert engine_gets(plan, scans_of(plan.to_bytes(context))) == facade.counts["GET"]


async def test_a_session_that_gets_a_plan_reads_the_footer_in_two_requests_and_then_remembers_it(
    store: tuple[S3Facade, str],
) -> None:
    facade, url = store

    planner, worker = context_of(url), context_of(url)
    await asyncio.to_thread(
        lambda: planner.sql("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 's3://b/t.parquet'")
    )
    made = await asyncio.to_thread(lambda: planner.sql("SELECT bit_xor(c2) FROM t").execution_plan())
    data = made.to_bytes(planner)
    footers: set[str] = set()
    n_parts = sum(len(each.paths) for each in scans_of(data))
    for gets in (N_GROUPS + 2 * n_parts, N_GROUPS):
        plan = ExecutionPlan.from_bytes(worker, data)
        facade.counts.clear()
        for batches in await start(worker, plan):
            async for _batch in batches:
                pass
        assert facade.counts["GET"] == gets
        assert engine_gets(plan, scans_of(data), footers) == gets


async def test_files_of_this_machine_cost_no_requests(tmp_path: Path) -> None:
    pq.write_table(pa.table({"k": [1]}), tmp_path / "t.parquet")
    context = SessionContext()
    context.register_parquet("t", str(tmp_path / "t.parquet"))
    plan = context.sql("SELECT * FROM t").execution_plan()
    await ran(context, plan)
    footers: set[str] = set()
    assert engine_gets(plan, scans_of(plan.to_bytes(context)), footers) == 0
    assert planning_gets(["file:///t.parquet"], footers) == 0
    assert not footers


def test_a_file_is_planned_for_more_the_first_time() -> None:
    footers: set[str] = set()
    assert planning_gets(["s3://b/t", "s3://b/u"], footers) == 8
    assert planning_gets(["s3://b/t", "s3://b/v"], footers) == 5
