"""One try of a commit: from the table's current metadata file to the bytes of the next one.

A try that finds the change no longer true raises `ConflictError` (rule 2 of `storage.tables.write`):

* a file that it removes is not live any more, or rows of the table were deleted in it since;
* the schema, or the partition spec of files that it adds, is another;
* the watermark is not where it was expected.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyiceberg.manifest import ManifestContent, ManifestFile
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.refs import MAIN_BRANCH, SnapshotRefType
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.table.update import AddSnapshotUpdate, SetPropertiesUpdate, SetSnapshotRefUpdate

from storage.clock import Clock
from storage.errors import ConflictError
from storage.stores import Stores, join
from storage.tables.iceberg.commit import WATERMARK, watermark_of
from storage.tables.iceberg.manifests import absolute
from storage.tables.iceberg.puts import get_all
from storage.tables.iceberg.reader import IcebergSnapshot
from storage.tables.iceberg.write_files import data_files
from storage.tables.iceberg.write_io import MemoryIO
from storage.tables.iceberg.write_metadata import applied, first_metadata, parse_metadata, serialized, spec_updates
from storage.tables.iceberg.write_snapshot import Draft, live_manifests, merge_bins, next_snapshot
from storage.tables.write import Change, DataFile, TableSpec, Watermark

__all__ = ["Attempt", "draft_of", "first_attempt", "follow", "is_ancestor", "moved", "next_attempt", "with_snapshot"]

OPERATION = "firnline.operation"
"""Key of a snapshot's summary: the word of `Change.operation`."""
_NUMBER = re.compile(r"(\d+)-")


@dataclass(frozen=True)
class Attempt:
    """What a commit puts, and where the pointer goes.

    files : location → bytes, the metadata file's too
    snapshot_id : of the table after it; 0 without any
    new_snapshot : whether this try made it
    spec : the table's shape, if it changed
    """

    metadata_location: str
    files: Mapping[str, bytes]
    snapshot_id: int
    timestamp_ms: int
    new_snapshot: bool
    spec: TableSpec | None = None


@dataclass
class _Parts:
    """What a try collects: updates for the metadata, and files."""

    updates: list[Any] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)


def first_attempt(
    location: str, clock: Clock, spec: TableSpec, files: Sequence[DataFile], facts: Mapping[str, str]
) -> Attempt:
    """Return the creation of a table, with a first snapshot if there are files or facts."""
    now_ms = clock.now_ms()
    metadata = first_metadata(spec, location, now_ms)
    parts = _Parts()
    if files or facts:
        change = Change("create", tuple(files), facts=facts)
        draft = draft_of(metadata, location, clock, change, [], {}, [], MemoryIO())
        with_snapshot(parts.updates, parts.files, draft)
    return follow(metadata, location, clock, parts.updates, parts.files, None, None)


async def next_attempt(
    stores: Stores, location: str, clock: Clock, metadata_location: str, base: IcebergSnapshot, change: Change
) -> Attempt:
    """Return the change upon the metadata file at ``metadata_location``. Raises `ConflictError`."""
    data = await stores.get(metadata_location)
    metadata = await asyncio.to_thread(parse_metadata, data, metadata_location)
    _check(metadata, base, change)
    parts = _Parts()
    assert base.state is not None
    if change.spec is not None:
        parts.updates += spec_updates(metadata, change.spec, dict(base.state.metadata.properties))
    if change.watermark is not None:
        parts.updates += moved(metadata, change.watermark)
    shaped = applied(metadata, parts.updates, None, clock.now_ms()) if parts.updates else metadata
    if change.add or change.remove or change.facts:
        io = MemoryIO()
        manifests = await read_manifests(stores, io, shaped, location)
        removed = await _find(stores, io, manifests, base, change.remove)
        merged = merge_bins(manifests, shaped.default_spec_id)
        await _fetch(stores, io, {*removed, *(path for group in merged for path in group)}, location)
        draft = await asyncio.to_thread(draft_of, shaped, location, clock, change, manifests, removed, merged, io)
        await asyncio.to_thread(with_snapshot, parts.updates, parts.files, draft)
    return await asyncio.to_thread(
        follow, metadata, location, clock, parts.updates, parts.files, metadata_location, change.spec
    )


def _check(metadata: TableMetadata, base: IcebergSnapshot, change: Change) -> None:
    assert base.state is not None
    before = base.state.metadata
    if metadata.current_schema_id != before.current_schema_id:
        raise ConflictError(
            "the table's columns have changed", schema=before.current_schema_id, now=metadata.current_schema_id
        )
    if change.add and change.spec is None and metadata.default_spec_id != before.default_spec_id:
        raise ConflictError(
            "the table's partitions have changed", spec=before.default_spec_id, now=metadata.default_spec_id
        )
    if change.watermark is not None:
        moved(metadata, change.watermark)


def moved(metadata: TableMetadata, mark: Watermark) -> list[SetPropertiesUpdate]:
    """Return what moves the watermark, if it moves. Raises `ConflictError` if it is not where it was expected."""
    found = watermark_of(metadata.properties, mark.log)
    if found != mark.expected:
        raise ConflictError("the watermark has moved", log=mark.log, expected=mark.expected, found=found)
    if mark.sequence == found:
        return []
    return [SetPropertiesUpdate(updates={WATERMARK + mark.log: str(mark.sequence)})]


async def read_manifests(stores: Stores, io: MemoryIO, metadata: TableMetadata, location: str) -> list[ManifestFile]:
    """Return the manifests of the current snapshot that name live files."""
    current = metadata.current_snapshot()
    if current is None:
        return []
    path = current.manifest_list
    io.files[path] = await stores.get(absolute(path, location))
    return await asyncio.to_thread(live_manifests, io, path)


