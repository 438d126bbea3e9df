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
from functions.engine_reads import engine_gets, planning_gets, run_gets
from functions.engine_scans import scans_of, with_sizes
from functions.execute import start, stream
from functions.plan_proto import decode, encode
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


def external(context: SessionContext, name: str, *, late: bool = False) -> None:
    options = " OPTIONS ('format.pushdown_filters' 'true')" if late else ""
    context.sql(f"CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 's3://b/{name}.parquet'{options}")


def write(folder: Path, name: str, columns: dict[str, object], n_rows: int, n_groups: int, **options: object) -> None:
    pq.write_table(
        pa.table(columns), folder / f"{name}.parquet", row_group_size=n_rows // n_groups,
        **({"compression": "none", "use_dictionary": False} | options),
    )  # fmt: skip


@pytest.fixture
def others(tmp_path: Path) -> Path:
    """Files of other shapes beside the store's own."""
    folder = tmp_path / "b"
    chance, n = np.random.default_rng(2), 300_000
    numbers = {f"c{at}": chance.integers(0, 1 << 60, n) for at in range(5)}
    # As wide as the others decoded, and a tenth of that as it is stored.
    narrow = {f"n{at}": np.arange(n) % 2 for at in range(5)}
    mixed = {"a": numbers["c0"], **narrow, "b": numbers["c1"], **{f"w{at}": numbers[f"c{at}"] for at in (2, 3)}}
    write(folder, "mixed", mixed | {"k": np.arange(n), "z": numbers["c4"]}, n, 3, use_dictionary=True)
    write(folder, "small", numbers | {"k": np.arange(n)}, n, 40)
    write(folder, "uneven", numbers | {"k": np.arange(n)}, n, 1)
    with pq.ParquetWriter(folder / "uneven.parquet", pa.table(numbers).schema, compression="none") as writer:
        for start, limit in ((0, 200_000), (200_000, 210_000), (210_000, 220_000), (220_000, 300_000)):
            writer.write_table(pa.table(numbers).slice(start, limit - start), row_group_size=limit - start)
    write(folder, "paged", numbers | {"k": np.arange(n)}, n, 1, write_page_index=True, data_page_size=1 << 14)
    return folder


@pytest.mark.parametrize(
    ("name", "sql"),
    [
        ("mixed", "SELECT bit_xor(a), bit_xor(b) FROM t"),
        ("mixed", "SELECT bit_xor(a), bit_xor(z) FROM t"),
        ("mixed", "SELECT bit_xor(n0), bit_xor(z) FROM t WHERE k < 250000"),
        ("small", "SELECT bit_xor(c0), bit_xor(c4) FROM t"),
        ("uneven", "SELECT bit_xor(c0), bit_xor(c2) FROM t"),
        ("paged", "SELECT bit_xor(c1), bit_xor(c3) FROM t WHERE k BETWEEN 10 AND 20"),
    ],
)
@pytest.mark.parametrize("late", [False, True])
async def test_reads_of_others_files_are_reckoned_by_their_footers(
    store: tuple[S3Facade, str], others: Path, name: str, sql: str, *, late: bool
) -> None:
    facade, url = store

    def footer_of(location: str, size: int) -> pq.FileMetaData:
        path = others / location.rpartition("/")[2]
        assert path.stat().st_size == size
        return pq.read_metadata(path)

    context = context_of(url)
    await asyncio.to_thread(external, context, name, late=late)
    plan = await asyncio.to_thread(lambda: context.sql(sql).execution_plan())
    facade.counts.clear()
    await ran(context, plan)
    assert run_gets(plan, context, footer_of) == facade.counts["GET"]
    data = encode(with_sizes(decode(plan.to_bytes(context)), footer_of))
    again = ExecutionPlan.from_bytes(context, data)  # the engine ignores the sizes
    facade.counts.clear()
    await ran(context, again)
    assert engine_gets(again, scans_of(data)) == facade.counts["GET"]


@pytest.mark.parametrize(
    ("sql", "gets"),
    [
        ("SELECT bit_xor(c3) FROM t WHERE c0 < 150000 AND c4 % 2 = 0 AND c4 % 3 = 0", 2 + 2 + 2),
        ("SELECT bit_xor(c3) FROM t WHERE c0 % 2 = 0", 4 + 4),
        ("SELECT count(*) FROM t WHERE c5 % 2 = 0 AND c0 % 2 = 0", 4 + 4),
        ("SELECT bit_xor(c3) FROM t WHERE c0 % 2 = 2", 4),
    ],
)
async def test_where_filters_are_evaluated_while_decoding_each_condition_reads_what_is_new_to_it(
    store: tuple[S3Facade, str], sql: str, gets: int
) -> None:
    facade, url = store

    context = context_of(url)
    await asyncio.to_thread(external, context, "t", late=True)
    plan = await asyncio.to_thread(lambda: context.sql(sql).execution_plan())
    facade.counts.clear()
    await ran(context, plan)
    assert (facade.counts["GET"], run_gets(plan, context)) == (gets, gets)


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
