"""The process that answers many look-ups at once: what goes to it, what does not, and how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from functions.worker_pool import WorkerSettings
from service.components import open_engine
from service.executor import EncodedResult
from service.lookup_worker import LookupWorker, shape_of
from service.settings import EngineSettings
from service.statement import KeyLookup, Limits, Statement
from service.workers import ProcessRunner
from storage.clock import SystemClock
from storage.errors import CancelledError, FirnlineError, InvalidError, OverloadedError

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("lake")
    async with open_engine(EngineSettings(lake=str(place))) as engine:
        for number, sql in enumerate((
            "CREATE TABLE t (id BIGINT, name VARCHAR, PRIMARY KEY (id)) USING delta",
            "INSERT INTO t SELECT value, 'n' || value FROM range(10000)",
            "OPTIMIZE t",
            "CREATE TABLE plain (id BIGINT) USING delta",
            "INSERT INTO plain VALUES (1)",
            "CREATE INDEX IF NOT EXISTS by_id ON t (id) USING learned",
        )):  # fmt: skip
            result = await engine.run(Statement(sql, f"s{number}"))
            async for _ in result.batches:
                pass
    return place


@asynccontextmanager
async def looking(folder: Path, **settings: int) -> AsyncIterator[LookupWorker]:
    clock = SystemClock()
    worker = LookupWorker(partial(open_engine, EngineSettings(lake=str(folder))), clock, WorkerSettings(**settings))
    try:
        assert await worker.ask(by_key(1, "first"), "json") is None  # it is started now
        await worker.wait_ready()
        yield worker
    finally:
        await worker.close()


def by_key(key: int, name: str, **limits: int) -> Statement:
    lookup = KeyLookup(("default", "t"), [key], columns=("name",))
    return Statement("", name, limits=Limits(**limits), lookup=lookup)


async def body_of(result: EncodedResult | None) -> bytes:
    assert result is not None
    return b"".join([bytes(chunk) async for chunk in result.chunks])


async def test_many_at_once_are_answered_by_one_process(folder: Path) -> None:
    async with looking(folder) as worker:
        asked = [worker.ask(by_key(key, f"k{key}"), "csv") for key in range(200)]
        answers = await asyncio.gather(*asked)
        for key, answer in enumerate(answers):
            assert await body_of(answer) == f"name\r\nn{key}\r\n".encode()
        statement = Statement("SELECT name FROM t WHERE id = $1", "sql", [7])
        answer = await worker.ask(statement, "ndjson")
        assert await body_of(answer) == b'{"name":"n7"}\n'
        assert answer is not None
        assert answer.schema == pa.schema([("name", pa.string())])
        assert answer.receipt.rows == 1


async def test_what_no_index_finds_is_left_to_others(folder: Path) -> None:
    async with looking(folder) as worker:
        assert (
            await worker.ask(Statement("", "a", lookup=KeyLookup(("default", "plain"), [1], ("id",))), "json") is None
        )
        assert await worker.ask(Statement("SELECT id FROM plain WHERE id = 1", "b"), "json") is None
        assert await worker.ask(Statement("SELECT count(*) FROM t", "c"), "json") is None


async def test_an_error_is_the_statements_own(folder: Path) -> None:
    async with looking(folder) as worker:
        wrong = Statement("", "x", lookup=KeyLookup(("default", "t"), ["one"]))
        with pytest.raises(InvalidError, match="whole number"):
            await worker.ask(wrong, "json")
        assert b"n5" in await body_of(await worker.ask(by_key(5, "y"), "json"))


async def test_a_process_that_dies_costs_no_answer(folder: Path) -> None:
    async with looking(folder) as worker:
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGSTOP)
        asked = asyncio.create_task(worker.ask(by_key(5, "y"), "json"))
        await asyncio.sleep(0.05)
        os.kill(worker.pid, signal.SIGKILL)
        assert await asked is None


async def test_a_process_that_hangs_is_killed_after_a_time_limit(folder: Path) -> None:
    async with looking(folder) as worker:
        pid = worker.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(FirnlineError, match="time limit"):
            await worker.ask(by_key(5, "y", timeout_ms=100), "json")
        for _ in range(200):
            if worker.pid is None:
                break
            await asyncio.sleep(0.02)
        assert worker.pid is None


async def test_too_many_are_refused_and_one_can_be_cancelled(folder: Path) -> None:
    async with looking(folder, queue_max=2) as worker:
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGSTOP)
        asked = [asyncio.create_task(worker.ask(by_key(key, f"k{key}"), "json")) for key in range(300)]
        await asyncio.sleep(0.05)
        assert worker.cancel("k3")
        assert worker.cancel("k257")  # which waits
        assert not worker.cancel("nobody")
        for number in (3, 257):
            with pytest.raises(CancelledError):
                await asked[number]
        assert not worker.cancel("k257")
        os.kill(worker.pid, signal.SIGCONT)
        done = await asyncio.gather(*asked, return_exceptions=True)
        assert sum(isinstance(each, OverloadedError) for each in done) == 300 - 256 - 2
        assert sum(isinstance(each, EncodedResult) for each in done) == 256 + 2 - 2


async def test_the_runner_answers_the_same_with_and_without_it(folder: Path) -> None:
    open_runner = partial(open_engine, EngineSettings(lake=str(folder)))
    settings = WorkerSettings(workers_min=1, workers_max=1)
    async with ProcessRunner(open_runner, SystemClock(), settings) as runner:
        bodies = set()
        for number in range(60):
            bodies.add(await body_of(await runner.run_encoded(by_key(9, f"r{number}"), "csv")))
            await asyncio.sleep(0.05)
        assert bodies == {b"name\r\nn9\r\n"}
        assert runner.load().running == 0


@pytest.mark.parametrize(
    ("sql", "shape"),
    [
        ("SELECT * FROM t WHERE id = 7", ("t", "id")),
        ('select a, "B c" from ns.t where "k" IN (1, 2)', ("ns.t", '"k"')),
        ("SELECT a FROM t WHERE id > 7", None),
        ("SELECT count(*) FROM t WHERE id = 7", None),
        ("SELECT a FROM t JOIN u USING (id) WHERE id = 7", None),
        ("INSERT INTO t VALUES (1)", None),
    ],
)
def test_the_text_tells_what_may_be_a_look_up(sql: str, shape: tuple[str, ...] | None) -> None:
    assert shape_of(Statement(sql, "s")) == shape
    assert shape_of(Statement(sql, "s", route="scan")) is None
