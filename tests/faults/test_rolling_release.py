"""While a deployment is upgraded its workers may refuse its coordinators' tasks: no statement fails of that.

The worker is a real one, over HTTP; messages are rewritten on their way, as another release would have written them.
"""

from __future__ import annotations

import logging
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from functions.execute import ENGINE
from service.coordinate.releases import WHILE_S, Releases, differs_in
from service.executor import InlineExecutor
from service.settings import FunctionAccess
from service.statement import Limits, Statement
from storage.errors import CorruptError, FirnlineError, InvalidError, LimitError, UnavailableError, UnsupportedError
from tests.support.clock import ManualClock
from tests.support.firn import environment, program
from tests.support.lakes import Lake, open_lake
from tests.support.other_release import SECRET, Change, between, plus

pytestmark = pytest.mark.anyio

SQL = "SELECT a.g, count(*) AS n, sum(a.v) AS s FROM t a JOIN t b ON a.k = b.k GROUP BY a.g ORDER BY a.g"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@contextmanager
def worker(folder: Path) -> Iterator[str]:
    command = [program(), "worker", "--lake", str(folder), "--port", "0", "--concurrency", "8"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment(FIRN_TASK_SECRET=SECRET))
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("listening on "), line
        yield line.removeprefix("listening on ").strip()
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture(scope="module")
async def lake(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lake]:
    folder = tmp_path_factory.mktemp("rolling")
    with worker(folder) as url:
        async with open_lake(folder, functions=FunctionAccess(place=url, secret=SECRET, broadcast_bytes=0)) as opened:
            chance = np.random.default_rng(7)
            for number in range(4):
                rows = {"k": chance.integers(0, 500, 2000), "g": [f"g{n % 5}" for n in range(2000)], "v": range(2000)}
                opened.write(f"t/{number}.parquet", pa.table(rows))
            await opened.table(f"CREATE EXTERNAL TABLE t STORED AS parquet LOCATION '{opened.folder}/t'")
            yield opened


async def ask(lake: Lake, functions: Any = "fan-out", sql: str = SQL) -> list[Any]:
    limits = Limits(timeout_ms=60_000)
    statement = Statement(sql, lake.engine.clock.new_id(), limits=limits, functions=functions, max_tasks=3)
    result = await InlineExecutor(lake.engine, lake.engine.clock).run(statement)
    batches = [batch async for batch in result.batches]
    lake.receipt = result.receipt
    return pa.Table.from_batches(batches, result.schema).to_pylist()


def fallbacks(lake: Lake) -> dict[str, float]:
    return {labels["outcome"]: n for labels, n in lake.engine.counts.totals("firnline_task_fallbacks")}


async def told(lake: Lake, explain: str = "EXPLAIN") -> dict[str, str]:
    return {row["plan_type"]: row["plan"] for row in await ask(lake, sql=f"{explain} {SQL}")}


async def test_workers_of_this_release_run_the_tasks(lake: Lake) -> None:
    wanted = await ask(lake, "inline")
    invoker = await between(lake)
    assert await ask(lake) == wanted
    assert invoker.calls > 1
    assert lake.receipt.tasks > 1
    assert not lake.receipt.workers_differ


