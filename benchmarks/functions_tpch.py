"""TPC-H as tasks: the same files and statements at each place where tasks run, beside Sail, Dask and Ray Data.

Each place has a process of its own, one place after another; the first run of each query gives the answer, which is
held to that of one process before any time counts. CPU time is that of the process and of all below it, workers and
daemons.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from benchmarks import functions_dask, functions_ray_data
from benchmarks.compare import difference
from benchmarks.functions_options import FunctionsOptions
from benchmarks.machine import versions
from benchmarks.measure import mb, median_of, ms, ratio
from benchmarks.peer_process import PeerError, PeerProcess, Run, peer_process
from benchmarks.process_tree import tree_cpu_s, tree_peak_rss_bytes
from benchmarks.report import Goal, Section, Table
from benchmarks.tpch_data import tpch_queries, tpch_tables

__all__ = ["measure_tpch"]

REFERENCE = "in process"
PLACES = ("in process", "2 processes", "4 processes", "2 HTTP workers", "2 Lambda emulators", "2 Ray workers")
OTHERS = ("Sail", "Dask", "Ray Data")
PROGRAMS = {"Dask": frozenset(functions_dask.PROGRAMS), "Ray Data": frozenset(functions_ray_data.PROGRAMS)}
"""Engines without SQL: the queries that are written for them."""
WARM_UP = "SELECT l_linestatus, count(*) AS n FROM lineitem WHERE l_orderkey < 1000 GROUP BY l_linestatus"
"""Starts a place's workers where queries run only once."""


@dataclass
class Place:
    """What ran at one place.

    walls_s, cpus_s : query number → of its timed runs
    runs : query number → its last run
    faults : query number → why it has no time
    left : queries that were not run, since the place took too long
    peak_rss_bytes : what each of its processes held at most, all together
    """

    walls_s: dict[int, list[float]] = field(default_factory=dict)
    cpus_s: dict[int, list[float]] = field(default_factory=dict)
    runs: dict[int, Run] = field(default_factory=dict)
    faults: dict[int, str] = field(default_factory=dict)
    left: list[int] = field(default_factory=list)
    peak_rss_bytes: float = math.nan

    def wall_s(self, number: int) -> float:
        return median_of(self.walls_s.get(number, []))

    def cpu_s(self, number: int) -> float:
        return median_of(self.cpus_s.get(number, []))

    def total(self, member: str, numbers: Sequence[int]) -> float:
        """Return the sum of the medians of some queries."""
        return sum(getattr(self, member)(each) for each in numbers)

    def receipts(self, member: str, numbers: Sequence[int]) -> float:
        """Return the sum of what the receipts of some queries say."""
        found = [self.runs[each].receipt for each in numbers if each in self.runs]
        return float(sum(each[member] for each in found if each is not None))


def measure_tpch(options: FunctionsOptions) -> Section:
    """Run the benchmark and return what it found."""
    tables = tpch_tables(options.scale, options.build)
    queries = {number: sql for number, sql in tpch_queries().items() if number in options.queries}
    found: dict[str, Place] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in (*PLACES, *OTHERS):
            found[name] = Place()
            print(f"  tpch: {name} …", file=sys.stderr, flush=True)
            with peer_process(name) as peer:
                able = {each: sql for each, sql in queries.items() if each in PROGRAMS.get(name, queries)}
                _run_place(peer, found[name], tables, able, Path(folder), options)
    return _section(options, found, list(queries))


def _run_place(
    peer: PeerProcess, place: Place, tables: Mapping[str, str], queries: Mapping[int, str], folder: Path,
    options: FunctionsOptions,
) -> None:  # fmt: skip
    try:
        peer.open(tables)
        if not options.repeats and peer.name not in PROGRAMS:
            peer.run(WARM_UP)
    except PeerError as error:
        place.faults.update(dict.fromkeys(queries, f"does not start: {_short(error)}"))
        return
    started = time.perf_counter()
    for number, sql in queries.items():
        taken_s = time.perf_counter() - started
        if taken_s > options.limit_s and peer.name != REFERENCE:
            place.left.append(number)
            continue
        few = peer.name in PROGRAMS or taken_s > options.place_s
        answer, reference = (folder / f"{name}-{number}.arrow" for name in (peer.name, REFERENCE))
        try:
            first = _timed(peer, sql, options, save=answer)
            differs = _difference(answer, reference, sql)
            if differs is not None:
                place.faults[number] = f"another answer than one process: {differs}"
                continue
            again = min(1, options.repeats) if few else options.repeats
            runs = [_timed(peer, sql, options) for _ in range(again)] or [first]
            place.runs[number] = runs[-1][0]
            place.walls_s[number] = [run.wall_s for run, _cpu_s in runs]
            place.cpus_s[number] = [cpu_s for _run, cpu_s in runs]
        except PeerError as error:
            place.faults[number] = _short(error)
            if not peer.alive():
                ended = {*place.walls_s, *place.faults}
                place.faults.update({each: "the process is gone" for each in queries if each not in ended})
                return
    place.peak_rss_bytes = tree_peak_rss_bytes(peer.pid)


def _timed(peer: PeerProcess, sql: str, options: FunctionsOptions, save: Path | None = None) -> tuple[Run, float]:
    """Run a query; return what it took, and the CPU seconds of all processes. Raises `PeerError`."""
    before_s = tree_cpu_s(peer.pid)
    run = peer.run(sql, save=save, timeout_s=options.query_s)
    return run, tree_cpu_s(peer.pid) - before_s


