"""Decode commits (and JSON checkpoints): newline-delimited JSON, one action a line.

Unknown actions and unknown fields are skipped, as the protocol asks; a line that is no action is `CorruptError`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from storage.errors import CorruptError
from storage.tables.delta.paths import file_location
from storage.tables.delta.vectors import DeletionVector

__all__ = ["Actions", "Add", "FileKey", "Metadata", "Protocol", "decode_action", "decode_lines"]


class FileKey(NamedTuple):
    """What makes a logical file unique: where it is, and which deletion vector covers it ("" for none)."""

    location: str
    vector_id: str


@dataclass(frozen=True, slots=True)
class Add:
    """A data file that a commit adds.

    path : as the log writes it, where that is not simply the rest of ``location``; a remove must repeat it
    """

    location: str
    size: int
    partition_values: Mapping[str, str | None]
    stats: str | None
    vector: DeletionVector | None
    path: str | None = None


@dataclass(frozen=True, slots=True)
class Protocol:
    """What a reader must know; ``reader_features`` is None where the action names none."""

    min_reader_version: int
    min_writer_version: int
    reader_features: frozenset[str] | None = None
    writer_features: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Metadata:
    """The table's schema (as JSON text, "" where its creator had none yet), partition columns and properties."""

    table_id: str
    schema_json: str
    partition_columns: tuple[str, ...]
    configuration: Mapping[str, str]
    provider: str = "parquet"
    name: str | None = None
    description: str | None = None
    created_ms: int | None = None


@dataclass(slots=True)
class Actions:
    """The outcome of a run of actions, the last one winning.

    files : key → the file, or None where it was removed
    transactions : application id → the last version it committed
    domains : domain → configuration, or None where it was removed
    sidecars : file names, of a v2 checkpoint
    """

    files: dict[FileKey, Add | None] = field(default_factory=dict)
    protocol: Protocol | None = None
    metadata: Metadata | None = None
    transactions: dict[str, int] = field(default_factory=dict)
    domains: dict[str, str | None] = field(default_factory=dict)
    sidecars: list[str] = field(default_factory=list)
    in_commit_timestamp_ms: int | None = None

    def apply(self, later: Actions) -> None:
        """Put the outcome of ``later`` on top of this one."""
        self.files.update(later.files)
        self.protocol = later.protocol or self.protocol
        self.metadata = later.metadata or self.metadata
        self.transactions.update(later.transactions)
        self.domains.update(later.domains)
        self.sidecars.extend(later.sidecars)
        self.in_commit_timestamp_ms = later.in_commit_timestamp_ms


def decode_lines(table: str, location: str, data: bytes) -> Actions:
    """Decode the commit or JSON checkpoint at ``location``. Raises `CorruptError` naming file and line."""
    actions = Actions()
    if not data:
        raise CorruptError("a delta commit is empty: its writer did not finish", file=location)
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line or line.isspace():
            continue
        try:
            decode_action(table, json.loads(line.decode()), actions)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise CorruptError(
                "a line of the delta log is not a valid action", file=location, line=number, cause=_cause(error)
            ) from None
    return actions


def _cause(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]


def decode_action(table: str, action: Any, into: Actions) -> None:
    """Put one action, as JSON or a checkpoint row gives it, on top of ``into``. Raises TypeError, KeyError."""
    if not isinstance(action, dict):
        raise TypeError("not an object")
    for kind, body in action.items():
        if body is not None and (decode := _DECODERS.get(kind)):
            if not isinstance(body, dict):
                raise TypeError(f"{kind} is not an object")
            decode(table, body, into)


def _decode_add(table: str, add: Mapping[str, Any], into: Actions) -> None:
    file = _add_from(table, add)
    into.files[FileKey(file.location, file.vector.unique_id if file.vector else "")] = file


def _decode_remove(table: str, remove: Mapping[str, Any], into: Actions) -> None:
    vector = _vector_from(remove.get("deletionVector"))
    key = FileKey(file_location(table, _text(remove["path"])), vector.unique_id if vector else "")
    into.files[key] = None


def _decode_metadata(_table: str, metadata: Mapping[str, Any], into: Actions) -> None:
    into.metadata = _metadata_from(metadata)


