"""A `TableSpec` as Iceberg's schema, partition spec and sort order, and back.

Iceberg keeps the whole of a spec: the primary key are its identifier fields, so that a table without its catalog is
still known. Field ids stay as they are in both directions.

Source: Iceberg spec, "Schemas and Data Types", "Schema Evolution", "Partitioning", "Sorting".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa
from pyiceberg.exceptions import ValidationError
from pyiceberg.io.pyarrow import pyarrow_to_schema
from pyiceberg.partitioning import PARTITION_FIELD_ID_START
from pyiceberg.partitioning import PartitionField as IcebergPartitionField
from pyiceberg.partitioning import PartitionSpec as IcebergPartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.sorting import NullOrder, SortDirection, SortOrder
from pyiceberg.table.sorting import SortField as IcebergSortField
from pyiceberg.transforms import IdentityTransform, Transform, VoidTransform, parse_transform
from pyiceberg.types import DecimalType, DoubleType, FloatType, IntegerType, LongType, NestedField, PrimitiveType

from storage.errors import InvalidError, UnsupportedError
from storage.tables.iceberg.schema import arrow_schema
from storage.tables.write import PartitionField, SortField, TableSpec

__all__ = [
    "OURS",
    "check_evolution",
    "check_sources",
    "iceberg_schema",
    "partition_spec",
    "same_fields",
    "sort_order",
    "spec_of",
    "without_ours",
]

OURS = "firnline."
"""Prefix of the table properties that are ours alone."""

_OFFERED = (
    pa.types.is_boolean, pa.types.is_int32, pa.types.is_int64, pa.types.is_float32, pa.types.is_float64,
    pa.types.is_string, pa.types.is_binary, pa.types.is_date32, pa.types.is_decimal128,
)  # fmt: skip


def iceberg_schema(spec: TableSpec, schema_id: int) -> Schema:
    """Return the spec's columns as an Iceberg schema. Raises `UnsupportedError` naming a column's type."""
    for field in spec.schema:
        _check_type(field.type, field.name)
    try:
        fields = pyarrow_to_schema(spec.schema).fields
    except (TypeError, ValueError) as error:
        raise UnsupportedError("iceberg cannot store these columns", reason=str(error)) from error
    ids = {field.name: field.field_id for field in fields}
    return Schema(*fields, schema_id=schema_id, identifier_field_ids=[ids[name] for name in spec.primary_key])


def _check_type(type_: pa.DataType, column: str) -> None:
    if pa.types.is_struct(type_):
        for index in range(type_.num_fields):
            _check_type(type_.field(index).type, f"{column}.{type_.field(index).name}")
    elif pa.types.is_list(type_):
        _check_type(type_.value_type, f"{column}.element")
    elif pa.types.is_map(type_):
        _check_type(type_.key_type, f"{column}.key")
        _check_type(type_.item_type, f"{column}.value")
    elif pa.types.is_int8(type_) or pa.types.is_int16(type_):
        raise UnsupportedError(
            "iceberg has no integers of 8 or 16 bits; declare the column as int", column=column, type=type_
        )
    elif pa.types.is_timestamp(type_):
        if type_.unit != "us" or type_.tz not in (None, "UTC"):
            raise UnsupportedError(
                "iceberg timestamps have microseconds, and UTC or no zone", column=column, type=type_
            )
    elif not any(offered(type_) for offered in _OFFERED):
        raise UnsupportedError("an iceberg table cannot have a column of this type", column=column, type=type_)


def partition_spec(spec: TableSpec, spec_id: int, known: TableMetadata | None = None) -> IcebergPartitionSpec:
    """Return the spec's partition fields; those that ``known`` has already keep their ids."""
    ids = {_key(field): field.field_id for each in (known.partition_specs if known else ()) for field in each.fields}
    last = (known.last_partition_id if known else None) or PARTITION_FIELD_ID_START - 1
    fields = []
    for wanted in spec.partition_by:
        transform = _transform(wanted)
        number = ids.get((wanted.column_id, str(transform), wanted.name))
        if number is None:
            last += 1
            number = last
        fields.append(
            IcebergPartitionField(source_id=wanted.column_id, field_id=number, transform=transform, name=wanted.name)
        )
    return IcebergPartitionSpec(*fields, spec_id=spec_id)


def _key(field: IcebergPartitionField) -> tuple[int, str, str]:
    return (field.source_id, str(field.transform), field.name)


def _transform(field: PartitionField) -> Transform[Any, Any]:
    try:
        transform: Transform[Any, Any] = parse_transform(field.transform)
    except ValueError as error:
        raise UnsupportedError(
            "unknown partition transform; use identity, bucket, truncate, year, month, day or hour",
            transform=field.transform,
        ) from error
    return transform