def _difference(ours: Path, theirs: Path, sql: str) -> str | None:
    if not theirs.is_file():
        return "there is no reference answer"
    with pa.ipc.open_file(ours) as mine, pa.ipc.open_file(theirs) as reference:
        return difference(mine.read_all(), reference.read_all(), sql)


def _short(error: PeerError) -> str:
    return " ".join(str(error).split())[:160]


def _section(options: FunctionsOptions, found: Mapping[str, Place], numbers: Sequence[int]) -> Section:
    official = options.official
    wrong = sum(len(found[name].faults) for name in PLACES)
    base = found[REFERENCE]
    both = [each for each in numbers if each in base.walls_s and each in found["2 processes"].walls_s]
    slower = found["2 processes"].total("wall_s", both) / base.total("wall_s", both) if both else math.nan
    return Section(
        "tpch",
        f"TPC-H as tasks, scale factor {options.scale}",
        facts=[
            f"Wall is {_of_runs(options)}, from the SQL text to an Arrow table, on the "
            "same Parquet files of this machine's disk (tpchgen-cli, one file a table). CPU is user and system of all "
            "processes, peak RSS the sum of the most that each held. "
            "Tasks, bytes moved (messages, replies, pages) and cost are those of the receipts.",
            "Every statement that can runs as tasks (`functions: fan-out`); left to itself the service keeps those of "
            "this size in process. Lambda functions run under AWS's Runtime Interface Emulator behind "
            "`localstack/lambda_front.py`, HTTP workers are one `firn worker`.",
            versions(["firnline", "datafusion", "ray", "pysail", "dask", "pyarrow", "pandas"]) + ".",
        ],
        tables=[_totals(found, numbers), _walls(found, numbers)],
        goals=[
            Goal("queries as tasks that failed or gave another answer, all places", wrong, 0, official=official),
            Goal("total wall, 2 processes ÷ in process, on one machine", _rounded(slower), 2.0, "×", official),
        ],
        notes=[
            *_lost(found, numbers),
            *(
                f"{name} left out {', '.join(f'Q{each}' for each in place.left)}: it had taken {options.limit_s:.0f} s"
                for name, place in found.items()
                if place.left
            ),
            *_faults(found),
        ],
    )  # fmt: skip


def _of_runs(options: FunctionsOptions) -> str:
    if not options.repeats:
        return "that of the only run, on workers that had started"
    return f"the median of {options.repeats} after a warm-up (of one, once a place has taken {options.place_s:.0f} s)"


def _totals(found: Mapping[str, Place], numbers: Sequence[int]) -> Table:
    base, rows = found[REFERENCE], []
    for name, place in found.items():
        answered = [each for each in numbers if each in place.walls_s and each in base.walls_s]
        wall_s, cpu_s = place.total("wall_s", answered), place.total("cpu_s", answered)
        base_s, base_cpu_s = base.total("wall_s", answered), base.total("cpu_s", answered)
        row = [name, str(len(answered)), ms(wall_s), ratio(wall_s, base_s), ms(cpu_s), ratio(cpu_s, base_cpu_s),
               mb(place.peak_rss_bytes)]  # fmt: skip
        tasks = place.receipts("tasks", answered) if name in PLACES else 0.0
        if name in PLACES and name != REFERENCE and tasks:
            overhead_s = (cpu_s - base_cpu_s) / tasks
            row += [f"{tasks:.0f}", ms(overhead_s), mb(place.receipts("bytes_moved", answered)),
                    f"{place.receipts('cost_usd', answered):.5f}"]  # fmt: skip
        else:
            row += ["–"] * 4
        rows.append(row)
    header = ["", "queries", "wall ms", "÷ in process", "CPU ms", "÷ in process", "peak RSS MB", "tasks",
              "CPU ms more a task", "MB moved", "USD"]  # fmt: skip
    return Table(header, rows, "Totals of the queries that a place answers, beside the same ones in process")


def _walls(found: Mapping[str, Place], numbers: Sequence[int]) -> Table:
    rows = []
    for number in numbers:
        tasks = found["2 processes"].runs.get(number)
        n_tasks = str(tasks.receipt["tasks"]) if tasks is not None and tasks.receipt is not None else "–"
        rows.append([f"Q{number}", n_tasks, *(ms(place.wall_s(number)) for place in found.values())])
    return Table(["query", "tasks", *found], rows, "Milliseconds a query")


def _faults(found: Mapping[str, Place]) -> list[str]:
    """Say which queries have no time at a place, and why."""
    by_fault: dict[tuple[str, str], list[int]] = {}
    for name, place in found.items():
        for number, fault in place.faults.items():
            by_fault.setdefault((name, fault), []).append(number)
    return [
        f"{name}, {', '.join(f'Q{each}' for each in numbers)}: {fault}" for (name, fault), numbers in by_fault.items()
    ]


def _lost(found: Mapping[str, Place], numbers: Sequence[int]) -> list[str]:
    """Say where other engines were faster."""
    notes = []
    for name in OTHERS:
        both = [each for each in numbers if each in found[name].walls_s]
        for ours in (REFERENCE, "2 processes"):
            lost = [each for each in both if found[name].wall_s(each) < found[ours].wall_s(each)]
            if lost:
                listed = ", ".join(f"Q{each}" for each in lost)
                notes.append(f"{name} is faster than {ours} in {len(lost)} of {len(both)}: {listed}")
    return notes


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 2)
