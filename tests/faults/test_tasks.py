"""Whatever happens to the workers of a statement, its answer is right or a clear error, and nothing of it is left."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from functions.exchange import sweep_results
from functions.invoke.outcome import check_message, check_reply
from service.executor import InlineExecutor
from service.settings import FunctionAccess
from service.statement import Limits, Receipt, Statement
from storage.errors import (
    CorruptError,
    FirnlineError,
    ForbiddenError,
    LimitError,
    OverloadedError,
    StatementTimeoutError,
    UnavailableError,
)
from tests.support.clock import ManualClock
from tests.support.faulty_invoker import FaultyInvoker
from tests.support.lakes import Lake, open_lake
from tests.support.processes import alive, children, until

pytestmark = pytest.mark.anyio

N_FILES, N_ROWS = 4, 100_000
SQL = "SELECT a.k % 100 AS m, count(*) AS n, sum(a.v + b.w) AS s FROM t a JOIN u b ON a.k = b.k GROUP BY m ORDER BY m"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tasks")


@pytest.fixture
async def lake(folder: Path) -> AsyncIterator[Lake]:
    async with open_lake(folder, functions=FunctionAccess(place="processes:2", broadcast_bytes=0)) as opened:
        await _fill(opened)
        yield opened
        assert leftovers(folder) == []


async def _fill(lake: Lake) -> None:
    if (lake.folder / "t").is_dir():
        return
    chance = np.random.default_rng(1)
    for number in range(N_FILES):
        keys = np.arange(number * N_ROWS, (number + 1) * N_ROWS)
        lake.write(f"t/{number}.parquet", pa.table({"k": keys, "v": chance.integers(0, 1 << 40, N_ROWS)}))
        lake.write(f"u/{number}.parquet", pa.table({"k": keys[::-1], "w": chance.integers(0, 1 << 40, N_ROWS)}))
    for name in ("t", "u"):
        await lake.table(f"CREATE EXTERNAL TABLE {name} STORED AS parquet LOCATION '{lake.folder}/{name}'")


def children_of(pid: int) -> list[int]:
    threads = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for thread in threads for child in (thread / "children").read_text().split()]


def leftovers(folder: Path) -> list[Path]:
    return list(folder.glob("_firnline/results/*/*.arrow"))


async def ask(lake: Lake, sql: str = SQL, *, functions: Any = "fan-out", timeout_ms: int = 60_000) -> list[Any]:
    statement = Statement(sql, "s1", limits=Limits(timeout_ms=timeout_ms), functions=functions)
    result = await InlineExecutor(lake.engine, lake.engine.clock).run(statement)
    batches = [batch async for batch in result.batches]
    lake.receipt = result.receipt
    return pa.Table.from_batches(batches, result.schema).to_pylist()


async def faulty(lake: Lake, **faults: Any) -> FaultyInvoker:
    """Put faults around the lake's workers."""
    coordinator = lake.engine._fan_out
    assert coordinator is not None
    made = FaultyInvoker(await coordinator.invoker(), **faults)
    coordinator._invoker = made
    return made


async def wanted(lake: Lake) -> list[Any]:
    return await ask(lake, functions="inline")


async def test_the_statement_moves_pages_through_the_store(lake: Lake) -> None:
    assert await ask(lake) == await wanted(lake)


async def test_workers_that_are_killed_mid_task_cost_time_and_nothing_else(lake: Lake) -> None:
    right = await wanted(lake)
    before = set(children())
    await ask(lake)
    killed = 0

    async def kill() -> None:
        nonlocal killed
        for _ in range(3):
            await asyncio.sleep(0.1)
            workers = [pid for pid in children() if pid not in before]
            if workers:
                with suppress(ProcessLookupError):
                    os.kill(random.choice(workers), signal.SIGKILL)
                    killed += 1

    for _ in range(2):
        killing = asyncio.create_task(kill())
        assert await ask(lake) == right
        await killing
    assert killed


