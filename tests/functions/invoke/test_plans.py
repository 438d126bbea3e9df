"""A statement's stages give the same rows wherever its tasks run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from functions.exchange import read_pages
from functions.invoke import Invoker
from functions.invoke.open import InvokerOptions, open_invoker
from functions.invoke.worker import OpenTasks
from functions.stages import pages_of
from functions.task_worker import TaskWorkerSettings, open_task_runner
from functions.tasks import Page, Reply, Task, decode_reply, encode_task
from storage.blobs.local import LocalBlobs
from storage.clock import SystemClock
from storage.errors import ForbiddenError, StatementTimeoutError
from storage.stores import Stores
from tests.support.ray_here import ray_or_skip
from tests.support.task_fronts import http_front, lambda_front
from tests.support.task_plans import STUBBORN, stages_of, task_of

pytestmark = pytest.mark.anyio

SECRET = b"shared"
CLOCK = SystemClock()
TIMEOUT_MS = 60_000
GROUPED = "SELECT g, count(*) AS n, sum(k) AS s, min(v) AS v FROM t GROUP BY g ORDER BY g"


def stores_of() -> Stores:
    return Stores(lambda _root: LocalBlobs(Path("/"), CLOCK))


@asynccontextmanager
async def here(url: str, open_tasks: OpenTasks) -> AsyncIterator[Invoker]:
    yield await open_invoker(url, open_tasks, CLOCK, InvokerOptions(concurrency=2))


@asynccontextmanager
async def behind_http(open_tasks: OpenTasks) -> AsyncIterator[Invoker]:
    async with http_front(2, open_tasks) as url:
        yield await open_invoker(url, None, CLOCK)


@asynccontextmanager
async def behind_lambda(open_tasks: OpenTasks) -> AsyncIterator[Invoker]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x", "DEFAULT_REGION": "us-east-1"}.items():
            patch.setenv(f"AWS_{name}", value)
        async with lambda_front(4, stores_of(), open_tasks) as url:
            yield await open_invoker("lambda:worker", None, CLOCK, InvokerOptions(concurrency=4, endpoint=url))


PLACES: dict[str, Callable[[OpenTasks], AbstractAsyncContextManager[Invoker]]] = {
    "inline": partial(here, "inline"),
    "processes": partial(here, "processes:2"),
    "http": behind_http,
    "lambda": behind_lambda,
    "ray": partial(here, "ray"),
}


@pytest.fixture(
    params=[pytest.param(name, marks=(pytest.mark.e2e, pytest.mark.slow) if name == "ray" else ()) for name in PLACES]
)
async def invoker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Invoker]:
    if request.param == "ray":
        ray_or_skip()
    for part in range(3):
        keys = range(part * 1000, (part + 1) * 1000)
        table = pa.table({"k": keys, "g": [k % 7 for k in keys], "v": [f"v{k}" for k in keys]})
        pq.write_table(table, tmp_path / f"t-{part}.parquet")
    worker = TaskWorkerSettings(str(tmp_path), SECRET)
    async with PLACES[request.param](partial(open_task_runner, worker)) as opened:
        try:
            yield opened
        finally:
            await opened.close()


async def ask(invoker: Invoker, task: Task, timeout_ms: int = TIMEOUT_MS) -> Reply:
    reply = await invoker.invoke(encode_task(task, SECRET), timeout_ms=timeout_ms)
    return decode_reply(reply, SECRET, task)


async def run(invoker: Invoker, folder: Path, sql: str, **changes: object) -> pa.Table:
    pages: list[list[Sequence[Page]]] = []
    for stage in stages_of(folder, sql).stages:
        tasks = []
        for partition in range(stage.n_partitions):
            piece = stage.piece(partition)
            inputs = {read.name: pages_of(read, pages[read.stage]) for read in piece.reads}
            name = f"{stage.number}.{partition}"
            tasks.append(task_of(folder, kind=stage.kind, id=name, payload=piece.plan, inputs=inputs, **changes))
        replies = await asyncio.gather(*(ask(invoker, task) for task in tasks))
        assert [reply.error for reply in replies] == [None] * len(tasks)
        pages.append([reply.pages for reply in replies])
    return pa.Table.from_batches(
        [batch async for batch in read_pages(stores_of(), [page for each in pages[-1] for page in each])]
    )


async def test_rows_are_the_same_wherever_tasks_run(invoker: Invoker, tmp_path: Path) -> None:
    for changes in ({}, {"inline_bytes_max": 0}):
        found = await run(invoker, tmp_path, GROUPED, **changes)
        assert found.column("g").to_pylist() == list(range(7))
        assert sum(found.column("n").to_pylist()) == 3000
        assert sum(found.column("s").to_pylist()) == sum(range(3000))
    with pytest.raises(ForbiddenError):
        await invoker.invoke(encode_task(task_of(tmp_path), b"another"), timeout_ms=TIMEOUT_MS)


async def test_a_plan_that_does_not_stop_when_told_frees_the_caller_and_its_worker(
    invoker: Invoker, tmp_path: Path
) -> None:
    if not invoker.limits.stops and invoker.name != "http":
        pytest.skip("work goes on there when nobody waits for it")
    await run(invoker, tmp_path, GROUPED)
    stage = stages_of(tmp_path, STUBBORN, 1).stages[0]
    task = task_of(tmp_path, kind=stage.kind, payload=stage.piece(0).plan)
    with pytest.raises(StatementTimeoutError):
        await asyncio.gather(*(ask(invoker, task, 1000) for _ in range(2)))
    assert (await run(invoker, tmp_path, GROUPED)).num_rows == 7
