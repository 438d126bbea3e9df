"""Bytes of a row: in the log, in the table, and beside them CSV and Arrow IPC."""

from __future__ import annotations

import asyncio
import io
import tempfile
from pathlib import Path

import pyarrow as pa
from pyarrow import csv

from benchmarks.report import Section, Table
from benchmarks.write_bulk import COLUMNS, eight_columns
from benchmarks.write_options import WriteOptions
from benchmarks.write_tail import _append, _fold, _sql
from service.components import open_engine
from service.settings import EngineSettings

__all__ = ["measure_size"]


def measure_size(options: WriteOptions) -> Section:
    """Return bytes a row of each."""
    n = min(options.bulk_rows, 1_000_000)
    rows = eight_columns(n)
    found = {"Arrow in memory": float(rows.nbytes)}
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    found["Arrow IPC stream"] = float(len(sink.getvalue()))
    sink = io.BytesIO()
    csv.write_csv(rows, sink)
    found["CSV"] = float(len(sink.getvalue()))
    with tempfile.TemporaryDirectory(dir=options.build) as name:
        found |= asyncio.run(_ours(Path(name), n))
    return Section(
        "size",
        "Bytes of a row",
        [f"{n:,} rows of eight columns; the log's in records of 100,000 rows."],
        [Table(["", "bytes a row"], [[name, f"{n_bytes / n:.1f}"] for name, n_bytes in found.items()])],
    )


async def _ours(folder: Path, n: int) -> dict[str, float]:
    found = {}
    async with open_engine(EngineSettings(lake=str(folder / "lake"))) as engine:
        for format_ in ("delta", "iceberg"):
            await _sql(engine, f"CREATE TABLE {format_} ({COLUMNS}) USING {format_} ORDER BY (ts)")
            before = _bytes(folder / "lake" / "_firnline", "segments")
            await _append(engine, format_, n, 0)
            found["log (zstd)"] = float(_bytes(folder / "lake" / "_firnline", "segments") - before)
            await _fold(engine, format_, n, "")
            found[f"{format_} table, all its files"] = float(_bytes(folder / "lake" / "tables" / "default", format_))
    return found


def _bytes(folder: Path, part: str) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and part in str(path))
