"""Files that no version within the retention needs are deleted; the table's rows now and lately stay as they are.

Delta: what was removed longer ago than the retention. Iceberg: snapshots older than the retention leave the table, and
then their files. Both: files below the table that nothing names, once they are old enough not to belong to a commit
that is still being made. What a statement reads began less than the retention ago, so it is never touched.
"""

from __future__ import annotations

import asyncio
import posixpath
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from catalog.tables import TableEntry, Tables
from functions.fold import ManagedTable, load_managed
from storage.clock import Clock
from storage.errors import InvalidError
from storage.stores import Stores

__all__ = ["RETENTION_HOURS", "UNSAFE", "Vacuumed", "vacuum"]

Progress = Callable[[int, int | None, str], None]
"""Is told how many, of how many if that is known, and of what."""

RETENTION_HOURS = 168.0
UNSAFE = "firn.vacuum_unsafe"
_RETAIN = "firn.retention_hours"
_ORPHAN_HOURS_MIN = 1.0
"""A commit that is being made has files that nothing names yet; it takes minutes at most."""
_HOUR_MS = 3_600_000
_DELETES_AT_ONCE = 16


@dataclass(frozen=True)
class Vacuumed:
    """What was deleted, or with a dry run what would be.

    files : locations
    n_bytes : of those files that a listing found
    snapshots : of an Iceberg table, that left it
    """

    files: tuple[str, ...] = ()
    n_bytes: int = 0
    snapshots: tuple[int, ...] = ()


async def vacuum(
    stores: Stores,
    tables: Tables,
    clock: Clock,
    entry: TableEntry,
    *,
    retain_hours: float | None = None,
    dry_run: bool = False,
    progress: Progress = lambda _done, _of, _what: None,
) -> Vacuumed:
    """Delete what no version of the last ``retain_hours`` needs. May be run by anyone, and again after a crash.

    Parameters
    ----------
    retain_hours : None: the table property ``firn.retention_hours``, or a week

    Raises
    ------
    InvalidError : less than a week is asked for, and the table's property ``firn.vacuum_unsafe`` is not ``true``
    NotFoundError : the table was dropped
    """
    table = await load_managed(stores, tables, clock, entry)
    hours = _hours(table, retain_hours)
    now_ms = clock.now_ms()
    cutoff_ms = now_ms - int(hours * _HOUR_MS)
    orphans_ms = cutoff_ms if hours == 0 else min(cutoff_ms, now_ms - int(_ORPHAN_HOURS_MIN * _HOUR_MS))
    if table.snapshot.format == "iceberg":
        found = await _iceberg(stores, tables, clock, table, cutoff_ms, orphans_ms, dry_run, progress)
    else:
        _check_tombstones(table, hours)
        found = await _delta(stores, table, cutoff_ms, orphans_ms, progress)
    if not dry_run:
        await _delete(stores, found.files, progress)
    return found


def _hours(table: ManagedTable, asked: float | None) -> float:
    properties = {**table.snapshot.properties, **table.spec.properties}
    unsafe = properties.get(UNSAFE, "").lower() == "true"
    text = properties.get(_RETAIN, str(RETENTION_HOURS))
    try:
        hours = float(text) if asked is None else asked
    except ValueError:
        raise InvalidError("this table property is a number of hours", property=_RETAIN, value=repr(text)) from None
    if not 0 <= hours < 24 * 365 * 100:
        raise InvalidError("the retention is from 0 hours to a hundred years", hours=hours)
    if hours < RETENTION_HOURS and not unsafe:
        raise InvalidError(
            "a vacuum of less than a week may delete what statements still read, and ends time travel; "
            f"set the table property {UNSAFE} to true if nobody needs it",
            hours=hours,
            table=f"{table.entry.namespace}.{table.entry.name}",
        )
    return hours


def _check_tombstones(table: ManagedTable, hours: float) -> None:
    """Beyond the time for which the log remembers what was removed, nobody can tell what to keep."""
    from storage.tables.delta.snapshot import DeltaSnapshot
    from storage.tables.delta.write_checkpoint import tombstone_retention_ms

    assert isinstance(table.snapshot, DeltaSnapshot)
    known_ms = tombstone_retention_ms(table.snapshot.state.metadata)
    if hours * _HOUR_MS > known_ms:
        raise InvalidError(
            "the table forgets removed files earlier; raise its property delta.deletedFileRetentionDuration first",
            hours=hours,
            remembered_hours=known_ms / _HOUR_MS,
        )


