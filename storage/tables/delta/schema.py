"""The table's schema: Delta's schema JSON as an Arrow schema.

With column mapping every struct field, at every level, carries `PHYSICAL_NAME` and `FIELD_ID`; the children of lists
and maps carry a `FIELD_ID` where the log names one (``delta.columnMapping.nested.ids``) and are else found by position.
Widened types need nothing here: the logical schema is the current type, and the scan casts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from storage.errors import CorruptError, UnsupportedError
from storage.tables.snapshot import FIELD_ID, PHYSICAL_NAME

__all__ = ["physical_name", "read_schema"]

_PRIMITIVES: dict[str, pa.DataType] = {
    "string": pa.string(),
    "long": pa.int64(),
    "integer": pa.int32(),
    "short": pa.int16(),
    "byte": pa.int8(),
    "float": pa.float32(),
    "double": pa.float64(),
    "boolean": pa.bool_(),
    "binary": pa.binary(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", "UTC"),
    "timestamp_ntz": pa.timestamp("us"),
    "decimal": pa.decimal128(10, 0),
    "void": pa.null(),
    "null": pa.null(),
}
_DECIMAL = re.compile(r"decimal\(\s*(\d+)\s*,\s*(-?\d+)\s*\)")
_CHARS = re.compile(r"(?:var)?char\(\s*\d+\s*\)")
_MAPPED_NAME = "delta.columnMapping.physicalName"
_MAPPED_ID = "delta.columnMapping.id"
_NESTED_IDS = "delta.columnMapping.nested.ids"


def read_schema(table: str, schema_json: str, mode: str) -> pa.Schema:
    """Return the logical schema; ``mode`` is the column mapping in force (``none``, ``name``, ``id``).

    Raises `UnsupportedError` naming the column and its type, `CorruptError` where the JSON is no schema.
    """
    try:
        root = json.loads(schema_json)
        fields = [_field(table, field, mode) for field in root["fields"]]
        names = {field.name for field in fields}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CorruptError(
            "the delta table's schema is not valid", table=table, cause=f"{type(error).__name__}: {error}"[:200]
        ) from None
    if len(names) != len(fields):
        raise CorruptError("the delta table's schema names a column twice", table=table)
    return pa.schema(fields)


def _field(table: str, field: Mapping[str, Any], mode: str) -> pa.Field:
    name, metadata = field["name"], field.get("metadata") or {}
    if not isinstance(name, str):
        raise TypeError("a field's name is not a string")
    tags: dict[bytes, bytes] = {}
    if mode != "none":
        if _MAPPED_NAME not in metadata or _MAPPED_ID not in metadata:
            raise CorruptError("a column lacks its column mapping", table=table, column=name)
        tags[PHYSICAL_NAME] = str(metadata[_MAPPED_NAME]).encode()
        tags[FIELD_ID] = b"%d" % int(metadata[_MAPPED_ID])
    nested = (metadata.get(_NESTED_IDS) or {}) if mode != "none" else {}
    kind = _type(table, field["type"], mode, _Path(name, str(metadata.get(_MAPPED_NAME, name)), nested))
    nullable = bool(field.get("nullable", True)) or pa.types.is_null(kind)
    return pa.field(name, kind, nullable=nullable, metadata=tags or None)


class _Path:
    """Where we are in the schema: for messages, and for the ids of list and map children."""

    __slots__ = ("ids", "key", "name")

    def __init__(self, name: str, key: str, ids: Mapping[str, int]) -> None:
        self.name, self.key, self.ids = name, key, ids

    def child(self, part: str) -> _Path:
        return _Path(f"{self.name}.{part}", f"{self.key}.{part}", self.ids)

    def tags(self) -> dict[bytes, bytes] | None:
        return {FIELD_ID: b"%d" % int(self.ids[self.key])} if self.key in self.ids else None


def _type(table: str, kind: Any, mode: str, path: _Path) -> pa.DataType:
    if isinstance(kind, str):
        return _primitive(table, kind, path)
    if kind["type"] == "struct":
        return pa.struct([_field(table, field, mode) for field in kind["fields"]])
    if kind["type"] == "array":
        element = path.child("element")
        item = _type(table, kind["elementType"], mode, element)
        return pa.list_(pa.field("element", item, bool(kind.get("containsNull", True)), element.tags()))
    if kind["type"] == "map":
        key, value = path.child("key"), path.child("value")
        return pa.map_(
            pa.field("key", _type(table, kind["keyType"], mode, key), False, key.tags()),
            pa.field(
                "value",
                _type(table, kind["valueType"], mode, value),
                bool(kind.get("valueContainsNull", True)),
                value.tags(),
            ),
        )
    if kind["type"] == "udt":
        return _type(table, kind["sqlType"], mode, path)
    raise _unsupported(table, path, str(kind["type"]))


def _primitive(table: str, kind: str, path: _Path) -> pa.DataType:
    if kind in _PRIMITIVES:
        return _PRIMITIVES[kind]
    if _CHARS.fullmatch(kind):
        return pa.string()
    if match := _DECIMAL.fullmatch(kind):
        precision, scale = int(match[1]), int(match[2])
        if not 0 < precision <= 38 or not 0 <= scale <= precision:
            raise CorruptError("a column's decimal type is impossible", table=table, column=path.name, type=kind)
        return pa.decimal128(precision, scale)
    raise _unsupported(table, path, kind)


def _unsupported(table: str, path: _Path, kind: str) -> UnsupportedError:
    return UnsupportedError(
        "the delta table has a column of a type that Firnline does not support",
        table=table,
        column=path.name,
        type=repr(kind),
    )


def physical_name(field: pa.Field) -> str:
    """The name of ``field`` in data files, partition values and statistics."""
    name: str = field.name
    tagged = (field.metadata or {}).get(PHYSICAL_NAME)
    return tagged.decode() if tagged else name
