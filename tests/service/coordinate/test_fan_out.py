"""Statements that run as tasks give the rows that they give in one process."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from functions.invoke import InvokerLimits
from functions.session import _UNCUT
from functions.stages import DISTRIBUTED_OPTIONS, broadcast_options
from functions.task_worker import TaskWorkerSettings, open_task_runner
from functions.tasks import decode_task
from service.coordinate.tasks import SHUFFLED_TASKS_MAX, Tasks
from service.executor import InlineExecutor
from service.settings import FunctionAccess
from service.statement import Limits, Receipt, Statement
from storage.errors import CorruptError, InvalidError, LimitError
from tests.support.faulty_invoker import FaultyInvoker
from tests.support.lakes import Lake, open_lake
from tests.support.processes import until
from tests.support.simulated_workers import SimulatedWorkers
from tests.support.stage_run import assert_same
from tests.support.task_fronts import http_front

pytestmark = pytest.mark.anyio

N_ROWS = 60_000


async def ask(lake: Lake, sql: str, **asked: Any) -> tuple[pa.Table, Receipt]:
    """Run a statement to its end."""
    limits = Limits(timeout_ms=60_000, **asked.pop("limits", {}))
    statement = Statement(sql, lake.engine.clock.new_id(), limits=limits, **({"functions": "fan-out"} | asked))
    result = await InlineExecutor(lake.engine, lake.engine.clock).run(statement)
    batches = [batch async for batch in result.batches]
    return pa.Table.from_batches(batches, result.schema), result.receipt


def _rows(seed: int) -> pa.Table:
    chance = np.random.default_rng(seed)
    return pa.table({
        "k": chance.integers(0, 5000, N_ROWS // 6),
        "g": [f"g{each % 7}" for each in range(N_ROWS // 6)],
        "v": chance.integers(0, 1000, N_ROWS // 6),
    })  # fmt: skip


async def _filled(lake: Lake) -> Lake:
    for number in range(6):
        lake.write(f"t/{number}.parquet", _rows(number))
    keys = pa.table({"k": np.arange(0, 5000), "name": [f"n{each % 100}" for each in range(5000)]})
    lake.write("names/0.parquet", keys.slice(0, 2500))
    lake.write("names/1.parquet", keys.slice(2500))
    for name in ("t", "names"):
        await lake.table(f"CREATE EXTERNAL TABLE {name} STORED AS parquet LOCATION '{lake.folder}/{name}'")
    return lake


@pytest.fixture(params=["inline", "processes:2"])
async def lake(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Lake]:
    async with open_lake(tmp_path, functions=FunctionAccess(place=request.param)) as opened:
        yield await _filled(opened)


STATEMENTS = [
    "SELECT g, count(*), sum(v), min(k) FROM t GROUP BY g",
    "SELECT k, sum(v) AS s FROM t GROUP BY k ORDER BY s DESC, k LIMIT 20",
    "SELECT name, sum(v) FROM t JOIN names USING (k) GROUP BY name",
    "SELECT count(*) FROM t a JOIN t b ON a.k = b.k AND a.v < b.v",
    "SELECT * FROM t WHERE v < 30",
    "SELECT count(DISTINCT k), avg(v) FROM t",
    "SELECT g, v, row_number() OVER (PARTITION BY g ORDER BY v, k) AS n FROM t QUALIFY n <= 3",
    "SELECT k FROM t WHERE v > (SELECT avg(v) + 400 FROM t) EXCEPT SELECT k FROM names WHERE name = 'n5'",
    "SELECT 1 AS one",
    "SELECT median(v) FROM t WHERE k = 77",
]


async def test_statements_give_the_rows_of_one_process(lake: Lake) -> None:
    for sql in STATEMENTS:
        wanted, alone = await ask(lake, sql, functions="inline")
        got, receipt = await ask(lake, sql)
        assert_same(got, wanted, ordered="ORDER BY s" in sql)
        assert alone.tasks == 1
        if "FROM t" in sql:
            assert receipt.tasks >= 2
            assert receipt.bytes_scanned > 0
            assert receipt.cost_usd > 0
            assert receipt.task_cpu_ms > 0
    assert not list(lake.folder.glob("_firnline/results/*/*"))


async def test_every_kind_of_piece_is_sent_and_says_what_it_mostly_does(tmp_path: Path) -> None:
    statements = {
        "scan": "SELECT k, v FROM t WHERE v < 30",
        "aggregate": "SELECT g, sum(v) FROM t GROUP BY g",
        "join": "SELECT name, v FROM t JOIN names USING (k)",
        "sort": "SELECT k, v FROM t ORDER BY v DESC, k, g LIMIT 20",
        "merge": "SELECT k FROM t UNION ALL SELECT k FROM names",
        "query": "SELECT v FROM t WHERE random() >= 0",
    }
    access = FunctionAccess(place="inline", broadcast_bytes=0)
    async with open_lake(tmp_path, functions=access) as lake:
        await _filled(lake)
        coordinator = lake.engine._fan_out
        assert coordinator is not None
        kinds: set[str] = set()

        async def before(_number: int, message: bytes) -> bytes:
            kinds.add(decode_task(message, coordinator._options.secret, 0).kind)
            return message

        coordinator._invoker = FaultyInvoker(await coordinator.invoker(), before)
        for kind, sql in statements.items():
            kinds.clear()
            wanted, _ = await ask(lake, sql, functions="inline")
            got, _ = await ask(lake, sql)
            assert kind in kinds, (kind, kinds)
            assert_same(got, wanted, ordered=kind == "sort")


async def test_rows_that_are_many_go_through_pages_that_are_deleted(lake: Lake) -> None:
    sql = "SELECT a.k, a.v, b.v AS w, a.g FROM t a JOIN t b ON a.k = b.k"
    wanted, _ = await ask(lake, sql, functions="inline")
    got, receipt = await ask(lake, sql)
    assert got.num_rows == wanted.num_rows
    assert receipt.bytes_moved > 1 << 20
    assert not list(lake.folder.glob("_firnline/results/*/*"))


async def test_closing_the_rows_early_stops_all_and_deletes_the_pages(lake: Lake) -> None:
    statement = Statement("SELECT a.* FROM t a JOIN t b ON a.k = b.k", "early", functions="fan-out")
    result = await InlineExecutor(lake.engine, lake.engine.clock).run(statement)
    async for batch in result.batches:
        assert batch.num_rows
        break
    await result.batches.aclose()  # type: ignore[attr-defined]
    assert not list(lake.folder.glob("_firnline/results/*/*"))


async def test_explain_shows_the_stages_and_what_they_cost(lake: Lake) -> None:
    table, _ = await ask(lake, "EXPLAIN SELECT g, sum(v) FROM t GROUP BY g")
    plans = dict(zip(*table.to_pydict().values(), strict=True))
    assert "usd=" in plans["tasks"]
    assert "stage 0: aggregate tasks=2" in plans["tasks"]
    assert "hash into 2" in plans["tasks"]
    table, _ = await ask(lake, "EXPLAIN SELECT random(), v FROM t")
    plans = dict(zip(*table.to_pydict().values(), strict=True))
    assert "random() gives other values in each task" in plans["tasks"]


async def test_explain_analyze_runs_the_tasks_and_says_what_each_stage_came_to(lake: Lake) -> None:
    table, receipt = await ask(lake, "EXPLAIN ANALYZE SELECT g, sum(v) FROM t GROUP BY g")
    plans = dict(zip(*table.to_pydict().values(), strict=True))
    assert "stage 0: aggregate tasks=2" in plans["tasks"]
    head, *stages = plans["tasks with metrics"].splitlines()
    assert head.startswith(f"tasks={receipt.tasks} attempts={receipt.tasks} retries=0 hedges=0 ")
    assert head.endswith("rows=7")
    assert stages[0].startswith("stage 0: aggregate tasks=2 rows=14 page_bytes=")
    assert int(stages[0].split("bytes_scanned=")[1].split()[0]) > 0
    assert stages[-1].startswith(f"stage {len(stages) - 1}: merge in this process")
    assert receipt.tasks >= 2
    local, alone = await ask(lake, "EXPLAIN ANALYZE SELECT g, sum(v) FROM t GROUP BY g", functions="inline")
    assert "Plan with Metrics" in local.column(0).to_pylist()
    assert alone.tasks == 1


async def test_what_is_past_its_limit_is_refused_before_any_task_runs(lake: Lake) -> None:
    coordinator = lake.engine._fan_out
    assert coordinator is not None
    workers = FaultyInvoker(await coordinator.invoker())
    coordinator._invoker = workers
    for limits in ({"cost_usd_max": 1e-9}, {"scan_bytes_max": 10}):
        with pytest.raises(LimitError):
            await ask(lake, "SELECT sum(v) FROM t", limits=limits)
    assert workers.calls == 0
    await ask(lake, "SELECT sum(v) FROM t")
    assert workers.calls


@pytest.mark.parametrize("place", ["inline", "processes:2", "http"])
async def test_a_statement_that_is_cancelled_leaves_no_task_and_no_page(tmp_path: Path, place: str) -> None:
    sql = "SELECT count(*) FROM t a JOIN t b ON a.v <> b.v JOIN t c ON b.k <> c.k"
    async with AsyncExitStack() as stack:
        if place == "http":
            worker = partial(open_task_runner, TaskWorkerSettings(str(tmp_path), b"shared"))
            place = await stack.enter_async_context(http_front(2, worker))
        access = FunctionAccess(place=place, secret="shared", broadcast_bytes=0)
        lake = await stack.enter_async_context(open_lake(tmp_path, functions=access))
        await _filled(lake)
        coordinator = lake.engine._fan_out
        assert coordinator is not None
        running = Counter[str]()

        class Counted(FaultyInvoker):
            async def invoke(self, message: bytes, *, timeout_ms: int) -> bytes:
                running["now"] += 1
                running["all"] += 1
                try:
                    return await super().invoke(message, timeout_ms=timeout_ms)
                finally:
                    running["now"] -= 1

        coordinator._invoker = Counted(await coordinator.invoker())
        asking = asyncio.create_task(ask(lake, sql))
        await until(lambda: running["all"] > 2 and running["now"] > 0, 20)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert running["now"] == 0
        assert not list(lake.folder.glob("_firnline/results/*/*"))
        seen = running["all"]
        wanted, _ = await ask(lake, "SELECT g, sum(v) FROM t GROUP BY g", functions="inline")
        assert_same((await ask(lake, "SELECT g, sum(v) FROM t GROUP BY g"))[0], wanted)
        assert running["all"] > seen


async def test_a_shuffle_is_cut_into_fewer_tasks_than_a_scan(tmp_path: Path) -> None:
    async with open_lake(tmp_path, functions=FunctionAccess(place="inline")) as lake:
        await _filled(lake)
        coordinator = lake.engine._fan_out
        assert coordinator is not None
        workers = SimulatedWorkers(lake.engine.clock, limits=InvokerLimits(concurrency=1000))
        coordinator._invoker = workers
        many = Tasks(1000, "as the test says", forced=True)

        async def choose(*_given: Any, **_options: Any) -> Tasks:
            return many

        coordinator.choose = choose  # type: ignore[method-assign]
        explained, _ = await ask(lake, "EXPLAIN SELECT k, sum(v) FROM t GROUP BY k")
        plans = dict(zip(*explained.to_pydict().values(), strict=True))
        assert f"hash into {SHUFFLED_TASKS_MAX}" in plans["tasks"]


async def test_a_small_statement_stays_in_this_process_and_explain_says_why(lake: Lake) -> None:
    _, receipt = await ask(lake, "SELECT sum(v) FROM t", functions="auto")
    assert receipt.tasks == 1
    table, _ = await ask(lake, "EXPLAIN SELECT sum(v) FROM t", functions="auto")
    plans = dict(zip(*table.to_pydict().values(), strict=True))
    if lake.engine._fan_out is not None and lake.engine._fan_out._options.place != "inline":
        assert plans["tasks"].startswith("in this process: scanning")
    else:
        assert "tasks" not in plans


async def test_what_costs_more_than_its_limit_is_refused_with_the_estimate(lake: Lake) -> None:
    with pytest.raises(LimitError, match=r"would cost more.*estimated_usd=.*max_cost=1e-09"):
        await ask(lake, "SELECT sum(v) FROM t", limits={"cost_usd_max": 1e-9})
    with pytest.raises(LimitError, match="would cost more"):
        await ask(lake, "SELECT sum(v) FROM t", functions="inline", limits={"cost_usd_max": 1e-9})
    await ask(lake, "EXPLAIN SELECT sum(v) FROM t", limits={"cost_usd_max": 1e-9})
    await ask(lake, "SELECT sum(v) FROM t", limits={"cost_usd_max": 1.0})


async def test_errors_of_tasks_are_those_of_the_statement(lake: Lake) -> None:
    with pytest.raises(InvalidError, match=r"[Dd]ivide"):
        await ask(lake, "SELECT v / (v - v) FROM t")
    assert not list(lake.folder.glob("_firnline/results/*/*"))


async def test_rows_that_are_written_come_from_tasks(lake: Lake) -> None:
    await lake.table("CREATE TABLE sums (g VARCHAR, s BIGINT)")
    _, receipt = await ask(lake, "INSERT INTO sums SELECT g, sum(v) FROM t GROUP BY g")
    assert receipt.tasks >= 2
    assert await lake.value("SELECT sum(s) FROM sums") == await lake.value("SELECT sum(v) FROM t")


async def test_rows_of_the_log_are_read_by_tasks_too(lake: Lake) -> None:
    await lake.table("CREATE TABLE new (k BIGINT, v BIGINT)")
    await lake.table("INSERT INTO new SELECT k, v FROM t")
    await lake.table("INSERT INTO new VALUES (-1, -5)")
    wanted, _ = await ask(lake, "SELECT k % 10 AS m, sum(v) FROM new GROUP BY m", functions="inline")
    got, _ = await ask(lake, "SELECT k % 10 AS m, sum(v) FROM new GROUP BY m")
    assert_same(got, wanted)


async def test_tasks_are_at_most_as_many_as_the_statement_says(lake: Lake) -> None:
    _, receipt = await ask(lake, "SELECT g, sum(v) FROM t GROUP BY g", max_tasks=1)
    assert receipt.tasks <= 2


@pytest.mark.parametrize(
    ("place", "name", "concurrency"),
    [("inline", "inline", 3), ("processes", "processes", 3), ("processes:2", "processes", 2),
     ("http://127.0.0.1:1", "http", 3), ("https://localhost:1/below", "http", 3)],
)  # fmt: skip
async def test_the_settings_reach_the_workers(tmp_path: Path, place: str, name: str, concurrency: int) -> None:
    access = FunctionAccess(place=place, secret="shared", concurrency=3, memory_bytes=1 << 30, timeout_ms=7000)
    async with open_lake(tmp_path, functions=access) as lake:
        coordinator = lake.engine._fan_out
        assert coordinator is not None
        invoker = await coordinator.invoker()
        assert (invoker.name, invoker.limits.concurrency) == (name, concurrency)
        assert getattr(invoker, "_memory_bytes", 1 << 30) == 1 << 30
        assert coordinator._terms(Statement("SELECT 1", "s")).task_timeout_ms == 7000
        assert (lake.engine.jobs is None) == (place == "inline")


async def test_a_certificate_that_is_not_there_is_told(tmp_path: Path) -> None:
    access = FunctionAccess(place="https://localhost:1", secret="shared", ca_file=str(tmp_path / "none.pem"))
    async with open_lake(tmp_path, functions=access) as lake:
        coordinator = lake.engine._fan_out
        assert coordinator is not None
        with pytest.raises(InvalidError, match=r"none\.pem"):
            await coordinator.invoker()


@pytest.mark.parametrize("place", ["http://127.0.0.1:1", "lambda:worker"])
async def test_workers_elsewhere_need_a_secret_that_they_know(tmp_path: Path, place: str) -> None:
    with pytest.raises(InvalidError, match="FIRN_TASK_SECRET"):
        async with open_lake(tmp_path, functions=FunctionAccess(place=place)):
            pass


def test_the_engines_own_values_are_those_that_it_has() -> None:
    from datafusion import SessionConfig, SessionContext

    context = SessionContext(SessionConfig().with_information_schema(True))
    names = {**DISTRIBUTED_OPTIONS, **broadcast_options(2)}
    values = {name: context.sql(f"SHOW {name}").to_pylist()[0]["value"] for name in names}
    assert values == _UNCUT


@pytest.mark.parametrize(("broadcast_bytes", "exchange"), [(128 << 20, "broadcast"), (0, "hash into 2")])
async def test_the_smaller_side_of_a_join_is_copied_up_to_a_number_of_bytes_and_explain_says_so(
    tmp_path: Path, broadcast_bytes: int, exchange: str
) -> None:
    access = FunctionAccess(place="inline", broadcast_bytes=broadcast_bytes)
    async with open_lake(tmp_path, functions=access) as lake:
        await _filled(lake)
        chance = np.random.default_rng(5)
        wide = pa.table({"k": np.arange(60_000), "w": [chance.bytes(60).hex() for _ in range(60_000)]})
        for number in range(2):
            lake.write(f"wide/{number}.parquet", wide.slice(number * 30_000, 30_000))
        await lake.table(f"CREATE EXTERNAL TABLE wide STORED AS parquet LOCATION '{lake.folder}/wide'")
        sql = "SELECT max(w), sum(v) FROM t JOIN wide USING (k)"
        explained, _ = await ask(lake, f"EXPLAIN {sql}")
        plans = dict(zip(*explained.to_pydict().values(), strict=True))
        scans = [line for line in plans["tasks"].splitlines() if ": scan" in line]
        assert scans
        assert all(line.endswith(exchange) for line in scans), plans["tasks"]
        wanted, _ = await ask(lake, sql, functions="inline")
        got, _ = await ask(lake, sql)
        assert_same(got, wanted)


async def test_errors_of_the_last_stage_are_told_as_in_one_process(lake: Lake) -> None:
    sql = "SELECT CAST(sum(v) AS TINYINT) FROM t WHERE v > 0"
    for functions in ("inline", "fan-out"):
        with pytest.raises(InvalidError, match="Int8"):
            await ask(lake, sql, functions=functions)


async def test_a_data_file_that_does_not_decode_is_named(lake: Lake) -> None:
    damaged = lake.folder / "t/3.parquet"
    data = bytearray(damaged.read_bytes())
    data[40:400] = bytes(360)
    damaged.write_bytes(data)
    for functions in ("inline", "fan-out"):
        with pytest.raises(CorruptError) as caught:
            await ask(lake, "SELECT g, sum(k + v) FROM t GROUP BY g", functions=functions)
        assert str(caught.value.facts.get("file")).endswith("t/3.parquet"), caught.value


async def test_rows_past_the_coordinators_memory_are_a_clear_error(lake: Lake) -> None:
    coordinator = lake.engine._fan_out
    assert coordinator is not None
    sql = "SELECT k, v, k * v AS w FROM t ORDER BY w, k, v"
    wanted, _ = await ask(lake, sql, functions="inline")
    assert_same((await ask(lake, sql))[0], wanted, ordered=True)
    coordinator._session.options = replace(coordinator._session.options, memory_bytes=50_000)
    with pytest.raises(LimitError, match="put together last"):
        await ask(lake, sql)
    assert not list(lake.folder.glob("_firnline/results/*"))


async def test_tasks_of_a_statement_without_a_time_limit_are_over_some_time(lake: Lake) -> None:
    coordinator = lake.engine._fan_out
    assert coordinator is not None
    statement = Statement("SELECT 1", "s1", limits=Limits(timeout_ms=0))
    terms = coordinator._terms(statement)
    assert 0 < terms.deadline_ms - lake.engine.clock.now_ms() <= 24 * 3600 * 1000
