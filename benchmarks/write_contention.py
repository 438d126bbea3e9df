"""Many writers and a compactor on one table, beside writers that commit to an Iceberg table by themselves."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa

from benchmarks.machine import REPOSITORY
from benchmarks.measure import ms, percentile
from benchmarks.report import Goal, Section, Table
from benchmarks.serving import FIRN
from benchmarks.write_http import Load, ingest_load, serving_lake
from benchmarks.write_options import WriteOptions

__all__ = ["measure_contention"]

FORMATS = ("delta", "iceberg")


def measure_contention(options: WriteOptions) -> Section:
    """Return rows a second, conflicts that reached a client, and rows lost."""
    rows: list[list[str]] = []
    conflicts, lost, n_folded = 0, 0, 0
    for format_ in FORMATS:
        with tempfile.TemporaryDirectory(dir=options.build) as name:
            load, held, folded = asyncio.run(_ours(Path(name) / "lake", format_, options))
        errors = sum(load.errors.values())
        conflicts, lost, n_folded = conflicts + errors, lost + abs(load.rows - held), n_folded + folded
        p50, p99 = percentile(load.seconds, 50), percentile(load.seconds, 99)
        rows.append(
            [
                f"firnline, {format_}, {options.writers} writers and a compactor",
                f"{load.rows:,}", f"{load.rows_per_s:,.0f}", ms(p50), ms(p99), str(errors), str(load.rows - held),
            ]
        )  # fmt: skip
    rows.append(_pyiceberg(options))
    return Section(
        "contention",
        "Many writers on one table",
        [
            f"{options.writers} connections of one row a request for {options.seconds:g} s, while "
            f"`firn compact --watch` folds every second ({n_folded:,} rows were in data files at the end). pyiceberg: "
            f"{options.writers} threads that append a row {options.writer_appends} times, with its own retries."
        ],
        [Table(["", "acknowledged", "rows/s", "p50 ms", "p99 ms", "errors, conflicts", "rows lost"], rows)],
        [
            Goal("conflicts and errors that reach a client", conflicts, 0, "", options.official),
            Goal("acknowledged rows lost or doubled", lost, 0, "", options.official),
        ],
    )


async def _ours(lake: Path, format_: str, options: WriteOptions) -> tuple[Load, int, int]:
    with serving_lake(lake) as server, server.client() as client:
        client.sql(f"CREATE TABLE t (id BIGINT, note VARCHAR) USING {format_}")
        asked = ["compact", "--lake", str(lake), "--watch", "--interval", "1s"]
        compactor = await asyncio.create_subprocess_exec(
            sys.executable, "-c", FIRN, *asked, cwd=REPOSITORY,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            load = await asyncio.to_thread(ingest_load, server.url, "default.t", options.writers, 1, options.seconds)
            held = client.sql("SELECT count(*) AS n, count(DISTINCT id) AS d FROM t").to_pylist()[0]
        finally:
            compactor.kill()
            await compactor.wait()
        if held["n"] != held["d"]:
            raise RuntimeError(f"rows were doubled: {held}")
        files = client.sql("EXPLAIN SELECT * FROM t").num_rows
        return load, held["n"], _folded(lake, format_) if files else 0


def _folded(lake: Path, format_: str) -> int:
    """Rows in Parquet files below the lake, whichever version they belong to."""
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(path).num_rows for path in lake.rglob("*.parquet") if "_delta_log" not in str(path))


def _pyiceberg(options: WriteOptions) -> list[str]:
    from pyiceberg.catalog.sql import SqlCatalog
    from pyiceberg.exceptions import CommitFailedException

    row = pa.table({"id": pa.array([1], pa.int64()), "note": ["row"]})
    with tempfile.TemporaryDirectory(dir=options.build) as name:
        catalog = SqlCatalog("bench", uri=f"sqlite:///{name}/catalog.db", warehouse=f"file://{name}")
        catalog.create_namespace("default")
        catalog.create_table("default.t", row.schema)
        seconds: list[float] = []
        conflicts = 0

        def write(_number: int) -> None:
            nonlocal conflicts
            for _ in range(options.writer_appends):
                started = time.perf_counter()
                try:
                    catalog.load_table("default.t").append(row)
                except (CommitFailedException, OSError, RuntimeError):
                    conflicts += 1
                else:
                    seconds.append(time.perf_counter() - started)

        started = time.perf_counter()
        with ThreadPoolExecutor(options.writers) as pool:
            list(pool.map(write, range(options.writers)))
        elapsed = time.perf_counter() - started
        held = catalog.load_table("default.t").scan().to_arrow().num_rows
        catalog.engine.dispose()
    return [
        f"pyiceberg, {options.writers} writers", f"{len(seconds):,}", f"{len(seconds) / elapsed:,.0f}",
        ms(percentile(seconds, 50)), ms(percentile(seconds, 99)), str(conflicts), str(len(seconds) - held),
    ]  # fmt: skip