def sort_order(spec: TableSpec, order_id: int) -> SortOrder:
    """Return the spec's sort order; order 0 is the unsorted one."""
    if not spec.order_by:
        return SortOrder(order_id=0)
    fields = [
        IcebergSortField(
            source_id=each.column_id,
            transform=IdentityTransform(),
            direction=SortDirection.DESC if each.descending else SortDirection.ASC,
            null_order=NullOrder.NULLS_LAST if each.descending else NullOrder.NULLS_FIRST,
        )
        for each in spec.order_by
    ]
    return SortOrder(*fields, order_id=order_id)


def spec_of(metadata: TableMetadata, table_id: str, schema_id: int = 0) -> TableSpec:
    """Return what an Iceberg table's metadata says of its shape; our own properties are left out.

    Raises `UnsupportedError` if a column's type is one that we do not read.
    """
    schema = metadata.schema()
    return TableSpec(
        table_id=table_id,
        schema=arrow_schema(schema.model_dump(by_alias=True, mode="json")),
        schema_id=schema_id,
        last_column_id=metadata.last_column_id,
        primary_key=_primary_key(schema),
        partition_by=tuple(
            PartitionField(field.source_id, str(field.transform), field.name)
            for field in metadata.spec().fields
            if not isinstance(field.transform, VoidTransform)
        ),
        order_by=tuple(_sort_fields(metadata.sort_order())),
        properties={key: value for key, value in metadata.properties.items() if not key.startswith(OURS)},
    )


def _primary_key(schema: Schema) -> tuple[str, ...]:
    """Return the identifier fields in the table's column order, or none if one is nested."""
    names = tuple(field.name for field in schema.fields if field.field_id in schema.identifier_field_ids)
    return names if len(names) == len(schema.identifier_field_ids) else ()


def _sort_fields(order: SortOrder) -> Iterator[SortField]:
    """Yield the leading fields that sort by a column itself: what follows another transform is no order of ours."""
    for field in order.fields:
        if not isinstance(field.transform, IdentityTransform):
            return
        yield SortField(field.source_id, field.direction == SortDirection.DESC)


def same_fields(one: Schema, other: Schema) -> bool:
    """Whether two schemas differ in their numbers only."""
    return one.fields == other.fields and set(one.identifier_field_ids) == set(other.identifier_field_ids)


def check_evolution(old: Schema, new: Schema, last_column_id: int) -> None:
    """Raise unless files and records of ``old`` can be read as ``new``.

    Raises
    ------
    UnsupportedError
        a type became another that Iceberg does not widen to; the message names both
    InvalidError
        a column is NOT NULL though older rows may lack it, or a field id is used again
    """
    before, after = _by_id(old), _by_id(new)
    for number, field in after.items():
        known = before.get(number)
        if known is None:
            _check_new(field, number, last_column_id)
        elif field.required and not known.required:
            raise InvalidError("a column with possible NULLs cannot become NOT NULL", column=field.name)
        else:
            _check_type_change(known, field)


def _check_new(field: NestedField, number: int, last_column_id: int) -> None:
    if number <= last_column_id:
        raise InvalidError("a field id of a dropped column cannot be used again", column=field.name, field_id=number)
    if field.required and field.initial_default is None:
        raise InvalidError("a new column must allow NULL, since older rows have no value", column=field.name)


def _check_type_change(known: NestedField, field: NestedField) -> None:
    old, new = known.field_type, field.field_type
    if old == new or _widens(old, new):
        return
    if not isinstance(old, PrimitiveType) and type(old) is type(new):
        return  # their fields are compared on their own
    raise UnsupportedError(
        "iceberg widens int to long, float to double and a decimal's precision only; add a column instead",
        column=field.name, type=str(old), wanted=str(new),
    )  # fmt: skip


def _widens(old: object, new: object) -> bool:
    if isinstance(old, DecimalType) and isinstance(new, DecimalType):
        return old.scale == new.scale and old.precision <= new.precision
    pairs = ((IntegerType, LongType), (FloatType, DoubleType))
    return any(isinstance(old, narrow) and isinstance(new, wide) for narrow, wide in pairs)


def _by_id(schema: Schema) -> Mapping[int, NestedField]:
    fields: Mapping[int, NestedField] = schema._lazy_id_to_field
    return fields


def check_sources(spec: IcebergPartitionSpec, order: SortOrder, schema: Schema) -> None:
    """Raise `InvalidError` if a partition or sort field does not fit its column."""
    try:
        spec.check_compatible(schema)
        order.check_compatible(schema)
    except ValidationError as error:
        raise InvalidError("the partitions or the order do not fit the columns", reason=str(error)) from error


def without_ours(spec: TableSpec) -> TableSpec:
    """Return the spec without properties under our own prefix."""
    return replace(spec, properties={k: v for k, v in spec.properties.items() if not k.startswith(OURS)})
