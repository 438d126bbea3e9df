"""Write a classic checkpoint: the table's live files and tombstones in one Parquet file, so that no reader starts at 0.

It is a shortcut and never more: a table is right without it, whoever writes it writes the same, and the commit that it
follows is made already. The files of the checkpoint before are carried over as columns, not as objects.
"""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.clock import Clock
from storage.errors import ConflictError
from storage.stores import Stores
from storage.tables.delta.actions import Actions, FileKey, Metadata, decode_action
from storage.tables.delta.log import last_checkpoint_version, list_log, log_folder
from storage.tables.delta.paths import file_locations
from storage.tables.delta.raw_log import RawCheckpoint, key_of, read_checkpoint, read_commits
from storage.tables.delta.write_actions import metadata_action, protocol_action
from storage.tables.delta.write_properties import interval_ms

__all__ = ["INTERVAL", "is_due", "tombstone_retention_ms", "write_checkpoint"]

INTERVAL = 10
_WEEK_MS = 7 * 86_400_000
_STRINGS = pa.map_(pa.string(), pa.string())
_VECTOR = pa.struct(
    [
        ("storageType", pa.string()),
        ("pathOrInlineDv", pa.string()),
        ("offset", pa.int32()),
        ("sizeInBytes", pa.int32()),
        ("cardinality", pa.int64()),
    ]
)
_ADD = pa.struct(
    [
        ("path", pa.string()),
        ("partitionValues", _STRINGS),
        ("size", pa.int64()),
        ("modificationTime", pa.int64()),
        ("dataChange", pa.bool_()),
        ("tags", _STRINGS),
        ("deletionVector", _VECTOR),
        ("stats", pa.string()),
    ]
)
_REMOVE = pa.struct(
    [
        ("path", pa.string()),
        ("deletionTimestamp", pa.int64()),
        ("dataChange", pa.bool_()),
        ("extendedFileMetadata", pa.bool_()),
        ("partitionValues", _STRINGS),
        ("size", pa.int64()),
        ("deletionVector", _VECTOR),
    ]
)
_METADATA = pa.struct(
    [
        ("id", pa.string()),
        ("name", pa.string()),
        ("description", pa.string()),
        ("format", pa.struct([("provider", pa.string()), ("options", _STRINGS)])),
        ("schemaString", pa.string()),
        ("partitionColumns", pa.list_(pa.string())),
        ("configuration", _STRINGS),
        ("createdTime", pa.int64()),
    ]
)
_SCHEMA = pa.schema(
    [
        ("txn", pa.struct([("appId", pa.string()), ("version", pa.int64()), ("lastUpdated", pa.int64())])),
        ("add", _ADD),
        ("remove", _REMOVE),
        ("metaData", _METADATA),
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
    ]
)
_MAPS = {"partitionValues", "tags", "configuration", "options"}


def is_due(version: int, metadata: Metadata) -> bool:
    """Whether the commit of ``version`` is to be followed by a checkpoint that we write."""
    text = metadata.configuration.get("delta.checkpointInterval", "")
    interval = int(text) if text.isdigit() and int(text) > 0 else INTERVAL
    as_json = metadata.configuration.get("delta.checkpoint.writeStatsAsJson", "true").lower() == "true"
    classic = metadata.configuration.get("delta.checkpointPolicy", "classic").lower() == "classic"
    return version > 0 and version % interval == 0 and as_json and classic


def tombstone_retention_ms(metadata: Metadata) -> int:
    """How long a removed file is remembered, and its bytes are kept: a week unless the table says otherwise."""
    kept_ms = interval_ms(metadata.configuration.get("delta.deletedFileRetentionDuration", ""))
    return _WEEK_MS if kept_ms is None else kept_ms


async def write_checkpoint(stores: Stores, table: str, version: int, clock: Clock) -> bool:
    """Write the checkpoint of ``version``; False if there is one already.

    Raises `UnsupportedError` where it would have to build on a checkpoint of version 2.
    """
    hint = await last_checkpoint_version(stores, table) or 0
    listing = await list_log(stores, table, min(hint, version))
    if listing.start and not any(number <= version for number in listing.checkpoints):
        listing = await list_log(stores, table)
    if version in listing.checkpoints:
        return False
    segment = listing.segment(version)
    base = RawCheckpoint([], [], [])
    if segment.checkpoint is not None:
        base = await read_checkpoint(stores, segment.checkpoint)
    commits = await read_commits(stores, table, segment.commits)
    actions = [action for commit in commits for action in commit]
    data, hint_text = await asyncio.to_thread(_build, table, version, base, actions, clock.now_ms())
    blobs, key = stores.resolve(f"{log_folder(table)}{version:020}.checkpoint.parquet")
    try:
        await blobs.put(key, data, if_absent=True)
    except ConflictError:
        return False
    if version >= (await last_checkpoint_version(stores, table) or 0):
        blobs, key = stores.resolve(f"{log_folder(table)}_last_checkpoint")
        await blobs.put(key, hint_text)
    return True


