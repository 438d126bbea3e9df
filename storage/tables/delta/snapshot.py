"""From a `TableState` to the `Snapshot` that the read path knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.errors import UnsupportedError
from storage.tables.delta.files import FileBatch
from storage.tables.delta.partitions import partition_columns
from storage.tables.delta.protocol import check_readable, mapping_mode
from storage.tables.delta.replay import TableState
from storage.tables.delta.schema import physical_name, read_schema
from storage.tables.delta.stats import RawColumn, widen
from storage.tables.delta.vectors import DeltaDeletes
from storage.tables.snapshot import ColumnStats, FileSet, Matching, Snapshot

__all__ = ["DeltaSnapshot", "build_snapshot"]

_MATCHING: Mapping[str, Matching] = {"none": "name", "name": "physical_name", "id": "field_id"}


@dataclass(frozen=True, kw_only=True)
class DeltaSnapshot(Snapshot):
    """A `Snapshot` that also holds what the next load and a writer need: see `TableState`."""

    state: TableState = field(repr=False, compare=False)


def build_snapshot(table: str, state: TableState) -> DeltaSnapshot:
    """Return the snapshot. Raises `UnsupportedError` naming what is refused, `CorruptError` naming what is wrong."""
    check_readable(table, state.protocol, state.metadata)
    mode = mapping_mode(table, state.protocol, state.metadata)
    schema = read_schema(table, state.metadata.schema_json, mode)
    return DeltaSnapshot(
        format="delta",
        location=table,
        version=state.version,
        timestamp_ms=state.timestamp_ms,
        schema=schema,
        files=_file_set(table, schema, state),
        matching=_MATCHING[mode],
        partition_columns=state.metadata.partition_columns,
        properties=dict(state.metadata.configuration),
        etag=f"{state.metadata.table_id}-{state.version}-{state.head_etag}",
        state=state,
    )


def _file_set(table: str, schema: pa.Schema, state: TableState) -> FileSet:
    batches = state.batches
    columns = pa.Table.from_batches([batch.columns for batch in batches]) if batches else None
    locations = _Locations(columns.column("location") if columns else pa.chunked_array([], pa.string()))
    locations.check(table)
    n_rows = np.concatenate([np.empty(0, np.int64), *(batch.stats.n_rows for batch in batches)])
    partitions = partition_columns(table, schema, state.metadata.partition_columns, batches)
    return FileSet(
        paths=locations,
        sizes=columns.column("size").to_numpy() if columns else np.empty(0, np.int64),
        n_rows=n_rows,
        partitions=partitions,
        stats=_SnapshotStats(schema, partitions, batches, n_rows),
        deletes=_deletes(table, batches, locations),
    )


def _deletes(table: str, batches: Sequence[FileBatch], locations: Sequence[str]) -> dict[int, DeltaDeletes]:
    found: dict[int, DeltaDeletes] = {}
    start = 0
    for batch in batches:
        for row, vector in batch.vectors().items():
            found[start + row] = DeltaDeletes(table, locations[start + row], vector)
        start += len(batch)
    return found


class _Locations(Sequence[str]):
    """Locations kept as Arrow strings: a tenth of what a list of 100,000 Python strings takes."""

    __slots__ = ("_column",)

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        text: str = self._column[index].as_py()
        return text

    def __iter__(self) -> Iterator[str]:
        for chunk in self._column.chunks:
            yield from chunk.to_pylist()

    def check(self, table: str) -> None:
        """Raise `UnsupportedError` when a file lies in a store that Firnline does not read."""
        known = pc.match_substring_regex(self._column, "^(file|s3)://")
        if not pc.all(known).as_py() and len(self):
            strange = self._column.filter(pc.invert(known))[0].as_py()
            raise UnsupportedError("a data file lies in a store of an unknown scheme", table=table, file=strange)


class _SnapshotStats:
    """Statistics of all files of a snapshot, by logical column name; remembered per column."""

    def __init__(
        self, schema: pa.Schema, partitions: Mapping[str, pa.Array], batches: Sequence[FileBatch], n_rows: np.ndarray
    ) -> None:
        self._partitions, self._batches, self._n_rows = partitions, batches, n_rows
        self._fields = {f.name: f for f in schema if _has_bounds(f.type) and f.name not in partitions}
        self._wanted = {physical_name(f): f.type for f in self._fields.values()}
        self._known: dict[str, ColumnStats | None] = {}

    def __call__(self, name: str) -> ColumnStats | None:
        if name not in self._known:
            self._known[name] = self._of_partition(name) if name in self._partitions else self._of_files(name)
        return self._known[name]

    def _of_partition(self, name: str) -> ColumnStats:
        values = self._partitions[name]
        n_rows = pa.array(self._n_rows, mask=self._n_rows < 0)
        nulls = pc.if_else(values.is_null(), n_rows, pa.scalar(0, pa.int64()))
        return ColumnStats(values, values, nulls)

    def _of_files(self, name: str) -> ColumnStats | None:
        field_ = self._fields.get(name)
        if field_ is None:
            return None
        stored = [batch.stats.column(physical_name(field_), self._wanted) for batch in self._batches]
        if not any(stored):
            return None
        parts = [
            _nothing(field_.type, len(batch)) if raw is None else widen(raw, field_.type, batch.stats)
            for raw, batch in zip(stored, self._batches, strict=True)
        ]
        sure = [
            np.zeros(len(batch), bool) if part.without_nan is None else part.without_nan
            for part, batch in zip(parts, self._batches, strict=True)
        ]
        return ColumnStats(
            pa.concat_arrays([part.minimum for part in parts]),
            pa.concat_arrays([part.maximum for part in parts]),
            pa.concat_arrays([part.null_count for part in parts]),
            np.concatenate(sure),
        )


def _has_bounds(kind: pa.DataType) -> bool:
    return not pa.types.is_nested(kind) and not pa.types.is_null(kind)


def _nothing(kind: pa.DataType, n_files: int) -> RawColumn:
    return RawColumn(pa.nulls(n_files, kind), pa.nulls(n_files, kind), pa.nulls(n_files, pa.int64()))
