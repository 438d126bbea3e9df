"""The coordinator alone, with workers that are simulated: what it plans and sends a second, and what copies save."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from benchmarks.functions_options import FunctionsOptions
from benchmarks.machine import REPOSITORY
from benchmarks.report import Goal, Section, Table

__all__ = ["measure_coordinator"]

_LIMIT_S = 400


def measure_coordinator(options: FunctionsOptions) -> Section:
    """Run the benchmark and return what it found."""
    asked = {"files": options.files, "dispatched": options.dispatched, "statements": options.statements}
    command = [sys.executable, "-m", "benchmarks.coordinator", json.dumps(asked)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY, timeout=_LIMIT_S)
    found: dict[str, Any] = json.loads(done.stdout)
    official = options.official
    cut = [[f"{n:,} files, {tasks:,} tasks", *(f"{each:.2f}" for each in seconds), f"{peak:.0f}"]
           for n, tasks, *seconds, peak in found["cut"]]  # fmt: skip
    sent = [[f"{n:,} tasks", f"{rate:,.0f}", f"{1000 / rate:.2f}"] for n, rate in found["dispatch"]]
    hedged = [["copies of stragglers" if factor else "no copies", f"{p50:.1f}", f"{p99:.1f}", f"{attempts:.3f}"]
              for factor, p50, p99, attempts in found["hedging"]]  # fmt: skip
    (_, _, without, _), (_, _, with_copies, _) = found["hedging"]
    slowest = min(rate for _n, rate in found["dispatch"])
    seconds = sum(found["cut"][-1][2:5])
    return Section(
        "coordinator",
        "The coordinator alone",
        facts=[
            "A grouped scan of a folder of small Parquet files: to plan it, to cut the plan into stages, and to make "
            "all tasks' messages. Memory is the peak of the process until then.",
            "Dispatch: a stage of tasks whose simulated workers answer at once with a row; their own work is within. "
            f"At {slowest:,.0f} tasks a second a core is full: more workers than that many times a task's seconds "
            f"wait for the coordinator. Peak memory after the largest: {found['dispatch_peak_mb']:.0f} MB.",
            f"Stragglers: {options.statements} statements of 1,000 tasks at once in virtual time; a task takes at "
            "least 0.2 s, with a Pareto tail (α = 1.5) up to 300 s.",
        ],
        tables=[
            Table(["", "plan CPU s", "cut CPU s", "messages CPU s", "wall s, all", "peak MB"], cut, "Planning"),
            Table(["", "tasks a CPU second", "CPU ms a task"], sent, "Dispatch"),
            Table(["1,000 workers", "p50 s", "p99 s", "attempts a task"], hedged, "Stragglers"),
        ],
        goals=[
            Goal("tasks sent and settled a CPU second, slowest", round(slowest), 1_000, "/s", official, at_least=True),
            Goal(f"{found['cut'][-1][0]:,} files planned and cut, CPU", round(seconds, 2), 10.0, " s", official),
            Goal("p99 with copies ÷ without", round(with_copies / without, 2), 0.5, "×", official),
        ],
    )
