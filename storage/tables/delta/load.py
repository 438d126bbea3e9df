"""The whole act: from a location and a version to a snapshot, asking the store as little as possible.

A first load takes ``_last_checkpoint``, one listing from there on, and then all files of the segment at once.
A load that knows an earlier version takes one listing from that version on, and the commits it lists.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from urllib.parse import unquote

from storage.errors import CorruptError, InvalidError, NotFoundError
from storage.stores import Stores
from storage.tables.delta.actions import Actions, Metadata, decode_lines
from storage.tables.delta.checkpoint import decode_checkpoint
from storage.tables.delta.files import FileBatch
from storage.tables.delta.log import (
    Checkpoint,
    Listing,
    commit_location,
    last_checkpoint_version,
    list_log,
    log_folder,
)
from storage.tables.delta.replay import Head, TableState, replay
from storage.tables.delta.snapshot import DeltaSnapshot, build_snapshot
from storage.tables.delta.travel import uses_commit_timestamps, version_at
from storage.tables.snapshot import At, Snapshot

__all__ = ["load", "newest_state"]

_READS_AT_ONCE = 32
_NEW_COMMITS_MAX = 64
"""Past so many new commits a newer checkpoint is the shorter way."""


async def load(stores: Stores, location: str, at: At, known: Snapshot | None) -> Snapshot:
    """Return the table at ``location`` as of ``at``; ``known`` itself when that is what it is.

    Raises `NotFoundError` (no table, or the available range), `CorruptError` (which file), `UnsupportedError`
    (which feature), `InvalidError` for a branch or tag.
    """
    if at.ref is not None:
        raise InvalidError("a delta table has no branches or tags; ask for a version or a time", ref=at.ref)
    remembered = known.state if isinstance(known, DeltaSnapshot) and known.location == location else None
    if at.timestamp_ms is None:
        state = await _state(stores, location, at.version, remembered)
    else:
        state = await _state_at_time(stores, location, at.timestamp_ms, remembered)
    if known is not None and state is remembered:
        return known
    return await asyncio.to_thread(build_snapshot, location, state)


async def newest_state(stores: Stores, location: str, known: TableState) -> TableState:
    """Return the table's newest state, which is ``known`` itself if nothing came after it."""
    return await _state(stores, location, None, known)


async def _state_at_time(stores: Stores, table: str, timestamp_ms: int, known: TableState | None) -> TableState:
    latest = await _state(stores, table, None, known)
    if latest.time_is_exact and latest.timestamp_ms <= timestamp_ms:
        return latest
    version = await version_at(stores, table, timestamp_ms, latest)
    return latest if version == latest.version else await _state(stores, table, version, latest)


async def _state(stores: Stores, table: str, version: int | None, known: TableState | None) -> TableState:
    if known is not None and (version is None or version >= known.version):
        newer = await _newer(stores, table, version, known)
        if newer is not None:
            return newer
    return await _from_scratch(stores, table, version)


async def _newer(stores: Stores, table: str, version: int | None, known: TableState) -> TableState | None:
    """Bring ``known`` forward; None when it is not a state of this log any more, or when a checkpoint is shorter."""
    listing = await list_log(stores, table, known.version)
    latest = listing.latest
    if latest is None or listing.etag(known.version) != known.head_etag:
        return None
    target = latest if version is None else version
    if target == known.version:
        return known
    commits = range(known.version + 1, target + 1)
    if any(number not in listing.commits for number in commits):
        return None
    if len(commits) > _NEW_COMMITS_MAX and any(number > known.version for number in listing.checkpoints):
        return None
    later = await _read_commits(stores, table, commits)
    # The listing shows the commits since then; the known time stands for all before.
    timestamp_ms = max(listing.time_ms(target), known.timestamp_ms + len(commits))
    head = _head(listing, target, later, timestamp_ms, known.time_is_exact, later.metadata or known.metadata)
    return await asyncio.to_thread(replay, table, known.base(), known.batches, later, head)


