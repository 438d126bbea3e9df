"""Cold start by role: what a Lambda environment of each function takes from its process's start to its first answer.

In an environment of the packages that the image has, without pandas and the peers, bytecode compiled. The store is a
folder, and the runtime's own share (`awslambdaric`) is left out: it is the platform's.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.cold import installed_bytes, packaged
from benchmarks.functions_options import FunctionsOptions
from benchmarks.machine import versions
from benchmarks.measure import mb, median_of, ms
from benchmarks.planning_tables import many_files
from benchmarks.report import Goal, Section, Table
from functions.invoke import InvokerLimits
from functions.stages import split
from functions.tasks import encode_task
from service.coordinate.board import Board
from service.coordinate.terms import Terms
from tests.support.stage_run import context_of

__all__ = ["measure_start"]

GOAL_S, GOAL_MIB = 0.6, 250.0
FILES = 10
SECRET = "of cold functions on this machine"
EXTRAS = "server,lambda,s3,functions,delta,kernels"
CHILD = Path(__file__).with_name("start_child.py")
ROLES = {
    "worker, slim": "functions.aws.worker",
    "worker": "functions.aws.worker",
    "endpoint": "service.aws.endpoint",
    "compactor": "service.aws.compactor",
}

Start = dict[str, float]


def measure_start(options: FunctionsOptions) -> Section:
    """Run the benchmark and return what it found."""
    made = many_files(options.build / f"planning-{FILES}", FILES)
    table = made.table("delta", s3=False)
    notes: list[str] = []
    pythons = {"slim": Path(sys.executable), "image": Path(sys.executable)}
    try:
        pythons["slim"] = packaged(options.build / "start-slim", "")
        pythons["image"] = packaged(options.build / "start-image", EXTRAS)
    except (OSError, subprocess.CalledProcessError) as error:
        notes.append(f"environments of the packages alone could not be made, so pandas and the peers are here: {error}")
    starts: dict[str, list[Start]] = {}
    with tempfile.TemporaryDirectory() as folder:
        events = _events(table, Path(folder))
        for role, handler in ROLES.items():
            python = pythons["slim" if role.endswith("slim") else "image"]
            environment = {
                "PATH": os.environ["PATH"], "FIRN_LAKE": str(Path(folder) / "lake"), "FIRN_ALLOW": table,
                "FIRN_TASK_SECRET": SECRET, "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1769",
            }  # fmt: skip
            runs = [_start(python, handler, events[role.partition(",")[0]], environment)
                    for _ in range(options.starts + 1)]  # fmt: skip
            starts[role] = runs[1:]
    sizes = {name: installed_bytes(python) for name, python in pythons.items()}
    return _section(options, starts, sizes, notes)


def _events(table: str, folder: Path) -> dict[str, Path]:
    """Write an event for each role: a task that scans files, a query over HTTP, a pass of the schedule."""
    (folder / "lake").mkdir()
    context = context_of(2)
    context.register_parquet("t", table, file_extension=".parquet")
    stages = split(context, context.sql("SELECT name, sum(value) FROM t GROUP BY name").execution_plan())
    board = Board(stages.stages[:1], InvokerLimits())
    task = board.task(next(iter(board.opened())), 1, Terms("cold", SECRET.encode()))
    body = json.dumps({"sql": f"SELECT * FROM delta('{table}') LIMIT 1"})
    http = {"method": "POST", "path": "/v1/sql", "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1", "userAgent": "cold"}
    events: dict[str, Any] = {
        "worker": {"task": base64.b64encode(encode_task(task, SECRET.encode())).decode()},
        "endpoint": {
            "version": "2.0", "routeKey": "$default", "rawPath": "/v1/sql", "rawQueryString": "",
            "headers": {"content-type": "application/json", "host": "localhost"},
            "requestContext": {"http": http, "requestId": "cold", "stage": "$default"},
            "body": body, "isBase64Encoded": False,
        },
        "compactor": {"source": "aws.scheduler"},
    }  # fmt: skip
    paths = {}
    for role, event in events.items():
        paths[role] = folder / f"{role}.json"
        paths[role].write_text(json.dumps(event))
    return paths


def _start(python: Path, handler: str, event: Path, environment: Mapping[str, str]) -> Start:
    started = time.monotonic()
    command = [str(python), "-I", str(CHILD), handler, str(event)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=event.parent)
    if done.returncode:
        raise RuntimeError(f"{handler} failed: {done.stderr[-2000:]}")
    found: Start = json.loads(done.stdout.splitlines()[-1])
    if found["status"] >= 300:
        raise RuntimeError(f"{handler} answered {found['status']}")
    return found | {"wall_s": found["at"] - started}


def _unzipped(build: Path) -> dict[str, int]:
    """Return the unzipped bytes of the packages that the build left, by name."""
    found = {}
    for path in sorted([*build.glob("*.zip"), *build.glob("*/*.zip")]):
        with zipfile.ZipFile(path) as archive:
            found[path.name] = sum(each.file_size for each in archive.infolist())
    return found


def _section(
    options: FunctionsOptions, starts: Mapping[str, list[Start]], sizes: Mapping[str, int], notes: list[str]
) -> Section:
    rows = []
    for role, runs in starts.items():
        imported, total, wall, again, peak = (
            median_of([each[member] for each in runs])
            for member in ("import_cpu_s", "cpu_s", "wall_s", "again_s", "peak_rss_bytes")
        )
        rows.append([role, f"{imported:.3f}", f"{total - imported:.3f}", f"{total:.3f}", f"{wall:.3f}", ms(again),
                     mb(peak)])  # fmt: skip
    totals = {role: median_of([each["cpu_s"] for each in runs]) for role, runs in starts.items()}
    packages = _unzipped(options.build)
    notes += [f"{name}: {mb(size)} MB unzipped" for name, size in packages.items()]
    notes += [f"environment {name}: {mb(size)} MB installed" for name, size in sizes.items()]
    if not packages:
        notes.append("no zip lies in build/, so its size is not measured here")
    size_mib = round(min(packages.values()) / 2**20, 1) if packages else None
    official = options.official
    return Section(
        "start",
        "Cold start by role",
        facts=[
            f"From the start of a process to the first answer of its handler: medians of {options.starts} after a "
            "warm-up. A worker's answer are the rows of a task that scans and groups files, the endpoint's is one row "
            f"of a Delta table of {FILES} files over HTTP, the compactor's a pass that finds nothing to do. CPU is "
            "`getrusage`, all threads; again is the same event once more.",
            "The slim worker has the base dependencies alone, the others what the image has.",
            versions(["firnline", "datafusion", "pyarrow", "obstore", "fastapi", "mangum"]) + ".",
        ],
        tables=[Table(["", "import CPU s", "first answer CPU s", "CPU s", "wall s", "again ms", "peak RSS MB"], rows)],
        goals=[
            Goal("query worker to its first row, CPU", round(totals["worker, slim"], 3), GOAL_S, " s", official),
            Goal(
                "query worker's zip, unzipped (Lambda's 250 MB are 262,144,000 bytes)",
                size_mib,
                GOAL_MIB,
                " MiB",
                official,
            ),
        ],
        notes=notes,
    )
