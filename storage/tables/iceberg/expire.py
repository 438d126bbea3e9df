"""Old snapshots leave a table, and the files that only they named can be deleted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from storage.clock import Clock
from storage.stores import Stores
from storage.tables.iceberg.commit import IcebergWriter, commit_attempts
from storage.tables.iceberg.manifests import absolute, table_base
from storage.tables.iceberg.metadata import TableMetadata, parse
from storage.tables.iceberg.reach import reached_by

__all__ = ["Expired", "expire"]


@dataclass(frozen=True)
class Expired:
    """What left the table.

    snapshots : their ids
    files : locations that nothing in the table names any more; whoever expired the snapshots deletes them
    """

    snapshots: tuple[int, ...]
    files: tuple[str, ...]


async def expire(
    stores: Stores,
    location: str,
    clock: Clock,
    writer: IcebergWriter,
    *,
    older_than_ms: int,
    keep_last: int = 1,
    dry_run: bool = False,
) -> Expired:
    """Remove the snapshots that are older than ``older_than_ms``, and name the files that go with them.

    Kept are the last ``keep_last`` snapshots of each branch, what every branch and tag points to, and whatever was
    the current snapshot after ``older_than_ms``: a statement that began then may still read it. Metadata files that
    were replaced before ``older_than_ms`` are among the files.

    A crash between the commit and the deletion leaves files that a listing finds, and that nothing names.
    """
    start = await writer.metadata_location()
    data = await stores.get(start)
    document = json.loads(data)
    metadata = await asyncio.to_thread(parse, data, start)
    doomed = _doomed(metadata, document, older_than_ms, keep_last)
    kept = [entry for number, entry in metadata.snapshots.items() if number not in doomed]
    gone = [entry for number, entry in metadata.snapshots.items() if number in doomed]
    if gone and not dry_run:
        await _commit(stores, location, clock, writer, doomed)
        # What other writers added meanwhile is kept too.
        now = await writer.metadata_location()
        data = await stores.get(now)
        document, metadata = json.loads(data), await asyncio.to_thread(parse, data, now)
        kept = list(metadata.snapshots.values())
    before = await reached_by(stores, metadata, document, gone)
    after = await reached_by(stores, metadata, document, kept)
    unnamed = (before.lists | before.manifests | before.data) - after.all
    return Expired(tuple(sorted(doomed)), (*sorted(unnamed), *_old_metadata(metadata, document, older_than_ms)))


def _doomed(metadata: TableMetadata, document: Mapping[str, Any], older_than_ms: int, keep_last: int) -> frozenset[int]:
    keep: set[int] = {ref.snapshot_id for ref in metadata.refs.values()}
    if metadata.current_snapshot_id is not None:
        keep.add(metadata.current_snapshot_id)
    for head in list(keep):
        keep.update(number for index, number in enumerate(_ancestry(metadata, head)) if index < keep_last)
    replaced = [*metadata.log[1:], (int(document["last-updated-ms"]), 0)]
    for (_since, number), (until, _next) in zip(metadata.log, replaced, strict=False):
        if until >= older_than_ms:
            keep.add(number)
    old = {number for number, entry in metadata.snapshots.items() if entry.timestamp_ms < older_than_ms}
    return frozenset(old - keep)


def _ancestry(metadata: TableMetadata, head: int) -> Iterator[int]:
    seen: set[int] = set()
    current: int | None = head
    while current is not None and current in metadata.snapshots and current not in seen:
        seen.add(current)
        yield current
        current = metadata.snapshots[current].parent_id


def _old_metadata(metadata: TableMetadata, document: Mapping[str, Any], older_than_ms: int) -> list[str]:
    """Return the metadata files that were replaced before ``older_than_ms``.

    Each was current until the next one was written.
    """
    base = table_base(metadata.location, metadata.source)
    log = document.get("metadata-log") or []
    until = [int(each["timestamp-ms"]) for each in log[1:]] + [metadata.last_updated_ms]
    return [
        absolute(each["metadata-file"], base)
        for each, replaced_ms in zip(log, until, strict=False)
        if replaced_ms < older_than_ms
    ]


async def _commit(stores: Stores, location: str, clock: Clock, writer: IcebergWriter, doomed: frozenset[int]) -> None:
    # pyiceberg is imported here: the rest of this module reads only.
    from storage.tables.iceberg.attempt import Attempt, follow
    from storage.tables.iceberg.write_metadata import parse_metadata, removal

    async def make(metadata_location: str) -> Attempt:
        data = await stores.get(metadata_location)
        metadata = await asyncio.to_thread(parse_metadata, data, metadata_location)
        return await asyncio.to_thread(
            follow, metadata, location, clock, removal(metadata, doomed), {}, metadata_location, None
        )

    await commit_attempts(writer, make)
