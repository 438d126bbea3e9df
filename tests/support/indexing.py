"""Files of keys in memory, and segments built of them by the shipped reader."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from catalog.indexes import IndexColumn, IndexEntry, IndexKind
from functions.index.build import Built, build
from functions.index.segment import Located, Segment
from storage.blobs.memory import MemoryBlobs
from storage.clock import SystemClock
from storage.stores import Stores
from storage.tables.snapshot import FileSet, Snapshot

__all__ = ["Shelf", "rows_located", "segment_of"]


@dataclass
class Shelf:
    """Parquet files of one table; the key's columns are all columns unless it is said which."""

    schema: pa.Schema
    blobs: MemoryBlobs = field(default_factory=lambda: MemoryBlobs(SystemClock()))
    paths: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)

    @property
    def stores(self) -> Stores:
        return Stores(lambda _root: self.blobs)

    async def add(self, table: pa.Table, **options: Any) -> None:
        sink = io.BytesIO()
        pq.write_table(table, sink, **{"store_schema": False, **options})
        await self.put(sink.getvalue(), table.num_rows)

    async def put(self, data: bytes, n_rows: int) -> None:
        key = f"t/{len(self.paths)}.parquet"
        await self.blobs.put(key, data)
        self.paths.append(f"s3://lake/{key}")
        self.sizes.append(len(data))
        self.rows.append(n_rows)

    def snapshot(self, **changes: Any) -> Snapshot:
        n = len(self.paths)
        files = FileSet(self.paths, np.array(self.sizes, np.int64), np.array(self.rows, np.int64))
        given = {"schema": self.schema, "files": files, **changes}
        assert len(files) == n
        return Snapshot("parquet", "s3://lake/t", 1, 0, **given)

    def index(self, kind: IndexKind, options: Mapping[str, str] | None = None, *names: str) -> IndexEntry:
        columns = tuple(
            IndexColumn(each.name, str(each.type)) for each in self.schema if not names or each.name in names
        )
        return IndexEntry("t1", "by_key", kind, columns, 0, options=dict(options or {}))

    async def build(self, kind: IndexKind, options: Mapping[str, str] | None = None, *names: str) -> Built:
        snapshot = self.snapshot()
        files = range(len(self.paths))
        return await build(self.stores, snapshot, files, self.index(kind, options, *names))


def segment_of(tables: Sequence[pa.Table], kind: IndexKind, options: Mapping[str, str] | None = None) -> Segment:
    """Return the segment of files with these keys, each row group of 100 rows."""

    async def run() -> Built:
        shelf = Shelf(tables[0].schema)
        for table in tables:
            await shelf.add(table, row_group_size=100)
        return await shelf.build(kind, options)

    segment = asyncio.run(run()).segment
    assert segment is not None
    return segment


def rows_located(located: Located) -> set[tuple[int, int, int]]:
    """Return every (key, file, row)."""
    columns = (located.key, located.file, located.start, located.limit)
    return {
        (key, file, row)
        for key, file, start, limit in zip(*(column.tolist() for column in columns), strict=True)
        for row in range(start, limit)
    }
