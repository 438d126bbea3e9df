"""TPC-H on the same Parquet files in every engine: the answers held to DuckDB's, and the time of each query.

Each engine has a process of its own and a warm-up run of each query; the engines take turns, so that what else the
machine does falls on all of them alike.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from benchmarks.compare import difference
from benchmarks.machine import versions
from benchmarks.measure import mb, median_of, ms, ratio
from benchmarks.options import Options
from benchmarks.peer_process import PeerError, PeerProcess, Run, peer_process
from benchmarks.report import Goal, Section, Table
from benchmarks.tpch_data import tpch_queries, tpch_tables

__all__ = ["Timings", "measure_tpch", "section_of"]

REFERENCE = "duckdb"
ENGINES = ("firnline", "datafusion", "firnline-new-text", "firnline-http", "duckdb", "chdb", "polars")
PACKAGES = ("firnline", "datafusion", "duckdb", "chdb", "polars", "pyarrow", "tpchgen-cli")


@dataclass
class Timings:
    """What one engine did.

    runs : query number → its timed runs
    faults : query number → why it has none, or how its answer differs
    """

    runs: dict[int, list[Run]] = field(default_factory=dict)
    faults: dict[int, str] = field(default_factory=dict)
    peak_rss_bytes: float = math.nan

    def wall_s(self, query: int) -> float:
        """Return the median wall time of a query, NaN when it did not run."""
        return median_of([run.wall_s for run in self.runs.get(query, [])])

    def cpu_s(self, query: int) -> float:
        """Return the median CPU time of a query, NaN when it did not run."""
        return median_of([run.cpu_s for run in self.runs.get(query, [])])

    def total_s(self, queries: Sequence[int]) -> float:
        """Return the sum of the medians, NaN when one is missing."""
        return sum(map(self.wall_s, queries))


def measure_tpch(options: Options) -> Section:
    """Run the benchmark and return what it found."""
    tables, queries = tpch_tables(options.scale, options.build), tpch_queries()
    found = {name: Timings() for name in ENGINES}
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        peers = {name: stack.enter_context(peer_process(name)) for name in ENGINES}
        for name, peer in peers.items():
            _open(peer, tables, found[name], queries)
        for number, sql in queries.items():
            able = {n: p for n, p in peers.items() if number not in found[n].faults}
            _warm_up(able, number, sql, Path(folder), found)
            able = {n: p for n, p in able.items() if number not in found[n].faults}
            _take_turns(able, number, sql, options, found)
        for name, peer in peers.items():
            if peer.alive():
                found[name].peak_rss_bytes = peer.peak_rss_bytes()
    return section_of(found, list(queries), options)


def _open(peer: PeerProcess, tables: Mapping[str, str], timings: Timings, queries: Mapping[int, str]) -> None:
    try:
        peer.open(tables)
    except PeerError as error:
        timings.faults.update(dict.fromkeys(queries, f"does not open: {error}"))


def _warm_up(
    peers: Mapping[str, PeerProcess], number: int, sql: str, folder: Path, found: Mapping[str, Timings]
) -> None:
    """Run a query once everywhere and hold the answers to the reference's."""
    for name, peer in peers.items():
        try:
            peer.run(sql, save=folder / f"{name}-{number}.arrow")
        except PeerError as error:
            found[name].faults[number] = f"fails: {_short(error)}"
            if not peer.alive():
                found[name].faults.update(dict.fromkeys(range(number + 1, 23), "the process died"))
    reference = folder / f"{REFERENCE}-{number}.arrow"
    for name in peers:
        if name != REFERENCE and number not in found[name].faults:
            differs = _difference(folder / f"{name}-{number}.arrow", reference, sql)
            if differs is not None:
                found[name].faults[number] = f"another answer than {REFERENCE}'s: {differs}"


def _difference(ours: Path, theirs: Path, sql: str) -> str | None:
    if not theirs.is_file():
        return "there is no reference answer"
    with pa.ipc.open_file(ours) as mine, pa.ipc.open_file(theirs) as reference:
        return difference(mine.read_all(), reference.read_all(), sql)