async def _from_scratch(stores: Stores, table: str, version: int | None) -> TableState:
    listing, target = await _find(stores, table, version)
    segment = listing.segment(target)
    base, batches = Actions(), list[FileBatch]()
    if segment.checkpoint is not None:
        base, batches = await _read_checkpoint(stores, table, segment.checkpoint)
    later = await _read_commits(stores, table, segment.commits)
    metadata = later.metadata or base.metadata
    if not segment.commits and metadata is not None and uses_commit_timestamps(metadata) and target in listing.commits:
        made = await _read_commits(stores, table, [target])
        later.in_commit_timestamp_ms = made.in_commit_timestamp_ms
    head = _head(listing, target, later, listing.time_ms(target), listing.start == 0, metadata)
    return await asyncio.to_thread(replay, table, base, batches, later, head)


async def _find(stores: Stores, table: str, version: int | None) -> tuple[Listing, int]:
    """List as much of the log as ``version`` (None: the latest) needs."""
    hint = await last_checkpoint_version(stores, table)
    start = hint if hint is not None and (version is None or hint <= version) else 0
    listing = await list_log(stores, table, start)
    if start and not _suffices(listing, version):
        listing = await list_log(stores, table)
    latest = listing.latest
    if latest is None:
        raise NotFoundError("there is no delta table here: the folder has no _delta_log", table=table)
    if version is None:
        return listing, latest
    if listing.start == 0 and not listing.earliest <= version <= latest:
        raise NotFoundError(
            "the delta table has no such version (any more)",
            table=table,
            version=version,
            available=f"{listing.earliest}..{latest}",
        )
    return listing, version


def _suffices(listing: Listing, version: int | None) -> bool:
    latest = listing.latest
    if latest is None or (version is not None and version > latest):
        return False
    return any(number <= (latest if version is None else version) for number in listing.checkpoints)


def _head(
    listing: Listing, version: int, later: Actions, timestamp_ms: int, is_exact: bool, metadata: Metadata | None
) -> Head:
    stamped = metadata is not None and uses_commit_timestamps(metadata)
    if stamped and later.in_commit_timestamp_ms is not None:
        timestamp_ms, is_exact = later.in_commit_timestamp_ms, True
    return Head(version, timestamp_ms, is_exact, listing.etag(version))


async def _read_checkpoint(stores: Stores, table: str, checkpoint: Checkpoint) -> tuple[Actions, list[FileBatch]]:
    """Read every part, and then the sidecars that they name."""
    base, batches = await _read_parts(stores, table, checkpoint.locations)
    folder = log_folder(table) + "_sidecars/"
    sidecars = [folder + unquote(path).rpartition("/")[2] for path in dict.fromkeys(base.sidecars)]
    files, more = await _read_parts(stores, table, sidecars)
    base.files.update(files.files)
    return base, [*batches, *more]


async def _read_parts(stores: Stores, table: str, locations: Sequence[str]) -> tuple[Actions, list[FileBatch]]:
    total, batches = Actions(), list[FileBatch]()
    for start in range(0, len(locations), _READS_AT_ONCE):
        chosen = locations[start : start + _READS_AT_ONCE]
        for location, data in zip(chosen, await _read_all(stores, chosen), strict=True):
            actions, found = await asyncio.to_thread(decode_checkpoint, table, location, data)
            total.apply(actions)
            batches += found
    return total, batches


async def _read_commits(stores: Stores, table: str, versions: Sequence[int]) -> Actions:
    total = Actions()
    for start in range(0, len(versions), _READS_AT_ONCE):
        chosen = [commit_location(table, version) for version in versions[start : start + _READS_AT_ONCE]]
        contents = await _read_all(stores, chosen)
        total.apply(await asyncio.to_thread(_decode_commits, table, chosen, contents))
    return total


def _decode_commits(table: str, locations: Sequence[str], contents: Sequence[bytes]) -> Actions:
    total = Actions()
    for location, data in zip(locations, contents, strict=True):
        total.apply(decode_lines(table, location, data))
    return total


async def _read_all(stores: Stores, locations: Sequence[str]) -> list[bytes]:
    return await asyncio.gather(*(_read(stores, location) for location in locations))


async def _read(stores: Stores, location: str) -> bytes:
    try:
        return await stores.get(location)
    except NotFoundError:
        raise CorruptError("a file of the delta log is missing", file=location) from None
