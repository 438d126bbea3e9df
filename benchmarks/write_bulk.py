"""Bulk ingest of Arrow batches of eight columns, acknowledged when durable, beside deltalake and pyiceberg."""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

import firnline
from benchmarks.load import exchange
from benchmarks.measure import mb
from benchmarks.report import Goal, Section, Table
from benchmarks.write_http import rows_request, serving_lake
from benchmarks.write_options import WriteOptions

__all__ = ["COLUMNS", "eight_columns", "measure_bulk"]

COLUMNS = (
    "id BIGINT, ts TIMESTAMP, user_id BIGINT, price DOUBLE, quantity INT, country VARCHAR, device VARCHAR, paid BOOLEAN"
)


def eight_columns(n: int, seed: int = 0, first: int = 0) -> pa.Table:
    """Return n rows of eight columns as an event table has them; ids begin at ``first``."""
    rng = np.random.default_rng(seed)
    countries = pa.array(["DE", "FR", "GB", "IN", "JP", "US"])
    devices = pa.array(["android", "ios", "linux", "macos", "windows"])
    return pa.table(
        {
            "id": np.arange(first, first + n, dtype=np.int64),
            "ts": pa.array(1_700_000_000_000_000 + np.arange(n) * 1000 + rng.integers(0, 999, n), pa.timestamp("us")),
            "user_id": rng.integers(0, 1_000_000, n),
            "price": np.round(rng.lognormal(3, 1, n), 2),
            "quantity": rng.integers(1, 20, n).astype(np.int32),
            "country": countries.take(pa.array(rng.integers(0, 6, n))),
            "device": devices.take(pa.array(rng.integers(0, 5, n))),
            "paid": rng.random(n) < 0.8,
        }
    )


def measure_bulk(options: WriteOptions) -> Section:
    """Return rows a second of each."""
    batches = [
        eight_columns(options.batch_rows, seed, seed * options.batch_rows)
        for seed in range(options.bulk_rows // options.batch_rows)
    ]
    n_bytes = sum(batch.nbytes for batch in batches)
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=options.build) as name:
        folder = Path(name)
        found["firnline embedded, .append, fsync"] = _embedded(folder / "embedded", batches)
        found["firnline HTTP, Arrow IPC, fsync"] = _http(folder / "served", batches)
        found["deltalake append"] = _timed(_delta(folder), batches)
        found["pyiceberg append"] = _timed(_iceberg(folder), batches)
    n = len(batches) * options.batch_rows
    rows = [[name, f"{n / seconds:,.0f}", mb(n_bytes / seconds), f"{seconds:.2f}"] for name, seconds in found.items()]
    return Section(
        "bulk",
        "Bulk ingest of eight columns",
        [
            f"{n:,} rows in batches of {options.batch_rows:,}, one client, one batch after another; {mb(n_bytes)} MB "
            "in Arrow."
        ],
        [Table(["", "rows/s", "MB/s (Arrow)", "s"], rows)],
        [
            Goal(f"{name}: rows a second", n / found[name], 1_000_000, "", options.official, True)
            for name in ("firnline embedded, .append, fsync",)
        ],
        [
            "A peer's append is a commit of files that are not fsynced; Firnline's is fsynced, and folded into files "
            "later."
        ],
    )


def _timed(append: Callable[[pa.Table], object], batches: list[pa.Table]) -> float:
    append(batches[0].slice(0, 10))
    started = time.perf_counter()
    for batch in batches:
        append(batch)
    return time.perf_counter() - started


def _embedded(lake: Path, batches: list[pa.Table]) -> float:
    with firnline.connect(str(lake)) as connection:
        connection.sql(f"CREATE TABLE t ({COLUMNS}) USING delta")
        seconds = _timed(lambda batch: connection.append("t", batch), batches)
        held = connection.sql("SELECT count(*) AS n FROM t")["n"][0].as_py()
    wanted = sum(batch.num_rows for batch in batches) + min(10, batches[0].num_rows)
    if held != wanted:
        raise RuntimeError(f"the table holds {held} rows, not {wanted}")
    return seconds


def _http(lake: Path, batches: list[pa.Table]) -> float:
    with serving_lake(lake) as server, server.client() as client:
        client.sql(f"CREATE TABLE t ({COLUMNS}) USING delta")
        content = "application/vnd.apache.arrow.stream"

        def append(batch: pa.Table) -> None:
            sink = io.BytesIO()
            with pa.ipc.new_stream(sink, batch.schema) as writer:
                writer.write_table(batch)
            request = rows_request(server.url, "default.t", sink.getvalue(), content)
            head, body = exchange(server.url, request)
            if b" 200 " not in head:
                raise RuntimeError(body[:500].decode(errors="replace"))

        return _timed(append, batches)


def _delta(folder: Path) -> Callable[[pa.Table], object]:
    from deltalake import write_deltalake

    return lambda batch: write_deltalake(str(folder / "deltalake"), batch, mode="append")


def _iceberg(folder: Path) -> Callable[[pa.Table], object]:
    from pyiceberg.catalog.sql import SqlCatalog

    warehouse = folder / "pyiceberg"
    warehouse.mkdir()
    catalog = SqlCatalog("bench", uri=f"sqlite:///{warehouse}/catalog.db", warehouse=f"file://{warehouse}")
    catalog.create_namespace("default")
    table = catalog.create_table("default.t", eight_columns(1).schema)
    return table.append
