"""From an Arrow schema to Delta's schema JSON, and the protocol that it needs.

A field's id is kept in its metadata: under column mapping as the protocol says, otherwise as ``firnline.field_id``,
which only `evolve` reads (a field that another writer added has none and is known by its name).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from storage.errors import InvalidError, UnsupportedError
from storage.tables.snapshot import FIELD_ID

__all__ = ["MAPPED_ID", "MAPPED_NAME", "OWN_ID", "Field", "field_id", "schema_json", "type_json", "uses_bare_time"]

Field = Mapping[str, Any]
"""A struct field as the schema JSON has it."""
MAPPED_NAME = "delta.columnMapping.physicalName"
MAPPED_ID = "delta.columnMapping.id"
OWN_ID = "firnline.field_id"

_PRIMITIVES: dict[pa.DataType, str] = {
    pa.bool_(): "boolean",
    pa.int8(): "byte",
    pa.int16(): "short",
    pa.int32(): "integer",
    pa.int64(): "long",
    pa.float32(): "float",
    pa.float64(): "double",
    pa.string(): "string",
    pa.binary(): "binary",
    pa.date32(): "date",
    pa.timestamp("us", "UTC"): "timestamp",
    pa.timestamp("us"): "timestamp_ntz",
}


def field_id(field: pa.Field) -> int | None:
    """The field's id, if it has one."""
    text = (field.metadata or {}).get(FIELD_ID)
    return None if text is None else int(text)


def schema_json(schema: pa.Schema) -> str:
    """Return the JSON of a new table's schema. Raises `UnsupportedError` naming the column and its type."""
    return json.dumps({"type": "struct", "fields": fields_json(schema)}, ensure_ascii=False, separators=(",", ":"))


def fields_json(fields: Any, path: str = "", made: Callable[[pa.Field], Field] | None = None) -> list[Any]:
    """Return the JSON of these fields; names that differ by case alone are refused, since Delta's do not."""
    seen: set[str] = set()
    for field in fields:
        if field.name.lower() in seen:
            raise InvalidError("two columns of a delta table differ by case alone", column=path + field.name)
        seen.add(field.name.lower())
    return [(made or (lambda field: new_field(field, path)))(field) for field in fields]


def new_field(field: pa.Field, path: str = "") -> dict[str, Any]:
    """Return the JSON of one field without column mapping."""
    number = field_id(field)
    return {
        "name": field.name,
        "type": type_json(field.type, path + field.name),
        "nullable": field.nullable,
        "metadata": {} if number is None else {OWN_ID: number},
    }


def type_json(kind: pa.DataType, path: str, fields: Callable[[Any, str], list[Any]] = fields_json) -> Any:
    """Return the JSON of a type; ``fields`` makes those of structs. Raises `UnsupportedError` naming the column."""
    if kind in _PRIMITIVES:
        return _PRIMITIVES[kind]
    if pa.types.is_decimal128(kind) and 0 <= kind.scale <= kind.precision <= 38:
        return f"decimal({kind.precision},{kind.scale})"
    if pa.types.is_struct(kind):
        return {"type": "struct", "fields": fields(kind, f"{path}.")}
    if pa.types.is_list(kind):
        return {
            "type": "array",
            "elementType": type_json(kind.value_type, f"{path}.element", fields),
            "containsNull": kind.value_field.nullable,
        }
    if pa.types.is_map(kind):
        return {
            "type": "map",
            "keyType": type_json(kind.key_type, f"{path}.key", fields),
            "valueType": type_json(kind.item_type, f"{path}.value", fields),
            "valueContainsNull": kind.item_field.nullable,
        }
    raise UnsupportedError("a delta table has no columns of this type", column=path, type=str(kind))


def uses_bare_time(schema: pa.Schema) -> bool:
    """Whether a column, nested ones too, is a timestamp without zone, which is a feature of its own."""
    return any(kind == pa.timestamp("us") for field in schema for kind in _kinds(field.type))


def _kinds(kind: pa.DataType) -> Iterator[pa.DataType]:
    yield kind
    for number in range(kind.num_fields):
        yield from _kinds(kind.field(number).type)
