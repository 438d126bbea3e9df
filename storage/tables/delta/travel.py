"""Time travel: the version that was current at a time.

A version's time is its in-commit timestamp where the table keeps them, else the modification time of its commit file,
moved up where it would not be later than the version before.
"""

from __future__ import annotations

from datetime import UTC, datetime

from storage.errors import CorruptError, NotFoundError
from storage.stores import Stores
from storage.tables.delta.actions import Metadata, decode_lines
from storage.tables.delta.log import Listing, commit_location, list_log
from storage.tables.delta.replay import TableState

__all__ = ["uses_commit_timestamps", "version_at"]


def uses_commit_timestamps(metadata: Metadata) -> bool:
    """Whether commits of this table carry ``inCommitTimestamp``."""
    return metadata.configuration.get("delta.enableInCommitTimestamps", "false").lower() == "true"


async def version_at(stores: Stores, table: str, timestamp_ms: int, latest: TableState) -> int:
    """Return the last version committed at or before ``timestamp_ms``. Raises `NotFoundError` naming the range."""
    listing = await list_log(stores, table)
    versions = [v for v in sorted(listing.commits) if listing.earliest <= v <= latest.version]
    if not versions:
        raise NotFoundError("the delta table's commit times are gone; ask for a version", table=table)
    first = _first_with_commit_timestamp(latest.metadata, versions[0])
    if first is not None:
        stamped = [v for v in versions if v >= first]
        found = await _last_stamped(stores, table, stamped, timestamp_ms)
        if found is not None:
            return found
        versions = [v for v in versions if v < first]
    found = _last_modified(listing, versions, timestamp_ms)
    if found is None:
        start_ms = await _time_of_first(stores, table, listing, versions, first)
        raise NotFoundError(
            "the delta table has no version as old as that",
            table=table,
            asked=_iso(timestamp_ms),
            available=f"{_iso(start_ms)}..{_iso(latest.timestamp_ms)}",
        )
    return found


def _first_with_commit_timestamp(metadata: Metadata, earliest: int) -> int | None:
    if not uses_commit_timestamps(metadata):
        return None
    text = metadata.configuration.get("delta.inCommitTimestampEnablementVersion", "0")
    return max(int(text), earliest) if text.isdigit() else earliest


async def _last_stamped(stores: Stores, table: str, versions: list[int], timestamp_ms: int) -> int | None:
    """Search by halves: in-commit timestamps grow with the version, and each costs one request."""
    low, high = 0, len(versions)
    while low < high:
        middle = (low + high) // 2
        if await _stamp(stores, table, versions[middle]) <= timestamp_ms:
            low = middle + 1
        else:
            high = middle
    return versions[low - 1] if low else None


async def _stamp(stores: Stores, table: str, version: int) -> int:
    location = commit_location(table, version)
    stamp = decode_lines(table, location, await stores.get(location)).in_commit_timestamp_ms
    if stamp is None:
        raise CorruptError("a commit lacks the timestamp that its table promises", file=location)
    return stamp


def _last_modified(listing: Listing, versions: list[int], timestamp_ms: int) -> int | None:
    times_ms = listing.times_ms()
    return max((version for version in versions if times_ms[version] <= timestamp_ms), default=None)


async def _time_of_first(
    stores: Stores, table: str, listing: Listing, unstamped: list[int], first_stamped: int | None
) -> int:
    if unstamped or first_stamped is None:
        return listing.time_ms(unstamped[0])
    return await _stamp(stores, table, first_stamped)


def _iso(timestamp_ms: int) -> str:
    return datetime.fromtimestamp(timestamp_ms / 1000, UTC).isoformat(timespec="milliseconds")
