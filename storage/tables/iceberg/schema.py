"""Iceberg's JSON schemas as Arrow schemas that carry field ids, and name mappings as flat dictionaries.

Type mapping: ``string`` → string, ``binary`` → binary, ``fixed[L]`` → fixed_size_binary[L], ``uuid`` →
fixed_size_binary[16] (the 16 bytes in network order), ``time`` → time64[us], ``timestamp``/``timestamptz`` →
timestamp[us] without and with UTC, the ``_ns`` variants in nanoseconds, ``unknown`` → null. Iceberg lists and maps
become Arrow lists and maps whose inner fields are called ``element``, ``key`` and ``value``, as in Iceberg's own files.

Sources: Iceberg spec, "Schemas and Data Types", "Appendix C: JSON serialization", "Column Projection" (name mapping).
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from storage.errors import CorruptError, UnsupportedError
from storage.tables.snapshot import FIELD_ID, INITIAL_DEFAULT

__all__ = ["arrow_schema", "field_id_of", "find_field", "name_mapping", "top_level_ids"]

_PRIMITIVES: dict[str, pa.DataType] = {
    "boolean": pa.bool_(),
    "int": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "date": pa.date32(),
    "time": pa.time64("us"),
    "timestamp": pa.timestamp("us"),
    "timestamptz": pa.timestamp("us", "UTC"),
    "timestamp_ns": pa.timestamp("ns"),
    "timestamptz_ns": pa.timestamp("ns", "UTC"),
    "string": pa.string(),
    "binary": pa.binary(),
    "uuid": pa.binary(16),
    "unknown": pa.null(),
}
_DECIMAL = re.compile(r"decimal\s*\(\s*(\d+)\s*,\s*(-?\d+)\s*\)")
_FIXED = re.compile(r"fixed\s*\[\s*(\d+)\s*\]")


def arrow_schema(schema: Mapping[str, Any]) -> pa.Schema:
    """Return the Arrow schema of a JSON schema, with `FIELD_ID` at every level and `INITIAL_DEFAULT` where given.

    Raises
    ------
    UnsupportedError
        a column has a type that Firnline cannot read (variant, geometry, geography, or one it does not know)
    CorruptError
        the JSON is not a schema
    """
    try:
        return pa.schema([_field(field, "") for field in schema["fields"]])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CorruptError("an iceberg schema is malformed", reason=repr(error)) from error


def _field(field: Mapping[str, Any], parent: str) -> pa.Field:
    name = str(field["name"])
    metadata = {FIELD_ID: str(int(field["id"])).encode()}
    if field.get("initial-default") is not None:
        metadata[INITIAL_DEFAULT] = json.dumps(field["initial-default"]).encode()
    required = bool(field.get("required", False))
    return pa.field(name, _type(field["type"], f"{parent}{name}"), nullable=not required, metadata=metadata)


def _inner(name: str, number: Any, type_: Any, required: bool, column: str) -> pa.Field:
    metadata = {FIELD_ID: str(int(number)).encode()}
    return pa.field(name, _type(type_, f"{column}.{name}"), nullable=not required, metadata=metadata)


def _type(type_: Any, column: str) -> pa.DataType:
    if isinstance(type_, str):
        return _primitive(type_.strip().lower(), column)
    kind = type_["type"]
    if kind == "struct":
        return pa.struct([_field(field, f"{column}.") for field in type_["fields"]])
    if kind == "list":
        required = bool(type_.get("element-required", False))
        return pa.list_(_inner("element", type_["element-id"], type_["element"], required, column))
    if kind == "map":
        key = _inner("key", type_["key-id"], type_["key"], True, column)
        required = bool(type_.get("value-required", False))
        return pa.map_(key, _inner("value", type_["value-id"], type_["value"], required, column))
    if isinstance(kind, str):
        return _primitive(kind.strip().lower(), column)
    raise UnsupportedError("a column's iceberg type cannot be read", column=column, type=str(kind))


def _primitive(name: str, column: str) -> pa.DataType:
    if name in _PRIMITIVES:
        return _PRIMITIVES[name]
    if match := _DECIMAL.fullmatch(name):
        return pa.decimal128(int(match[1]), int(match[2]))
    if match := _FIXED.fullmatch(name):
        return pa.binary(int(match[1]))
    raise UnsupportedError(
        "a column's iceberg type cannot be read; select from a table without it", column=column, type=name
    )


def field_id_of(field: pa.Field) -> int:
    """Return the id of a field that `arrow_schema` made."""
    return int(field.metadata[FIELD_ID])


def top_level_ids(schema: pa.Schema) -> dict[int, pa.Field]:
    """Return field id → field for the columns of the table, nested fields left out."""
    return {field_id_of(field): field for field in schema}


def find_field(schema: Mapping[str, Any], number: int) -> tuple[pa.Field, bool] | None:
    """Return the field with id ``number`` of a JSON schema and whether it is a column of the table; None if absent.

    Only the field found is converted, so columns of unreadable types do no harm. Raises `UnsupportedError`.
    """
    for field in schema.get("fields", ()):
        if field.get("id") == number:
            return _field(field, ""), True
    for field in _descend(schema):
        if field.get("id") == number:
            return _field(field, ""), False
    return None


def _descend(type_: Any) -> Iterator[Mapping[str, Any]]:
    if not isinstance(type_, Mapping):
        return
    for field in type_.get("fields", ()):
        yield field
        yield from _descend(field.get("type"))
    for inner in ("element", "key", "value"):
        yield from _descend(type_.get(inner))


def name_mapping(text: str | None) -> dict[str, int] | None:
    """Return dotted name → field id of the table property ``schema.name-mapping.default``, every alias spelt out.

    Names of list elements and of map keys and values are ``element``, ``key`` and ``value``. Raises `CorruptError`.
    """
    if not text:
        return None
    try:
        return dict(_mapped(json.loads(text), ()))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CorruptError("the iceberg name mapping is malformed", reason=repr(error)) from error


def _mapped(fields: list[dict[str, Any]], parents: tuple[tuple[str, ...], ...]) -> Iterator[tuple[str, int]]:
    for field in fields:
        levels = (*parents, tuple(map(str, field["names"])))
        if field.get("field-id") is not None:
            for path in itertools.product(*levels):
                yield ".".join(path), int(field["field-id"])
        yield from _mapped(field.get("fields") or [], levels)