def _build(
    table: str, version: int, base: RawCheckpoint, actions: list[dict[str, Any]], now_ms: int
) -> tuple[bytes, bytes]:
    """Return the checkpoint and what ``_last_checkpoint`` says of it."""
    total, files = Actions(), dict[FileKey, tuple[str, dict[str, Any]]]()
    transactions, domains = dict[str, Any](), dict[str, Any]()
    for action in [*base.small, *actions]:
        decode_action(table, action, total)
        for kind, body in action.items():
            if kind in ("add", "remove"):
                files[key_of(table, body)] = (kind, body)
            elif kind == "txn":
                transactions[body["appId"]] = body
            elif kind == "domainMetadata":
                domains[body["domain"]] = body
    assert total.protocol is not None and total.metadata is not None  # checked when the state was built
    small = [protocol_action(total.protocol), metadata_action(total.metadata)]
    small += [{"txn": body} for body in transactions.values()]
    small += [{"domainMetadata": body} for body in domains.values() if not body.get("removed")]
    oldest_ms = now_ms - tombstone_retention_ms(total.metadata)
    removes = _carried(table, base.removes, _REMOVE, files) + _bodies(files, "remove", _REMOVE)
    removes = [kept for array in removes if len(kept := _unexpired(array, oldest_ms))]
    adds = _carried(table, base.adds, _ADD, files) + _bodies(files, "add", _ADD)
    parts = [pa.Table.from_pylist([_pairs(action) for action in small], _SCHEMA)]
    parts += [_column("remove", array) for array in removes] + [_column("add", array) for array in adds]
    whole = pa.concat_tables(parts)
    sink = io.BytesIO()
    pq.write_table(whole, sink, compression="snappy")
    data = sink.getvalue()
    hint = {"version": version, "size": len(whole), "sizeInBytes": len(data), "numOfAddFiles": sum(map(len, adds))}
    return data, json.dumps(hint).encode()


def _carried(
    table: str, arrays: list[pa.StructArray], kind: pa.StructType, touched: Mapping[FileKey, Any]
) -> list[pa.StructArray]:
    """Return the older actions that no later one speaks of, with the fields that we keep."""
    locations = pa.array({key.location for key in touched}, pa.string())
    found = []
    for array in arrays:
        hits = pc.is_in(file_locations(table, array.field("path").cast(pa.string())), value_set=locations)
        keep = np.ones(len(array), dtype=bool)
        for row in np.flatnonzero(hits.to_numpy(zero_copy_only=False)).tolist():
            keep[row] = key_of(table, array[row].as_py()) not in touched
        kept = _as(array.filter(pa.array(keep)), kind)
        if len(kept):
            found.append(kept)
    return found


def _as(array: pa.StructArray, kind: pa.StructType) -> pa.StructArray:
    """The fields of ``kind``, null where ``array`` lacks one."""
    children = []
    for field in kind:
        if array.type.get_field_index(field.name) < 0:
            children.append(pa.nulls(len(array), field.type))
            continue
        child = pc.struct_field(array, [field.name])
        children.append(_as(child, field.type) if pa.types.is_struct(field.type) else child.cast(field.type))
    return pa.StructArray.from_arrays(children, fields=list(kind), mask=array.is_null())


def _bodies(files: Mapping[FileKey, tuple[str, dict[str, Any]]], kind: str, wanted: pa.StructType) -> list[pa.Array]:
    # In a checkpoint no action is a change of data: that happened in its commit.
    bodies = [_pairs(body | {"dataChange": False}) for what, body in files.values() if what == kind]
    return [pa.array(bodies, wanted)] if bodies else []


def _unexpired(removes: pa.StructArray, oldest_ms: int) -> pa.StructArray:
    return removes.filter(pc.greater(pc.fill_null(removes.field("deletionTimestamp"), 0), oldest_ms))


def _column(name: str, array: pa.StructArray) -> pa.Table:
    columns = [array if field.name == name else pa.nulls(len(array), field.type) for field in _SCHEMA]
    return pa.Table.from_arrays(columns, schema=_SCHEMA)


def _pairs(value: Any, name: str = "") -> Any:
    """Maps as Arrow takes them."""
    if not isinstance(value, dict):
        return value
    if name in _MAPS:
        return list(value.items())
    return {key: _pairs(one, key) for key, one in value.items()}
