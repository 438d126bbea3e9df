"""Runs the queries that feed a write, and collects what they answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from service.cursor import TableName
from service.query import Query
from service.streams import close_stream
from service.write.compose import Text
from service.write.context import Work
from storage.errors import FirnlineError, LimitError
from storage.tables.snapshot import Snapshot

__all__ = ["Answer", "answer", "start", "wanted_files"]

ROWS_BYTES_MAX = 4 << 30
"""Rows that a statement holds in memory at most, as Arrow."""


@dataclass(frozen=True)
class Answer:
    """All rows of a query, and what it read."""

    rows: pa.Table
    since: Mapping[TableName, tuple[int, int]]
    snapshots: Mapping[TableName, Snapshot]


async def start(
    work: Work, text: Text, *, tables: Mapping[str, pa.Table] | None = None, extra: Mapping[str, Any] | None = None
) -> Query:
    """Plan and start the query.

    Parameters
    ----------
    tables : rows that names of the query mean
    extra : parameters beside the statement's own
    """
    params = {**text.params(work.parsed.params), **text.bound, **(extra or {})}
    try:
        return await work.engine.query(text.text, params, work.statement, work.receipt, tables)
    except FirnlineError as error:
        raise text.blame(error) from error


async def answer(
    work: Work, text: Text, *, tables: Mapping[str, pa.Table] | None = None, extra: Mapping[str, Any] | None = None
) -> Answer:
    """Run the query to its end. Raises `LimitError` for more rows than fit."""
    query = await start(work, text, tables=tables, extra=extra)
    batches: list[pa.RecordBatch] = []
    n_rows = n_bytes = 0
    async with aclosing(_blamed(query, text)) as rows:
        async for batch in rows:
            batches.append(batch)
            n_rows += batch.num_rows
            if tables is None:  # rows that are given were told of by whoever reads them
                work.tell(n_rows, None, "rows read")
            n_bytes += batch.nbytes
            if n_bytes > ROWS_BYTES_MAX:
                raise LimitError(
                    "the statement writes more rows than fit in memory; write them in parts", bytes=n_bytes
                )
    return Answer(pa.Table.from_batches(batches, query.schema), query.since, query.snapshots)


async def wanted_files(
    work: Work, text: Text, table: TableName, snapshot: Snapshot, tables: Mapping[str, pa.Table] | None = None
) -> np.ndarray | None:
    """Return which files of the snapshot a query may want, as bool[n]; None if it would read another version."""
    query = await start(work, text, tables=tables)
    await close_stream(query.batches)
    read, files = query.snapshots.get(table), query.files.get(".".join(table))
    if read is None or files is None or read.version != snapshot.version:
        return None
    wanted = set(files)
    return np.fromiter((path in wanted for path in snapshot.files.paths), bool, len(snapshot.files))


async def _blamed(query: Query, text: Text) -> AsyncGenerator[pa.RecordBatch, None]:
    try:
        async for batch in query.batches:
            yield batch
    except FirnlineError as error:
        raise text.blame(error) from error
    finally:
        await close_stream(query.batches)
