"""Write Delta tables by hand into memory: for features that no Python library writes."""

import io
import json
import struct
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyroaring import BitMap64

from storage.blobs.memory import MemoryBlobs
from storage.stores import Stores
from storage.tables.delta import DeltaSnapshot, load
from storage.tables.snapshot import At, Snapshot

Action = dict[str, Any]
TABLE = "s3://lake/t"
Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
_STRINGS = pa.map_(pa.string(), pa.string())
VECTOR_TYPE = pa.struct(
    [
        ("storageType", pa.string()),
        ("pathOrInlineDv", pa.string()),
        ("offset", pa.int32()),
        ("sizeInBytes", pa.int32()),
        ("cardinality", pa.int64()),
        ("maxRowIndex", pa.int64()),
    ]
)
CHECKPOINT_SCHEMA = pa.schema(
    [
        ("txn", pa.struct([("appId", pa.string()), ("version", pa.int64()), ("lastUpdated", pa.int64())])),
        (
            "add",
            pa.struct(
                [
                    ("path", pa.string()),
                    ("partitionValues", _STRINGS),
                    ("size", pa.int64()),
                    ("modificationTime", pa.int64()),
                    ("dataChange", pa.bool_()),
                    ("tags", _STRINGS),
                    ("deletionVector", VECTOR_TYPE),
                    ("stats", pa.string()),
                ]
            ),
        ),
        ("remove", pa.struct([("path", pa.string()), ("deletionTimestamp", pa.int64()), ("dataChange", pa.bool_())])),
        (
            "metaData",
            pa.struct(
                [
                    ("id", pa.string()),
                    ("format", pa.struct([("provider", pa.string()), ("options", _STRINGS)])),
                    ("schemaString", pa.string()),
                    ("partitionColumns", pa.list_(pa.string())),
                    ("configuration", _STRINGS),
                ]
            ),
        ),
        (
            "protocol",
            pa.struct(
                [
                    ("minReaderVersion", pa.int32()),
                    ("minWriterVersion", pa.int32()),
                    ("readerFeatures", pa.list_(pa.string())),
                    ("writerFeatures", pa.list_(pa.string())),
                ]
            ),
        ),
        (
            "domainMetadata",
            pa.struct([("domain", pa.string()), ("configuration", pa.string()), ("removed", pa.bool_())]),
        ),
        ("sidecar", pa.struct([("path", pa.string()), ("sizeInBytes", pa.int64()), ("modificationTime", pa.int64())])),
    ]
)


class SetClock:
    """A clock that stands where it is put."""

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self.at_ms = now_ms

    def now_ms(self) -> int:
        return self.at_ms

    def monotonic_s(self) -> float:
        return self.at_ms / 1000

    def uniform(self, low: float, high: float) -> float:
        return low

    def new_id(self) -> str:
        return "0" * 32


@dataclass
class Lake:
    """A table in memory, with what it takes to load it."""

    clock: SetClock = field(default_factory=SetClock)

    def __post_init__(self) -> None:
        self.blobs = MemoryBlobs(self.clock)

    async def put(self, name: str, data: bytes | str) -> None:
        """Write a file below the table's folder."""
        await self.blobs.put(f"t/{name}", data.encode() if isinstance(data, str) else data)

    async def commit(self, version: int, *actions: Action) -> None:
        """Write the commit of ``version``."""
        await self.put(f"_delta_log/{version:020}.json", "\n".join(map(json.dumps, actions)) + "\n")

    async def log(self, name: str, data: bytes | str) -> None:
        """Write a file of the log."""
        await self.put(f"_delta_log/{name}", data)

    async def delete(self, name: str) -> None:
        await self.blobs.delete(f"t/{name}")

    def stores(self) -> Stores:
        """Fresh stores, so that requests are counted from 0."""
        return Stores(lambda _root: self.blobs)

    async def load(self, known: Snapshot | None = None, **at: int) -> DeltaSnapshot:
        snapshot = await load(self.stores(), TABLE, At(**at), known)
        assert isinstance(snapshot, DeltaSnapshot)
        return snapshot


