"""Rows acknowledged by the object store, over an S3 API that adds a delay to every request."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

import pyarrow as pa

from benchmarks.measure import ms, percentile
from benchmarks.report import Goal, Section, Table
from benchmarks.serving import start_announced
from benchmarks.write_options import WriteOptions
from benchmarks.write_single import CREATE
from benchmarks.write_tail import _sql
from functions.append import append_rows
from service.components import open_engine
from service.engine import Engine
from service.settings import EngineSettings, LogAccess
from storage.blobs.s3_options import S3Options
from storage.log import AckMode, RecordKind

__all__ = ["measure_object"]

DELAYS_MS = (5, 20)
CLIENTS = 64


def measure_object(options: WriteOptions) -> Section:
    """Return p50 and p99 of an ack, for one client and for 64."""
    rows: list[list[str]] = []
    goals: list[Goal] = []
    for delay_ms in DELAYS_MS:
        with tempfile.TemporaryDirectory(dir=options.build) as name:
            arguments = ("--root", name, "--port", "0", "--delay-ms", str(delay_ms))
            with start_announced("benchmarks.s3_facade", *arguments) as (url, _pid):
                (Path(name) / "bench").mkdir()
                put, one, many, interval_ms = asyncio.run(_acks(url, options))
        request = percentile(put, 50)
        rows.append([f"one PUT, {delay_ms} ms added", ms(request), ms(percentile(put, 99)), "–"])
        rows.append([f"one client, {delay_ms} ms added", ms(percentile(one, 50)), ms(percentile(one, 99)), "–"])
        rate = f"{len(many[0]) / many[1]:,.0f}"
        p50, p99 = percentile(many[0], 50), percentile(many[0], 99)
        rows.append([f"{CLIENTS} clients, {delay_ms} ms added", ms(p50), ms(p99), rate])
        limit = request * 1000 + interval_ms
        goals += [
            Goal(f"{who}, {delay_ms} ms added: ack p50", value * 1000, limit, " ms", options.official)
            for who, value in (("one client", percentile(one, 50)), (f"{CLIENTS} clients", p50))
        ]
    return Section(
        "object",
        "Acknowledged by the object store",
        [
            "One row an append, in process, over the S3 façade with a delay in front of every request. The goal is the "
            "p50 of one PUT by the same client, and the flush interval."
        ],
        [Table(["", "p50 ms", "p99 ms", "acks/s"], rows)],
        goals,
    )


async def _puts(engine: Engine, n: int) -> list[float]:
    """Seconds of each of n PUTs of 1 KB, one after another, through our own S3 client."""
    blobs = engine.stores.blobs("s3://bench")
    found = []
    for number in range(n):
        started = time.perf_counter()
        await blobs.put(f"bare/{number}", b"x" * 1024, if_absent=True)
        found.append(time.perf_counter() - started)
    return found


async def _acks(url: str, options: WriteOptions) -> tuple[list[float], list[float], tuple[list[float], float], int]:
    s3 = S3Options(endpoint=url, region="us-east-1", access_key_id="x", secret_access_key="x")
    access = LogAccess(ack=AckMode.OBJECT)
    async with open_engine(EngineSettings(lake="s3://bench/lake", s3=s3, log=access)) as engine:
        await _sql(engine, CREATE)
        await _client(engine, 3)
        one = await _client(engine, options.slow_singles)
        started = time.perf_counter()
        each = max(options.slow_singles // 4, 2)
        many = await asyncio.gather(*(_client(engine, each) for _ in range(CLIENTS)))
        elapsed = time.perf_counter() - started
        put = await _puts(engine, max(options.slow_singles, 10))
        return put, one, ([each for client in many for each in client], elapsed), access.writer.flush_interval_ms


async def _client(engine: Engine, n: int) -> list[float]:
    entry = await engine.tables.get("default", "t")
    assert entry.managed is not None
    log = await engine.logs.log(entry.managed.shard)
    row = pa.table({"id": pa.array([1], pa.int64()), "note": ["row"]})
    found = []
    for _ in range(n):
        started = time.perf_counter()
        await append_rows(log, entry, row, kind=RecordKind.APPEND)
        found.append(time.perf_counter() - started)
    return found
