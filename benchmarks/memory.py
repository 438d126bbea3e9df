"""Memory of the service: its peak over the TPC-H queries, and that it comes back after a statement that was killed.

Counted from outside as the resident memory of the server and all its worker processes together, which counts pages
that they share more than once.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.measure import mb, ms
from benchmarks.options import Options
from benchmarks.report import Goal, Section, Table
from benchmarks.serving import Client, RefusedError, serving
from benchmarks.tpch_data import tpch_queries, tpch_tables
from functions.process_memory import rss_bytes

__all__ = ["Watch", "measure_memory", "watching"]

SAMPLE_S = 0.02
TIMEOUT_MS = 3_000
SETTLE_S = 5.0
RETURNS_TO = 1.1
KILLED = "SELECT count(DISTINCT a.l_comment || b.o_comment) FROM lineitem a CROSS JOIN orders b"


@dataclass
class Watch:
    """A tree of processes under observation: the most memory it had, all together and in one process."""

    pid: int
    peak_bytes: int = 0
    peak_process_bytes: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    def now_bytes(self) -> int:
        """Return the resident memory of the tree, and remember the peaks."""
        sizes = [rss_bytes(pid) for pid in _tree(self.pid)]
        self.peak_bytes = max(self.peak_bytes, sum(sizes))
        self.peak_process_bytes = max(self.peak_process_bytes, *sizes)
        return sum(sizes)

    def cpu_s(self) -> float:
        """Return the CPU seconds of the processes that live."""
        return sum(map(cpu_s, _tree(self.pid)))


def cpu_s(pid: int) -> float:
    """Return the CPU seconds a process has used, in user and system mode; 0 when it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _tree(pid: int) -> list[int]:
    """Return a process and its descendants; one that is gone has none."""
    found = [pid]
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            found += [each for child in task.read_text().split() for each in _tree(int(child))]
    return found


@contextmanager
def watching(pid: int) -> Iterator[Watch]:
    """Sample a process and its children until the block ends."""
    watch = Watch(pid)

    def sample() -> None:
        while not watch.stop.wait(SAMPLE_S):
            watch.now_bytes()

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        watch.stop.set()
        thread.join()


@dataclass(frozen=True, slots=True)
class Killed:
    """What a statement that passes its time does to the service."""

    answer: str
    answered_s: float
    before_bytes: int
    peak_bytes: int
    after_bytes: int
    idle_cpu_s: float
    """CPU seconds that the service used in the last second of the wait, when nothing was asked of it."""
    next_ok: bool


def measure_memory(options: Options) -> Section:
    """Run the benchmark and return what it found."""
    tables = tpch_tables(options.scale, options.build)
    folder = str(Path(tables["lineitem"]).parent)
    with serving(allow=[folder]) as server, server.client() as client:
        time.sleep(1)
        idle = Watch(server.pid).now_bytes()
        for name, location in tables.items():
            client.sql(f"CREATE EXTERNAL TABLE {name} STORED AS PARQUET LOCATION '{location}'")
        with watching(server.pid) as run:
            for _ in range(2):
                for sql in tpch_queries().values():
                    client.sql(sql)
        time.sleep(1)
        rest = Watch(server.pid).now_bytes()
        killed = _kill(client, server.pid)
    return _section(options, idle, run, rest, killed)


def _kill(client: Client, pid: int) -> Killed:
    before = Watch(pid).now_bytes()
    started = time.perf_counter()
    with watching(pid) as watch:
        try:
            client.sql(KILLED, timeout_ms=TIMEOUT_MS)
            answer = "an answer"
        except RefusedError as refusal:
            answer = str(refusal)
        answered_s = time.perf_counter() - started
    time.sleep(SETTLE_S - 1)
    before_s = watch.cpu_s()
    time.sleep(1)
    used_s, after = watch.cpu_s() - before_s, Watch(pid).now_bytes()
    next_ok = client.sql("SELECT count(*) FROM nation").column(0).to_pylist() == [25]
    return Killed(answer, answered_s, before, watch.peak_bytes, after, used_s, next_ok)


def _section(options: Options, idle: int, run: Watch, rest: int, killed: Killed) -> Section:
    rows = [
        ["idle, workers ready", mb(idle)],
        ["peak over the 22 queries, twice, all processes", mb(run.peak_bytes)],
        ["peak of the largest process", mb(run.peak_process_bytes)],
        ["one second after them", mb(rest)],
        ["peak while the statement to be killed ran", mb(killed.peak_bytes)],
        [f"{SETTLE_S:.0f} s after it was killed", mb(killed.after_bytes)],
    ]
    timed_out = "StatementTimeoutError" in killed.answer or "LimitError" in killed.answer
    share = round(killed.after_bytes / killed.before_bytes, 3)
    return Section(
        "memory",
        "Memory of the service",
        facts=[
            f"One server with its worker processes over TPC-H scale factor {options.scale}, sampled every "
            f"{SAMPLE_S * 1000:.0f} ms; resident memory of all its processes together.",
            f"The killed statement is `{KILLED}` with `timeout_ms` {TIMEOUT_MS}; it was answered after "
            f"{ms(killed.answered_s)} ms. A second of idleness after it cost {killed.idle_cpu_s:.2f} CPU s.",
        ],
        tables=[Table(["", "resident MB"], rows)],
        goals=[
            Goal(
                "memory after a killed statement ÷ before",
                share if timed_out and killed.next_ok else None, RETURNS_TO, "×", options.official,
            )
        ],
        notes=[] if timed_out else [f"the statement was not stopped by its time limit: {killed.answer[:300]}"],
    )  # fmt: skip
