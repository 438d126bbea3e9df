"""Which files a table's metadata names: what a vacuum must never delete."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from storage.errors import NotFoundError
from storage.stores import Stores
from storage.tables.iceberg.manifests import ManifestFile, absolute, read_manifest, read_manifest_list, table_base
from storage.tables.iceberg.metadata import SnapshotEntry, TableMetadata, parse
from storage.tables.iceberg.puts import AT_ONCE

__all__ = ["Reached", "reached", "reached_by"]


@dataclass(frozen=True)
class Reached:
    """Locations by kind. ``lists`` are manifest lists, ``data`` data files and delete files.

    metadata : metadata files: the current one and those of its log
    statistics : Puffin files and partition statistics that the metadata names
    """

    metadata: frozenset[str]
    lists: frozenset[str]
    manifests: frozenset[str]
    data: frozenset[str]
    statistics: frozenset[str] = frozenset()

    @property
    def all(self) -> frozenset[str]:
        """Every location."""
        return self.metadata | self.lists | self.manifests | self.data | self.statistics


async def reached(stores: Stores, metadata_location: str) -> Reached:
    """Return all that a metadata file names, in every snapshot that it holds."""
    data = await stores.get(metadata_location)
    metadata = await asyncio.to_thread(parse, data, metadata_location)
    return await reached_by(stores, metadata, json.loads(data), metadata.snapshots.values())


async def reached_by(
    stores: Stores, metadata: TableMetadata, document: Mapping[str, Any], snapshots: Iterable[SnapshotEntry]
) -> Reached:
    """Return what some snapshots of a metadata file name, and the other files that it names itself.

    A manifest list or manifest that is gone already names nothing.
    """
    base = table_base(metadata.location, metadata.source)
    lists = {absolute(each.manifest_list, base) for each in snapshots if each.manifest_list}
    turns = asyncio.Semaphore(AT_ONCE)

    async def manifests_of(place: str) -> tuple[ManifestFile, ...]:
        async with turns:
            data = await _get(stores, place)
        return await asyncio.to_thread(read_manifest_list, data, place, base) if data else ()

    found = await asyncio.gather(*(manifests_of(place) for place in sorted(lists)))
    manifests = {each.path: each for listed in found for each in listed}

    async def files_of(file: ManifestFile) -> list[str]:
        async with turns:
            data = await _get(stores, file.path)
        if not data:
            return []
        manifest = await asyncio.to_thread(read_manifest, data, file, metadata.specs, base)
        return [*manifest.paths, *(each.path for each in manifest.deletes)]

    data = await asyncio.gather(*(files_of(each) for each in manifests.values()))
    return Reached(
        metadata=frozenset(
            [metadata.source, *(absolute(each["metadata-file"], base) for each in document.get("metadata-log") or ())]
        ),
        lists=frozenset(lists),
        manifests=frozenset(manifests),
        data=frozenset(path for paths in data for path in paths),
        statistics=frozenset(
            absolute(each["statistics-path"], base)
            for key in ("statistics", "partition-statistics")
            for each in document.get(key) or ()
        ),
    )


async def _get(stores: Stores, place: str) -> bytes:
    try:
        return await stores.get(place)
    except NotFoundError:
        return b""
