"""The coordinator alone: how fast tasks are cut and sent, and what second copies of stragglers save.

Workers are simulated (`tests.support.simulated_workers`): the first part takes real time and gives no time to workers;
the second runs in virtual time, with latencies whose tail is heavy (Pareto, α = 1.5, at least 0.2 s).
`benchmarks.functions_coordinator` starts it in a process of its own, whose memory is then the coordinator's.
"""

from __future__ import annotations

import asyncio
import json
import random
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datafusion import SessionContext

from benchmarks.measure import percentile
from functions.invoke import InvokerLimits
from functions.stages import Stage, Stages, split
from functions.tasks import Task
from service.coordinate.board import Board
from service.coordinate.run import StageRun
from service.coordinate.terms import Tally, Terms
from storage.clock import SystemClock
from tests.support.simulated_workers import SECRET, SimulatedWorkers, a_stage
from tests.support.stage_run import context_of
from tests.support.virtual_time import VirtualClock, run_virtually

__all__ = ["cut_many_files", "dispatch", "hedging"]


def cut_many_files(n_files: int, n_tasks: int) -> tuple[float, float, float, float]:
    """Return CPU seconds to plan, to cut, and to make all messages' plans, for a scan of ``n_files`` empty-ish files,
    and the wall seconds of all three."""
    with tempfile.TemporaryDirectory() as folder:
        rows = pa.table({"k": pa.array(range(100)), "v": pa.array(range(100))})
        first = Path(folder) / "0.parquet"
        pq.write_table(rows, first)
        for number in range(1, n_files):
            path = Path(folder) / f"{number}.parquet"
            if number % 50_000:
                path.hardlink_to(first)
            else:  # a file has so many links, no more
                pq.write_table(rows, path)
                first = path
        context: SessionContext = context_of(n_tasks)
        context.register_parquet("t", folder + "/")
        started_s = time.perf_counter()
        started = time.process_time()
        plan = context.sql("SELECT k, sum(v) FROM t GROUP BY k").execution_plan()
        planned = time.process_time()
        stages: Stages = split(context, plan)
        cut = time.process_time()
        board = Board(stages.stages[:1], InvokerLimits())
        terms = Terms("s1", SECRET)
        for key in board.opened():
            board.task(key, 1, terms)
        messages = time.process_time() - cut
        return planned - started, cut - planned, messages, time.perf_counter() - started_s


def dispatch(n_tasks: int) -> float:
    """Return tasks a CPU second that the coordinator sends and settles when workers answer at once."""

    async def work() -> float:
        clock = SystemClock()
        workers = SimulatedWorkers(clock, latency_s=lambda _task: 0.0)
        stages: list[Stage] = [a_stage(0, n_tasks)]
        run = StageRun(stages, None, workers, clock, Terms("s1", SECRET), Tally())
        started = time.process_time()
        await run.run()
        return n_tasks / (time.process_time() - started)

    return asyncio.run(work())


def hedging(n_workers: int, n_statements: int, factor: float) -> tuple[list[float], float]:
    """Return the statements' times in seconds, and attempts for each task."""
    took: list[float] = []
    attempts = 0
    for seed in range(n_statements):
        chance = random.Random(seed)

        def latency_s(_task: Task, chance: random.Random = chance) -> float:
            return min(0.2 * chance.paretovariate(1.5), 300.0)

        async def work() -> float:
            clock = VirtualClock()
            workers = SimulatedWorkers(clock, latency_s=latency_s)
            terms = Terms("s1", SECRET, hedge_factor=factor)
            run = StageRun([a_stage(0, n_workers)], None, workers, clock, terms, tally)  # noqa: B023
            await run.run()
            return clock.monotonic_s()

        tally = Tally()
        took.append(run_virtually(work()))
        attempts += tally.attempts
    return sorted(took), attempts / n_workers / n_statements


def main(arguments: list[str]) -> None:
    """Measure what the JSON of the first argument asks for, and print what was found as a line of JSON."""
    asked = json.loads(arguments[0])
    found: dict[str, Any] = {"cut": [], "dispatch": [], "hedging": []}
    for n_tasks in asked["dispatched"]:
        found["dispatch"].append([n_tasks, dispatch(n_tasks)])
    found["dispatch_peak_mb"] = _peak_mb()
    for n_files in asked["files"]:
        n_tasks = min(1_000, n_files // 10)
        found["cut"].append([n_files, n_tasks, *cut_many_files(n_files, n_tasks), _peak_mb()])
    for factor in (0.0, 2.0):
        took, attempts = hedging(1_000, asked["statements"], factor)
        found["hedging"].append([factor, percentile(took, 50), percentile(took, 99), attempts])
    print(json.dumps(found))


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main(sys.argv[1:])
