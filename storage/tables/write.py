"""What a table is made of when we write it, and one change to it; a `TableWriter` commits it, in either format.

1. A commit is atomic: a reader sees the table before or after it, and its *watermark* says which of the log's records
   the table holds. The watermark is inside the commit, so a record is folded once, however often a fold is tried.
2. A commit that lost its race is tried again on the newer table if it is still true there: the files it removes are
   live, the schema is the one it was computed from, the watermark is where it was expected. Otherwise it raises
   `ConflictError`, and its caller begins anew from the newer table.
3. Data files are written before the commit and are named by it alone; what a crash leaves behind is no part of the
   table and is removed by a vacuum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from storage.tables.snapshot import Snapshot

__all__ = ["Change", "Committed", "DataFile", "PartitionField", "SortField", "TableSpec", "TableWriter", "Watermark"]


@dataclass(frozen=True, slots=True)
class PartitionField:
    """One value that all rows of a data file share.

    column_id : field id of a top-level column
    transform : as Iceberg writes it: ``identity``, ``bucket[16]``, ``truncate[4]``, ``year``, ``month``, ``day``,
        ``hour``
    name : of the partition field, such as ``ts_day``
    """

    column_id: int
    transform: str
    name: str


@dataclass(frozen=True, slots=True)
class SortField:
    """One column of a table's sort order. Nulls come first ascending and last descending, as Iceberg has it."""

    column_id: int
    descending: bool = False


@dataclass(frozen=True)
class TableSpec:
    """The shape of a table that we write.

    table_id : 32 hexadecimal digits, never used again
    schema : its columns; every field, nested ones too, has a ``PARQUET:field_id`` that is never used again
    schema_id : counts the schemas of the table, from 0
    last_column_id : the greatest field id ever used
    primary_key : names of top-level columns, which are NOT NULL; empty: none
    partition_by : Delta has identity partitions of its own; there other transforms only decide which rows share a file
    properties : of the table, as strings
    """

    table_id: str
    schema: pa.Schema
    schema_id: int = 0
    last_column_id: int = 0
    primary_key: tuple[str, ...] = ()
    partition_by: tuple[PartitionField, ...] = ()
    order_by: tuple[SortField, ...] = ()
    properties: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class DataFile:
    """A Parquet file that was written and is not yet part of a table.

    location : normalized, under the table's own
    partition : partition field name → transformed value, as Iceberg types it (a day is a count of days)
    metadata : of the Parquet file, where both formats take their statistics from
    """

    location: str
    size: int
    partition: Mapping[str, Any]
    metadata: pq.FileMetaData

    @property
    def n_rows(self) -> int:
        return int(self.metadata.num_rows)


@dataclass(frozen=True, slots=True)
class Watermark:
    """Which records of a log a table holds: all of its own before ``sequence``.

    expected : the table's watermark when the change was computed; any other raises `ConflictError`
    """

    log: str
    expected: int
    sequence: int


@dataclass(frozen=True)
class Change:
    """What one commit does.

    operation : a word for the table's history: ``fold``, ``insert``, ``update``, ``delete``, ``merge``, ``optimize``,
        ``truncate``, ``restore``, ``alter``
    add, remove : files; ``remove`` has locations of files that are live in the snapshot the change was computed from
    data_change : False if the table has the same rows after it (merging small files)
    watermark : moves with this commit; None leaves it
    spec : new schema or properties; None leaves them
    facts : kept in the table's history (Delta: ``commitInfo``; Iceberg: the snapshot's summary)
    """

    operation: str
    add: tuple[DataFile, ...] = ()
    remove: tuple[str, ...] = ()
    data_change: bool = True
    watermark: Watermark | None = None
    spec: TableSpec | None = None
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Committed:
    """A commit that is part of the table. ``attempts`` is 1 if it met no other writer."""

    version: int
    timestamp_ms: int
    attempts: int = 1


class TableWriter(Protocol):
    """Commits to one table. See `storage.tables.delta.commit` and `storage.tables.iceberg.commit`."""

    async def create(
        self, spec: TableSpec, files: tuple[DataFile, ...] = (), facts: Mapping[str, str] | None = None
    ) -> Committed:
        """Make the table, with rows if ``files`` are given. Raises `ConflictError` if one lies there already."""
        ...

    async def commit(self, base: Snapshot, change: Change) -> Committed:
        """Commit a change that was computed from ``base``.

        Raises
        ------
        ConflictError : another writer's commit made it untrue; begin anew from the newer table
        UnavailableError : it did not happen
        IndeterminateError : it may have happened; load the table and look for its watermark or facts
        """
        ...

    def watermark(self, snapshot: Snapshot, log: str) -> int:
        """Return up to which sequence (exclusive) the snapshot holds the log's records of this table; 0: none."""
        ...
