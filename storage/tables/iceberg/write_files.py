"""Data files as manifest entries: partition values and column metrics from the Parquet footer.

pyiceberg takes the bounds of those row groups that have some. A row group can lack them though it has values (all NaN,
or longer than the footer's limit), and the bounds of the others would then be too narrow, so such a column has none.
Footers do not count NaN; where ours say that a column holds none (`storage.tables.known_nan`), the count is 0.

Source: Iceberg spec, "Manifests" (data_file), "Appendix D: Single-value serialization".
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import pyarrow.parquet as pq
from pyiceberg.io.pyarrow import (
    compute_statistics_plan,
    data_file_statistics_from_parquet_metadata,
    parquet_path_to_id_mapping,
)
from pyiceberg.manifest import DataFile as IcebergDataFile
from pyiceberg.manifest import DataFileContent, FileFormat
from pyiceberg.partitioning import PartitionSpec
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.typedef import Record
from pyiceberg.utils.datetime import date_to_days, datetime_to_micros

from storage.errors import InvalidError
from storage.tables.known_nan import without_nan
from storage.tables.write import DataFile

__all__ = ["data_files"]


def data_files(files: Sequence[DataFile], metadata: TableMetadata) -> list[IcebergDataFile]:
    """Return the files as entries of the table's current schema and partition spec. Raises `InvalidError`."""
    if not files:
        return []
    schema, spec = metadata.schema(), metadata.spec()
    plan = compute_statistics_plan(schema, metadata.properties)
    ids = parquet_path_to_id_mapping(schema)
    order_id = metadata.default_sort_order_id or None
    return [_data_file(file, spec, plan, ids, order_id) for file in files]


def _data_file(
    file: DataFile, spec: PartitionSpec, plan: Any, ids: Mapping[str, int], order_id: int | None
) -> IcebergDataFile:
    try:
        statistics = data_file_statistics_from_parquet_metadata(file.metadata, plan, dict(ids))
    except (KeyError, ValueError) as error:
        raise InvalidError(
            "a data file has other columns than its table", file=file.location, reason=repr(error)
        ) from error
    for field_id in _unbounded(file.metadata, ids):
        statistics.column_aggregates.pop(field_id, None)
    # A name with a dot may be the path of another column.
    known = [ids[name] for name in without_nan(file.metadata) if name in ids and "." not in name]
    statistics.nan_value_counts.update(dict.fromkeys(known, 0))
    return IcebergDataFile.from_args(
        content=DataFileContent.DATA,
        file_path=file.location,
        file_format=FileFormat.PARQUET,
        partition=_partition(file, spec),
        file_size_in_bytes=file.size,
        sort_order_id=order_id,
        spec_id=spec.spec_id,
        equality_ids=None,
        key_metadata=None,
        **statistics.to_serialized_dict(),
    )


def _unbounded(metadata: pq.FileMetaData, ids: Mapping[str, int]) -> set[int]:
    """Return the columns of which some row group has values and no bounds."""
    found = set()
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for index in range(metadata.num_columns):
            column = row_group.column(index)
            statistics = column.statistics if column.is_stats_set else None
            if statistics is None or (not statistics.has_min_max and statistics.null_count != column.num_values):
                found.add(ids[column.path_in_schema])
    return found


def _partition(file: DataFile, spec: PartitionSpec) -> Record:
    names = {field.name for field in spec.fields}
    if names != set(file.partition):
        raise InvalidError(
            "a data file has other partition fields than its table",
            file=file.location, fields=",".join(sorted(file.partition)), wanted=",".join(sorted(names)),
        )  # fmt: skip
    return Record(*(_physical(file.partition[field.name]) for field in spec.fields))


def _physical(value: Any) -> Any:
    """Return a value as Avro holds it: dates as days, instants as microseconds."""
    if value is None or isinstance(value, (str, bytes, bool, Decimal)):
        return value
    if isinstance(value, datetime.datetime):
        return datetime_to_micros(value)
    if isinstance(value, datetime.date):
        return date_to_days(value)
    return value.item() if hasattr(value, "item") else value
