"""Planning over many files: a filter leaves one of 10,000, asked for the first time, again, and with another key.

Each measurement is a fresh process. Over S3 the façade's log is the witness of what was asked: a request is *repeated*
when a metadata object's bytes (log, manifest, footer) are fetched although the process has them. One listing or HEAD a
table, which asks whether there is a newer version, is the price of freshness and no repetition.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from benchmarks.machine import versions
from benchmarks.measure import median_of, ms
from benchmarks.options import Options
from benchmarks.peer_process import Run, peer_process
from benchmarks.peers import S3Access
from benchmarks.planning_tables import ROWS, ManyFiles, facade, many_files
from benchmarks.report import Goal, Section, Table

__all__ = ["Phase", "measure_planning", "repeated"]

PHASES = ("first", "again", "another key")
GOAL_MS = 50


@dataclass
class Phase:
    """One statement, in every fresh process: what it cost, and what it asked of the store.

    log : requests of the last process, as the façade wrote them; empty for local files
    """

    runs: list[Run] = field(default_factory=list)
    log: list[dict[str, Any]] = field(default_factory=list)

    def median(self, member: str) -> float:
        """Return the median of a number of the receipts."""
        return median_of([float((run.receipt or {})[member]) for run in self.runs])


def measure_planning(options: Options) -> Section:
    """Run the benchmark and return what it found."""
    made = many_files(options.build / f"planning-{options.files}", options.files)
    found: dict[str, dict[str, Phase]] = {}
    for format_ in ("delta", "iceberg"):
        found[f"{format_}, local"] = _measure(made, format_, options, None, None)
        log = made.root / f"requests-{format_}.ndjson"
        log.unlink(missing_ok=True)
        with facade(made.root, log=log) as endpoint:
            found[f"{format_}, S3 API"] = _measure(made, format_, options, S3Access(endpoint), log)
    return _section(made, found, options)


def _measure(
    made: ManyFiles, format_: str, options: Options, s3: S3Access | None, log: Path | None
) -> dict[str, Phase]:
    location = made.table(format_, s3=s3 is not None)
    n_ids = made.n_files * ROWS
    keys = [n_ids * 7 // 9, n_ids * 7 // 9, n_ids * 2 // 9]
    phases = {name: Phase() for name in PHASES}
    for _ in range(options.repeats):
        with peer_process("firnline") as peer:
            peer.open({}, s3)
            for key, phase in zip(keys, phases.values(), strict=True):
                before = _lines(log)
                run = peer.run(f"SELECT * FROM {format_}('{location}') WHERE id = {key}")
                if run.rows != 1:
                    raise AssertionError(f"{location} gave {run.rows} rows for one id")
                phase.runs.append(run)
                phase.log = [json.loads(line) for line in _lines(log)[len(before) :]]
    return phases


def _lines(log: Path | None) -> list[str]:
    return log.read_text().splitlines() if log is not None and log.is_file() else []


def repeated(earlier: Sequence[dict[str, Any]], later: Sequence[dict[str, Any]], root: Path) -> list[dict[str, Any]]:
    """Return the requests of ``later`` that fetch bytes of a metadata object which ``earlier`` fetched already."""
    seen = {each["path"] for each in earlier if _reads_metadata(each, root)}
    return [each for each in later if _reads_metadata(each, root) and each["path"] in seen]


def _reads_metadata(request: dict[str, Any], root: Path) -> bool:
    """Tell whether a request got bytes of a log, a manifest or a data file's footer."""
    if request["kind"] != "GET" or not 200 <= request["status"] < 300 or not request["bytes"]:
        return False
    path = request["path"]
    if not path.endswith(".parquet") or "/_delta_log/" in path:
        return True
    first, _, last = (request["range"] or "bytes=0-").removeprefix("bytes=").partition("-")
    size, footer = _footer(root / path.lstrip("/"))
    start = int(first) if first else size - int(last)
    limit = int(last) + 1 if first and last else size
    return limit > footer and start < size


@lru_cache(maxsize=1_000)
def _footer(file: Path) -> tuple[int, int]:
    """Return a Parquet file's size and where its footer begins."""
    data = file.read_bytes()
    return len(data), len(data) - 8 - int.from_bytes(data[-8:-4], "little")


def _section(made: ManyFiles, found: dict[str, dict[str, Phase]], options: Options) -> Section:
    rows, requests, goals, notes = [], [], [], []
    for name, phases in found.items():
        for phase_name, phase in phases.items():
            wall = median_of([run.wall_s for run in phase.runs])
            planning = phase.median("planning_ms") / 1000
            counts = (f"{phase.median(member):.0f}" for member in ("requests", "metadata_bytes", "files_scanned"))
            rows.append([f"{name}: {phase_name}", ms(wall), ms(planning), *counts])
        again = median_of([run.wall_s for run in phases["again"].runs])
        goals.append(Goal(f"{name}: second query", round(again * 1000, 2), GOAL_MS, " ms", options.official))
        if not phases["first"].log:
            continue
        earlier: list[dict[str, Any]] = []
        for phase_name, phase in phases.items():
            twice = repeated(earlier, phase.log, made.root)
            within = str(_fetched_twice(phase.log, made.root))
            requests.append([f"{name}: {phase_name}", *_kinds(phase.log, made.root), within, str(len(twice))])
            notes += [f"{name}, {phase_name}, repeats GET {each['path']} {each['range'] or ''}" for each in twice]
            if phase_name == "again":
                goal = f"{name}: metadata requests repeated by the second query"
                goals.append(Goal(goal, len(twice), 0, official=options.official))
            earlier += phase.log
    return _report(options, rows, requests, goals, notes)


def _report(
    options: Options, rows: list[list[str]], requests: list[list[str]], goals: list[Goal], notes: list[str]
) -> Section:
    header = ["", "wall ms", "planning ms", "requests (receipt)", "metadata bytes", "files read"]
    kinds = ["", "LIST", "HEAD", "GET metadata", "GET data", "total", "twice within", "repeated"]
    return Section(
        "planning",
        f"Planning over {options.files:,} files",
        facts=[
            f"A Delta table (20 commits, a checkpoint) and an Iceberg table (20 manifests) of {options.files:,} small "
            "Parquet files; `SELECT * … WHERE id = …` leaves one file by its statistics.",
            f"Medians of {options.repeats} fresh processes, each asking the same statement twice and then another key. "
            "Wall is the whole statement, planning the part before the engine runs (both by the process itself).",
            "The S3 API is `benchmarks/s3_facade.py` without delay; its own log counts the requests.",
            versions(["firnline", "datafusion", "deltalake", "pyiceberg"]) + " (the last two only wrote the tables).",
        ],
        tables=[Table(header, rows, "Time"), Table(kinds, requests, "Requests as the store saw them")],
        goals=goals,
        notes=notes,
    )


def _fetched_twice(log: Sequence[dict[str, Any]], root: Path) -> int:
    """Return how many metadata requests of one statement fetch from an object that it fetched from before."""
    paths = [each["path"] for each in log if _reads_metadata(each, root)]
    return len(paths) - len(set(paths))


def _kinds(log: Sequence[dict[str, Any]], root: Path) -> list[str]:
    metadata = sum(_reads_metadata(each, root) for each in log)
    gets = sum(each["kind"] == "GET" for each in log)
    lists, heads = (sum(each["kind"] == kind for each in log) for kind in ("LIST", "HEAD"))
    return [str(count) for count in (lists, heads, metadata, gets - metadata, len(log))]
