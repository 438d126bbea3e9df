"""Workers run pieces of plans that are signed, within their limits and their access, and say what went wrong."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datafusion import udf

from functions.exchange import read_pages, results_prefix
from functions.execute import ENGINE
from functions.run_task import Outcome, TaskRunner, Work
from functions.session import Session, SessionOptions
from functions.stages import Stages, pages_of
from functions.task_worker import TaskWorkerSettings, open_task_runner
from functions.tasks import Page, Reply, Task, decode_reply, encode_task
from storage.blobs.local import LocalBlobs
from storage.clock import SystemClock
from storage.errors import (
    CorruptError,
    FirnlineError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    StatementTimeoutError,
    UnsupportedError,
    from_wire,
)
from storage.stores import Stores
from tests.support.moto import create_bucket, moto_endpoint, moto_options
from tests.support.task_plans import ENDLESS, context_over, stages_of, task_of

__all__ = ["moto_endpoint"]

pytestmark = pytest.mark.anyio

SECRET = b"shared"
CLOCK = SystemClock()


class Local:
    """A folder of files, plans over them, and a worker that may read it."""

    def __init__(self, folder: Path, runner: TaskRunner) -> None:
        self.folder, self.runner = folder, runner
        self.stores = Stores(lambda _root: LocalBlobs(Path("/"), CLOCK))
        self.replies: list[Reply] = []

    def write(self, name: str, table: pa.Table) -> None:
        pq.write_table(table, self.folder / name)

    def split(self, sql: str, n: int = 3) -> Stages:
        return stages_of(self.folder, sql, n)

    def task(self, **changes: Any) -> Task:
        return task_of(self.folder, **({"kind": "scan"} | changes))

    async def ask(self, task: Task) -> Reply:
        reply = decode_reply(await self.runner.run(encode_task(task, SECRET)), SECRET, task)
        self.replies.append(reply)
        return reply

    async def error(self, task: Task) -> FirnlineError:
        reply = await self.ask(task)
        assert reply.error is not None
        assert not reply.pages
        return from_wire(dict(reply.error))

    async def run(self, sql: str, n: int = 3, **changes: Any) -> pa.Table:
        """Run a statement as tasks, a stage after the other."""
        pages: list[list[Sequence[Page]]] = []
        stages = self.split(sql, n).stages
        for stage in stages:
            tasks = []
            for partition in range(stage.n_partitions):
                piece = stage.piece(partition)
                inputs = {read.name: pages_of(read, pages[read.stage]) for read in piece.reads}
                name = f"{stage.number}.{partition}"
                tasks.append(self.task(kind=stage.kind, id=name, payload=piece.plan, inputs=inputs, **changes))
            replies = await asyncio.gather(*map(self.ask, tasks))
            for reply in replies:
                assert reply.error is None, reply.error
            pages.append([reply.pages for reply in replies])
        batches = [batch async for batch in read_pages(self.stores, [page for each in pages[-1] for page in each])]
        return pa.Table.from_batches(batches)


@asynccontextmanager
async def opened(folder: Path, **settings: Any) -> AsyncIterator[Local]:
    async with open_task_runner(TaskWorkerSettings(str(folder), SECRET, **settings), CLOCK) as runner:
        yield Local(folder, runner)


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[Local]:
    async with opened(tmp_path) as found:
        for part in range(3):
            keys = range(part * 1000, (part + 1) * 1000)
            found.write(
                f"t-{part}.parquet", pa.table({"k": keys, "g": [k % 7 for k in keys], "v": [f"v{k}" for k in keys]})
            )
        found.write("names.parquet", pa.table({"g": range(7), "name": [f"group {g}" for g in range(7)]}))
        yield found


GROUPED = "SELECT g, count(*) AS n, sum(k) AS s, min(v) AS v FROM t GROUP BY g ORDER BY g"


def expected_groups() -> list[dict[str, Any]]:
    found = []
    for g in range(7):
        keys = [k for k in range(3000) if k % 7 == g]
        found.append({"g": g, "n": len(keys), "s": sum(keys), "v": min(f"v{k}" for k in keys)})
    return found


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("inline_bytes_max", [0, 1 << 20])
async def test_a_statement_run_as_tasks_has_the_rows_of_one_process(
    local: Local, n: int, inline_bytes_max: int
) -> None:
    assert (await local.run(GROUPED, n, inline_bytes_max=inline_bytes_max)).to_pylist() == expected_groups()
    joined = await local.run(
        "SELECT name, count(*) AS n FROM t JOIN names USING (g) WHERE k < 500 GROUP BY name ORDER BY name", n,
        inline_bytes_max=inline_bytes_max,
    )  # fmt: skip
    assert joined.column("n").to_pylist() == [72, 72, 72, 71, 71, 71, 71]


async def test_rows_of_no_columns_are_counted_across_tasks(local: Local) -> None:
    assert (await local.run("SELECT count(*) AS n FROM t CROSS JOIN names")).to_pylist() == [{"n": 21_000}]


async def test_a_statement_without_rows_has_no_pages(local: Local) -> None:
    stages = local.split("SELECT v FROM t WHERE k < 0 AND length(v) > 100")
    reply = await local.ask(local.task(kind=stages.stages[0].kind, payload=stages.stages[0].piece(0).plan))
    assert reply.error is None
    assert list(reply.pages) == []


async def test_a_reply_says_what_the_task_used(local: Local) -> None:
    await local.run(GROUPED)
    first, usage = local.replies[0].usage, local.replies[-1].usage
    assert first["bytes_scanned"] > 1000
    assert [reply.usage["cold"] for reply in local.replies].count(1.0) == 1
    assert usage["wall_ms"] > 0
    assert usage["memory_mb"] > 10
    assert usage["rows"] == 7
    assert usage["page_bytes"] > 0


async def test_pages_are_named_by_their_task_and_attempt_and_lie_in_the_statements_place(local: Local) -> None:
    task = local.task(inline_bytes_max=0, id="3.1", attempt=2, payload=local.split("SELECT * FROM t", 1).stages[0].plan)
    pages = [*(await local.ask(task)).pages, *(await local.ask(task)).pages]
    names = [str(page.location).removeprefix(task.results) for page in pages]
    assert all(name.startswith("3.1-2-") for name in names)
    assert len(set(names)) == len(names) > 1


async def test_a_plan_that_brings_python_code_is_refused(local: Local, tmp_path: Path) -> None:
    proof = tmp_path / "ran"

    def harmless(values: pa.Array) -> pa.Array:
        proof.touch()
        return values

    context = context_over(local.folder)
    context.register_udf(udf(harmless, [pa.int64()], pa.int64(), "immutable", "harmless"))
    plan = context.sql("SELECT harmless(k) AS k FROM t").execution_plan()
    found = await local.error(local.task(payload=plan.to_bytes(context)))
    assert isinstance(found, (InvalidError, UnsupportedError))
    assert "inline" in str(found)
    assert not proof.exists()


async def test_a_plan_may_call_our_own_functions_by_their_names(local: Local) -> None:
    session = Session(SessionOptions(), CLOCK)
    session.add_functions(frozenset({"l2_distance"}))
    strict = session.context.with_python_udf_inlining(enabled=False)
    frame = session.context.sql("SELECT l2_distance([1.0, 2.0], [1.0, 2.0 + random()]) >= 0.0 AS near")
    reply = await local.ask(local.task(kind="query", payload=frame.execution_plan().to_bytes(strict)))
    assert reply.error is None
    assert [batch.to_pylist() async for batch in read_pages(local.stores, reply.pages)] == [[{"near": True}]]


async def test_a_file_outside_of_what_the_worker_may_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lake").mkdir()
    (tmp_path / "other").mkdir()
    pq.write_table(pa.table({"k": [1]}), tmp_path / "other" / "t.parquet")
    (tmp_path / "lake" / "t.parquet").symlink_to(tmp_path / "other" / "t.parquet")
    for folder in ("other", "lake"):
        async with opened(tmp_path / "lake") as local:
            plan = Local(tmp_path / folder, local.runner).split("SELECT * FROM t", 1).stages[0].plan
            found = await local.error(local.task(payload=plan))
            assert isinstance(found, ForbiddenError)
            assert f"{folder}/t.parquet" in str(found)
        async with opened(tmp_path / "lake", allow=(str(tmp_path / "other"),)) as local:
            assert (await local.ask(local.task(payload=plan))).error is None


async def test_pages_outside_of_the_lake_are_neither_written_nor_read(local: Local, tmp_path: Path) -> None:
    stage = local.split("SELECT * FROM t", 1).stages[0]
    elsewhere = results_prefix("/tmp/elsewhere", "s1", CLOCK.now_ms() + 1000)
    found = await local.error(local.task(payload=stage.plan, results=elsewhere, inline_bytes_max=0))
    assert isinstance(found, ForbiddenError)
    page = Page(1, 10, "00", 0, None, "file:///etc/passwd")
    stages = local.split(GROUPED).stages
    piece = stages[-1].piece(0)
    found = await local.error(local.task(kind="merge", payload=piece.plan, inputs={piece.reads[0].name: [page]}))
    assert isinstance(found, ForbiddenError)


async def test_a_message_that_is_not_signed_or_too_late_is_refused_without_a_reply(local: Local) -> None:
    task = local.task()
    with pytest.raises(ForbiddenError, match="not signed"):
        await local.runner.run(encode_task(task, b"another"))
    with pytest.raises(ForbiddenError, match="expired"):
        await local.runner.run(encode_task(replace(task, deadline_ms=1), SECRET))
    with pytest.raises(InvalidError, match="no task"):
        await local.runner.run(b"hello")


async def test_a_poisoned_page_fails_the_task_and_is_named(local: Local) -> None:
    stages = local.split(GROUPED).stages
    piece = stages[0].piece(0)
    pages = (await local.ask(local.task(kind=stages[0].kind, payload=piece.plan, inline_bytes_max=0))).pages
    path = Path(str(pages[0].location).removeprefix("file://"))
    path.write_bytes(path.read_bytes()[:-9] + b"poisoned!")  # noqa: ASYNC240
    above = stages[1].piece(pages[0].bucket)
    inputs = {read.name: pages_of(read, [pages]) for read in above.reads}
    found = await local.error(local.task(kind="aggregate", id="1.0", payload=above.plan, inputs=inputs))
    assert isinstance(found, CorruptError)
    assert path.name in str(found)
    path.unlink()  # noqa: ASYNC240
    found = await local.error(local.task(kind="aggregate", id="1.0", payload=above.plan, inputs=inputs))
    assert isinstance(found, NotFoundError)


async def test_a_task_ends_at_its_deadline_and_the_next_one_runs(local: Local) -> None:
    slow = local.split(ENDLESS, 1).stages
    task = local.task(kind="query", payload=slow[0].plan, deadline_ms=CLOCK.now_ms() + 400)
    found = await local.error(task)
    assert isinstance(found, StatementTimeoutError)
    assert await local.runner.rested()
    assert (await local.run("SELECT count(*) AS n FROM t")).to_pylist() == [{"n": 3000}]


async def test_a_cancelled_task_stops_and_the_next_one_runs(local: Local) -> None:
    slow = local.split(ENDLESS, 1).stages
    running = asyncio.create_task(local.runner.run(encode_task(local.task(kind="query", payload=slow[0].plan), SECRET)))
    await asyncio.sleep(0.2)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await local.runner.rested()
    assert (await local.run("SELECT count(*) AS n FROM t")).to_pylist() == [{"n": 3000}]


async def test_a_task_past_its_memory_says_so_and_the_next_one_runs(local: Local) -> None:
    sql = "SELECT count(*) FROM generate_series(1, 3000000) a JOIN generate_series(1, 3000000) b ON a.value = b.value"
    plan = local.split(sql, 1).stages[-1]
    found = await local.error(local.task(kind="query", payload=plan.plan, memory_bytes=8 << 20))
    assert "memory" in str(found)
    assert (await local.run("SELECT count(*) AS n FROM t")).to_pylist() == [{"n": 3000}]


async def test_tasks_of_many_memory_sizes_run_at_a_time(tmp_path: Path) -> None:
    everyone = asyncio.Barrier(6)

    async def job(work: Work, _task: Task) -> Outcome:
        await everyone.wait()
        return Outcome(body={"got": await work.session.in_planner(lambda: work.session.options.memory_bytes)})

    stores = Stores(lambda _root: LocalBlobs(Path("/"), CLOCK))
    runner = TaskRunner(SessionOptions(), stores, CLOCK, SECRET, jobs={"fit": job})
    local = Local(tmp_path, runner)
    sizes = [number << 20 for number in range(64, 70)]
    asked = [local.task(kind="fit", id=f"0.{size}", memory_bytes=size) for size in sizes]
    assert [reply.body.get("got") for reply in await asyncio.gather(*map(local.ask, asked))] == sizes
    runner.close()


async def test_what_is_no_plan_is_a_clear_error(local: Local) -> None:
    plan = local.split("SELECT * FROM t", 1).stages[0].plan
    for payload in (b"", b"x", plan[:-5], plan[5:], b"\xff" * 50):
        assert isinstance(await local.error(local.task(payload=payload)), (InvalidError, CorruptError))
    missing = plan.replace(b"t-0.parquet", b"t-9.parquet")
    found = await local.error(local.task(payload=missing))
    assert isinstance(found, NotFoundError), str(found)


async def test_a_kind_that_a_worker_does_not_run_is_named(local: Local) -> None:
    async def echo(_work: Any, task: Task) -> Any:
        raise UnsupportedError("not here", body=task.body)

    runner = TaskRunner(SessionOptions(), local.stores, CLOCK, SECRET, jobs={"lookup": echo})
    task = local.task(kind="lookup", body={"x": [1, {"y": 2}]})
    error = decode_reply(await runner.run(encode_task(task, SECRET)), SECRET, task).error
    assert error is not None
    assert error["message"] == "not here"
    facts: Mapping[str, Any] = error["facts"]
    assert facts["body"] == "{'x': [1, {'y': 2}]}"


async def test_a_plan_of_another_engine_is_refused_rather_than_misread(local: Local) -> None:
    plan = local.split("SELECT count(*) FROM t", 1).stages[0].plan
    found = await local.error(local.task(kind="query", payload=plan, engine="datafusion 54"))
    assert isinstance(found, UnsupportedError)
    assert f"plan=datafusion 54 worker={ENGINE}" in str(found)
    assert (await local.ask(local.task(kind="query", payload=plan, engine=ENGINE))).error is None


async def test_a_plan_that_writes_is_refused(local: Local, tmp_path: Path) -> None:
    context = context_over(local.folder)
    target = tmp_path / "written.parquet"
    plan = context.sql(f"COPY (SELECT * FROM t) TO '{target}'").execution_plan()
    found = await local.error(local.task(kind="query", payload=plan.to_bytes(context)))
    assert isinstance(found, UnsupportedError)
    assert not target.exists()


@pytest.mark.e2e
async def test_a_worker_reads_files_and_writes_pages_in_a_bucket(moto_endpoint: str) -> None:
    create_bucket(moto_endpoint, "tasks")
    s3, lake = moto_options(moto_endpoint), "s3://tasks/lake"
    session = Session(SessionOptions(s3=s3), CLOCK)
    sink = io.BytesIO()
    pq.write_table(pa.table({"k": range(50_000)}), sink)
    settings = TaskWorkerSettings(lake, SECRET, s3=s3)
    async with open_task_runner(settings, CLOCK) as runner, open_task_runner(settings, CLOCK) as opened_again:
        blobs, key = runner.stores.resolve(f"{lake}/t.parquet")
        await blobs.put(key, sink.getvalue())
        table = await session.in_planner(session.native_scan, [f"{lake}/t.parquet"])
        plan = await session.in_planner(session.plan, "SELECT k, k % 7 AS g FROM scans.t", {"t": table})
        strict = session.context.with_python_udf_inlining(enabled=False)
        task = task_of(Path("/"), kind="query", payload=plan.to_bytes(strict), inline_bytes_max=0)
        task = replace(task, results=results_prefix(lake, "s1", task.deadline_ms))
        reply = decode_reply(await runner.run(encode_task(task, SECRET)), SECRET, task)
        assert reply.error is None, reply.error
        assert all(str(page.location).startswith(f"{lake}/_firnline/results/") for page in reply.pages)
        rows = [batch.num_rows async for batch in read_pages(opened_again.stores, reply.pages)]
        assert sum(rows) == 50_000
        assert reply.usage["bytes_scanned"] > 0
    async with open_task_runner(TaskWorkerSettings("s3://tasks/other", SECRET, s3=s3), CLOCK) as elsewhere:
        refused = decode_reply(await elsewhere.run(encode_task(task, SECRET)), SECRET, task).error
        assert refused is not None
        assert refused["error"] == "ForbiddenError"
    session.close()
