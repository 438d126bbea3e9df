"""Partition values: the log's strings as typed columns, one value per file."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from storage.errors import CorruptError, UnsupportedError
from storage.tables.delta.files import FileBatch
from storage.tables.delta.schema import physical_name
from storage.tables.delta.values import parse_strings

__all__ = ["partition_columns"]


def partition_columns(
    table: str, schema: pa.Schema, names: Sequence[str], batches: Sequence[FileBatch]
) -> dict[str, pa.Array]:
    """Return logical column name → typed array over all files of ``batches`` in order.

    The empty string is null, for every type. Raises `CorruptError` naming the column whose value does not parse.
    """
    return {name: _column(table, _partition_field(table, schema, name), batches) for name in names}


def _partition_field(table: str, schema: pa.Schema, name: str) -> pa.Field:
    index = schema.get_field_index(name)
    if index < 0:
        raise CorruptError("a partition column is not in the table's schema", table=table, column=name)
    field = schema.field(index)
    if pa.types.is_nested(field.type):
        raise UnsupportedError("a partition column is nested", table=table, column=name, type=str(field.type))
    return field


def _column(table: str, field: pa.Field, batches: Sequence[FileBatch]) -> pa.Array:
    key = pa.scalar(physical_name(field), pa.string())
    texts = [pc.map_lookup(batch.columns.column("partition_values"), key, "first") for batch in batches]
    values = pa.concat_arrays([_combined(text) for text in texts]) if texts else pa.nulls(0, pa.string())
    values = pc.if_else(pc.equal(values, ""), pa.scalar(None, pa.string()), values)
    if pa.types.is_null(field.type):
        return pa.nulls(len(values))
    try:
        return parse_strings(values, field.type)
    except (ValueError, OverflowError) as error:
        raise CorruptError(
            "a partition value does not parse as its column's type",
            table=table,
            column=field.name,
            type=str(field.type),
            cause=str(error)[:200],
        ) from None


def _combined(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
