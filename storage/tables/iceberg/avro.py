"""Iceberg's Avro files, read by field id: manifest lists, manifests, and delete files in Avro.

The container's schema is rewritten before fastavro sees it: fields are named by their ids, logical types are dropped.
Avro's binary encoding holds neither, so the records stay the same, while odd names, reordered or renamed fields and
every writer's own habits (field 504 has had three names) no longer matter, and values come as plain ints, floats, str
and bytes. Measured: 10,000 manifest entries with statistics of 16 columns in 0.7 s, 4 columns in 0.25 s. (pyiceberg's
compiled decoder takes 0.06 s but reads outside its buffer on damaged input.)

Sources: Avro 1.12 specification, "Object Container Files"; Iceberg spec, "Appendix A: Avro".
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from storage.errors import CorruptError, UnsupportedError
from storage.tables.iceberg.avro_codecs import NEEDS_REWRITING, read_long, uncompressed, write_long

__all__ = ["AvroFile", "id_name", "open_avro"]

_MAGIC = b"Obj\x01"
_SYNC_BYTES = 16
_PRIMITIVES = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})


def id_name(number: int) -> str:
    """Return the name under which records hold the field with id ``number``."""
    return f"f{number}"


@dataclass(frozen=True, slots=True)
class AvroFile:
    """An Avro file whose records are keyed by `id_name`, or by their own name where a field has no id.

    header : the file's metadata, without ``avro.*``
    schema : the writer's schema as the file holds it
    """

    header: Mapping[str, bytes]
    schema: Any
    body: bytes
    source: str

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield the records.

        Raises `CorruptError` naming the file when they cannot be decoded, `UnsupportedError` without fastavro.
        """
        try:
            import fastavro
        except ImportError as error:
            raise UnsupportedError("iceberg tables need an extra: install firnline[iceberg]") from error
        try:
            yield from fastavro.reader(io.BytesIO(self.body))  # type: ignore[misc]
        except Exception as error:
            raise CorruptError("a damaged avro file", file=self.source, reason=repr(error)) from error


def open_avro(data: bytes, source: str, names: Mapping[str, int]) -> AvroFile:
    """Read an Avro file's header.

    Parameters
    ----------
    names : field name → id, dotted below the first level, for fields that carry no ``field-id``

    Raises
    ------
    CorruptError
        not an Avro file; the message names it
    """
    try:
        header, at = _header(data)
        schema = json.loads(header["avro.schema"])
        rewritten = json.dumps(_Rewriter(names).rewrite(schema, "")).encode()
        body = _container({**header, "avro.schema": rewritten}, data, at)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise CorruptError("not a readable avro file", file=source, reason=repr(error)) from error
    plain = {key: value for key, value in header.items() if not key.startswith("avro.")}
    return AvroFile(plain, schema, body, source)


def _header(data: bytes) -> tuple[dict[str, bytes], int]:
    """Return the header's entries and the offset of the sync marker."""
    if data[:4] != _MAGIC:
        raise ValueError("the magic number is missing")
    entries: dict[str, bytes] = {}
    count, at = read_long(data, 4)
    while count:
        if count < 0:
            count = -count
            _size, at = read_long(data, at)
        for _ in range(count):
            key, at = _bytes(data, at)
            entries[key.decode()], at = _bytes(data, at)
        count, at = read_long(data, at)
    if at + _SYNC_BYTES > len(data):
        raise ValueError("the file ends within its header")
    return entries, at


def _bytes(data: bytes, at: int) -> tuple[bytes, int]:
    size, at = read_long(data, at)
    if size < 0 or at + size > len(data):
        raise ValueError("the file ends within its header")
    return data[at : at + size], at + size


def _container(header: Mapping[str, bytes], data: bytes, at: int) -> bytes:
    """Return the file under another header, its blocks in a codec that fastavro reads by itself."""
    codec = header.get("avro.codec", b"null").decode()
    if codec in NEEDS_REWRITING:
        return _encoded_header({**header, "avro.codec": b"null"}) + uncompressed(data, at, codec)
    return _encoded_header(header) + data[at:]


def _encoded_header(entries: Mapping[str, bytes]) -> bytes:
    parts = [_MAGIC, write_long(len(entries))]
    for key, value in entries.items():
        parts += [write_long(len(key.encode())), key.encode(), write_long(len(value)), value]
    return b"".join([*parts, b"\x00"])


class _Rewriter:
    """Rewrites one schema; remembers named types, so that a reference to one finds its new name."""

    def __init__(self, names: Mapping[str, int]) -> None:
        self._names = names
        self._types: dict[str, str] = {}

    def rewrite(self, schema: Any, path: str) -> Any:
        if isinstance(schema, list):
            return [self.rewrite(branch, path) for branch in schema]
        if isinstance(schema, str):
            return schema if schema in _PRIMITIVES else self._types[schema.rpartition(".")[2]]
        kind = schema["type"]
        if kind in ("record", "error"):
            name = self._named(schema)
            fields = [self._field(field, path) for field in schema["fields"]]
            return {"type": "record", "name": name, "fields": fields}
        if kind == "fixed":
            return {"type": "fixed", "name": self._named(schema), "size": int(schema["size"])}
        if kind == "enum":
            return {"type": "enum", "name": self._named(schema), "symbols": schema["symbols"]}
        if kind == "array":
            return {"type": "array", "items": self.rewrite(schema["items"], f"{path}element.")}
        if kind == "map":
            return {"type": "map", "values": self.rewrite(schema["values"], f"{path}value.")}
        return self.rewrite(kind, path)

    def _named(self, schema: Mapping[str, Any]) -> str:
        name = f"t{len(self._types)}"
        self._types[str(schema["name"]).rpartition(".")[2]] = name
        return name

    def _field(self, field: Mapping[str, Any], path: str) -> dict[str, Any]:
        dotted = f"{path}{field['name']}"
        number = field.get("field-id", self._names.get(dotted))
        name = id_name(int(number)) if number is not None else "x" + dotted.encode().hex()
        return {"name": name, "type": self.rewrite(field["type"], f"{dotted}.")}