async def _delta(stores: Stores, table: ManagedTable, cutoff_ms: int, orphans_ms: int, progress: Progress) -> Vacuumed:
    # Listed first: a file that is committed after the listing is young in it, or is not in it.
    listed = await _listed(stores, table.entry.location, progress)
    from storage.tables.delta.history import tombstones

    removed = {each.location: each.deleted_ms for each in await tombstones(stores, table.entry.location)}
    live = await _delta_live(stores, table)
    doomed, n_bytes = [], 0
    for location, size, modified_ms in listed:
        if location in live:
            continue
        deleted_ms = removed.get(location)
        old = deleted_ms < cutoff_ms if deleted_ms is not None else modified_ms < orphans_ms
        if old:
            doomed.append(location)
            n_bytes += size
    return Vacuumed(tuple(doomed), n_bytes)


async def _delta_live(stores: Stores, table: ManagedTable) -> set[str]:
    """Return the newest version's files and those of its deletion vectors."""
    from storage.tables.delta import load
    from storage.tables.delta.vectors import DeltaDeletes, vector_location
    from storage.tables.snapshot import At

    snapshot = await load(stores, table.entry.location, At(), table.snapshot)
    live = set(snapshot.files.paths)
    for each in snapshot.files.deletes.values():
        if isinstance(each, DeltaDeletes) and each.vector.storage in ("u", "p"):
            live.add(vector_location(table.entry.location, each.vector))
    return live


async def _iceberg(
    stores: Stores,
    tables: Tables,
    clock: Clock,
    table: ManagedTable,
    cutoff_ms: int,
    orphans_ms: int,
    dry_run: bool,
    progress: Progress,
) -> Vacuumed:
    from catalog.writers import writer_of
    from storage.tables.iceberg.commit import IcebergWriter
    from storage.tables.iceberg.expire import expire
    from storage.tables.iceberg.reach import reached

    location = table.entry.location
    listed = await _listed(stores, location, progress)
    writer = writer_of(table.entry, stores, tables, clock)
    assert isinstance(writer, IcebergWriter)
    expired = await expire(stores, location, clock, writer, older_than_ms=cutoff_ms, dry_run=dry_run)
    named = (await reached(stores, await writer.metadata_location())).all
    sizes = {place: size for place, size, _modified_ms in listed}
    # Old metadata files are still named in the log of the newest one, which readers do not follow.
    doomed = {
        place
        for place in expired.files
        if (dry_run or place not in named or place.endswith(".metadata.json"))
        and (place in sizes or not place.startswith(location + "/"))
    }
    hint = f"{location}/metadata/version-hint.text"
    doomed |= {
        place
        for place, _size, modified_ms in listed
        if modified_ms < orphans_ms and place not in named and place != hint
    }
    return Vacuumed(tuple(sorted(doomed)), sum(sizes.get(place, 0) for place in doomed), expired.snapshots)


async def _listed(stores: Stores, location: str, progress: Progress) -> list[tuple[str, int, int]]:
    found = []
    async for each in _own_files(stores, location):
        found.append(each)
        progress(len(found), None, "files listed")
    return found


async def _own_files(stores: Stores, location: str) -> AsyncIterator[tuple[str, int, int]]:
    """Yield location, size and age of the table's files, but for those of Delta's log and of hidden folders."""
    async for place, meta in stores.list(location + "/"):
        folders = posixpath.dirname(place.removeprefix(location + "/")).split("/")
        hidden = any(part.startswith((".", "_")) and "=" not in part and part != "_change_data" for part in folders)
        if not hidden and not posixpath.basename(place).startswith((".", "_")):
            yield place, meta.size, meta.modified_ms


async def _delete(stores: Stores, files: Sequence[str], progress: Progress) -> None:
    gate = asyncio.Semaphore(_DELETES_AT_ONCE)
    n_done = 0

    async def one(place: str) -> None:
        nonlocal n_done
        blobs, key = stores.resolve(place)
        async with gate:
            await blobs.delete(key)
        n_done += 1
        progress(n_done, len(files), "files deleted")

    await asyncio.gather(*map(one, files))
