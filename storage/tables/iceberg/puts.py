"""Puts and deletes of a commit's own files, whose names no one else uses."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from storage.clock import Clock
from storage.errors import ConflictError, FirnlineError, IndeterminateError, UnavailableError
from storage.stores import Stores

__all__ = ["delete_quietly", "get_all", "put_all", "put_hint"]

T = TypeVar("T")
_TRIES = 4
AT_ONCE = 16


async def put_all(stores: Stores, clock: Clock, files: Mapping[str, bytes]) -> None:
    """Put files under names that are theirs alone.

    Raises `UnavailableError`: the commit that needs them did not happen.
    """
    turns = asyncio.Semaphore(AT_ONCE)

    async def put(location: str, data: bytes) -> None:
        async with turns:
            await _put(stores, clock, location, data)

    await _together([put(location, data) for location, data in files.items()])


async def _put(stores: Stores, clock: Clock, location: str, data: bytes) -> None:
    blobs, key = stores.resolve(location)
    for number in range(_TRIES):
        try:
            await blobs.put(key, data, if_absent=True)
            return
        except ConflictError:
            return  # an earlier try of ours: the name is unique, and so the bytes are these
        except (UnavailableError, IndeterminateError) as error:
            if number == _TRIES - 1:
                raise UnavailableError(
                    "a file of a commit could not be written; the commit did not happen", file=location
                ) from error
            await asyncio.sleep(clock.uniform(0, 0.05 * 2**number))


async def put_hint(stores: Stores, location: str, metadata_location: str) -> None:
    """Write the name of the newest metadata file beside it, for readers that have no catalog; a failure is no harm."""
    stem = metadata_location.rpartition("/")[2].removesuffix(".metadata.json")
    try:
        blobs, key = stores.resolve(location)
        await blobs.put(key, stem.encode())
    except FirnlineError:
        return


async def delete_quietly(stores: Stores, locations: Iterable[str]) -> None:
    """Delete files that nothing names; one that stays is removed by a vacuum."""
    for location in locations:
        try:
            blobs, key = stores.resolve(location)
            await blobs.delete(key)
        except FirnlineError:
            return


async def get_all(stores: Stores, locations: Mapping[str, str]) -> dict[str, bytes]:
    """Return name → bytes of the files at ``locations`` (name → location), several at a time."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def get(location: str) -> bytes:
        async with turns:
            return await stores.get(location)

    found = await _together([get(location) for location in locations.values()])
    return dict(zip(locations, found, strict=True))


async def _together(works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Run all at once; the first error ends the others."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
