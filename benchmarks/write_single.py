"""One client, one row, acknowledged when it is durable: the disk itself, Firnline, PostgreSQL, SQLite, deltalake."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa

import firnline
from benchmarks.load import _end_of_answer
from benchmarks.machine import versions
from benchmarks.measure import ms, percentile, ratio
from benchmarks.report import Goal, Section, Table
from benchmarks.write_http import json_rows, rows_request, serving_lake
from benchmarks.write_options import WriteOptions
from benchmarks.write_peers import delta_rows, fdatasync_seconds, iceberg_rows, postgres_rows, sqlite_rows, timed

__all__ = ["measure_single"]

CREATE = "CREATE TABLE t (id BIGINT, note VARCHAR) USING delta"


def measure_single(options: WriteOptions) -> Section:
    """Return p50 and p99 of each."""
    notes: list[str] = []
    with tempfile.TemporaryDirectory(dir=options.build) as name:
        folder = Path(name)
        folder.chmod(0o755)
        n, few = options.singles, options.slow_singles
        found = {"fdatasync of 1 KB": fdatasync_seconds(folder, n)}
        found |= _embedded(folder, options)
        found |= _over_http(folder, options)
        try:
            found["PostgreSQL 15, synchronous_commit=on"] = postgres_rows(folder, n)[0]
        except (OSError, subprocess.SubprocessError) as error:
            notes.append(f"PostgreSQL did not run: {error}")
        found["SQLite, WAL, synchronous=FULL"] = sqlite_rows(folder, n)
        found["deltalake append"] = delta_rows(folder, few)
        found["pyiceberg append"] = iceberg_rows(folder, max(few // 2, 2))
        again = fdatasync_seconds(folder, n)
        notes.append(
            f"fdatasync once more at the end: p50 {ms(percentile(again, 50))} ms, p99 {ms(percentile(again, 99))} ms"
        )
    disk = percentile(found["fdatasync of 1 KB"] + again, 50)
    rows = [
        [name, ms(percentile(seconds, 50)), ms(percentile(seconds, 99)), ratio(percentile(seconds, 50), disk)]
        for name, seconds in found.items()
    ]
    goal = 2 * disk * 1000 + 2
    return Section(
        "single",
        "One row, one client: milliseconds until it is durable",
        [f"{n:,} rows one after another, {few} of the slow ones. {versions(['firnline', 'deltalake', 'pyiceberg'])}."],
        [Table(["", "p50 ms", "p99 ms", "p50 ÷ fdatasync"], rows)],
        [
            Goal(f"{name}: p50", percentile(found[name], 50) * 1000, goal, " ms", options.official)
            for name in ("firnline embedded, .append, fsync", "firnline HTTP, rows, fsync")
        ],
        notes,
    )


def _embedded(folder: Path, options: WriteOptions) -> dict[str, list[float]]:
    row = pa.table({"id": pa.array([1], pa.int64()), "note": ["row"]})
    with firnline.connect(str(folder / "embedded")) as connection:
        connection.sql(CREATE)
        appended = timed(lambda _n: connection.append("t", row), options.singles)
        inserted = timed(lambda _n: connection.sql("INSERT INTO t VALUES (1, 'row')"), options.slow_singles)
    return {"firnline embedded, .append, fsync": appended, "firnline embedded, INSERT": inserted}


def _over_http(folder: Path, options: WriteOptions) -> dict[str, list[float]]:
    with serving_lake(folder / "served") as server, server.client() as client:
        client.sql(CREATE)
        rows = _requests(server.url, options.singles)
        inserted = timed(lambda _n: client.sql("INSERT INTO t VALUES (1, 'row')"), options.slow_singles)
    return {"firnline HTTP, rows, fsync": rows, "firnline HTTP, INSERT": inserted}


def _requests(url: str, n: int) -> list[float]:
    """Seconds of each of n requests of one row on one connection."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname or "", parts.port or 80), 30) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def act(number: int) -> None:
            connection.sendall(rows_request(url, "default.t", json_rows(number, 1)))
            buffer = connection.recv(1 << 16)
            while _end_of_answer(buffer) is None:
                buffer += connection.recv(1 << 16)
            if not buffer.startswith(b"HTTP/1.1 200"):
                raise ConnectionError(buffer[:300].decode(errors="replace"))

        time.sleep(0.2)
        return timed(act, n)