def _take_turns(
    peers: Mapping[str, PeerProcess], number: int, sql: str, options: Options, found: Mapping[str, Timings]
) -> None:
    """Run a query ``options.repeats`` times in each engine; the one that begins changes from round to round."""
    names = list(peers)
    for turn in range(options.repeats):
        first = turn % max(1, len(names))
        for name in names[first:] + names[:first]:
            try:
                found[name].runs.setdefault(number, []).append(peers[name].run(sql))
            except PeerError as error:
                found[name].faults[number] = f"fails: {_short(error)}"


def _short(error: PeerError) -> str:
    return " ".join(str(error).split())[:160]


def section_of(found: Mapping[str, Timings], queries: Sequence[int], options: Options) -> Section:
    """Return tables, goals and verdicts of measured timings."""
    ours, raw, http = found["firnline"], found["datafusion"], found["firnline-http"]
    wrong = [n for n in queries if n in ours.faults or n in http.faults]
    return Section(
        "tpch",
        f"TPC-H, scale factor {options.scale}, all {len(queries)} queries",
        facts=[
            f"Milliseconds, median of {options.repeats} after a warm-up, from the SQL text to an Arrow table, on the "
            "same Parquet files (tpchgen-cli, one file a table, Snappy). One process an engine; they take turns.",
            "`firnline-http` is `POST /v1/sql` to `firn serve`, Arrow results, one kept-alive connection. "
            "`firnline-new-text` is Firnline in process with a comment that makes each text new: it learns from the "
            "runs of a repeated statement whether to filter while it decodes, and there it cannot.",
            versions(PACKAGES) + ".",
        ],
        tables=[_time_table(found, queries), _total_table(found, queries)],
        goals=[
            Goal("answers that differ from DuckDB's", len(wrong), 0, official=options.official),
            _total_goal("total, Firnline ÷ raw DataFusion", ours, raw, queries, 1.0, options),
            _total_goal("total, Firnline over HTTP ÷ in process", http, ours, queries, 1.1, options),
        ],
        notes=[
            f"{name}, query {number}: {fault}"
            for name, timings in found.items()
            for number, fault in timings.faults.items()
        ],
    )


def _total_goal(
    name: str, over: Timings, under: Timings, queries: Sequence[int], limit: float, options: Options
) -> Goal:
    value = over.total_s(queries) / under.total_s(queries) if under.total_s(queries) else math.nan
    return Goal(name, None if math.isnan(value) else round(value, 3), limit, "×", options.official)


def _time_table(found: Mapping[str, Timings], queries: Sequence[int]) -> Table:
    rows = []
    for number in queries:
        walls = [_cell(timings, number) for timings in found.values()]
        rows.append([f"Q{number}", *walls, ratio(found["firnline"].wall_s(number), found["datafusion"].wall_s(number))])
    return Table(["query", *found, "firnline ÷ datafusion"], rows, "Milliseconds a query")


def _cell(timings: Timings, number: int) -> str:
    return ms(timings.wall_s(number)) + ("*" if number in timings.faults else "")


def _total_table(found: Mapping[str, Timings], queries: Sequence[int]) -> Table:
    """The totals over the queries that an engine answers, beside what the others take for the same ones."""
    rows = []
    for name, timings in found.items():
        answered = [n for n in queries if timings.runs.get(n) and found["datafusion"].runs.get(n)]
        total, base = timings.total_s(answered), found["datafusion"].total_s(answered)
        cpu, base_cpu = sum(map(timings.cpu_s, answered)), sum(map(found["datafusion"].cpu_s, answered))
        own_cpu = name != "firnline-http"
        rows.append(
            [
                name, str(len(answered)), ms(total), ratio(total, base),
                ms(cpu) if own_cpu else "–", ratio(cpu, base_cpu) if own_cpu else "–",
                mb(timings.peak_rss_bytes) if own_cpu else "–",
            ]
        )  # fmt: skip
    header = ["engine", "queries", "total ms", "÷ datafusion", "CPU ms", "CPU ÷ datafusion", "peak RSS MB"]
    return Table(header, rows, "Totals over the queries that the engine answers")
