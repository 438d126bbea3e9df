"""A table's rows and columns as they were at an older snapshot, committed as a new one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from pyiceberg.manifest import DataFile, ManifestContent, ManifestFile
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.table.update import SetCurrentSchemaUpdate

from storage.clock import Clock
from storage.errors import NotFoundError
from storage.stores import Stores
from storage.tables.iceberg.attempt import Attempt, draft_of, follow, moved, read_manifests, with_snapshot
from storage.tables.iceberg.manifests import absolute
from storage.tables.iceberg.puts import get_all
from storage.tables.iceberg.write_io import MemoryIO
from storage.tables.iceberg.write_metadata import applied, parse_metadata
from storage.tables.iceberg.write_schema import spec_of
from storage.tables.iceberg.write_snapshot import metrics_of
from storage.tables.write import Change, Watermark

__all__ = ["restore_attempt"]


async def restore_attempt(
    stores: Stores,
    location: str,
    clock: Clock,
    metadata_location: str,
    version: int,
    facts: Mapping[str, str],
    watermark: Watermark | None = None,
) -> Attempt:
    """Return a snapshot that has the manifests of ``version``. Raises `NotFoundError`, `ConflictError`.

    The manifests are taken as they are, so nothing is written anew but their list; sequence numbers stay, so deletes
    apply to the files that they applied to then.
    """
    data = await stores.get(metadata_location)
    metadata = await asyncio.to_thread(parse_metadata, data, metadata_location)
    target = metadata.snapshot_by_id(version)
    if target is None:
        raise NotFoundError("the table has no such snapshot; it may have expired", version=version)
    updates: list[Any] = [] if watermark is None else moved(metadata, watermark)
    if target.schema_id is not None and target.schema_id != metadata.current_schema_id:
        updates.append(SetCurrentSchemaUpdate.model_validate({"schema-id": target.schema_id}))
    shaped = applied(metadata, updates, None, clock.now_ms()) if updates else metadata
    io = MemoryIO()
    now = await read_manifests(stores, io, metadata, location)
    then = await read_manifests(stores, io, _at(metadata, target), location)
    added, removed = await _difference(stores, io, now, then, location)
    change = Change("restore", watermark=watermark, facts={**facts, "firnline.restored": str(version)})
    draft = draft_of(shaped, location, clock, change, then, {}, [], io)
    draft.operation, draft.counted = "overwrite", metrics_of(added, removed)
    files: dict[str, bytes] = {}
    await asyncio.to_thread(with_snapshot, updates, files, draft)
    is_reshaped = shaped.current_schema_id != metadata.current_schema_id
    spec = spec_of(shaped, metadata.table_uuid.hex) if is_reshaped else None
    return await asyncio.to_thread(follow, metadata, location, clock, updates, files, metadata_location, spec)


def _at(metadata: TableMetadata, target: Snapshot) -> TableMetadata:
    return metadata.model_copy(update={"current_snapshot_id": target.snapshot_id})


async def _difference(
    stores: Stores, io: MemoryIO, now: list[ManifestFile], then: list[ManifestFile], location: str
) -> tuple[list[DataFile], list[DataFile]]:
    """Return the data files that come back and those that go, for the summary's counts."""
    shared = {each.manifest_path for each in now} & {each.manifest_path for each in then}
    differing = [m for m in (*now, *then) if m.manifest_path not in shared and m.content == ManifestContent.DATA]
    io.files |= await get_all(stores, {m.manifest_path: absolute(m.manifest_path, location) for m in differing})

    def files(manifests: list[ManifestFile]) -> dict[str, DataFile]:
        chosen = [m for m in manifests if m in differing]
        entries = [entry for m in chosen for entry in m.fetch_manifest_entry(io, discard_deleted=True)]
        return {entry.data_file.file_path: entry.data_file for entry in entries}

    before, after = await asyncio.to_thread(lambda: (files(now), files(then)))
    return (
        [file for path, file in after.items() if path not in before],
        [file for path, file in before.items() if path not in after],
    )