@pytest.mark.parametrize(
    ("tasks", "versions", "said"),
    [
        (plus(colour="red", must=["colour"]), {}, "differs=fields version=1 fields=colour"),
        (plus(), {"task_version": 2}, "differs=version version=2 reads=1..1"),
        (plus(engine="datafusion 999"), {}, f"differs=engine plan=datafusion 999 worker={ENGINE}"),
        (plus(kind="hologram"), {}, "differs=kind kind=hologram"),
    ],
    ids=["a field that it must know", "a version that it does not read", "another engine", "another kind of task"],
)
async def test_a_statement_whose_tasks_the_workers_cannot_read_runs_here(
    lake: Lake, tasks: Change, versions: dict[str, int], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    wanted, before = await ask(lake, "inline"), fallbacks(lake).get("ran", 0)
    invoker = await between(lake, tasks=tasks, **versions)
    with caplog.at_level(logging.WARNING, "firnline.coordinate"):
        assert await ask(lake) == wanted
        assert (lake.receipt.workers_differ, lake.receipt.tasks) == (True, 1)
        asked = invoker.calls
        assert asked > 0
        assert await ask(lake) == wanted
    assert lake.receipt.workers_differ
    assert invoker.calls == asked, "workers that are known to be of another release are left alone"
    assert fallbacks(lake)["ran"] - before == 2
    assert (await told(lake))["tasks"] == f"in this process: the workers are of another release: {said}"
    [warning] = [each for each in caplog.records if "of another release" in each.message]
    assert warning.levelno == logging.WARNING


async def test_a_reply_of_a_version_that_is_not_read_is_no_answer_and_the_statement_runs_here(lake: Lake) -> None:
    wanted = await ask(lake, "inline")
    await between(lake, replies=plus(), reply_version=2)
    assert await ask(lake) == wanted
    assert lake.receipt.workers_differ


async def test_workers_of_two_releases_behind_one_url_give_the_same_rows(lake: Lake) -> None:
    wanted = await ask(lake, "inline")
    await between(lake, tasks=plus(engine="datafusion 999"), every=3)
    assert await ask(lake) == wanted
    assert lake.receipt.workers_differ


async def test_a_plan_that_is_measured_is_measured_here(lake: Lake) -> None:
    await between(lake, tasks=plus(engine="datafusion 999"))
    found = await told(lake, "EXPLAIN ANALYZE")
    assert found["tasks as they ran"].startswith("in this process: the workers are of another release: differs=engine")
    assert "tasks with metrics" not in found
    assert "metrics=[" in found["Plan with Metrics"]


async def test_after_a_while_the_workers_are_asked_again(lake: Lake) -> None:
    await between(lake, tasks=plus(engine="datafusion 999"))
    fan_out = lake.engine._fan_out
    assert fan_out is not None
    clock = ManualClock()
    fan_out.releases = releases = Releases(clock, 2)
    await ask(lake)
    assert lake.receipt.workers_differ
    await between(lake)  # they are upgraded, and the coordinator does not know it
    fan_out.releases = releases
    clock.advance(round(WHILE_S * 1000) - 1)
    await ask(lake)
    assert lake.receipt.workers_differ
    clock.advance(1)
    await ask(lake)
    assert not lake.receipt.workers_differ
    assert lake.receipt.tasks > 1


async def test_a_statement_that_needs_workers_is_to_come_again(lake: Lake) -> None:
    await between(lake, tasks=plus(engine="datafusion 999"))
    await ask(lake)
    fan_out = lake.engine._fan_out
    assert fan_out is not None
    statement = Statement(SQL, "s", limits=Limits(timeout_ms=60_000))
    before = fallbacks(lake).get("refused", 0)
    with pytest.raises(UnavailableError, match="of another release: differs=engine") as caught:
        await fan_out.choose(statement, 1 << 40, 100)
    assert 1 <= caught.value.facts["retry_after_s"] <= WHILE_S
    assert fallbacks(lake)["refused"] - before == 1
    explained = await fan_out.choose(statement, 1 << 40, 100, checked=False)
    assert (explained.n_tasks, explained.differ) == (0, True)
    unlimited = await fan_out.choose(Statement(SQL, "s", limits=Limits(timeout_ms=0)), 1 << 40, 100)
    assert (unlimited.n_tasks, unlimited.differ) == (0, True)


def test_only_what_says_so_is_taken_for_another_release() -> None:
    releases = Releases(ManualClock(), 1)
    others: list[FirnlineError] = [
        InvalidError("the statement is wrong"), LimitError("too much", limit="memory"),
        CorruptError("x", differs="hue"), UnsupportedError("x", differs=7),
    ]  # fmt: skip
    assert [releases.learn(each) for each in others] == [None] * 4
    assert releases.reason == ""
    assert differs_in(ValueError("x")) is None
    assert releases.learn(InvalidError("x", differs="version", version=2, reads="1..1")) == "version"
    assert releases.reason == "the workers are of another release: differs=version version=2 reads=1..1"
