"""Rows that may only be stored after a look at what is there: a file in the lake, and an INSERT that reads it.

The file lies under ``_firnline/staged/`` in the lake for as long as the statement runs; what a crash leaves there is
deleted by a compaction pass (`service.staged`).
"""

from __future__ import annotations

import io
from contextlib import suppress
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq

from catalog.tables import TableEntry
from service.ingest.ingest import Asked, Ingested
from service.staged import STAGED_FOLDER
from service.statement import Runner, Statement
from storage.clock import Clock
from storage.errors import FirnlineError
from storage.log import AckMode
from storage.stores import Stores, join, normalize

__all__ = ["insert_staged"]


async def insert_staged(
    runner: Runner,
    stores: Stores,
    clock: Clock,
    lake: str,
    entry: TableEntry,
    rows: pa.Table,
    asked: Asked,
    statement: Statement,
) -> Ingested:
    """Insert rows that are in the table's schema. ``statement`` says for whom and within which limits.

    Raises what an INSERT raises: `ConflictError` names the key that is there already, with ``error``.
    """
    table = f"{entry.namespace}.{entry.name}"
    if not rows.num_rows:
        return Ingested(table, 0)
    location = join(normalize(lake), STAGED_FOLDER, f"{clock.new_id()}.parquet")
    blobs, key = stores.resolve(location)
    sink = io.BytesIO()
    pq.write_table(rows, sink, compression="zstd", store_decimal_as_integer=True)
    await blobs.put(key, sink.getvalue(), if_absent=True)
    try:
        sql = _insert(entry, rows.column_names, location, asked)
        result = await runner.run(replace(statement, sql=sql, idempotency_key=asked.idempotency_key))
        answer = [row async for batch in result.batches for row in batch.to_pylist()]
    finally:
        with suppress(FirnlineError):
            await blobs.delete(key)
    ack, position = result.receipt.ack, result.receipt.log_position
    n_rows = answer[0]["rows_affected"]
    return Ingested(table, n_rows, AckMode(ack) if ack else None, position)


def _insert(entry: TableEntry, names: list[str], location: str, asked: Asked) -> str:
    columns = ", ".join(map(_quoted, names))
    source = location.replace("'", "''")
    into = f"{_quoted(entry.namespace)}.{_quoted(entry.name)}"
    sql = f"INSERT INTO {into} ({columns}) SELECT {columns} FROM parquet('{source}')"
    return sql + (" ON CONFLICT DO NOTHING" if asked.on_conflict == "nothing" else "")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
