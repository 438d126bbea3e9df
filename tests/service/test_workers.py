"""Statements in real worker processes: limits that hold, crashes that cost one statement, and no worker left behind."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator

import pytest

from functions.process_memory import rss_bytes
from functions.worker_pool import WorkerSettings
from service.executor import EncodedResult
from service.statement import Limits, Statement
from service.workers import ProcessRunner
from storage.clock import SystemClock
from storage.errors import (
    CancelledError,
    FirnlineError,
    InternalError,
    LimitError,
    OverloadedError,
    SqlError,
    StatementTimeoutError,
    UnavailableError,
)
from tests.support.processes import alive, children, until
from tests.support.runner import ENDLESS, open_nothing, open_sql_runner

pytestmark = pytest.mark.anyio
CLOCK = SystemClock()


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def runner() -> AsyncIterator[ProcessRunner]:
    async with ProcessRunner(open_sql_runner, CLOCK, WorkerSettings(workers_min=1, workers_max=2)) as runner:
        await runner.wait_ready()
        yield runner


def statement(sql: str, **limits: int) -> Statement:
    return Statement(sql, CLOCK.new_id(), limits=Limits(**limits))


async def read(result: EncodedResult) -> bytes:
    return b"".join([bytes(chunk) async for chunk in result.chunks])


async def answer(runner: ProcessRunner, sql: str, **limits: int) -> bytes:
    return await read(await runner.run_encoded(statement(sql, **limits), "csv"))


async def worker_pid(runner: ProcessRunner) -> int:
    return int((await answer(runner, "CALL pid")).split()[1])


async def test_rows_and_receipt_come_from_the_worker(runner: ProcessRunner) -> None:
    result = await runner.run(statement("SELECT value FROM range(100000)"))
    assert result.schema.names == ["value"]
    assert sum([batch.num_rows async for batch in result.batches]) == 100_000
    assert result.receipt.rows == 100_000


async def test_one_worker_stays_warm_and_is_used_again(runner: ProcessRunner) -> None:
    assert {await worker_pid(runner) for _ in range(5)} == {await worker_pid(runner)}


async def test_an_endless_statement_dies_at_its_timeout_and_the_next_one_works(runner: ProcessRunner) -> None:
    pid = await worker_pid(runner)
    started = time.monotonic()
    with pytest.raises(StatementTimeoutError, match="timeout_ms=400"):
        await answer(runner, ENDLESS, timeout_ms=400)
    assert time.monotonic() - started < 15
    await until(lambda: not alive(pid) or runner.load().running == 0)
    assert await answer(runner, "SELECT 1 AS a") == b"a\r\n1\r\n"


async def test_a_worker_deaf_to_cancellation_is_killed_half_a_second_after_the_timeout(runner: ProcessRunner) -> None:
    pid = await worker_pid(runner)
    started = time.monotonic()
    with pytest.raises(StatementTimeoutError):
        await answer(runner, "CALL block 30", timeout_ms=300)
    assert time.monotonic() - started < 15
    await until(lambda: not alive(pid))
    assert await worker_pid(runner) != pid


async def test_memory_past_the_limit_kills_and_comes_back(runner: ProcessRunner) -> None:
    pid = await worker_pid(runner)
    with pytest.raises(LimitError, match="limit=memory_bytes"):
        await answer(runner, "CALL hoard 20000", memory_bytes=50 << 20)
    await until(lambda: not alive(pid))
    assert await answer(runner, "SELECT 1 AS a") == b"a\r\n1\r\n"


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("CALL panic", "engine failed"),
        ("CALL exit", "exit code 3"),
        ("CALL abort", "SIGABRT"),
        ("CALL bug", "internal"),
    ],
)
async def test_a_crash_is_one_clear_error_without_a_trace(runner: ProcessRunner, sql: str, message: str) -> None:
    with pytest.raises(InternalError, match=message) as caught:
        await answer(runner, sql)
    assert "/secret" not in str(caught.value)
    assert await answer(runner, "SELECT 1 AS a") == b"a\r\n1\r\n"


async def test_a_worker_killed_from_outside_in_mid_statement_is_an_error_and_no_hang(runner: ProcessRunner) -> None:
    pid = await worker_pid(runner)
    running = asyncio.create_task(answer(runner, ENDLESS))
    await until(lambda: runner.load().running == 1)
    await asyncio.sleep(0.2)
    restarts = runner.load().restarts
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(InternalError, match="killed from outside"):
        await asyncio.wait_for(running, 30)
    assert await answer(runner, "SELECT 1 AS a") == b"a\r\n1\r\n"
    assert runner.load().restarts > restarts


async def test_an_idle_worker_that_dies_is_replaced(runner: ProcessRunner) -> None:
    pid, restarts = await worker_pid(runner), runner.load().restarts
    os.kill(pid, signal.SIGKILL)
    await until(lambda: runner.load().restarts > restarts and runner.load().workers >= 1, 30)
    assert await answer(runner, "SELECT 1 AS a") == b"a\r\n1\r\n"


async def test_rows_and_bytes_out_are_limited_by_name(runner: ProcessRunner) -> None:
    with pytest.raises(LimitError, match="result_rows_max=10"):
        await answer(runner, "SELECT value FROM range(11)", result_rows_max=10)
    assert (await answer(runner, "SELECT value FROM range(10)", result_rows_max=10)).count(b"\n") == 11
    with pytest.raises(LimitError, match="result_bytes_max=100"):
        await answer(runner, "SELECT value FROM range(100)", result_bytes_max=100)


async def test_an_error_of_the_statement_keeps_its_class_and_place(runner: ProcessRunner) -> None:
    with pytest.raises(SqlError) as caught:
        await answer(runner, "SELEC")
    assert caught.value.facts["line"] == 1


async def test_cancel_ends_a_running_statement(runner: ProcessRunner) -> None:
    asked = statement(ENDLESS)
    running = asyncio.create_task(runner.run_encoded(asked, "json"))
    await asyncio.sleep(0.2)
    assert runner.cancel(asked.statement_id)
    with pytest.raises(CancelledError):
        await read(await asyncio.wait_for(running, 30))
    assert not runner.cancel(asked.statement_id)
    assert await answer(runner, "SELECT 1 AS a") == b"a\r\n1\r\n"


async def test_cancel_and_timeout_reach_a_statement_that_waits(runner: ProcessRunner) -> None:
    busy = [asyncio.create_task(answer(runner, ENDLESS)) for _ in range(2)]
    await until(lambda: runner.load().running == 2 and runner.load().workers == 2, 30)
    waiting = statement("SELECT 1")
    task = asyncio.create_task(runner.run_encoded(waiting, "json"))
    await until(lambda: runner.load().queued == 1)
    assert runner.cancel(waiting.statement_id)
    with pytest.raises(CancelledError):
        await task
    with pytest.raises(StatementTimeoutError, match="waiting for a free worker"):
        await answer(runner, "SELECT 1", timeout_ms=100)
    assert runner.load().queued == 0
    for task in busy:
        task.cancel()
    await asyncio.gather(*busy, return_exceptions=True)
    assert await answer(runner, "SELECT 1 AS a") == b"a\r\n1\r\n"


async def test_an_abandoned_stream_stops_its_statement(runner: ProcessRunner) -> None:
    result = await runner.run_encoded(statement("SELECT value FROM range(1000000000)"), "csv")
    await anext(result.chunks)
    await result.chunks.aclose()
    await until(lambda: runner.load().running == 0)
    assert await answer(runner, "SELECT 1 AS a") == b"a\r\n1\r\n"


async def test_a_slow_reader_holds_the_worker_back(runner: ProcessRunner) -> None:
    result = await runner.run_encoded(statement("SELECT value FROM range(1000000000)"), "arrow")
    await anext(result.chunks)
    await asyncio.sleep(1.0)
    assert max(map(rss_bytes, children())) < 600 << 20
    await result.chunks.aclose()


async def test_a_full_queue_refuses_and_says_when_to_retry() -> None:
    async with ProcessRunner(
        open_sql_runner, CLOCK, WorkerSettings(workers_min=1, workers_max=1, queue_max=1)
    ) as runner:
        await runner.wait_ready()
        busy = [asyncio.create_task(answer(runner, ENDLESS, timeout_ms=1000)) for _ in range(2)]
        await until(lambda: runner.load().queued == 1)
        with pytest.raises(OverloadedError) as caught:
            await answer(runner, "SELECT 1")
        assert caught.value.facts["retry_after_s"] == 1
        assert {type(error) for error in await asyncio.gather(*busy, return_exceptions=True)} == {StatementTimeoutError}


async def test_many_statements_share_few_workers(runner: ProcessRunner) -> None:
    found = await asyncio.gather(*(answer(runner, f"SELECT {n} AS a") for n in range(64)))
    assert found == [f"a\r\n{n}\r\n".encode() for n in range(64)]
    assert runner.load().workers <= 2


async def test_workers_beyond_the_minimum_end_when_idle() -> None:
    settings = WorkerSettings(workers_min=1, workers_max=3, idle_s=0.4)
    async with ProcessRunner(open_sql_runner, CLOCK, settings) as runner:
        await runner.wait_ready()
        await asyncio.gather(*(answer(runner, ENDLESS, timeout_ms=4000) for _ in range(2)), return_exceptions=True)
        await until(lambda: runner.load().workers == 1, 30)
        assert await answer(runner, "SELECT 1 AS a") == b"a\r\n1\r\n"


async def test_a_runner_that_cannot_open_is_an_error_and_no_hang() -> None:
    async with ProcessRunner(open_nothing, CLOCK, WorkerSettings(workers_min=1)) as runner:
        with pytest.raises(FirnlineError, match="lake is not there"):
            await asyncio.wait_for(runner.wait_ready(), 20)
        with pytest.raises(FirnlineError, match="lake is not there"):
            await asyncio.wait_for(answer(runner, "SELECT 1"), 20)
        assert not await runner.ready()


async def test_closing_ends_running_statements_and_all_workers() -> None:
    async with ProcessRunner(open_sql_runner, CLOCK, WorkerSettings(workers_min=1, workers_max=1)) as runner:
        await runner.wait_ready()
        pid = await worker_pid(runner)
        running = asyncio.create_task(answer(runner, ENDLESS))
        await asyncio.sleep(0.1)
    with pytest.raises(UnavailableError, match="shutting down"):
        await asyncio.wait_for(running, 30)
    await until(lambda: not alive(pid))


ORPHANS = """
import asyncio, sys
from functions.worker_pool import WorkerSettings
from service.statement import Statement
from service.workers import ProcessRunner
from storage.clock import SystemClock
from tests.support.processes import alive, children, until
from tests.support.runner import ENDLESS, open_sql_runner

