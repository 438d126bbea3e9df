"""Queries over un-folded rows, and what folding them costs."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.measure import mb, median_of, ms
from benchmarks.report import Section, Table
from benchmarks.write_bulk import COLUMNS, eight_columns
from benchmarks.write_options import WriteOptions
from functions.append import append_rows
from functions.fold_log import fold_all
from service.components import open_engine
from service.engine import Engine
from service.executor import InlineExecutor
from service.settings import EngineSettings
from service.statement import Limits, Statement
from storage.log import RecordKind

__all__ = ["measure_tail"]

QUERIES = {
    "count": "SELECT count(*) FROM {t}",
    "sum, filtered": "SELECT sum(price) FROM {t} WHERE country = 'DE'",
    "group by": "SELECT country, device, count(*), sum(price) FROM {t} GROUP BY country, device",
    "one id": "SELECT * FROM {t} WHERE id = 12345",
}
FORMATS = ("delta", "iceberg")


def measure_tail(options: WriteOptions) -> Section:
    """Return milliseconds of queries with 0, 100,000 and 1,000,000 un-folded rows over as many folded ones."""
    with tempfile.TemporaryDirectory(dir=options.build) as name:
        return asyncio.run(_measure(Path(name), options))


async def _sql(engine: Engine, sql: str) -> pa.Table:
    statement = Statement(sql, engine.clock.new_id(), limits=Limits())
    result = await InlineExecutor(engine, engine.clock).run(statement)
    return pa.Table.from_batches([batch async for batch in result.batches], result.schema)


async def _measure(folder: Path, options: WriteOptions) -> Section:
    queries: list[list[str]] = []
    folds: list[list[str]] = []
    folded = max(options.tails)
    async with open_engine(EngineSettings(lake=str(folder / "lake"))) as engine:
        for key in ("", ", PRIMARY KEY (id)"):
            for format_ in FORMATS:
                kind = "keyed" if key else "plain"
                table = f"{format_}_{kind}"
                await _sql(engine, f"CREATE TABLE {table} ({COLUMNS}{key}) USING {format_} ORDER BY (id)")
                await _append(engine, table, folded, 0)
                folds.append(await _fold(engine, table, folded, "into an empty table"))
                for n in options.tails:
                    await _append(engine, table, n, folded if not key else folded - n // 2)
                    queries.append([f"{format_}, {kind}, {n:,}", *await _times(engine, table)])
                    folds.append(await _fold(engine, table, n, "behind as many" if not key else "half of them updates"))
    return Section(
        "tail",
        "Un-folded rows: queries over them, and the fold",
        [
            f"Over {folded:,} folded rows of eight columns, to which each line's rows are folded before the next; in "
            "process, medians of five after a warm-up, milliseconds."
        ],
        [
            Table(["format, table, un-folded rows", *QUERIES], queries, "Queries"),
            Table(["fold", "rows/s", "MB written", "bytes written ÷ Arrow bytes"], folds, "Folds"),
        ],
        notes=["A fold into a keyed table rewrites the files that hold updated keys; the ratio counts that."],
    )


async def _append(engine: Engine, table: str, n: int, first: int) -> None:
    entry = await engine.tables.get("default", table)
    assert entry.managed is not None
    log = await engine.logs.log(entry.managed.shard)
    kind = RecordKind.UPSERT if entry.managed.spec.primary_key else RecordKind.APPEND
    for start in range(0, n, 100_000):
        rows = eight_columns(min(100_000, n - start), start, first + start)
        await append_rows(log, entry, rows.cast(_bare(entry.managed.spec.schema)), kind=kind)
    await log.flush()


def _bare(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field.remove_metadata() for field in schema])


async def _fold(engine: Engine, table: str, n: int, how: str) -> list[str]:
    started = time.perf_counter()
    report = await fold_all(engine.stores, engine.logs, engine.tables, engine.clock)
    seconds = time.perf_counter() - started
    if report.errors:
        raise RuntimeError(f"the fold failed: {report.errors}")
    if not n:
        return [f"{table}, none", "–", "–", "–"]
    total: Any = report.total
    n_bytes = eight_columns(min(n, 100_000)).nbytes * n / min(n, 100_000)
    written = total["bytes_written"]
    return [f"{table}, {n:,} {how}", f"{n / seconds:,.0f}", mb(written), f"{written / n_bytes:.2f}"]


async def _times(engine: Engine, table: str) -> list[str]:
    found = []
    for sql in QUERIES.values():
        seconds = []
        for _ in range(6):
            started = time.perf_counter()
            await _sql(engine, sql.format(t=table))
            seconds.append(time.perf_counter() - started)
        found.append(ms(median_of(seconds[1:])))
    return found
