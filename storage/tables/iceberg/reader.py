"""Resolve an Iceberg table to a `Snapshot`: metadata file, snapshot, manifests, files, deletes.

Metadata files, manifest lists and manifests are immutable, so a state that is known is never read again: an unchanged
metadata file costs no request (one listing for a folder), a new one costs itself, its manifest list and the manifests
that are new. Every request goes through `Stores`, so the access policy and the request counts hold.

Source: Iceberg spec, "Scan Planning", "Snapshot References"; schema of a travelled-to snapshot as Spark has it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from storage.errors import CorruptError, NotFoundError, UnsupportedError
from storage.stores import Stores, normalize
from storage.tables.iceberg.delete_files import DeleteCache
from storage.tables.iceberg.deletes import match_deletes
from storage.tables.iceberg.files import file_set
from storage.tables.iceberg.locate import Pointer, resolve
from storage.tables.iceberg.manifests import (
    Manifest,
    ManifestFile,
    absolute,
    read_manifest,
    read_manifest_list,
    table_base,
)
from storage.tables.iceberg.metadata import PartitionSpec, SnapshotEntry, TableMetadata, parse
from storage.tables.iceberg.schema import name_mapping
from storage.tables.iceberg.travel import Chosen, choose
from storage.tables.snapshot import At, Snapshot

__all__ = ["IcebergSnapshot", "load"]

MANIFESTS_AT_ONCE = 16
_NO_SPEC = PartitionSpec(0, ())


@dataclass(frozen=True)
class _State:
    """What a snapshot remembers for the next one.

    lists : manifest list path → its rows
    manifests : manifest path → its decoded entries
    """

    pointer: Pointer
    metadata: TableMetadata
    lists: Mapping[str, tuple[ManifestFile, ...]]
    manifests: Mapping[str, Manifest]
    deletes: DeleteCache


@dataclass(frozen=True)
class IcebergSnapshot(Snapshot):
    """A snapshot that remembers the immutable files it was read from."""

    state: _State | None = field(default=None, compare=False, repr=False)


async def load(stores: Stores, location: str, at: At, known: Snapshot | None) -> Snapshot:
    """Resolve a metadata file or a table's folder (see `storage.tables`).

    ``at.version`` is a snapshot id, ``at.ref`` a branch or tag. ``known`` may be of an earlier metadata file.

    Raises
    ------
    NotFoundError
        no table, snapshot, time or ref there
    CorruptError
        a metadata file, manifest list or manifest is damaged, or is named and does not exist
    UnsupportedError
        a format version, column type, encryption or file format that cannot be read
    """
    before = known.state if isinstance(known, IcebergSnapshot) else None
    pointer = await resolve(stores, normalize(location), before.pointer if before else None)
    if before is not None and before.pointer == pointer:
        metadata = before.metadata
    else:
        metadata = await _metadata(stores, pointer)
    chosen = choose(metadata, at)
    if known is not None and known.etag == _etag(pointer, chosen):
        return known
    return await _build(stores, pointer, metadata, chosen, before)


def _etag(pointer: Pointer, chosen: Chosen) -> str:
    return f"{pointer.location}|{pointer.etag}|{chosen.snapshot_id}|{chosen.schema_id}"


async def _metadata(stores: Stores, pointer: Pointer) -> TableMetadata:
    try:
        data = await stores.get(pointer.location)
    except NotFoundError as error:
        raise NotFoundError("no such iceberg metadata file", file=pointer.location) from error
    return await asyncio.to_thread(parse, data, pointer.location)


async def _build(
    stores: Stores, pointer: Pointer, metadata: TableMetadata, chosen: Chosen, before: _State | None
) -> IcebergSnapshot:
    schema = metadata.schema(chosen.schema_id)
    reading = _Reading(stores, metadata, pointer.location, before)
    files = await reading.files(chosen.entry)
    manifests = await reading.manifests(files)
    cache = before.deletes if before else DeleteCache()
    deletes = match_deletes(manifests, metadata, chosen.schema_id, cache)
    default_spec = metadata.specs.get(metadata.default_spec_id, _NO_SPEC)
    file_list = file_set(manifests, schema, default_spec, metadata.uuid_columns(chosen.schema_id), deletes)
    return IcebergSnapshot(
        format="iceberg",
        location=reading.base,
        version=chosen.snapshot_id,
        timestamp_ms=chosen.entry.timestamp_ms if chosen.entry else 0,
        schema=schema,
        files=file_list,
        matching="field_id",
        partition_columns=tuple(file_list.partitions),
        name_mapping=name_mapping(metadata.properties.get("schema.name-mapping.default")),
        properties=metadata.properties,
        etag=_etag(pointer, chosen),
        state=_State(pointer, metadata, reading.lists, reading.read, cache),
    )


class _Reading:
    """Reads manifest lists and manifests, those that are known already without a request."""

    def __init__(self, stores: Stores, metadata: TableMetadata, metadata_file: str, before: _State | None) -> None:
        self._stores, self._metadata, self._metadata_file = stores, metadata, metadata_file
        self._old_lists: Mapping[str, tuple[ManifestFile, ...]] = before.lists if before else {}
        self._old_manifests: Mapping[str, Manifest] = before.manifests if before else {}
        self._turns = asyncio.Semaphore(MANIFESTS_AT_ONCE)
        self._decoding = asyncio.Lock()  # one thread at a time: decoding holds the interpreter lock anyway
        self.base = table_base(metadata.location, metadata_file)
        self.lists: dict[str, tuple[ManifestFile, ...]] = {}
        self.read: dict[str, Manifest] = {}

    async def files(self, entry: SnapshotEntry | None) -> Sequence[ManifestFile]:
        """Return the manifests of a snapshot."""
        if entry is None:
            return ()
        if self._metadata.is_encrypted:
            raise UnsupportedError("encrypted iceberg tables cannot be read", file=self._metadata_file)
        if entry.manifest_list is None:
            return [ManifestFile(absolute(path, self.base), None, 0, 0) for path in entry.manifests]
        path = absolute(entry.manifest_list, self.base)
        if path in self._old_lists:
            self.lists[path] = self._old_lists[path]
        else:
            data = await self._get(path, self._metadata_file)
            self.lists[path] = await asyncio.to_thread(read_manifest_list, data, path, self.base)
        return self.lists[path]

    async def manifests(self, files: Sequence[ManifestFile]) -> list[Manifest]:
        """Return the decoded manifests, in order."""
        tasks = [asyncio.ensure_future(self._manifest(file)) for file in files]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _manifest(self, file: ManifestFile) -> Manifest:
        manifest = self._old_manifests.get(file.path)
        if manifest is None:
            async with self._turns:
                data = await self._get(file.path, self._metadata_file)
            async with self._decoding:
                manifest = await asyncio.to_thread(read_manifest, data, file, self._metadata.specs, self.base)
        self.read[file.path] = manifest
        return manifest

    async def _get(self, path: str, named_by: str) -> bytes:
        try:
            return await self._stores.get(path)
        except NotFoundError as error:
            message = "the iceberg metadata points to a file that does not exist"
            raise CorruptError(message, file=path, metadata=named_by) from error