async def test_a_worker_that_hangs_is_overtaken_by_a_copy(lake: Lake) -> None:
    async def before(number: int, message: bytes) -> bytes:
        if number == 1:
            await asyncio.sleep(120)
        return message

    right = await wanted(lake)
    await ask(lake)
    await faulty(lake, before=before)
    assert await ask(lake, timeout_ms=40_000) == right
    assert lake.receipt.hedges >= 1


async def test_throttled_tasks_are_sent_until_there_is_room(lake: Lake) -> None:
    async def before(number: int, message: bytes) -> bytes:
        if number % 2 == 0:
            raise OverloadedError("TooManyRequestsException", retry_after_s=0.1)
        return message

    right = await wanted(lake)
    await faulty(lake, before=before)
    assert await ask(lake) == right
    assert lake.receipt.retries >= 2


@pytest.mark.parametrize("times", [1, 2])
async def test_pages_with_a_byte_flipped_are_written_anew(lake: Lake, times: int) -> None:
    left = times

    async def after(_number: int, reply: bytes) -> bytes:
        nonlocal left
        pages = [page for page in leftovers(lake.folder) if page not in flipped]
        if left and pages:
            left -= 1
            flipped.append(pages[0])
            _flip(pages[0])
        return reply

    flipped: list[Path] = []
    right = await wanted(lake)
    await faulty(lake, after=after)
    assert await ask(lake) == right
    assert lake.receipt.retries >= 1
    assert left == 0


async def test_pages_that_are_always_damaged_are_a_clear_error(lake: Lake) -> None:
    async def after(_number: int, reply: bytes) -> bytes:
        for page in {*leftovers(lake.folder)} - flipped:
            flipped.add(page)
            _flip(page)
        return reply

    flipped: set[Path] = set()
    await faulty(lake, after=after)
    with pytest.raises(CorruptError, match="a page of rows is not what was written"):
        await ask(lake)


