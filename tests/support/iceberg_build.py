"""Hand-made Iceberg tables: manifests written entry by entry, for what no Python library writes."""

import io
import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import orc
from pyroaring import BitMap64

FILE_PATH_ID, POS_ID = 2147483546, 2147483545


def column(number: int, name: str, type_: Any, **more: Any) -> dict[str, Any]:
    """One field of a JSON schema, optional unless ``required`` says otherwise."""
    return {"id": number, "name": name, "required": False, "type": type_} | more


def with_ids(table: pa.Table, ids: Sequence[int]) -> pa.Table:
    """Give top-level columns field ids, as Iceberg writers do."""
    fields = [f.with_metadata({b"PARQUET:field_id": str(i).encode()}) for f, i in zip(table.schema, ids, strict=True)]
    return table.cast(pa.schema(fields))


@dataclass
class File:
    """One manifest entry. ``sequence=None`` leaves the number to the manifest list."""

    path: str
    size: int
    n_rows: int
    content: int = 0
    format: str = "PARQUET"
    partition: dict[str, Any] = field(default_factory=dict)
    sequence: int | None = None
    status: int = 1
    lower: dict[int, bytes] = field(default_factory=dict)
    upper: dict[int, bytes] = field(default_factory=dict)
    nulls: dict[int, int] = field(default_factory=dict)
    nans: dict[int, int] = field(default_factory=dict)
    equality_ids: list[int] | None = None
    referenced: str | None = None
    offset: int | None = None
    length: int | None = None
    key_metadata: bytes | None = None


@dataclass
class Manifest:
    """Entries that share a partition spec; ``partition`` is the Avro type of each partition field by (name, id)."""

    files: list[File]
    content: int = 0
    spec_id: int = 0
    sequence: int = 1
    partition: dict[tuple[str, int], Any] = field(default_factory=dict)


