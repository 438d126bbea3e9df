"""A query that runs as tasks tells how many of them are done."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from service.coordinate.run import StageRun
from service.coordinate.terms import Tally, Terms
from service.executor import InlineExecutor
from service.progress import progress_of
from service.settings import FunctionAccess
from service.statement import Statement
from tests.support.faulty_invoker import FaultyInvoker
from tests.support.lakes import open_lake
from tests.support.simulated_workers import SECRET, SimulatedWorkers, a_stage
from tests.support.virtual_time import VirtualClock, run_virtually


def test_tasks_that_are_done_are_told_of_all_that_there_are() -> None:
    clock = VirtualClock()
    stages = [a_stage(0, 5), a_stage(1, 2, reads=(0,))]
    told: list[tuple[int, int | None, str]] = []

    async def run() -> None:
        one = StageRun(stages, None, SimulatedWorkers(clock), clock, Terms("s1", SECRET), Tally())
        await one.run(lambda *each: told.append(each))

    run_virtually(run())
    assert {(n_total, what) for _, n_total, what in told} == {(7, "tasks done")}
    assert sorted(n_done for n_done, _, _ in told) == [n_done for n_done, _, _ in told]
    assert {n_done for n_done, _, _ in told} >= set(range(7))


@pytest.mark.anyio
async def test_a_statement_that_waits_for_its_workers_can_be_asked(tmp_path: Path) -> None:
    async with open_lake(tmp_path, functions=FunctionAccess(place="processes:2", broadcast_bytes=0)) as lake:
        for number in range(4):
            lake.write(f"t/{number}.parquet", {"k": [1, 2], "v": [3, 4]})
        await lake.table(f"CREATE EXTERNAL TABLE t STORED AS parquet LOCATION '{tmp_path}/t'")
        fan_out, kv, asked = lake.engine._fan_out, lake.engine.kv, asyncio.Event()
        assert fan_out is not None

        async def before(_number: int, message: bytes) -> bytes:
            await asked.wait()
            return message

        fan_out._invoker = FaultyInvoker(await fan_out.invoker(), before)
        statement = Statement("SELECT k, sum(v) AS s FROM t GROUP BY k ORDER BY k", "s1", functions="fan-out")
        result = await InlineExecutor(lake.engine, lake.engine.clock).run(statement)
        reading = asyncio.ensure_future(anext(aiter(result.batches)))
        async with asyncio.timeout(60):
            while (found := await progress_of(kv, "s1")) is None and not reading.done():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert found is not None, reading
        assert (found.what, found.n_done) == ("tasks done", 0)
        assert found.n_total
        asked.set()
        assert (await reading).to_pydict() == {"k": [1, 2], "s": [12, 16]}
        assert await progress_of(kv, "s1") is None