def _flip(page: Path) -> None:
    data = bytearray(page.read_bytes())
    data[len(data) // 2] ^= 1
    page.write_bytes(data)


async def test_a_page_that_is_gone_is_written_anew(lake: Lake) -> None:
    gone = False

    async def after(_number: int, reply: bytes) -> bytes:
        nonlocal gone
        pages = leftovers(lake.folder)
        if pages and not gone:
            gone = True
            pages[0].unlink()
        return reply

    right = await wanted(lake)
    await faulty(lake, after=after)
    assert await ask(lake) == right
    assert gone


async def test_a_message_that_is_damaged_on_its_way_is_refused(lake: Lake) -> None:
    async def before(_number: int, message: bytes) -> bytes:
        return message[:200] + bytes([message[200] ^ 1]) + message[201:]

    await faulty(lake, before=before)
    with pytest.raises(ForbiddenError, match="damaged, or not signed"):
        await ask(lake)


async def test_replies_that_are_damaged_or_lost_are_asked_for_again(lake: Lake) -> None:
    async def after(number: int, reply: bytes) -> bytes:
        if number % 3 == 0:
            return reply[:-5] + b"xxxxx"
        if number % 3 == 1:
            raise UnavailableError("the connection broke before the reply")
        return reply

    right = await wanted(lake)
    await faulty(lake, after=after)
    with suppress(CorruptError, UnavailableError):
        assert await ask(lake) == right


async def test_workers_that_never_answer_end_with_the_statements_time(lake: Lake) -> None:
    async def before(_number: int, message: bytes) -> bytes:
        await asyncio.sleep(600)
        return message

    await faulty(lake, before=before)
    with pytest.raises(StatementTimeoutError):
        await ask(lake, timeout_ms=1500)


async def test_a_task_past_the_longest_time_of_one_is_sent_again_and_its_worker_replaced(folder: Path) -> None:
    # Of the time of the second try a new worker's start is a part: 5 s on a machine that has ten times its work.
    access = FunctionAccess(place="processes:2", broadcast_bytes=0, timeout_ms=8000)
    async with open_lake(folder, functions=access) as lake:
        await _fill(lake)
        stopped: set[int] = set()

        async def before(number: int, message: bytes) -> bytes:
            if number == 0:  # a worker that never looks up: the process itself stands still
                workers = set(children()) - known
                stopped.update(workers)
                for pid in workers:
                    os.kill(pid, signal.SIGSTOP)
            return message

        right = await wanted(lake)
        known = set(children())
        await ask(lake)
        assert set(children()) - known
        await faulty(lake, before=before)
        assert await ask(lake, timeout_ms=60_000) == right
        assert stopped
        # Another stopped one may have been idle all the while: nobody has waited for it in vain.
        await until(lambda: not all(map(alive, stopped)), 10)
        assert lake.receipt.retries >= 1
        assert leftovers(folder) == []
    assert not any(map(alive, stopped))


async def test_rows_past_what_a_platform_takes_in_a_message_go_through_pages(lake: Lake) -> None:
    right = await wanted(lake)
    workers = await faulty(lake)
    workers.limits = replace(workers.limits, message_bytes=600_000, reply_bytes=600_000)
    largest = 0

    async def before(_number: int, message: bytes) -> bytes:
        check_message(message, workers.limits)
        return message

    async def after(_number: int, reply: bytes) -> bytes:
        nonlocal largest
        largest = max(largest, len(check_reply(reply, workers.limits)))
        return reply

    workers.before, workers.after = before, after
    assert await ask(lake) == right
    assert largest


async def test_a_plan_past_what_a_platform_takes_is_a_clear_error(lake: Lake) -> None:
    workers = await faulty(lake)
    workers.limits = replace(workers.limits, message_bytes=500)

    async def before(_number: int, message: bytes) -> bytes:
        check_message(message, workers.limits)
        return message

    workers.before = before
    with pytest.raises(LimitError, match=r"larger than these workers take; cut the statement.*message_bytes=500"):
        await ask(lake)


@pytest.mark.parametrize("seed", range(6))
async def test_all_faults_at_once_give_the_right_answer_or_an_error(lake: Lake, seed: int) -> None:
    chance = random.Random(seed)

    async def before(_number: int, message: bytes) -> bytes:
        if chance.random() < 0.1:
            raise OverloadedError("too many", retry_after_s=0.05)
        if chance.random() < 0.1:
            await asyncio.sleep(1)
        return message

    async def after(_number: int, reply: bytes) -> bytes:
        pages = leftovers(lake.folder)
        if pages and chance.random() < 0.1:
            _flip(chance.choice(pages))
        if pages and chance.random() < 0.1:
            chance.choice(pages).unlink(missing_ok=True)
        if chance.random() < 0.1:
            raise UnavailableError("the connection broke before the reply")
        return reply if chance.random() < 0.9 else reply[:100]

    right = await wanted(lake)
    await faulty(lake, before=before, after=after)
    try:
        assert await ask(lake) == right
    except FirnlineError as error:
        assert isinstance(error, (CorruptError, UnavailableError, StatementTimeoutError)), error


async def test_what_a_killed_coordinator_leaves_is_swept_when_its_lifetime_is_over(lake: Lake) -> None:
    command = [sys.executable, "-m", "tests.support.task_statement", str(lake.folder), "SELECT a.* FROM t a, u b "
               "WHERE a.k = b.k"]  # fmt: skip
    killed = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    await until(lambda: len(leftovers(lake.folder)) > 1, 60)
    workers = children_of(killed.pid)
    killed.kill()
    await killed.wait()
    await until(lambda: not any(map(alive, workers)), 10)
    assert workers
    assert leftovers(lake.folder)
    assert await ask(lake) == await wanted(lake)
    left = len(leftovers(lake.folder))
    assert left, "another statement deletes its own pages only"
    now_ms = lake.engine.clock.now_ms()
    assert await sweep_results(lake.engine.stores, lake.engine.lake, ManualClock(now_ms)) == 0
    assert await sweep_results(lake.engine.stores, lake.engine.lake, ManualClock(now_ms + 3_600_000)) == left


def test_the_receipt_of_a_statement_without_tasks_says_one() -> None:
    assert Receipt().tasks == 1
