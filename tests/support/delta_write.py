"""Specs and data files for tests of the Delta writer, and what other readers make of a table."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.stores import Stores
from storage.tables.snapshot import FIELD_ID
from storage.tables.write import DataFile, PartitionField, SortField, TableSpec

__all__ = ["data_file", "make_spec", "with_ids"]


def with_ids(fields: Any, start: int = 1) -> tuple[list[pa.Field], int]:
    """Return the fields with ids from ``start`` on, nested ones too, and the next free id."""
    found = []
    for field in fields:
        number, start = start, start + 1
        kind, start = _type_with_ids(field.type, start)
        found.append(pa.field(field.name, kind, field.nullable, {FIELD_ID: b"%d" % number}))
    return found, start


def _type_with_ids(kind: pa.DataType, start: int) -> tuple[pa.DataType, int]:
    if pa.types.is_struct(kind):
        fields, start = with_ids(list(kind), start)
        return pa.struct(fields), start
    if pa.types.is_list(kind):
        (element,), start = with_ids([kind.value_field.with_name("element")], start)
        return pa.list_(element), start
    if pa.types.is_map(kind):
        (key, value), start = with_ids([kind.key_field, kind.item_field], start)
        return pa.map_(key, value), start
    return kind, start


def make_spec(
    schema: pa.Schema,
    *,
    primary_key: Sequence[str] = (),
    partition_by: Sequence[str] = (),
    order_by: Sequence[str] = (),
    properties: Mapping[str, str] | None = None,
    table_id: str = "00000000000040008000000000000001",
) -> TableSpec:
    """A spec of these columns; partitions are the columns themselves."""
    fields, next_id = with_ids(schema)
    ids = {field.name: number for field in fields for number in [int(field.metadata[FIELD_ID])]}
    return TableSpec(
        table_id,
        pa.schema(fields),
        last_column_id=next_id - 1,
        primary_key=tuple(primary_key),
        partition_by=tuple(PartitionField(ids[name], "identity", name) for name in partition_by),
        order_by=tuple(SortField(ids[name]) for name in order_by),
        properties=properties or {},
    )


async def data_file(
    stores: Stores, table: str, name: str, rows: pa.Table, partition: Mapping[str, Any] | None = None, **options: Any
) -> DataFile:
    """Write the rows as a data file of the table, which it is no part of yet."""
    sink = io.BytesIO()
    pq.write_table(rows.drop_columns(list(partition or ())), sink, **options)
    data = sink.getvalue()
    location = f"{table}/{name}"
    blobs, key = stores.resolve(location)
    await blobs.put(key, data)
    return DataFile(location, len(data), dict(partition or {}), pq.read_metadata(io.BytesIO(data)))