def names(snapshot: Snapshot) -> list[str]:
    """The paths of a snapshot's files relative to the table, sorted."""
    return sorted(path.removeprefix(TABLE + "/") for path in snapshot.files.paths)


def protocol(reader: int = 1, writer: int = 2, features: Sequence[str] | None = None) -> Action:
    body: Action = {"minReaderVersion": reader, "minWriterVersion": writer}
    if features is not None:
        body |= {"readerFeatures": list(features), "writerFeatures": list(features)}
    return {"protocol": body}


def column(name: str, kind: Any = "long", nullable: bool = True, **metadata: Any) -> Action:
    return {"name": name, "type": kind, "nullable": nullable, "metadata": metadata}


def metadata(
    *columns: Action, partitions: Sequence[str] = (), configuration: dict[str, str] | None = None, table_id: str = "id"
) -> Action:
    schema = json.dumps({"type": "struct", "fields": list(columns or [column("id")])})
    return {
        "metaData": {
            "id": table_id,
            "format": {"provider": "parquet", "options": {}},
            "schemaString": schema,
            "partitionColumns": list(partitions),
            "configuration": configuration or {},
        }
    }


def add(path: str, *, stats: Any = None, values: dict[str, str | None] | None = None, vector: Any = None) -> Action:
    body: Action = {
        "path": path,
        "partitionValues": values or {},
        "size": 10,
        "modificationTime": 1,
        "dataChange": True,
    }
    if stats is not None:
        body["stats"] = stats if isinstance(stats, str) else json.dumps(stats)
    if vector is not None:
        body["deletionVector"] = vector
    return {"add": body}


def remove(path: str, *, vector: Any = None) -> Action:
    body: Action = {"path": path, "deletionTimestamp": 1, "dataChange": True}
    if vector is not None:
        body["deletionVector"] = vector
    return {"remove": body}


def checkpoint(actions: Sequence[Action], schema: pa.Schema = CHECKPOINT_SCHEMA) -> bytes:
    """A Parquet checkpoint file of these actions."""
    rows = [{name: _maps(body) for name, body in action.items()} for action in actions]
    return parquet(pa.Table.from_pylist(rows, schema=schema))


def _maps(value: Any, key: str = "") -> Any:
    if not isinstance(value, dict):
        return value
    if key in {"partitionValues", "configuration", "options"}:
        return list(value.items())
    return {name: _maps(one, name) for name, one in value.items()}


def parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def encode_z85(data: bytes) -> str:
    """Z85 of bytes whose length is a multiple of four."""
    groups = (int.from_bytes(data[start : start + 4], "big") for start in range(0, len(data), 4))
    return "".join(Z85[group // 85**power % 85] for group in groups for power in (4, 3, 2, 1, 0))


def bitmap(rows: Sequence[int]) -> bytes:
    """The data of a deletion vector."""
    return struct.pack("<i", 1681511377) + bytes(BitMap64(rows).serialize())


def vector_file(*bitmaps: bytes) -> tuple[bytes, list[int]]:
    """A file of deletion vectors, and the offset of each."""
    data, offsets = b"\x01", []
    for one in bitmaps:
        offsets.append(len(data))
        data += struct.pack(">i", len(one)) + one + struct.pack(">I", zlib.crc32(one))
    return data, offsets


def inline_vector(rows: Sequence[int]) -> Action:
    data = bitmap(rows)
    padded = data + b"\x00" * (-len(data) % 4)
    return {
        "storageType": "i",
        "pathOrInlineDv": encode_z85(padded),
        "sizeInBytes": len(data),
        "cardinality": len(set(rows)),
    }


def stored_vector(data: bytes, offset: int, cardinality: int, identity: uuid.UUID, prefix: str = "") -> Action:
    return {
        "storageType": "u",
        "pathOrInlineDv": prefix + encode_z85(identity.bytes),
        "offset": offset,
        "sizeInBytes": len(data),
        "cardinality": cardinality,
    }