class IcebergBuilder:
    """Writes data files, delete files and metadata of one table under a local folder."""

    def __init__(self, folder: Path, columns: Sequence[dict[str, Any]], version: int = 2) -> None:
        self.folder, self.version = folder, version
        self.schemas: list[dict[str, Any]] = [{"type": "struct", "schema-id": 0, "fields": list(columns)}]
        self.specs: list[dict[str, Any]] = [{"spec-id": 0, "fields": []}]
        self.properties: dict[str, str] = {}
        for name in ("data", "metadata"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    @property
    def location(self) -> str:
        """The table's location."""
        return f"file://{self.folder}"

    def url(self, name: str) -> str:
        """The location of a file under ``data/``."""
        return f"{self.location}/data/{name}"

    def parquet(self, name: str, table: pa.Table, ids: Sequence[int] | None, **entry: Any) -> File:
        """Write a Parquet file, with field ids unless ``ids`` is None."""
        path = self.folder / "data" / name
        pq.write_table(table if ids is None else with_ids(table, ids), path)
        return File(self.url(name), path.stat().st_size, table.num_rows, **entry)

    def position_deletes(
        self, name: str, rows: Sequence[tuple[str, int]], file_format: str = "PARQUET", **entry: Any
    ) -> File:
        """Write a position delete file in Parquet, ORC or Avro."""
        table = pa.table({"file_path": [r[0] for r in rows], "pos": pa.array([r[1] for r in rows], pa.int64())})
        if file_format == "PARQUET":
            return self.parquet(name, table, [FILE_PATH_ID, POS_ID], content=1, **entry)
        path = self.folder / "data" / name
        if file_format == "ORC":
            orc.write_table(table, path)
        else:
            fields = [{"name": "file_path", "type": "string", "field-id": FILE_PATH_ID}]
            fields.append({"name": "pos", "type": "long", "field-id": POS_ID})
            with path.open("wb") as out:
                fastavro.writer(out, {"type": "record", "name": "d", "fields": fields}, table.to_pylist())
        return File(self.url(name), path.stat().st_size, len(rows), content=1, format=file_format, **entry)

    def vector(self, name: str, data_file: str, positions: Sequence[int], **entry: Any) -> File:
        """Write a Puffin-like file that holds one deletion vector after some other bytes."""
        blob = vector_blob(positions)
        path = self.folder / "data" / name
        path.write_bytes(b"PFA1" + blob + b"PFA1")
        return File(
            self.url(name), path.stat().st_size, len(positions), content=1, format="PUFFIN",
            referenced=data_file, offset=4, length=len(blob), **entry,
        )  # fmt: skip

    def commit(self, *manifests: Manifest, number: int = 1, current: bool = True, **more: Any) -> str:
        """Write manifests, their list and ``vN.metadata.json``; return the metadata file's location."""
        rows = []
        for index, manifest in enumerate(manifests):
            path = self.folder / "metadata" / f"m{number}-{index}.avro"
            path.write_bytes(manifest_bytes(manifest))
            rows.append(
                {
                    "manifest_path": f"file://{path}", "manifest_length": path.stat().st_size,
                    "partition_spec_id": manifest.spec_id, "content": manifest.content,
                    "sequence_number": manifest.sequence, "min_sequence_number": 0, "added_snapshot_id": number,
                }
            )  # fmt: skip
        manifest_list = self.folder / "metadata" / f"snap-{number}.avro"
        manifest_list.write_bytes(_avro(_LIST_SCHEMA, rows))
        document = {
            "format-version": self.version, "table-uuid": "8f3adae2-03ef-4e06-9f33-663ab7adcc41",
            "location": self.location, "last-updated-ms": 1000 * number, "last-column-id": 1000,
            "schemas": self.schemas, "current-schema-id": self.schemas[-1]["schema-id"],
            "partition-specs": self.specs, "default-spec-id": self.specs[-1]["spec-id"],
            "properties": self.properties, "current-snapshot-id": number if current else -1,
            "snapshots": [
                {
                    "snapshot-id": number, "timestamp-ms": 1000 * number, "sequence-number": number,
                    "manifest-list": f"file://{manifest_list}", "schema-id": self.schemas[-1]["schema-id"],
                }
            ],
        } | more  # fmt: skip
        path = self.folder / "metadata" / f"v{number}.metadata.json"
        path.write_text(json.dumps(document))
        return f"file://{path}"


def document_of(location: str) -> dict[str, Any]:
    """The JSON of a metadata file."""
    document: dict[str, Any] = json.loads(Path(location.removeprefix("file://")).read_text())
    return document


def rewrite(location: str, document: dict[str, Any]) -> None:
    """Put other JSON in a metadata file's place."""
    Path(location.removeprefix("file://")).write_text(json.dumps(document))


def vector_blob(positions: Sequence[int]) -> bytes:
    """A ``deletion-vector-v1`` blob."""
    body = b"\xd1\xd3\x39\x64" + BitMap64(positions).serialize()
    return struct.pack(">I", len(body)) + body + struct.pack(">I", zlib.crc32(body))


def manifest_bytes(manifest: Manifest, codec: str = "deflate") -> bytes:
    """A manifest as an Avro file."""
    return _avro(manifest_schema(manifest), [_entry(file) for file in manifest.files], codec)


def manifest_schema(manifest: Manifest) -> dict[str, Any]:
    """The Avro schema of a manifest's entries."""
    partition = [
        {"name": name, "type": ["null", type_], "default": None, "field-id": number}
        for (name, number), type_ in manifest.partition.items()
    ]
    fields = [
        _field("content", "int", 134), _field("file_path", "string", 100), _field("file_format", "string", 101),
        _field("partition", {"type": "record", "name": "r102", "fields": partition}, 102),
        _field("record_count", "long", 103), _field("file_size_in_bytes", "long", 104),
        _map("null_value_counts", 110, 121, "long"), _map("nan_value_counts", 137, 138, "long"),
        _map("lower_bounds", 125, 126, "bytes"), _map("upper_bounds", 128, 129, "bytes"),
        _optional("key_metadata", "bytes", 131),
        _optional("equality_ids", {"type": "array", "items": "int", "element-id": 136}, 135),
        _optional("referenced_data_file", "string", 143), _optional("content_offset", "long", 144),
        _optional("content_size_in_bytes", "long", 145),
    ]  # fmt: skip
    data_file = _field("data_file", {"type": "record", "name": "r2", "fields": fields}, 2)
    entry = [_field("status", "int", 0), _optional("snapshot_id", "long", 1), _optional("sequence_number", "long", 3)]
    return {"type": "record", "name": "manifest_entry", "fields": [*entry, data_file]}


def _entry(file: File) -> dict[str, Any]:
    return {
        "status": file.status, "snapshot_id": 1, "sequence_number": file.sequence,
        "data_file": {
            "content": file.content, "file_path": file.path, "file_format": file.format,
            "partition": file.partition, "record_count": file.n_rows, "file_size_in_bytes": file.size,
            "null_value_counts": _pairs(file.nulls), "nan_value_counts": _pairs(file.nans),
            "lower_bounds": _pairs(file.lower), "upper_bounds": _pairs(file.upper),
            "key_metadata": file.key_metadata, "equality_ids": file.equality_ids,
            "referenced_data_file": file.referenced, "content_offset": file.offset,
            "content_size_in_bytes": file.length,
        },
    }  # fmt: skip


def _pairs(values: dict[int, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": value} for key, value in values.items()]


def _field(name: str, type_: Any, number: int) -> dict[str, Any]:
    return {"name": name, "type": type_, "field-id": number}


def _optional(name: str, type_: Any, number: int) -> dict[str, Any]:
    return {"name": name, "type": ["null", type_], "default": None, "field-id": number}


def _map(name: str, number: int, key: int, value: str) -> dict[str, Any]:
    pair = {"type": "record", "name": f"k{key}", "fields": [_field("key", "int", key), _field("value", value, key + 1)]}
    return _optional(name, {"type": "array", "logicalType": "map", "items": pair}, number)


_LIST_SCHEMA = {
    "type": "record",
    "name": "manifest_file",
    "fields": [
        _field("manifest_path", "string", 500), _field("manifest_length", "long", 501),
        _field("partition_spec_id", "int", 502), _field("content", "int", 517),
        _field("sequence_number", "long", 515), _field("min_sequence_number", "long", 516),
        _field("added_snapshot_id", "long", 503),
    ],
}  # fmt: skip


def _avro(schema: dict[str, Any], rows: list[dict[str, Any]], codec: str = "deflate") -> bytes:
    out = io.BytesIO()
    fastavro.writer(out, schema, rows, codec=codec)
    return out.getvalue()