async def main():
    async with ProcessRunner(open_sql_runner, SystemClock(), WorkerSettings(workers_min=2)) as runner:
        await runner.wait_ready()
        busy = asyncio.create_task(runner.run_encoded(Statement(ENDLESS, "s1"), "json"))
        await asyncio.sleep(0.3)
        print(*open(f"/proc/self/task/{__import__('os').getpid()}/children").read().split(), flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_no_worker_outlives_a_server_that_is_killed() -> None:
    server = await asyncio.create_subprocess_exec(sys.executable, "-c", ORPHANS, stdout=subprocess.PIPE)
    assert server.stdout is not None
    pids = [int(pid) for pid in (await server.stdout.readline()).split()]
    assert len(pids) >= 1
    assert all(map(alive, pids))
    server.kill()
    await server.wait()
    await until(lambda: not any(map(alive, pids)))


async def test_a_result_that_nobody_reads_gives_its_worker_back(runner: ProcessRunner) -> None:
    for _ in range(3):
        result = await runner.run_encoded(statement("SELECT value FROM range(1000000000)"), "csv")
        await result.chunks.aclose()
    await runner.run(statement("SELECT value FROM range(1000000000)", timeout_ms=300))
    await until(lambda: runner.load().running == 0, 10)
    assert await answer(runner, "SELECT 1 AS a") == b"a\r\n1\r\n"
