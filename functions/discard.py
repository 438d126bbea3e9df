"""Data files deleted that no table knows: of a commit that lost, of a statement that was stopped before it had one."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from storage.errors import FirnlineError
from storage.stores import Stores

__all__ = ["discard", "try_discard"]

_log = logging.getLogger("firnline.files")


async def discard(stores: Stores, locations: Iterable[str]) -> None:
    """Delete the files. Never call it for files whose commit may have happened."""
    for location in locations:
        blobs, key = stores.resolve(location)
        await blobs.delete(key)


async def try_discard(stores: Stores, locations: Iterable[str]) -> None:
    """As `discard`, for those who have an error to raise already; what cannot be deleted is left to VACUUM."""
    try:
        await discard(stores, locations)
    except FirnlineError as error:
        _log.warning("files of no table are left for VACUUM: %s: %s", type(error).__name__, error)
