"""Columns of a whole delete file by field id, whether it is Parquet, ORC or Avro.

A file without field ids is read by column name. Values are cast to the fields' types.

Source: Iceberg spec, "Delete Formats", "Appendix A: Format-specific Requirements".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from storage.errors import CorruptError
from storage.tables.iceberg.avro import id_name, open_avro
from storage.tables.iceberg.schema import field_id_of
from storage.tables.iceberg.values import partition_array
from storage.tables.snapshot import FIELD_ID

__all__ = ["read_columns"]

_ORC_FIELD_ID = b"iceberg.id"


def read_columns(data: bytes, file_format: str, fields: Sequence[pa.Field], source: str) -> pa.Table:
    """Return one column per field, in order, in the fields' types.

    Raises
    ------
    CorruptError
        the file is damaged or lacks a column; the message names it
    """
    try:
        table = {"parquet": _parquet, "orc": _orc, "avro": _avro}[file_format](data, fields, source)
        table.validate(full=True)  # damaged text would otherwise surface only where it is used
        return table
    except (pa.ArrowException, OSError, TypeError, ValueError, KeyError) as error:
        raise CorruptError("a damaged iceberg delete file", file=source, reason=str(error)) from error


def _parquet(data: bytes, fields: Sequence[pa.Field], source: str) -> pa.Table:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(pa.BufferReader(data))
    names = _names(file.schema_arrow, fields, FIELD_ID, source)
    return _cast(file.read(columns=names), names, fields)


def _orc(data: bytes, fields: Sequence[pa.Field], source: str) -> pa.Table:
    from pyarrow import orc

    file = orc.ORCFile(pa.BufferReader(data))
    names = _names(file.schema, fields, _ORC_FIELD_ID, source)
    return _cast(file.read(columns=names), names, fields)


def _names(schema: pa.Schema, fields: Sequence[pa.Field], key: bytes, source: str) -> list[str]:
    ids = {(column.metadata or {}).get(key): column.name for column in schema}
    has_ids = any(number is not None for number in ids)
    names = []
    for wanted in fields:
        name = ids.get(str(field_id_of(wanted)).encode()) if has_ids else wanted.name
        if name is None or schema.get_field_index(name) < 0:
            raise CorruptError("an iceberg delete file lacks a column", column=wanted.name, file=source)
        names.append(name)
    return names


def _cast(table: pa.Table, names: Sequence[str], fields: Sequence[pa.Field]) -> pa.Table:
    columns = [_column(table.column(name), field.type) for name, field in zip(names, fields, strict=True)]
    return pa.Table.from_arrays(columns, schema=pa.schema([field.with_nullable(True) for field in fields]))


def _column(column: pa.ChunkedArray, type_: pa.DataType) -> pa.ChunkedArray:
    if column.type.equals(type_):
        return column
    if pa.types.is_timestamp(type_) and pa.types.is_timestamp(column.type):
        return column.cast(type_, safe=False)  # ORC and INT96 hold nanoseconds
    return column.cast(type_)


def _avro(data: bytes, fields: Sequence[pa.Field], source: str) -> pa.Table:
    names = {field.name: field_id_of(field) for field in fields}
    rows: list[dict[str, Any]] = list(open_avro(data, source, names).records())
    keys = [id_name(field_id_of(field)) for field in fields]
    for field, key in zip(fields, keys, strict=True):
        if rows and key not in rows[0]:
            raise CorruptError("an iceberg delete file lacks a column", column=field.name, file=source)
    columns = [partition_array([row[key] for row in rows], f.type) for key, f in zip(keys, fields, strict=True)]
    return pa.Table.from_arrays(columns, schema=pa.schema([field.with_nullable(True) for field in fields]))
