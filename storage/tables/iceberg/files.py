"""The data files of a snapshot as a `FileSet`: partition values, statistics and formats from decoded manifests.

A column's statistics are decoded when they are first asked for and then remembered.

Sources: Iceberg spec, "Column Projection" (values of identity partitions), "Manifests" (metrics).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.errors import CorruptError, UnsupportedError
from storage.tables.iceberg.manifests import Manifest, Sparse
from storage.tables.iceberg.metadata import PartitionField, PartitionSpec
from storage.tables.iceberg.schema import field_id_of, top_level_ids
from storage.tables.iceberg.transforms import source_range
from storage.tables.iceberg.values import bounds_array, is_primitive, partition_array, scatter
from storage.tables.snapshot import ColumnStats, Deletes, FileSet

__all__ = ["file_set"]

Format = Literal["orc", "avro"]


def file_set(
    manifests: Sequence[Manifest],
    schema: pa.Schema,
    default_spec: PartitionSpec,
    uuid_columns: frozenset[str],
    deletes: Mapping[int, Deletes],
) -> FileSet:
    """Return the live data files of ``manifests``, in their order.

    Parameters
    ----------
    schema : logical, from `arrow_schema`
    default_spec : decides the partition columns when there is no file
    uuid_columns : columns of type uuid, which Arrow's type does not show

    Raises
    ------
    UnsupportedError
        a data file is neither Parquet nor ORC nor Avro
    CorruptError
        a partition value does not have its column's type
    """
    with_data = [manifest for manifest in manifests if manifest.paths]
    values, known = _partition_values(with_data, schema)
    complete = {name for name, mask in known.items() if mask.all()}
    if not with_data:
        names = (name for name, _f in _identity_columns(default_spec, top_level_ids(schema)))
        values = {name: pa.nulls(0, schema.field(name).type) for name in names}
        complete = set(values)
    return FileSet(
        paths=[path for manifest in with_data for path in manifest.paths],
        sizes=_concatenated([manifest.sizes for manifest in with_data]),
        n_rows=_concatenated([manifest.n_rows for manifest in with_data]),
        partitions={name: array for name, array in values.items() if name in complete},
        absent={name: (array, known[name]) for name, array in values.items() if name not in complete},
        stats=_Statistics(tuple(with_data), schema, uuid_columns),
        deletes=deletes,
        formats=_formats(with_data),
    )


def _concatenated(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _formats(manifests: Sequence[Manifest]) -> dict[int, Format]:
    formats: dict[int, Format] = {}
    start = 0
    for manifest in manifests:
        for row, name in enumerate(manifest.formats):
            if name == "orc":
                formats[start + row] = "orc"
            elif name == "avro":
                formats[start + row] = "avro"
            elif name != "parquet":
                raise UnsupportedError(
                    "iceberg data files of this format cannot be read", format=name, file=manifest.paths[row]
                )
        start += len(manifest.formats)
    return formats


def _identity_columns(spec: PartitionSpec, columns: Mapping[int, pa.Field]) -> Iterator[tuple[str, int]]:
    """Yield (column name, index in the spec) of the identity fields whose source is a column of the schema."""
    for index, part in enumerate(spec.fields):
        column = columns.get(part.source_id) if part.source_id is not None else None
        if part.transform == "identity" and column is not None:
            yield column.name, index


def _partition_values(
    manifests: Sequence[Manifest], schema: pa.Schema
) -> tuple[dict[str, pa.Array], dict[str, np.ndarray]]:
    """Return column → values of all files, and column → mask of the files whose spec has it as an identity field."""
    n_files = sum(len(manifest.paths) for manifest in manifests)
    columns = top_level_ids(schema)
    raw: dict[str, list[Any]] = {}
    known: dict[str, np.ndarray] = {}
    start = 0
    for manifest in manifests:
        for name, index in _identity_columns(manifest.spec, columns):
            target = raw.setdefault(name, [None] * n_files)
            mask = known.setdefault(name, np.zeros(n_files, bool))
            limit = start + len(manifest.paths)
            target[start:limit] = [values[index] for values in manifest.partitions]
            mask[start:limit] = True
        start += len(manifest.paths)
    return {name: _typed(name, values, schema.field(name).type) for name, values in raw.items()}, known


def _typed(name: str, values: Sequence[Any], type_: pa.DataType) -> pa.Array:
    try:
        return partition_array(values, type_)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise CorruptError(
            "an iceberg partition value does not have its column's type",
            column=name,
            type=str(type_),
            reason=str(error),
        ) from error


@dataclass
class _Statistics:
    """Computes and remembers the statistics of columns; called with a column's name."""

    manifests: tuple[Manifest, ...]
    schema: pa.Schema
    uuid_columns: frozenset[str]
    _done: dict[str, ColumnStats | None] = field(default_factory=dict)

    def __call__(self, name: str) -> ColumnStats | None:
        if name not in self._done:
            self._done[name] = self._compute(name)
        return self._done[name]

    def _compute(self, name: str) -> ColumnStats | None:
        if self.schema.get_field_index(name) < 0 or not self.manifests:
            return None
        column = self.schema.field(name)
        if not is_primitive(column.type):
            return None
        number = field_id_of(column)
        lower, upper = self._bounds(number, column.type, name in self.uuid_columns)
        nulls = self._gather([manifest.null_counts for manifest in self.manifests], number, pa.int64())
        if pa.types.is_floating(column.type):
            # No partition value says more of a float.
            lower, upper, sure = self._without_nan(number, lower, upper)
            return ColumnStats(lower, upper, nulls, np.asarray(sure))
        lower, upper, nulls = self._widened(number, column.type, lower, upper, nulls)
        return ColumnStats(lower, upper, nulls)

    def _bounds(self, number: int, type_: pa.DataType, is_uuid: bool) -> tuple[pa.Array, pa.Array]:
        lower = self._gather([manifest.lower for manifest in self.manifests], number, pa.binary())
        upper = self._gather([manifest.upper for manifest in self.manifests], number, pa.binary())
        return bounds_array(lower, type_, is_uuid), bounds_array(upper, type_, is_uuid)

    def _gather(self, columns: Sequence[Mapping[int, Sparse]], number: int, type_: pa.DataType) -> pa.Array:
        parts, rows, start = [], [], 0
        for manifest, by_id in zip(self.manifests, columns, strict=True):
            if number in by_id:
                rows.append(by_id[number].rows.astype(np.int64) + start)
                parts.append(by_id[number].values)
            start += len(manifest.paths)
        if not parts:
            return pa.nulls(start, type_)
        return scatter(np.concatenate(rows), pa.concat_arrays(parts), start)

    def _without_nan(self, number: int, lower: pa.Array, upper: pa.Array) -> tuple[pa.Array, pa.Array, pa.Array]:
        """Keep the bounds of files known to hold no NaN, and tell which these are, since bounds ignore NaN and
        comparisons order it.

        A bound of zero covers both zeros.
        """
        nans = self._gather([manifest.nan_counts for manifest in self.manifests], number, pa.int64())
        sure = pc.fill_null(pc.equal(nans, 0), False)
        none = pa.scalar(None, lower.type)
        low = pc.if_else(pc.equal(lower, 0.0), pa.scalar(-0.0, lower.type), lower)
        high = pc.if_else(pc.equal(upper, 0.0), pa.scalar(0.0, upper.type), upper)
        return pc.if_else(sure, low, none), pc.if_else(sure, high, none), sure

    def _widened(
        self, number: int, type_: pa.DataType, lower: pa.Array, upper: pa.Array, nulls: pa.Array
    ) -> tuple[pa.Array, pa.Array, pa.Array]:
        """Fill missing bounds and null counts from partition values, where these say something."""
        if lower.null_count == 0 and upper.null_count == 0 and nulls.null_count == 0:
            return lower, upper, nulls
        parts = [self._from_partitions(manifest, number, type_) for manifest in self.manifests]
        low, high, all_null = (pa.concat_arrays([part[i] for part in parts]) for i in range(3))
        return pc.coalesce(lower, low), pc.coalesce(upper, high), pc.coalesce(nulls, all_null)

    @staticmethod
    def _from_partitions(manifest: Manifest, number: int, type_: pa.DataType) -> tuple[pa.Array, pa.Array, pa.Array]:
        low = high = pa.nulls(len(manifest.paths), type_)
        all_null = pa.nulls(len(manifest.paths), pa.int64())
        for index, part in enumerate(manifest.spec.fields):
            values = [partition[index] for partition in manifest.partitions]
            span = _span(part, number, values, type_)
            if span is not None:
                low, high = pc.coalesce(low, span[0]), pc.coalesce(high, span[1])
                if part.transform == "identity":
                    n_nulls = [int(n) if v is None else 0 for v, n in zip(values, manifest.n_rows, strict=True)]
                    all_null = pa.array(n_nulls, pa.int64())
        return low, high, all_null


def _span(
    part: PartitionField, number: int, values: Sequence[Any], type_: pa.DataType
) -> tuple[pa.Array, pa.Array] | None:
    if part.source_id != number:
        return None
    try:
        return source_range(part.transform, values, type_)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return None
