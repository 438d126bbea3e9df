"""The actions of a commit, as the lines of its file.

A commit carries an id of its own (``commitInfo.txnId``): after a lost reply it is how we know that a commit is ours.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.errors import ConflictError, InvalidError
from storage.tables.delta.actions import FileKey, Metadata, Protocol
from storage.tables.delta.replay import TableState
from storage.tables.delta.vectors import DeletionVector
from storage.tables.delta.write_stats import INDEXED_COLUMNS, stats_json
from storage.tables.delta.write_values import encode_path, partition_text
from storage.tables.write import Change, DataFile, Watermark

__all__ = [
    "ENGINE",
    "Action",
    "add_actions",
    "app_id",
    "commit_info",
    "encode",
    "metadata_action",
    "protocol_action",
    "remove_actions",
    "removed_keys",
    "transaction_action",
]

Action = dict[str, Any]
ENGINE = "Firnline"


def encode(actions: Iterable[Action]) -> bytes:
    """Return the commit's file: one action a line."""
    return b"".join(
        json.dumps(action, ensure_ascii=False, separators=(",", ":")).encode() + b"\n" for action in actions
    )


def app_id(log: str) -> str:
    """The application id under which a table keeps its watermark of a log."""
    return f"firnline-log-{log}"


def transaction_action(watermark: Watermark, now_ms: int) -> Action:
    return {"txn": {"appId": app_id(watermark.log), "version": watermark.sequence, "lastUpdated": now_ms}}


def protocol_action(protocol: Protocol) -> Action:
    body: Action = {"minReaderVersion": protocol.min_reader_version, "minWriterVersion": protocol.min_writer_version}
    if protocol.reader_features is not None:
        body["readerFeatures"] = sorted(protocol.reader_features)
    if protocol.writer_features is not None:
        body["writerFeatures"] = sorted(protocol.writer_features)
    return {"protocol": body}


def metadata_action(metadata: Metadata) -> Action:
    body: Action = {
        "id": metadata.table_id,
        "name": metadata.name,
        "description": metadata.description,
        "format": {"provider": metadata.provider, "options": {}},
        "schemaString": metadata.schema_json,
        "partitionColumns": list(metadata.partition_columns),
        "configuration": dict(metadata.configuration),
        "createdTime": metadata.created_ms,
    }
    return {"metaData": {name: value for name, value in body.items() if value is not None}}


def commit_info(change: Change, commit_id: str, now_ms: int, read_version: int | None) -> Action:
    """What the table's history says of the commit. In-commit timestamps are put in by the caller."""
    metrics = {
        "numAddedFiles": len(change.add),
        "numRemovedFiles": len(change.remove),
        "numOutputRows": sum(file.n_rows for file in change.add),
        "numOutputBytes": sum(file.size for file in change.add),
    }
    body: Action = {
        "timestamp": now_ms,
        "operation": change.operation.upper(),
        "operationParameters": {},
        "isBlindAppend": bool(change.add) and change.data_change and not change.remove and change.spec is None,
        "operationMetrics": {name: str(number) for name, number in metrics.items()},
        "engineInfo": ENGINE,
        "txnId": commit_id,
    }
    if read_version is not None:
        body["readVersion"] = read_version
    if change.facts:
        body["firnline"] = dict(change.facts)
    return {"commitInfo": body}


def add_actions(
    table: str,
    files: Sequence[DataFile],
    partitions: Mapping[str, tuple[str, pa.Field]],
    configuration: Mapping[str, str],
    now_ms: int,
    *,
    data_change: bool,
    always: Sequence[str] = (),
) -> list[Action]:
    """Return the add actions of written files.

    partitions : of each partition field that is a partition of the table itself: its name in `DataFile.partition` →
        the column's name in data files, and the column
    always : names in data files of columns whose statistics matter most
    """
    text = configuration.get("delta.dataSkippingNumIndexedCols", "")
    n_columns = int(text) if text.lstrip("-").isdigit() else INDEXED_COLUMNS
    return [
        {
            "add": {
                "path": encode_path(table, file.location),
                "partitionValues": _partition_values(file, partitions),
                "size": file.size,
                "modificationTime": now_ms,
                "dataChange": data_change,
                "stats": stats_json(file.metadata, n_columns=n_columns, always=always),
            }
        }
        for file in files
    ]


def _partition_values(file: DataFile, partitions: Mapping[str, tuple[str, pa.Field]]) -> dict[str, str | None]:
    missing = partitions.keys() - file.partition.keys()
    if missing:
        raise InvalidError(
            "a data file lacks the value of a partition", file=file.location, partition=",".join(sorted(missing))
        )
    return {physical: partition_text(file.partition[name], field) for name, (physical, field) in partitions.items()}


def removed_keys(state: TableState, locations: Sequence[str]) -> dict[FileKey, tuple[Any, DeletionVector | None]]:
    """Return the live files at ``locations``: key → (its row of `storage.tables.delta.files.SCHEMA`, its vector).

    Raises `ConflictError` naming a location that is not live.
    """
    wanted = pa.array(sorted(set(locations)), pa.string())
    found: dict[FileKey, tuple[Any, DeletionVector | None]] = {}
    for batch in state.batches if len(wanted) else ():
        hits = np.flatnonzero(pc.is_in(batch.columns.column("location"), value_set=wanted))
        if not len(hits):
            continue
        vectors = batch.vectors()
        for number, row in zip(hits.tolist(), batch.columns.take(pa.array(hits)).to_pylist(), strict=True):
            vector = vectors.get(number)
            found[FileKey(row["location"], vector.unique_id if vector else "")] = (row, vector)
    missing = set(locations) - {key.location for key in found}
    if missing:
        raise ConflictError(
            "a data file that the change replaces is no longer part of the table; begin anew from the newer version",
            file=min(missing),
            files=len(missing),
        )
    return found


def remove_actions(table: str, state: TableState, change: Change, now_ms: int) -> list[Action]:
    """Return the remove actions of the change's files, which must be live. Raises `ConflictError`."""
    actions = []
    for row, vector in removed_keys(state, change.remove).values():
        body: Action = {
            "path": row["path"] or row["location"].removeprefix(table.rstrip("/") + "/"),
            "deletionTimestamp": now_ms,
            "dataChange": change.data_change,
            "extendedFileMetadata": True,
            "partitionValues": dict(row["partition_values"] or ()),
            "size": row["size"],
        }
        if vector is not None:
            body["deletionVector"] = _vector(vector)
        actions.append({"remove": body})
    return actions


def _vector(vector: DeletionVector) -> Action:
    body: Action = {
        "storageType": vector.storage,
        "pathOrInlineDv": vector.path,
        "sizeInBytes": vector.size,
        "cardinality": vector.cardinality,
    }
    if vector.offset is not None:
        body["offset"] = vector.offset
    return body