def _decode_protocol(_table: str, protocol: Mapping[str, Any], into: Actions) -> None:
    into.protocol = _protocol_from(protocol)


def _decode_transaction(_table: str, transaction: Mapping[str, Any], into: Actions) -> None:
    into.transactions[_text(transaction["appId"])] = _integer(transaction["version"])


def _decode_domain(_table: str, domain: Mapping[str, Any], into: Actions) -> None:
    removed = bool(domain.get("removed"))
    into.domains[_text(domain["domain"])] = None if removed else _text(domain.get("configuration") or "")


def _decode_sidecar(_table: str, sidecar: Mapping[str, Any], into: Actions) -> None:
    into.sidecars.append(_text(sidecar["path"]))


def _decode_commit_info(_table: str, info: Mapping[str, Any], into: Actions) -> None:
    timestamp = info.get("inCommitTimestamp")
    into.in_commit_timestamp_ms = None if timestamp is None else _integer(timestamp)


_DECODERS: dict[str, Callable[[str, Mapping[str, Any], Actions], None]] = {
    "add": _decode_add,
    "remove": _decode_remove,
    "metaData": _decode_metadata,
    "protocol": _decode_protocol,
    "txn": _decode_transaction,
    "domainMetadata": _decode_domain,
    "sidecar": _decode_sidecar,
    "commitInfo": _decode_commit_info,
}


def _add_from(table: str, add: Mapping[str, Any]) -> Add:
    stats = add.get("stats")
    values = add.get("partitionValues") or {}
    for name, value in values.items():
        if value is not None:
            _text(value)
        _text(name)
    path = _text(add["path"])
    location = file_location(table, path)
    return Add(
        location=location,
        size=_integer(add["size"]),
        partition_values=values,
        stats=stats if isinstance(stats, str) and _is_utf8(stats) else None,
        vector=_vector_from(add.get("deletionVector")),
        path=None if location == f"{table.rstrip('/')}/{path}" else path,
    )


def _vector_from(vector: Mapping[str, Any] | None) -> DeletionVector | None:
    if not vector or vector.get("storageType") is None:
        return None
    offset = vector.get("offset")
    return DeletionVector(
        storage=_text(vector["storageType"]),
        path=_text(vector["pathOrInlineDv"]),
        offset=None if offset is None else _integer(offset),
        size=_integer(vector["sizeInBytes"]),
        cardinality=_integer(vector["cardinality"]),
    )


def _protocol_from(protocol: Mapping[str, Any]) -> Protocol:
    return Protocol(
        min_reader_version=_integer(protocol["minReaderVersion"]),
        min_writer_version=_integer(protocol.get("minWriterVersion") or 0),
        reader_features=_features(protocol.get("readerFeatures")),
        writer_features=_features(protocol.get("writerFeatures")),
    )


def _features(names: Any) -> frozenset[str] | None:
    return None if names is None else frozenset(_text(name) for name in names)


def _metadata_from(metadata: Mapping[str, Any]) -> Metadata:
    # A checkpoint row gives maps as lists of pairs.
    configuration = dict(metadata.get("configuration") or {})
    provider = (metadata.get("format") or {}).get("provider") or "parquet"
    return Metadata(
        table_id=_text(metadata.get("id") or ""),
        schema_json=_text(metadata.get("schemaString") or ""),
        partition_columns=tuple(_text(name) for name in metadata.get("partitionColumns") or ()),
        configuration={str(key): str(value) for key, value in configuration.items() if value is not None},
        provider=_text(provider),
        name=_text(metadata["name"]) if metadata.get("name") else None,
        description=_text(metadata["description"]) if metadata.get("description") else None,
        created_ms=_integer(metadata["createdTime"]) if metadata.get("createdTime") else None,
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a string, found {type(value).__name__}")
    if not _is_utf8(value):
        raise ValueError("a string holds half of a surrogate pair")
    return value


def _is_utf8(text: str) -> bool:
    """JSON can escape half of a surrogate pair, which no Arrow string holds."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _integer(value: Any) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not -(1 << 63) <= value < 1 << 63:
        raise TypeError(f"expected a 64-bit integer, found {value!r}")
    return value