async def _fetch(stores: Stores, io: MemoryIO, paths: set[str], location: str) -> None:
    missing = {path: absolute(path, location) for path in paths if path not in io.files}
    io.files |= await get_all(stores, missing)


async def _find(
    stores: Stores, io: MemoryIO, manifests: Sequence[ManifestFile], base: IcebergSnapshot, remove: Sequence[str]
) -> dict[str, set[str]]:
    """Return manifest path → the removed files that it names, as it spells them. Raises `ConflictError`."""
    if not remove:
        return {}
    assert base.state is not None
    known = base.state.manifests
    new_deletes = [
        each.manifest_path
        for each in manifests
        if each.content == ManifestContent.DELETES and absolute(each.manifest_path, base.location) not in known
    ]
    if new_deletes:
        raise ConflictError("rows of the table were deleted by another writer meanwhile", manifest=new_deletes[0])
    wanted = set(remove)
    found: dict[str, set[str]] = {}
    unknown = []
    for each in manifests:
        if each.content == ManifestContent.DATA:
            manifest = known.get(absolute(each.manifest_path, base.location))
            if manifest is None:
                unknown.append(each)
            else:
                _match(found, wanted, each.manifest_path, manifest.paths, manifest.raw_paths)
    if wanted and unknown:
        await _fetch(stores, io, {each.manifest_path for each in unknown}, base.location)
        for each in unknown:
            entries = await asyncio.to_thread(each.fetch_manifest_entry, io, True)
            raw = [entry.data_file.file_path for entry in entries]
            _match(found, wanted, each.manifest_path, [absolute(path, base.location) for path in raw], raw)
    if wanted:
        raise ConflictError("a file that the change removes is gone already", file=min(wanted), files=len(wanted))
    return found


def _match(
    found: dict[str, set[str]], wanted: set[str], manifest: str, paths: Sequence[str], raw_paths: Sequence[str]
) -> None:
    hits = {raw: path for path, raw in zip(paths, raw_paths, strict=True) if path in wanted}
    if hits:
        found[manifest] = set(hits)
        wanted.difference_update(hits.values())


def draft_of(
    metadata: TableMetadata,
    location: str,
    clock: Clock,
    change: Change,
    manifests: Sequence[ManifestFile],
    removed: Mapping[str, set[str]],
    merged: Sequence[Sequence[str]],
    io: MemoryIO,
) -> Draft:
    """Return what the change's snapshot is made of."""
    facts = {**change.facts, OPERATION: change.operation}
    if change.watermark is not None:
        facts[WATERMARK + change.watermark.log] = str(change.watermark.sequence)
    name = clock.new_id()
    return Draft(
        metadata=metadata,
        location=location,
        name=name,
        snapshot_id=(int(name[:16], 16) >> 1) or 1,
        timestamp_ms=max(clock.now_ms(), metadata.last_updated_ms),
        operation=_operation(change),
        facts=facts,
        added=data_files(change.add, metadata),
        manifests=manifests,
        removed=removed,
        merged=merged,
        io=io,
    )


def _operation(change: Change) -> str:
    if not change.remove:
        return "append"
    if not change.data_change:
        return "replace"
    return "overwrite" if change.add else "delete"


def with_snapshot(updates: list[Any], files: dict[str, bytes], draft: Draft) -> Snapshot:
    """Write the draft's snapshot: its files to ``files``, and what makes it current to ``updates``."""
    snapshot = next_snapshot(draft)
    files |= {path: draft.io.files[path] for path in draft.written}
    updates.append(AddSnapshotUpdate(snapshot=snapshot))
    ref = {"ref-name": MAIN_BRANCH, "type": SnapshotRefType.BRANCH, "snapshot-id": snapshot.snapshot_id}
    updates.append(SetSnapshotRefUpdate.model_validate(ref))
    return snapshot


def follow(
    metadata: TableMetadata,
    location: str,
    clock: Clock,
    updates: Sequence[Any],
    files: Mapping[str, bytes],
    before: str | None,
    spec: TableSpec | None,
) -> Attempt:
    """Return the try whose metadata is ``metadata`` with ``updates``, after the file ``before``."""
    if before is not None and not updates:
        current = metadata.current_snapshot_id or 0
        return Attempt(before, {}, current, metadata.last_updated_ms, False, spec)
    after = applied(metadata, updates, before, clock.now_ms()) if updates else metadata
    name = f"{_number_after(before):05d}-{clock.new_id()}.metadata.json"
    place = join(location, "metadata", name)
    return Attempt(
        metadata_location=place,
        files={**files, place: serialized(after)},
        snapshot_id=after.current_snapshot_id or 0,
        timestamp_ms=after.last_updated_ms,
        new_snapshot=any(isinstance(update, AddSnapshotUpdate) for update in updates),
        spec=spec,
    )


def _number_after(before: str | None) -> int:
    if before is None:
        return 0
    match = _NUMBER.match(before.rpartition("/")[2])
    return int(match[1]) + 1 if match else 1


def is_ancestor(data: bytes, attempt: Attempt) -> bool:
    """Whether a metadata file follows the one of ``attempt``."""
    document = json.loads(data)
    if any(each["metadata-file"] == attempt.metadata_location for each in document.get("metadata-log") or ()):
        return True
    snapshots = document.get("snapshots") or ()
    return attempt.new_snapshot and any(each["snapshot-id"] == attempt.snapshot_id for each in snapshots)
