"""Cold start: CPU and wall seconds from the start of a process to the first row of a Delta table of ten files.

In an environment with the base dependencies alone, which is what a query-only worker has, and in the one that runs the
benchmark. Bytecode is compiled before: an image ships it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.machine import REPOSITORY, versions
from benchmarks.measure import mb, median_of
from benchmarks.options import Options
from benchmarks.planning_tables import many_files
from benchmarks.report import Goal, Section, Table

__all__ = ["base_environment", "installed_bytes", "measure_cold", "packaged"]

GOAL_S = 0.6
FILES = 10
CHILD = Path(__file__).with_name("cold_child.py")

Start = dict[str, float]


def measure_cold(options: Options) -> Section:
    """Run the benchmark and return what it found."""
    made = many_files(options.build / f"planning-{FILES}", FILES)
    table = made.table("delta", s3=False)
    pythons = {"full environment": Path(sys.executable)}
    notes = []
    try:
        pythons = {"base dependencies": base_environment(options.build)} | pythons
    except (OSError, subprocess.CalledProcessError) as error:
        notes.append(f"the environment with the base dependencies could not be made: {error}")
    starts: dict[str, list[Start]] = {name: [] for name in pythons}
    for python in pythons.values():
        _start(python, table)
    for _ in range(options.repeats):
        for name, python in pythons.items():
            starts[name].append(_start(python, table))
    sizes = {name: installed_bytes(python) for name, python in pythons.items()}
    return _section(options, starts, sizes, notes)


def base_environment(build: Path) -> Path:
    """Return the interpreter of a fresh environment that holds the product and its base dependencies, compiled."""
    return packaged(build / "cold-base", "")


def packaged(folder: Path, extras: str) -> Path:
    """Return the interpreter of an environment that holds the product with these extras, compiled; made anew if it is
    not there. Raises `FileNotFoundError` without uv."""
    uv = os.environ.get("UV") or shutil.which("uv")  # `uv run` says where it is
    if uv is None:
        raise FileNotFoundError("uv is not on the path")
    product = f"{REPOSITORY}[{extras}]" if extras else str(REPOSITORY)
    python = folder / "bin" / "python"
    if not python.is_file():
        _quietly([uv, "venv", "--quiet", "--python", sys.executable, str(folder)])
    install = [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", str(python)]
    _quietly([*install, "--reinstall-package", "firnline", product])
    return python


def _quietly(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def _start(python: Path, table: str) -> Start:
    """Start one process; return what it says, and the wall seconds from here to its first row."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        command = [str(python), "-I", str(CHILD), table, str(Path(folder) / "lake")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode:
        raise RuntimeError(f"the cold process failed: {done.stderr[-2000:]}")
    found: Start = json.loads(done.stdout)
    return found | {"wall_s": found["at"] - started}


def installed_bytes(python: Path) -> int:
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    done = subprocess.run([str(python), "-I", "-c", code], capture_output=True, text=True, check=True)
    return sum(path.lstat().st_size for path in Path(done.stdout.strip()).rglob("*") if path.is_file())


def _section(options: Options, starts: dict[str, list[Start]], sizes: dict[str, int], notes: Sequence[str]) -> Section:
    official = options.official

    def median(name: str, member: str) -> float:
        return median_of([each[member] for each in starts[name]])

    rows = []
    for name in starts:
        imported, opened, total = (median(name, member) for member in ("import_cpu_s", "open_cpu_s", "cpu_s"))
        seconds = (imported, opened - imported, total - opened, total, median(name, "wall_s"))
        size = mb(sizes[name])
        rows.append([name, *(f"{each:.3f}" for each in seconds), mb(median(name, "peak_rss_bytes")), size])
    header = ["", "import CPU s", "open CPU s", "query CPU s", "CPU s", "wall s", "peak RSS MB", "installed MB"]
    goals = [
        Goal(
            f"cold start, {name}, CPU",
            round(median(name, "cpu_s"), 3) if name in starts else None,
            GOAL_S,
            " s",
            official,
        )
        for name in ("base dependencies", "full environment")
    ]
    return Section(
        "cold",
        "Cold start",
        facts=[
            f"A fresh process that imports the worker, opens a lake and a Delta table of {FILES} files and has its "
            f"first row; medians of {options.repeats} after a warm-up, bytecode compiled. CPU is `getrusage` of that "
            "process, user and system, all threads; wall is seen from outside, from the fork on.",
            "The full environment is the one that runs this benchmark, with every extra, pandas and the peers.",
            versions(["firnline", "datafusion", "pyarrow", "numpy", "obstore", "pandas"]) + ".",
        ],
        tables=[Table(header, rows)],
        goals=goals,
        notes=list(notes),
    )
