"""Queries over an S3 API with 20 ms in front of every request: requests and time, the first time and again.

A fresh process of each engine runs a query for the first time, opening the tables included, and then again; the
façade counts what reaches the store. Every engine is as it comes, with whatever it caches by default.
"""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.machine import versions
from benchmarks.measure import mb, median_of, ms, ratio
from benchmarks.options import Options
from benchmarks.peer_process import PeerError, peer_process
from benchmarks.peers import S3Access
from benchmarks.planning_tables import facade
from benchmarks.report import Section, Table
from benchmarks.tpch_data import TABLES, tpch_queries, tpch_tables

__all__ = ["measure_remote"]

DELAY_MS = 20
WARM_UPS = 2
ENGINES = ("firnline", "datafusion", "duckdb", "polars")
BUCKET = "tpch"


@dataclass
class Cost:
    """What runs of one query took."""

    walls_s: list[float] = field(default_factory=list)
    requests: list[float] = field(default_factory=list)
    n_bytes: list[float] = field(default_factory=list)

    def add(self, wall_s: float, counts: Mapping[str, int]) -> None:
        """Add one run."""
        self.walls_s.append(wall_s)
        self.requests.append(counts.get("total", 0))
        self.n_bytes.append(counts.get("bytes_out", 0))


def measure_remote(options: Options) -> Section:
    """Run the benchmark and return what it found."""
    root = _bucket(options)
    queries = _queries()
    first: dict[tuple[str, str], Cost] = {}
    again: dict[tuple[str, str], Cost] = {}
    faults: list[str] = []
    with facade(root, delay_ms=DELAY_MS) as endpoint:
        for query, sql in queries.items():
            for engine in ENGINES:
                key = (query, engine)
                first[key], again[key] = Cost(), Cost()
                try:
                    for _ in range(options.repeats - 1):
                        _fresh(engine, sql, endpoint, first[key], again[key], 0)
                    _fresh(engine, sql, endpoint, first[key], again[key], options.repeats)
                except PeerError as error:
                    faults.append(f"{query}, {engine}: {error}")
    return _section(options, queries, first, again, faults)


def _bucket(options: Options) -> Path:
    """Return a folder whose folder ``tpch`` holds the data files, hard-linked."""
    root = options.build / f"remote-sf{options.scale}"
    (root / BUCKET).mkdir(parents=True, exist_ok=True)
    for name, path in tpch_tables(options.scale, options.build).items():
        link = root / BUCKET / f"{name}.parquet"
        if not link.exists() or not link.samefile(path):
            link.unlink(missing_ok=True)
            os.link(path, link)
    return root


def _queries() -> dict[str, str]:
    tpch = tpch_queries()
    return {
        "one order by key": "SELECT l_linenumber, l_partkey, l_extendedprice FROM lineitem WHERE l_orderkey = 3",
        "TPC-H Q6 (one table, 4 columns)": tpch[6],
        "TPC-H Q3 (three tables)": tpch[3],
    }


def _fresh(engine: str, sql: str, endpoint: str, first: Cost, again: Cost, repeats: int) -> None:
    """Run a statement in a fresh process, and then ``repeats`` times again."""
    tables = {name: f"s3://{BUCKET}/{name}.parquet" for name in TABLES if name in sql}
    with peer_process(engine) as peer:
        peer.open({}, S3Access(endpoint))  # imports and connects; the tables below are opened on the clock
        _reset(endpoint)
        opened_s = peer.open(tables, S3Access(endpoint))
        run = peer.run(sql)
        first.add(opened_s + run.wall_s, _counts(endpoint))
        for turn in range(repeats + WARM_UPS if repeats else 0):
            _reset(endpoint)
            run = peer.run(sql)
            if turn >= WARM_UPS:
                again.add(run.wall_s, _counts(endpoint))


def _counts(endpoint: str) -> dict[str, int]:
    with closing(urllib.request.urlopen(endpoint + "/_requests", timeout=30)) as reply:
        found: dict[str, int] = json.loads(reply.read())
    return found


def _reset(endpoint: str) -> None:
    request = urllib.request.Request(endpoint + "/_reset", method="POST")
    urllib.request.urlopen(request, timeout=30).close()


def _section(
    options: Options,
    queries: Mapping[str, str],
    first: Mapping[tuple[str, str], Cost],
    again: Mapping[tuple[str, str], Cost],
    faults: Sequence[str],
) -> Section:
    header = ["", "first ms", "requests", "MB", "again ms", "requests", "MB", "again ÷ datafusion"]
    tables = []
    for query in queries:
        base = median_of(again[query, "datafusion"].walls_s)
        rows = []
        for engine in ENGINES:
            cells = [cell for cost in (first, again) for cell in _cells(cost[query, engine])]
            rows.append([engine, *cells, ratio(median_of(again[query, engine].walls_s), base)])
        tables.append(Table(header, rows, query))
    return Section(
        "remote",
        f"Over an S3 API with {DELAY_MS} ms added to every request",
        facts=[
            f"TPC-H scale factor {options.scale} behind `benchmarks/s3_facade.py --delay-ms {DELAY_MS}`, which counts "
            f"requests and bytes. First: medians of {options.repeats} fresh processes, naming the tables included, "
            f"imports not. Again: medians of {options.repeats} more runs in the last of them after {WARM_UPS} untimed.",
            "Every engine has its default settings; DuckDB's httpfs keeps file contents in memory, the others only "
            "metadata.",
            versions(["firnline", "datafusion", "duckdb", "duckdb-extension-httpfs", "polars"]) + ".",
        ],
        tables=tables,
        notes=list(faults),
    )


def _cells(cost: Cost) -> list[str]:
    n_requests = median_of(cost.requests)
    return [ms(median_of(cost.walls_s)), "–" if not cost.requests else f"{n_requests:.0f}", mb(median_of(cost.n_bytes))]
