"""Files that a statement needs while it runs, under ``_firnline/staged/`` in the lake, and those that crashes left."""

from __future__ import annotations

from storage.clock import Clock
from storage.stores import Stores, join, normalize

__all__ = ["STAGED_FOLDER", "sweep_staged"]

STAGED_FOLDER = "_firnline/staged"
_AGE_MS = 24 * 3600 * 1000
"""No statement runs for so long."""


async def sweep_staged(stores: Stores, clock: Clock, lake: str) -> int:
    """Delete the staged files that are older than a day, and return how many there were.

    May be run by anyone, and again. Raises what the lake's blobs raise.
    """
    blobs, prefix = stores.resolve(join(normalize(lake), STAGED_FOLDER))
    old_ms = clock.now_ms() - _AGE_MS
    left = [meta.key async for meta in blobs.list(f"{prefix}/") if meta.modified_ms < old_ms]
    for key in left:
        await blobs.delete(key)
    return len(left)
