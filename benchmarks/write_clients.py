"""64 clients at once over HTTP, of one row and of ten rows each."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from benchmarks.measure import ms, percentile
from benchmarks.report import Goal, Section, Table
from benchmarks.write_http import Load, ingest_load, serving_lake
from benchmarks.write_options import WriteOptions
from benchmarks.write_peers import fdatasync_seconds, postgres_rows
from benchmarks.write_single import CREATE

__all__ = ["measure_clients"]

CLIENTS = 64


def measure_clients(options: WriteOptions) -> Section:
    """Return rows acknowledged a second, p50 and p99, and whether the table holds them all."""
    rows: list[list[str]] = []
    notes: list[str] = []
    loads: dict[int, Load] = {}
    lost = 0
    with tempfile.TemporaryDirectory(dir=options.build) as name:
        folder = Path(name)
        folder.chmod(0o755)
        disk = fdatasync_seconds(folder, options.singles)
        with serving_lake(folder / "lake") as server, server.client() as client:
            client.sql(CREATE)
            ingest_load(server.url, "default.t", CLIENTS, 10, min(2.0, options.seconds))
            sent = client.sql("SELECT count(*) AS n FROM t")["n"][0].as_py()
            for n in (1, 10):
                load = loads[n] = ingest_load(server.url, "default.t", CLIENTS, n, options.seconds)
                held = client.sql("SELECT count(*) AS n FROM t")["n"][0].as_py()
                lost += sent + load.rows - held
                sent = held
                rows.append(_row(f"firnline HTTP, {n} a request", load.rows_per_s, load.seconds, load.errors))
                notes += [f"{n} a request: {count}× {error}" for error, count in load.errors.items()]
        for n in (1, 10):
            try:
                seconds, rate = postgres_rows(folder / f"pg{n}", options.singles * 10, CLIENTS, n)
            except (OSError, subprocess.SubprocessError) as error:
                notes.append(f"PostgreSQL did not run: {error}")
            else:
                rows.append(_row(f"PostgreSQL 15, {n} a transaction", rate, seconds, {}))
    rows.append(["fdatasync of 1 KB", "–", ms(percentile(disk, 50)), ms(percentile(disk, 99)), "–"])
    errors = sum(sum(load.errors.values()) for load in loads.values())
    return Section(
        "clients",
        "64 clients over HTTP, acknowledged by fsync",
        [
            f"Connections that send as soon as they are answered, for {options.seconds:g} s; the generator is a "
            "process of its own on the same cores."
        ],
        [Table(["", "rows/s", "p50 ms", "p99 ms", "errors"], rows)],
        [
            Goal("rows acknowledged a second, 10 a request", loads[10].rows_per_s, 20_000, "", options.official, True),
            Goal("errors", errors, 0, "", options.official),
            Goal("acknowledged rows that the table lacks or has twice", abs(lost), 0, "", options.official),
        ],
        notes,
    )


def _row(name: str, rate: float, seconds: list[float], errors: dict[str, int]) -> list[str]:
    return [
        name,
        f"{rate:,.0f}",
        ms(percentile(seconds, 50)),
        ms(percentile(seconds, 99)),
        f"{sum(errors.values())}",
    ]
