"""The log as it stands written: commits as lists of actions with everything that a snapshot leaves out.

For whoever writes a checkpoint, removes files for good, or tells the table's history.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.errors import CorruptError, UnsupportedError
from storage.stores import Stores
from storage.tables.delta.actions import Actions, FileKey, decode_action
from storage.tables.delta.log import Checkpoint, commit_location
from storage.tables.delta.paths import file_location

__all__ = ["RawCheckpoint", "key_of", "read_checkpoint", "read_commits", "read_lines"]

_AT_ONCE = 32
_SMALL = ("protocol", "metaData", "txn", "domainMetadata")


@dataclass(frozen=True)
class RawCheckpoint:
    """A classic checkpoint: the small actions as JSON would have them, adds and removes as struct arrays."""

    small: list[dict[str, Any]]
    adds: list[pa.StructArray]
    removes: list[pa.StructArray]


def key_of(table: str, body: dict[str, Any]) -> FileKey:
    """The file key of an add's or remove's body."""
    vector = body.get("deletionVector") or {}
    if vector.get("storageType") is None:
        return FileKey(file_location(table, body["path"]), "")
    suffix = "" if vector.get("offset") is None else f"@{vector['offset']}"
    return FileKey(file_location(table, body["path"]), f"{vector['storageType']}{vector['pathOrInlineDv']}{suffix}")


async def read_commits(stores: Stores, table: str, versions: Sequence[int]) -> list[list[dict[str, Any]]]:
    """Return the actions of these commits, in their order. Raises `NotFoundError`, `CorruptError` naming the file."""
    found: list[list[dict[str, Any]]] = []
    for start in range(0, len(versions), _AT_ONCE):
        locations = [commit_location(table, version) for version in versions[start : start + _AT_ONCE]]
        contents = await asyncio.gather(*(stores.get(location) for location in locations))
        found += [read_lines(table, location, data) for location, data in zip(locations, contents, strict=True)]
    return found


def read_lines(table: str, location: str, data: bytes) -> list[dict[str, Any]]:
    """Return the actions of one commit, each checked. Raises `CorruptError` naming the file and line."""
    found = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line or line.isspace():
            continue
        try:
            action = json.loads(line)
            decode_action(table, action, Actions())
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise CorruptError(
                "a line of the delta log is not a valid action", file=location, line=number, cause=str(error)[:200]
            ) from None
        found.append({kind: body for kind, body in action.items() if body is not None})
    return found


async def read_checkpoint(stores: Stores, checkpoint: Checkpoint) -> RawCheckpoint:
    """Read a classic checkpoint whole.

    Raises `UnsupportedError` for one of version 2, and for one that keeps statistics in typed columns alone.
    """
    whole = RawCheckpoint([], [], [])
    for location in checkpoint.locations:
        if location.endswith(".json"):
            raise UnsupportedError("a checkpoint of version 2 is only read", file=location)
        await asyncio.to_thread(_decode, location, await stores.get(location), whole)
    return whole


def _decode(location: str, data: bytes, into: RawCheckpoint) -> None:
    try:
        columns = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise CorruptError("a delta checkpoint does not decode", file=location, cause=str(error)[:200]) from None
    for kind in ("checkpointMetadata", "sidecar"):
        if kind in columns.column_names and columns.column(kind).null_count < len(columns):
            raise UnsupportedError("a checkpoint of version 2 is only read", file=location)
    for kind in _SMALL:
        if kind in columns.column_names:
            into.small.extend({kind: _plain(row)} for row in columns.column(kind).drop_null().to_pylist())
    for kind, target in (("add", into.adds), ("remove", into.removes)):
        if kind in columns.column_names:
            target.extend(_present(columns.column(kind)))
    for adds in into.adds:
        names = [field.name for field in adds.type]
        if "stats_parsed" in names and (
            "stats" not in names or not adds.field("stats").is_valid().to_pylist().count(1)
        ):
            raise UnsupportedError("a checkpoint without statistics as JSON is only read", file=location)


def _present(column: pa.ChunkedArray) -> list[pa.StructArray]:
    chunks = [chunk.filter(pc.is_valid(chunk)) for chunk in column.chunks]
    return [chunk for chunk in chunks if len(chunk)]


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint row gives maps as lists of pairs, and a null for what JSON would leave out."""
    found = {name: value for name, value in row.items() if value is not None}
    for name in ("configuration", "format"):
        if isinstance(found.get(name), list):
            found[name] = dict(found[name])
    return found
