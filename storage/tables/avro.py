"""Avro data files as Arrow batches, field ids kept (Iceberg spec, Appendix A, "Avro").

Uses fastavro, the maintained Avro reader for Python; only Iceberg tables hold such files.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa

from storage.errors import CorruptError, UnsupportedError
from storage.tables.snapshot import FIELD_ID

__all__ = ["read_batches"]

_PRIMITIVE = {
    "boolean": pa.bool_(), "int": pa.int32(), "long": pa.int64(), "float": pa.float32(), "double": pa.float64(),
    "bytes": pa.binary(), "string": pa.string(), "null": pa.null(),
}  # fmt: skip


def read_batches(file: BinaryIO, location: str, batch_rows: int) -> Iterator[pa.RecordBatch]:
    """Yield the file's rows. Raises `CorruptError` or `UnsupportedError`, naming the file."""
    import fastavro

    try:
        reader = fastavro.reader(file)
        writer: Any = reader.writer_schema
        schema = pa.schema([_field(field, location) for field in writer["fields"]])
        rows: list[Any] = []
        for row in reader:
            rows.append(row)
            if len(rows) == batch_rows:
                yield pa.RecordBatch.from_pylist(rows, schema=schema)
                rows = []
        if rows:
            yield pa.RecordBatch.from_pylist(rows, schema=schema)
    except (ValueError, EOFError, KeyError, TypeError) as error:
        raise CorruptError("the Avro file cannot be decoded", file=location, reason=str(error)) from error


def _field(field: dict[str, Any], location: str) -> pa.Field:
    type_, nullable = _type(field["type"], location)
    return _with_id(field["name"], type_, nullable, field.get("field-id"))


def _with_id(name: str, type_: pa.DataType, nullable: bool, number: int | None) -> pa.Field:
    return pa.field(name, type_, nullable, {FIELD_ID: str(number).encode()} if number is not None else None)


def _type(avro: Any, location: str) -> tuple[pa.DataType, bool]:
    if isinstance(avro, list):
        branches = [branch for branch in avro if branch != "null"]
        if len(branches) == 1:
            return _type(branches[0], location)[0], len(branches) < len(avro)
        raise UnsupportedError("an Avro union of several types is not read", file=location)
    if isinstance(avro, str):
        return _primitive(avro, location), False
    logical = avro.get("logicalType")
    if logical is not None:
        found = _logical(logical, avro)
        if found is not None:
            return found, False
    match avro["type"]:
        case "record":
            return pa.struct([_field(field, location) for field in avro["fields"]]), False
        case "array" if logical == "map":
            key, value = avro["items"]["fields"]
            return pa.map_(_field(key, location), _field(value, location)), False
        case "array":
            element, nullable = _type(avro["items"], location)
            return pa.list_(_with_id("element", element, nullable, avro.get("element-id"))), False
        case "map":
            value, nullable = _type(avro["values"], location)
            key_field = _with_id("key", pa.string(), False, avro.get("key-id"))
            return pa.map_(key_field, _with_id("value", value, nullable, avro.get("value-id"))), False
        case "fixed":
            return pa.binary(avro["size"]), False
        case "enum":
            return pa.string(), False
        case nested if not isinstance(nested, str):
            return _type(nested, location)
        case name:
            return _primitive(name, location), False


def _primitive(name: str, location: str) -> pa.DataType:
    if name not in _PRIMITIVE:
        raise UnsupportedError("an Avro type is not read", type=name, file=location)
    return _PRIMITIVE[name]


def _logical(logical: str, avro: dict[str, Any]) -> pa.DataType | None:
    zone = "UTC" if avro.get("adjust-to-utc", True) else None
    return {
        "date": pa.date32(),
        "time-millis": pa.time32("ms"),
        "time-micros": pa.time64("us"),
        "timestamp-millis": pa.timestamp("ms", zone),
        "timestamp-micros": pa.timestamp("us", zone),
        "timestamp-nanos": pa.timestamp("ns", zone),
        "local-timestamp-micros": pa.timestamp("us"),
        "decimal": pa.decimal128(avro.get("precision", 38), avro.get("scale", 0)),
    }.get(logical)
