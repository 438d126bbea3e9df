"""An Iceberg metadata file as frozen values: what is needed to read, for format versions 1, 2 and 3.

Parsing is lenient where the spec, older writers or hand-made tables leave things out, and strict where a guess could
read wrong rows. Version 1's forms (``schema``, ``partition-spec``, a snapshot's ``manifests`` list) become the forms
of version 2. Schemas stay JSON until one is asked for, so a type that cannot be read in an old schema does no harm.

Why not pyiceberg's model: it refuses tables that the spec allows and costs 0.4 to 1.3 s to import
(docs/design/004-iceberg-reader.md).

Source: Iceberg spec, "Table Metadata Fields", "Snapshots", "Partitioning".
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from storage.errors import CorruptError, UnsupportedError
from storage.tables.iceberg.schema import arrow_schema, find_field

__all__ = [
    "FORMAT_VERSION_MAX",
    "PartitionField",
    "PartitionSpec",
    "Ref",
    "SnapshotEntry",
    "TableMetadata",
    "parse",
    "partition_spec",
]

FORMAT_VERSION_MAX = 3
METADATA_BYTES_MAX = 1 << 29
"""Bound on a metadata file, decompressed; real ones stay under 100 MB."""
_FIRST_PARTITION_ID = 1000
_MAIN = "main"


@dataclass(frozen=True, slots=True)
class PartitionField:
    """One field of a partition spec; ``source_id`` is None for a transform of several columns."""

    field_id: int
    source_id: int | None
    name: str
    transform: str


@dataclass(frozen=True, slots=True)
class PartitionSpec:
    """How a file's rows were grouped when it was written."""

    spec_id: int
    fields: tuple[PartitionField, ...]

    @property
    def is_unpartitioned(self) -> bool:
        """Whether no field divides rows: there is none, or all are void."""
        return all(field.transform == "void" for field in self.fields)


@dataclass(frozen=True, slots=True)
class SnapshotEntry:
    """One snapshot: where its manifests are named, either in a list file or (version 1) right here."""

    snapshot_id: int
    parent_id: int | None
    timestamp_ms: int
    manifest_list: str | None
    manifests: tuple[str, ...]
    schema_id: int | None


@dataclass(frozen=True, slots=True)
class Ref:
    """A branch or a tag."""

    snapshot_id: int
    is_branch: bool


@dataclass(frozen=True)
class TableMetadata:
    """One metadata file.

    schemas : schema id → JSON schema; `schema` converts one
    is_encrypted : as the table declares; a ``key_metadata`` in a manifest alone says nothing
    log : (timestamp_ms, snapshot id) each time the current snapshot changed, oldest first
    """

    source: str
    format_version: int
    location: str
    last_updated_ms: int
    schemas: Mapping[int, Mapping[str, Any]]
    current_schema_id: int
    specs: Mapping[int, PartitionSpec]
    default_spec_id: int
    current_snapshot_id: int | None
    snapshots: Mapping[int, SnapshotEntry]
    log: tuple[tuple[int, int], ...]
    refs: Mapping[str, Ref]
    properties: Mapping[str, str]
    is_encrypted: bool

    def schema(self, schema_id: int) -> pa.Schema:
        """Return one schema as Arrow. Raises `CorruptError` when it is not there, `UnsupportedError` for a type."""
        if schema_id not in self.schemas:
            raise CorruptError("iceberg metadata lacks a schema that it names", schema_id=schema_id, file=self.source)
        return arrow_schema(self.schemas[schema_id])

    def uuid_columns(self, schema_id: int) -> frozenset[str]:
        """Return the names of the table's columns of type uuid, which Arrow cannot tell from fixed[16]."""
        fields = self.schemas[schema_id]["fields"]
        return frozenset(str(field["name"]) for field in fields if field["type"] == "uuid")

    def find_field(self, number: int, schema_id: int) -> tuple[pa.Field, bool] | None:
        """Return the field with an id and whether it is top-level, from ``schema_id`` or else the newest schema."""
        newest_first = sorted(self.schemas, key=lambda other: (other == schema_id, other), reverse=True)
        found = (find_field(self.schemas[candidate], number) for candidate in newest_first)
        return next((field for field in found if field is not None), None)


def parse(data: bytes, source: str) -> TableMetadata:
    """Read a metadata file, compressed with gzip or not.

    Raises
    ------
    CorruptError
        it is not Iceberg metadata; the message names the file
    UnsupportedError
        its format version is newer than 3
    """
    try:
        document = json.loads(_decompressed(data, source))
        return _metadata(document, source)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, zlib.error) as error:
        raise CorruptError("not a readable iceberg metadata file", file=source, reason=repr(error)) from error


