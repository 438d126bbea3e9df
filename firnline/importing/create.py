"""The table that an import makes: its columns are those of the first file."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from firnline.importing.sources import Source, open_arrow, open_source
from firnline.transport import split_name
from storage.errors import InvalidError, UnsupportedError

__all__ = ["create_statement", "quoted_name", "schema_of"]

_SAMPLE_BYTES = 8 << 20
_PLAIN = {
    pa.bool_(): "BOOLEAN",
    pa.int8(): "TINYINT",
    pa.int16(): "SMALLINT",
    pa.int32(): "INT",
    pa.int64(): "BIGINT",
    pa.uint8(): "SMALLINT",
    pa.uint16(): "INT",
    pa.uint32(): "BIGINT",
    pa.uint64(): "DECIMAL(20, 0)",
    pa.float16(): "REAL",
    pa.float32(): "REAL",
    pa.float64(): "DOUBLE",
    pa.date32(): "DATE",
    pa.date64(): "DATE",
    pa.null(): "VARCHAR",
}


def schema_of(source: Source, delimiter: str | None, null: str) -> pa.Schema:
    """Return the columns of a file; for text those that its first 8 MiB suggest. Raises `InvalidError`."""
    if source.path is None:
        raise InvalidError("--create looks at the first file twice; standard input comes once")
    opened = open_source(source)
    try:
        if source.form == "parquet":
            return pq.read_schema(source.path)
        if source.form == "arrow":
            return open_arrow(opened.stream).schema
        sample = opened.stream.read(_SAMPLE_BYTES)
        if source.form == "csv":
            return _csv_schema(sample, delimiter or source.delimiter, null)
        return _json_schema(source, sample)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InvalidError(f"the columns cannot be told from the file: {str(error)[:200]}", file=source.name) from None
    finally:
        opened.close()


def _csv_schema(sample: bytes, delimiter: str, null: str) -> pa.Schema:
    if len(sample) == _SAMPLE_BYTES:
        sample = sample[: sample.rfind(b"\n") + 1]
    table = pa_csv.read_csv(
        pa.BufferReader(sample),
        pa_csv.ReadOptions(block_size=_SAMPLE_BYTES + 1),
        pa_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        pa_csv.ConvertOptions(null_values=[null], strings_can_be_null=True),
    )
    # Arrow also takes 10:30 for a time and 1 for true; what a table has no type for, and what is not sure, is text.
    return pa.schema([(field.name, _sure(field.type)) for field in table.schema])


def _sure(kind: pa.DataType) -> pa.DataType:
    return pa.string() if pa.types.is_time(kind) or pa.types.is_null(kind) else kind


def _json_schema(source: Source, sample: bytes) -> pa.Schema:
    if source.form == "ndjson":
        lines = sample.split(b"\n")[: -1 if len(sample) == _SAMPLE_BYTES else None]
        rows = [json.loads(line) for line in lines if line.strip()]
    else:
        if len(sample) == _SAMPLE_BYTES:
            raise InvalidError("the file is too large to look at first; CREATE TABLE, then import without --create")
        found = json.loads(sample)
        rows = found if isinstance(found, list) else [found]
    names: dict[str, Any] = {}
    for row in rows:
        if not isinstance(row, dict):
            raise InvalidError("each row must be an object")
        names |= dict.fromkeys(row)
    return pa.schema([(name, pa.array([row.get(name) for row in rows]).type) for name in names])


def create_statement(table: str, schema: pa.Schema, using: str, primary_key: tuple[str, ...] = ()) -> str:
    """Return the CREATE TABLE of a file's columns. Raises `UnsupportedError` for a type that no table has."""
    for name in primary_key:
        if name not in schema.names:
            raise InvalidError("the primary key names no column of the file", column=name)
    columns = [
        f"{_quoted(field.name)} {_sql(field.type, field.name)}" + (" NOT NULL" if field.name in primary_key else "")
        for field in schema
    ]
    key = [f"PRIMARY KEY ({', '.join(map(_quoted, primary_key))})"] if primary_key else []
    return f"CREATE TABLE IF NOT EXISTS {quoted_name(table)} ({', '.join([*columns, *key])}) USING {using}"


def quoted_name(table: str) -> str:
    """Return ``namespace.table`` as SQL names it."""
    return ".".join(map(_quoted, split_name(table)))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _sql(kind: pa.DataType, path: str) -> str:
    if kind in _PLAIN:
        return _PLAIN[kind]
    if pa.types.is_dictionary(kind):
        return _sql(kind.value_type, path)
    if pa.types.is_decimal(kind) and kind.precision <= 38:
        return f"DECIMAL({kind.precision}, {kind.scale})"
    if pa.types.is_timestamp(kind):
        return "TIMESTAMPTZ" if kind.tz else "TIMESTAMP"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "VARCHAR"
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return "BINARY"
    if pa.types.is_map(kind):
        return f"MAP<{_sql(kind.key_type, path)}, {_sql(kind.item_type, path)}>"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return f"ARRAY<{_sql(kind.value_type, f'{path}[]')}>"
    if pa.types.is_struct(kind):
        fields = [kind.field(index) for index in range(kind.num_fields)]
        return "STRUCT<" + ", ".join(f"{_quoted(each.name)} {_sql(each.type, each.name)}" for each in fields) + ">"
    raise UnsupportedError("no table has a column of this type; write the CREATE TABLE", column=path, type=str(kind))
