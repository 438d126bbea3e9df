"""From what CREATE TABLE says to the shape of a table: field ids, partitions, order, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count

import pyarrow as pa

from service.write.properties import checked_properties
from service.write.statements import CreateTable, Partition, Sort
from service.write.types import type_name
from storage.errors import InvalidError, SqlError, UnsupportedError
from storage.tables.snapshot import FIELD_ID
from storage.tables.write import PartitionField, SortField, TableSpec

__all__ = ["check_column_type", "field_id", "numbered", "offered_type", "spec_of"]


def spec_of(statement: CreateTable, columns: Sequence[pa.Field], table_id: str) -> TableSpec:
    """Return the shape of a new table.

    Raises
    ------
    SqlError
        a clause names a column that there is not, or one twice
    UnsupportedError
        a type that the format lacks, or a transform that the type lacks
    """
    if not columns:
        raise InvalidError("a table needs a column")
    names = [each.name for each in columns]
    for name in names:
        if not name:
            raise InvalidError("a column needs a name; name it with AS")
        if sum(other.lower() == name.lower() for other in names) > 1:
            raise InvalidError("two columns have the same name; rename one with AS", column=name)
    key = _named("PRIMARY KEY", statement.primary_key, names)
    numbers = count(1)
    fields = []
    for each in columns:
        check_column_type(each, statement.format)
        if each.name in key:
            _check_key(each)
        fields.append(numbered(each.with_nullable(each.nullable and each.name not in key), numbers))
    schema = pa.schema(fields)
    properties = checked_properties(statement.properties, schema)
    return TableSpec(
        table_id, schema, 0, next(numbers) - 1, key, _partitions(statement.partition_by, schema),
        _order(statement.order_by, schema), properties,
    )  # fmt: skip


def _named(clause: str, wanted: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    for name in wanted:
        if name not in names:
            raise SqlError(f"{clause} names a column that the table does not have", column=name)
        if list(wanted).count(name) > 1:
            raise SqlError(f"{clause} names a column twice", column=name)
    return tuple(wanted)


def _check_key(field: pa.Field) -> None:
    if pa.types.is_nested(field.type) or pa.types.is_floating(field.type):
        raise UnsupportedError(
            "a primary key has integers, decimals, booleans, strings, binary, dates or timestamps",
            column=field.name, type=type_name(field.type),
        )  # fmt: skip


def check_column_type(field: pa.Field, format_: str) -> None:
    """Raise `UnsupportedError` naming a type that tables of the format cannot have."""
    for kind in _kinds(field.type):
        if format_ == "iceberg" and kind in (pa.int8(), pa.int16()):
            raise UnsupportedError(
                "Iceberg has no integers of 8 or 16 bits; use INT", column=field.name, type=type_name(kind)
            )
        if not pa.types.is_nested(kind) and offered_type(kind) != kind:
            raise UnsupportedError("tables have no such type; CAST the column", column=field.name, type=str(kind))


def _kinds(kind: pa.DataType) -> Iterator[pa.DataType]:
    yield kind
    for index in range(kind.num_fields):
        yield from _kinds(kind.field(index).type)


def offered_type(kind: pa.DataType) -> pa.DataType:
    """Return the type that a column of a query's answer gets in a table: itself, or the nearest that loses nothing.

    Raises `UnsupportedError` for a type without one.
    """
    if pa.types.is_dictionary(kind):
        return offered_type(kind.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_string(kind) or kind == pa.string_view():
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary(kind) or kind == pa.binary_view():
        return pa.binary()
    if pa.types.is_fixed_size_binary(kind):
        return pa.binary()
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", "UTC" if kind.tz else None)
    if pa.types.is_date(kind):
        return pa.date32()
    if pa.types.is_unsigned_integer(kind):
        return {8: pa.int16(), 16: pa.int32(), 32: pa.int64()}.get(kind.bit_width, pa.decimal128(20, 0))
    if pa.types.is_float16(kind):
        return pa.float32()
    if pa.types.is_decimal(kind) and kind.precision <= 38 and 0 <= kind.scale <= kind.precision:
        return pa.decimal128(kind.precision, kind.scale)
    if pa.types.is_boolean(kind) or pa.types.is_signed_integer(kind) or pa.types.is_floating(kind):
        return kind
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(each.name, offered_type(each.type), each.nullable) for each in kind])
    if pa.types.is_map(kind):
        return pa.map_(
            pa.field("key", offered_type(kind.key_type), False), pa.field("value", offered_type(kind.item_type))
        )
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return pa.list_(pa.field("element", offered_type(kind.value_type)))
    raise UnsupportedError("tables have no such type; CAST the column", type=str(kind))


def numbered(field: pa.Field, numbers: Iterator[int]) -> pa.Field:
    """Return the field with fresh field ids, its own before those of its children."""
    number = next(numbers)
    return pa.field(field.name, _numbered_type(field.type, numbers), field.nullable, {FIELD_ID: str(number).encode()})


def _numbered_type(kind: pa.DataType, numbers: Iterator[int]) -> pa.DataType:
    if pa.types.is_struct(kind):
        return pa.struct([numbered(kind.field(index), numbers) for index in range(kind.num_fields)])
    if pa.types.is_map(kind):
        key = numbered(kind.key_field, numbers)
        return pa.map_(key, numbered(kind.item_field, numbers))
    if pa.types.is_list(kind):
        return pa.list_(numbered(kind.value_field, numbers))
    return kind


def field_id(field: pa.Field) -> int:
    """Return a field's id; every field of a table that we write has one."""
    return int(field.metadata[FIELD_ID])


def _partitions(wanted: Sequence[Partition], schema: pa.Schema) -> tuple[PartitionField, ...]:
    _named("PARTITIONED BY", list(dict.fromkeys(each.column for each in wanted)), schema.names)
    found: list[PartitionField] = []
    for each in wanted:
        field = schema.field(each.column)
        _check_transform(each, field)
        name = each.column if each.transform == "identity" else f"{each.column}_{each.transform.partition('[')[0]}"
        if each.transform.startswith("truncate"):
            name = f"{each.column}_trunc"
        if name in [other.name for other in found] or (each.transform != "identity" and name in schema.names):
            raise SqlError("PARTITIONED BY names the same thing twice, or its field is called as a column", field=name)
        found.append(PartitionField(field_id(field), each.transform, name))
    return tuple(found)


def _check_transform(wanted: Partition, field: pa.Field) -> None:
    kind, transform = field.type, wanted.transform.partition("[")[0]
    is_time = pa.types.is_timestamp(kind)
    fits = {
        "identity": not pa.types.is_nested(kind),
        "bucket": not (pa.types.is_nested(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)),
        "truncate": pa.types.is_integer(kind) or pa.types.is_decimal(kind) or kind in (pa.string(), pa.binary()),
        "hour": is_time,
    }.get(transform, is_time or pa.types.is_date(kind))
    if not fits:
        raise UnsupportedError(
            "the column's type has no such transform", column=field.name, transform=wanted.transform,
            type=type_name(kind),
        )  # fmt: skip


def _order(wanted: Sequence[Sort], schema: pa.Schema) -> tuple[SortField, ...]:
    _named("ORDER BY", [each.column for each in wanted], schema.names)
    for each in wanted:
        if pa.types.is_nested(schema.field(each.column).type):
            raise UnsupportedError("rows cannot be sorted by this column's type", column=each.column)
    return tuple(SortField(field_id(schema.field(each.column)), each.descending) for each in wanted)
