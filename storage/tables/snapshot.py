"""A table as of one version: its schema, files, statistics and delete information.

`Snapshot` is what every table format resolves to and all that the read path above knows of a format.
It is immutable and holds no connection, so it is cached by (location, version) and shared between statements.

Columns are kept as arrays, one element per file, since a table may have 100,000 files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import pyarrow as pa

__all__ = ["At", "ColumnStats", "Deletes", "EqualityDelete", "FileSet", "LoadedDeletes", "Matching", "Snapshot"]

FIELD_ID = b"PARQUET:field_id"
"""Arrow field metadata: the column's field id as decimal digits (pyarrow's own key, so files carry it too)."""
PHYSICAL_NAME = b"firnline.physical_name"
"""Arrow field metadata: the column's name inside data files (Delta column mapping), at every nesting level."""
INITIAL_DEFAULT = b"firnline.initial_default"
"""Arrow field metadata: value of the column in files written before it existed, as JSON (Iceberg v3 single-value)."""

Matching = Literal["name", "field_id", "physical_name"]
"""How a table's columns are found in a data file."""


@dataclass(frozen=True, slots=True)
class At:
    """Which version is asked for; all None means the latest. At most one is set."""

    version: int | None = None
    timestamp_ms: int | None = None
    ref: str | None = None
    """An Iceberg branch or tag."""


@dataclass(frozen=True, slots=True)
class ColumnStats:
    """Per-file statistics of one column; null where a file has none. Bounds may be wider than the data, never narrower.

    minimum, maximum : arrays of the column's logical type, length n_files
    null_count : int64 array, length n_files
    without_nan : bool[n_files], files known to hold no NaN in a floating-point column; None: none is. Bounds leave NaN
        out.
    """

    minimum: pa.Array
    maximum: pa.Array
    null_count: pa.Array
    without_nan: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class EqualityDelete:
    """Rows whose values in ``field_ids`` equal (nulls equal nulls) a row of ``keys`` are deleted.

    keys : one column per field id, in order; column names are the field ids as decimal digits
    schema : the columns' logical fields, for reading them from a data file that the table's schema no longer names
    """

    field_ids: tuple[int, ...]
    keys: pa.Table
    schema: pa.Schema


@dataclass(frozen=True, slots=True)
class LoadedDeletes:
    """Delete information of one data file, ready to apply.

    positions : int64[k], sorted, unique: deleted row numbers within the file, from 0
    """

    positions: np.ndarray
    equality: tuple[EqualityDelete, ...] = ()


class Deletes(Protocol):
    """Where the delete information of one data file is; formats implement it. Hashable by content."""

    async def load(self, stores: object) -> LoadedDeletes:
        """Read and decode it through a `storage.stores.Stores`. Raises `CorruptError` naming the file."""
        ...


@dataclass(frozen=True)
class FileSet:
    """The data files of a snapshot, one array element per file.

    paths : locations (normalized, not percent-encoded), length n
    sizes : int64[n], bytes
    n_rows : int64[n] physical rows before deletes, -1 where unknown
    partitions : column name → array[n] of the logical type: the value that every row of the file has, which the file
        itself may lack (Delta partition columns, Iceberg identity partitions). A column is here only if it is known
        for *every* file of the set.
    absent : column name → (array[n], bool[n] known), for columns that are not in ``partitions``: the value of the
        column in those files that lack it, where known (Iceberg identity partitions, when only some files have them)
    stats : column name → statistics, or None; computed on first use and remembered by the implementation.
        Nested columns are not covered.
    deletes : file index → delete information; files that are not here have none
    formats : file index → "orc" or "avro"; files that are not here are Parquet
    """

    paths: Sequence[str]
    sizes: np.ndarray
    n_rows: np.ndarray
    partitions: Mapping[str, pa.Array] = field(default_factory=dict)
    absent: Mapping[str, tuple[pa.Array, np.ndarray]] = field(default_factory=dict)
    stats: Callable[[str], ColumnStats | None] = lambda _name: None
    deletes: Mapping[int, Deletes] = field(default_factory=dict)
    formats: Mapping[int, Literal["orc", "avro"]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True)
class Snapshot:
    """One version of one table.

    location : of the table's folder, or the glob or file of a Parquet table
    version : Delta version, Iceberg snapshot id (0: no snapshot yet), for Parquet a hash of the listing
    timestamp_ms : when the version was committed; 0 where unknown
    schema : logical schema, in the table's column order, with the metadata keys above on fields at every level
    matching : how columns are found in files. With "field_id", a file without ids falls back to ``name_mapping``
        (then to the field's position-independent name, as the format says)
    partition_columns : names, in order
    name_mapping : physical top-level or dotted name → field id, for files without ids (Iceberg name mapping)
    properties : the table's own properties, as strings
    etag : changes whenever the answer could; equal etags mean an equal snapshot
    """

    format: Literal["delta", "iceberg", "parquet"]
    location: str
    version: int
    timestamp_ms: int
    schema: pa.Schema
    files: FileSet
    matching: Matching = "name"
    partition_columns: tuple[str, ...] = ()
    name_mapping: Mapping[str, int] | None = None
    properties: Mapping[str, str] = field(default_factory=dict)
    etag: str = ""
