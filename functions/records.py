"""Records of the log as rows of their table: decoded, and fitted to the columns that the table has now.

A record has the columns of the schema that was the table's when it was appended. A column is followed by its field id,
so it survives a rename; one that was dropped is left out, one that came later is null, one that was widened is cast.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from catalog.tables import TableEntry
from storage.errors import ConflictError, CorruptError
from storage.log import Record
from storage.tables.snapshot import FIELD_ID

__all__ = ["decode", "key_names", "plain", "project", "rows_of"]


def rows_of(record: Record, entry: TableEntry, schema: pa.Schema) -> pa.Table:
    """Return the record's rows with the columns of ``schema``, of a snapshot of the table.

    A deletion's rows have the primary key's columns only.

    Raises
    ------
    ConflictError : the entry does not know the record's schema yet; load it anew
    CorruptError : the body is not what a record has
    """
    return project(pa.Table.from_batches([decode(record)]), entry, record.schema_id, schema)


def decode(record: Record) -> pa.RecordBatch:
    """Return the record's rows as they were appended. Raises `CorruptError`."""
    try:
        reader = pa.ipc.open_stream(record.body)
        batches = list(reader)
    except (pa.ArrowException, ValueError, OSError) as error:
        raise CorruptError("the rows of a record cannot be decoded", table=record.table_id, reason=str(error)) from None
    if len(batches) == 1:
        return batches[0]
    return pa.concat_batches(batches) if batches else pa.RecordBatch.from_pylist([], schema=reader.schema)


def project(rows: pa.Table, entry: TableEntry, schema_id: int, schema: pa.Schema) -> pa.Table:
    """Return rows of the table's schema ``schema_id`` with the columns of ``schema``, without its metadata.

    Columns that ``rows`` lacks although their schema has them (a deletion has its key only) are left out.
    """
    assert entry.managed is not None
    stored = entry.managed.schemas.get(schema_id)
    if stored is None:
        raise ConflictError(
            "the table's schema changed meanwhile; try again",
            table=f"{entry.namespace}.{entry.name}", schema_id=schema_id,
        )  # fmt: skip
    numbers = _numbers(schema) or _numbers_by_name(schema, entry.managed.spec.schema)
    by_number = {_number(each): each for each in stored}
    fields, columns = [], []
    for each in schema:
        wanted = plain(each)
        source = by_number.get(numbers.get(each.name))
        if source is not None and source.name not in rows.column_names:
            continue
        column = pa.nulls(rows.num_rows, wanted.type) if source is None else rows.column(source.name)
        fields.append(wanted.with_nullable(True))
        columns.append(column if source is None else _fitted_chunks(column, source, each))
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def key_names(entry: TableEntry, schema: pa.Schema) -> tuple[str, ...]:
    """Return the names of the primary key's columns in ``schema``, of a snapshot of the table."""
    assert entry.managed is not None
    spec = entry.managed.spec
    numbers = _numbers(schema) if spec.primary_key else {}
    if not numbers:
        return spec.primary_key
    named = {number: name for name, number in numbers.items()}
    return tuple(named.get(_number(spec.schema.field(name)), name) for name in spec.primary_key)


def plain(field: pa.Field) -> pa.Field:
    """Return the field without metadata at any level."""
    return pa.field(field.name, _plain_type(field.type), field.nullable)


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_struct(kind):
        return pa.struct([plain(each) for each in kind.fields])
    if pa.types.is_map(kind):
        return pa.map_(plain(kind.key_field), plain(kind.item_field), kind.keys_sorted)
    if pa.types.is_list(kind):
        return pa.list_(plain(kind.value_field))
    if pa.types.is_large_list(kind):
        return pa.large_list(plain(kind.value_field))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(plain(kind.value_field), kind.list_size)
    return kind


def _number(field: pa.Field) -> int | None:
    text = (field.metadata or {}).get(FIELD_ID)
    return int(text) if text is not None else None


def _numbers(schema: pa.Schema) -> dict[str, int | None]:
    """Field ids by name; empty if any field has none."""
    found = {each.name: _number(each) for each in schema}
    return {} if None in found.values() else found


def _numbers_by_name(schema: pa.Schema, newest: pa.Schema) -> dict[str, int | None]:
    named = {each.name: _number(each) for each in newest}
    return {each.name: named.get(each.name) for each in schema}


def _fitted_chunks(column: pa.ChunkedArray, source: pa.Field, wanted: pa.Field) -> pa.ChunkedArray:
    kind = _plain_type(wanted.type)
    if column.type.equals(kind):
        return column
    return pa.chunked_array([_fitted(chunk, source, wanted) for chunk in column.chunks], kind)


def _fitted(values: pa.Array, source: pa.Field, wanted: pa.Field) -> pa.Array:
    """Return the values as the wanted field's type. Children of structs are matched by id, or by name without ids."""
    kind = _plain_type(wanted.type)
    if values.type.equals(kind):
        return values
    if pa.types.is_struct(kind):
        return _fitted_struct(values, source, wanted)
    mask = values.is_null() if values.null_count else None
    if pa.types.is_list(kind):
        items = _fitted(values.values, source.type.value_field, wanted.type.value_field)
        return pa.ListArray.from_arrays(_offsets(values), items, kind, mask=mask)
    if pa.types.is_map(kind):
        keys = _fitted(values.keys, source.type.key_field, wanted.type.key_field)
        items = _fitted(values.items, source.type.item_field, wanted.type.item_field)
        return pa.MapArray.from_arrays(_offsets(values), keys, items, kind, mask=mask)
    return values.cast(kind)


def _offsets(values: pa.Array) -> pa.Array:
    """The offsets of a list or map, which may be a slice, in an array of their own."""
    whole: pa.Array = pa.array(values.offsets.to_numpy(), pa.int32())
    return whole


def _fitted_struct(values: pa.Array, source: pa.Field, wanted: pa.Field) -> pa.Array:
    by_key: Mapping[int | str, int] = {}
    ids = [_number(each) for each in (*source.type.fields, *wanted.type.fields)]
    with_ids = None not in ids
    by_key = {(_number(each) or 0) if with_ids else each.name: at for at, each in enumerate(source.type.fields)}
    children, fields = [], []
    for each in wanted.type.fields:
        at = by_key.get((_number(each) or 0) if with_ids else each.name)
        fields.append(plain(each))
        if at is None:
            children.append(pa.nulls(len(values), fields[-1].type))
        else:
            children.append(_fitted(values.field(at), source.type.field(at), each))
    mask = values.is_null() if values.null_count else None
    return pa.StructArray.from_arrays(children, fields=fields, mask=mask)
