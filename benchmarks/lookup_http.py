"""Point queries a second over HTTP, by key and as SQL, from a local disk and from a store with a delay."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from benchmarks.load import request_bytes, throughput
from benchmarks.lookup_data import LAKE, WideTables, row_ids, store, wide_tables
from benchmarks.lookup_local import local_lake
from benchmarks.lookup_options import LookupOptions
from benchmarks.measure import ms, percentile
from benchmarks.progress import progress
from benchmarks.report import Section, Table
from benchmarks.serving import Server
from benchmarks.write_http import serving_lake

__all__ = ["measure_http"]

REQUESTS = 5_000
HEADER = ["", "connections", "answers/s", "p50 ms", "p99 ms"]


def measure_http(options: LookupOptions) -> Section:
    """Return rates and latencies at several numbers of connections."""
    rng = np.random.default_rng(3)
    shown = []
    progress("http", "a lake on the local disk")
    with serving_lake(local_lake(options)) as server:
        keys = rng.integers(0, options.local_rows, REQUESTS) * 2
        shown.append(Table(HEADER, _loads(options, server, "wide", keys), "a local disk"))
    tables = wide_tables(options)
    for delay_ms in sorted({min(options.delays_ms), max(options.delays_ms)}):
        progress("http", f"an S3 API, {delay_ms} ms added")
        with store(tables, delay_ms) as endpoint, _served(tables, endpoint) as server:
            keys = rng.choice(row_ids(tables), REQUESTS)
            rows = _loads(options, server, "wide_delta", keys)
            shown.append(Table(HEADER, rows, f"an S3 API, {delay_ms} ms added"))
    return Section(
        "http",
        "Point queries over HTTP",
        [
            f"`firn serve`, JSON answers of one row of 16 columns, {options.seconds:g} s each; connections send as "
            "soon as they are answered, each request for another key. Load and store run on the same 2 cores."
        ],
        shown,
    )


def _served(tables: WideTables, endpoint: str):  # type: ignore[no-untyped-def]
    settings = {
        "AWS_ENDPOINT_URL_S3": endpoint, "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x", "FIRN_CATALOG": tables.catalog,
    }  # fmt: skip
    return serving_lake(LAKE, settings=settings)


def _loads(options: LookupOptions, server: Server, table: str, keys: Sequence[int] | np.ndarray) -> list[list[str]]:
    lookup_url, sql = f"{server.url}/v1/lookup/default.{table}", f"SELECT * FROM {table} WHERE id = $1"
    asked = {
        "POST /v1/lookup": (lookup_url, [{"keys": [int(key)], "by": ["id"]} for key in keys]),
        "POST /v1/sql": (f"{server.url}/v1/sql", [{"sql": sql, "params": [int(key)]} for key in keys]),
    }
    requests = {
        name: [request_bytes(url, json.dumps(body).encode()) for body in bodies]
        for name, (url, bodies) in asked.items()
    }
    for name in requests:  # Both before either is measured: the first questions about a file also fetch its layout.
        throughput(server.url, requests[name], max(options.connections), options.seconds)
    rows = []
    for name in requests:
        for connections in options.connections:
            rate, seconds = throughput(server.url, requests[name], connections, options.seconds)
            p50, p99 = percentile(seconds, 50), percentile(seconds, 99)
            rows.append([name, f"{connections}", f"{rate:,.0f}", ms(p50), ms(p99)])
    return rows
