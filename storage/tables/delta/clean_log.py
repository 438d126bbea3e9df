"""Remove what the log no longer needs: commits and checkpoints past the table's retention, never a recent version.

A vacuum calls it. What is kept: the newest checkpoint that is older than the retention, and everything after it, so
that every version within the retention can be read. See "Metadata Cleanup" of the Delta protocol.
"""

from __future__ import annotations

from storage.clock import Clock
from storage.stores import Stores
from storage.tables.delta.actions import Metadata
from storage.tables.delta.log import list_log
from storage.tables.delta.write_properties import interval_ms

__all__ = ["clean_log", "expired_log_files"]

_MONTH_MS = 30 * 86_400_000


async def expired_log_files(stores: Stores, table: str, metadata: Metadata, now_ms: int) -> list[str]:
    """Return the files of the log that can go, oldest first; none where the table forbids it."""
    if metadata.configuration.get("delta.enableExpiredLogCleanup", "true").lower() == "false":
        return []
    kept_ms = interval_ms(metadata.configuration.get("delta.logRetentionDuration", ""))
    cutoff_ms = now_ms - (_MONTH_MS if kept_ms is None else kept_ms)
    listing = await list_log(stores, table)
    times_ms = listing.times_ms()
    # The first version that must stay readable may be older than the cutoff: it was current then.
    current = max((version for version, at_ms in times_ms.items() if at_ms <= cutoff_ms), default=None)
    if current is None:
        return []
    base = max((version for version in listing.checkpoints if version <= current), default=None)
    if base is None:
        return []
    found = [(v, f"{table}/_delta_log/{v:020}.json") for v in listing.commits if v < base]
    found += [(v, part) for v, one in listing.checkpoints.items() if v < base for part in one.locations]
    return [location for _, location in sorted(found)]


async def clean_log(stores: Stores, table: str, metadata: Metadata, clock: Clock) -> int:
    """Delete the expired files of the log, oldest first, and return how many. Safe to stop anywhere."""
    expired = await expired_log_files(stores, table, metadata, clock.now_ms())
    for location in expired:
        blobs, key = stores.resolve(location)
        await blobs.delete(key)
    return len(expired)
