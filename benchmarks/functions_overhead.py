"""What a task costs beside its work: where the time of a task on two rows goes, and its way to each place and back.

The message is the same everywhere: a grouped scan of a file of 100 rows on the local disk, 600 bytes of plan.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.functions_options import FunctionsOptions
from benchmarks.functions_peers import N_WORKERS, SECRET, start_workers
from benchmarks.measure import percentile
from benchmarks.report import Goal, Section, Table
from functions.engine_reads import engine_gets
from functions.engine_scans import scans_of
from functions.execute import metrics_of, stream
from functions.invoke import Invoker, InvokerLimits
from functions.invoke.open import InvokerOptions, open_invoker
from functions.plan_files import files_of
from functions.stages import bind, split
from functions.task_worker import TaskWorkerSettings, open_task_runner
from functions.tasks import Task, decode_reply, decode_task, encode_reply, encode_task
from service.coordinate.board import Board
from service.coordinate.terms import Terms
from storage.clock import SystemClock
from tests.support.stage_run import context_of

__all__ = ["measure_overhead"]

AT_ONCE = 8
KEY = SECRET.encode()
PLACES = ("inline", "processes:2", "http", "lambda", "ray")


def measure_overhead(options: FunctionsOptions) -> Section:
    """Run the benchmark and return what it found."""
    with tempfile.TemporaryDirectory() as folder:
        task = _task(folder)
        settings = TaskWorkerSettings(folder, KEY)
        parts = asyncio.run(_parts(task, settings, options.echoes))
        rows, notes, p50s = [], [], {}
        for place in PLACES:
            try:
                first_s, times, rate = asyncio.run(_round_trips(place, task, settings, options.echoes))
            except Exception as error:  # a place that is not there is named
                notes.append(f"{place}: {type(error).__name__}: {str(error)[:200]}")
                continue
            p50s[place] = statistics.median(times)
            cells = (first_s, percentile(times, 10), p50s[place], percentile(times, 99))
            rows.append([place, *(f"{each:,.2f}" for each in cells), f"{rate:,.0f}"])
    profile = [[name, f"{value:.3f}"] for name, value in parts]
    official = options.official
    return Section(
        "overhead",
        "Overhead of a task",
        facts=[
            f"Milliseconds, medians of {options.echoes} of a task that has next to nothing to do: a grouped scan of "
            "100 rows. Within a worker that runs, and from the coordinator's message to its decoded reply.",
            f"Each place has {N_WORKERS} workers (inline: this process); the first task starts what is not there yet.",
        ],
        tables=[
            Table(["within a worker", "ms"], profile),
            Table(["place", "first task s", "p10 ms", "p50 ms", "p99 ms", f"{AT_ONCE} at once, tasks/s"], rows),
        ],
        goals=[
            Goal("a task of a warm process, p50", _rounded(p50s.get("processes:2")), 10.0, " ms", official),
            Goal("a task through the Lambda runtime API, p50", _rounded(p50s.get("lambda")), 50.0, " ms", official),
        ],
        notes=notes,
    )  # fmt: skip


def _task(folder: str) -> Task:
    for name in ("a", "b"):
        pq.write_table(pa.table({"k": range(100), "v": range(100)}), Path(folder) / f"{name}.parquet")
    context = context_of(2)
    context.register_parquet("t", folder + "/")
    stages = split(context, context.sql("SELECT k, sum(v) FROM t GROUP BY k").execution_plan())
    board = Board(stages.stages[:1], InvokerLimits())
    return board.task(next(iter(board.opened())), 1, Terms("s1", KEY))


async def _parts(task: Task, settings: TaskWorkerSettings, n: int) -> list[tuple[str, float]]:
    """Return milliseconds of each part of a task, and of the whole."""
    message = encode_task(task, KEY)
    async with open_task_runner(settings) as runner:
        reply = decode_reply(await runner.run(message), KEY, task)
        context = runner._session(task.memory_bytes).context  # the one that its tasks run in
        plan = bind(context, task.payload, {})
        async for _batch in stream(context, plan):
            pass
        whole, ran = [], []
        for _ in range(n):
            started = time.perf_counter()
            await runner.run(message)
            whole.append((time.perf_counter() - started) * 1000)
            plan = bind(context, task.payload, {})
            started = time.perf_counter()
            async for _batch in stream(context, plan):
                pass
            ran.append((time.perf_counter() - started) * 1000)
        median = partial(_median_ms, n)
        parts = [
            ("verify the signature, decode the task", median(lambda: decode_task(message, KEY, 0))),
            ("check the files of its plan", median(lambda: list(files_of(task.payload)))),
            ("decode the plan", median(lambda: bind(context, task.payload, {}))),
            ("run the plan", statistics.median(ran)),
            ("read its metrics, reckon its requests",
             median(lambda: (metrics_of(plan), engine_gets(plan, scans_of(task.payload), set())))),
            ("encode and sign the reply", median(lambda: encode_reply(reply, KEY))),
        ]  # fmt: skip
    total = statistics.median(whole)
    rest = total - sum(value for _name, value in parts)
    return [*parts, ("pages, threads, event loop", rest), ("the whole task", total)]


def _median_ms(n: int, act: Callable[[], Any]) -> float:
    times = []
    for _ in range(n):
        started = time.perf_counter()
        act()
        times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times)


async def _round_trips(
    place: str, task: Task, settings: TaskWorkerSettings, n: int
) -> tuple[float, Sequence[float], float]:
    """Return seconds of the first task, milliseconds of the next ones, and tasks a second of several at once."""
    with ExitStack() as stack:
        url, endpoint = start_workers(stack, place, settings.lake, "")
        options = InvokerOptions(concurrency=N_WORKERS, endpoint=endpoint, region="us-east-1")
        started = time.perf_counter()
        invoker = await open_invoker(url, partial(open_task_runner, settings), SystemClock(), options)
        try:
            await _ask(invoker, task)
            first_s = time.perf_counter() - started
            await asyncio.gather(*(_ask(invoker, task) for _ in range(N_WORKERS)))
            times = []
            for _ in range(n):
                started = time.perf_counter()
                await _ask(invoker, task)
                times.append((time.perf_counter() - started) * 1000)
            gate, started = asyncio.Semaphore(N_WORKERS if place == "lambda" else AT_ONCE), time.perf_counter()

            async def one() -> None:
                async with gate:
                    await _ask(invoker, task)

            await asyncio.gather(*(one() for _ in range(n)))
            return first_s, times, n / (time.perf_counter() - started)
        finally:
            await invoker.close()


async def _ask(invoker: Invoker, task: Task) -> None:
    decode_reply(await invoker.invoke(encode_task(task, KEY), timeout_ms=60_000), KEY, task)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