def _decompressed(data: bytes, source: str) -> bytes:
    if data[:2] != b"\x1f\x8b":
        return data
    inflate = zlib.decompressobj(wbits=31)
    text = inflate.decompress(data, METADATA_BYTES_MAX)
    if not inflate.eof:
        reason = "larger than the limit" if inflate.unconsumed_tail else "truncated gzip"
        raise CorruptError("not a readable iceberg metadata file", file=source, reason=reason)
    return text


def _metadata(document: dict[str, Any], source: str) -> TableMetadata:
    version = int(document["format-version"])
    if not 1 <= version <= FORMAT_VERSION_MAX:
        raise UnsupportedError("this iceberg format version cannot be read", version=version, file=source)
    schemas, current_schema_id = _schemas(document)
    specs = _specs(document)
    current = _optional_id(document.get("current-snapshot-id"))
    snapshots = {entry.snapshot_id: entry for entry in map(_snapshot, document.get("snapshots") or [])}
    return TableMetadata(
        source=source,
        format_version=version,
        location=str(document.get("location") or ""),
        last_updated_ms=int(document.get("last-updated-ms") or 0),
        schemas=schemas,
        current_schema_id=current_schema_id,
        specs=specs,
        default_spec_id=int(document.get("default-spec-id") or 0),
        current_snapshot_id=current,
        snapshots=snapshots,
        log=tuple((int(e["timestamp-ms"]), int(e["snapshot-id"])) for e in document.get("snapshot-log") or []),
        refs=_refs(document, current),
        properties={str(k): _text(v) for k, v in (document.get("properties") or {}).items()},
        is_encrypted=_is_encrypted(document),
    )


def _is_encrypted(document: dict[str, Any]) -> bool:
    return bool(document.get("encryption-keys")) or "encryption.key-id" in (document.get("properties") or {})


def _optional_id(value: Any) -> int | None:
    return None if value is None or int(value) == -1 else int(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _schemas(document: dict[str, Any]) -> tuple[dict[int, Mapping[str, Any]], int]:
    listed = document.get("schemas") or []
    schemas = {int(schema.get("schema-id") or 0): schema for schema in listed}
    if not schemas:
        schema = document["schema"]
        number = int(schema.get("schema-id") or 0)
        return {number: schema}, number
    current = document.get("current-schema-id")
    return schemas, int(current) if current is not None else max(schemas)


def _specs(document: dict[str, Any]) -> dict[int, PartitionSpec]:
    listed = document.get("partition-specs") or []
    specs = [partition_spec(int(spec.get("spec-id") or 0), spec.get("fields") or []) for spec in listed]
    if not specs:
        specs = [partition_spec(0, document.get("partition-spec") or [])]
    return {spec.spec_id: spec for spec in specs}


def partition_spec(spec_id: int, fields: list[dict[str, Any]]) -> PartitionSpec:
    """Read the JSON fields of a partition spec; a missing field id is its index from 1000, as version 1 counts."""
    return PartitionSpec(spec_id, tuple(_partition_field(i, field) for i, field in enumerate(fields)))


def _partition_field(index: int, field: dict[str, Any]) -> PartitionField:
    sources = field.get("source-ids") or [field.get("source-id")]
    number = field.get("field-id")
    return PartitionField(
        field_id=_FIRST_PARTITION_ID + index if number is None else int(number),
        source_id=int(sources[0]) if len(sources) == 1 and sources[0] is not None else None,
        name=str(field.get("name", "")),
        transform=str(field["transform"]).strip().lower(),
    )


def _snapshot(entry: dict[str, Any]) -> SnapshotEntry:
    schema_id = entry.get("schema-id")
    return SnapshotEntry(
        snapshot_id=int(entry["snapshot-id"]),
        parent_id=_optional_id(entry.get("parent-snapshot-id")),
        timestamp_ms=int(entry.get("timestamp-ms") or 0),
        manifest_list=entry.get("manifest-list") or None,
        manifests=tuple(map(str, entry.get("manifests") or ())),
        schema_id=None if schema_id is None else int(schema_id),
    )


def _refs(document: dict[str, Any], current: int | None) -> dict[str, Ref]:
    refs = {
        name: Ref(int(ref["snapshot-id"]), str(ref.get("type", "branch")).lower() == "branch")
        for name, ref in (document.get("refs") or {}).items()
    }
    if current is not None:
        refs.setdefault(_MAIN, Ref(current, is_branch=True))
    return refs
