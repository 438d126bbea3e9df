"""A query that a statement which writes has started: the engine makes it, `service.write` reads it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

import pyarrow as pa

from service.cursor import TableName
from storage.tables.snapshot import Snapshot

__all__ = ["Query"]


@dataclass
class Query:
    """A query that runs. Closing ``batches`` early cancels it.

    since : (namespace, table) → (epoch, limit) of the log's range that was read; tables that no log feeds are missing
    snapshots : (namespace, table) → what was read
    files : ``namespace.table`` → locations of the files that pruning left
    """

    schema: pa.Schema
    batches: AsyncIterator[pa.RecordBatch]
    since: Mapping[TableName, tuple[int, int]]
    snapshots: Mapping[TableName, Snapshot]
    files: Mapping[str, tuple[str, ...]]
