"""A pass over the indexes of tables: primary keys get theirs, all are refreshed, and what is left over goes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from catalog.indexes import INDEX_FOLDER, PRIMARY, IndexEntry, IndexKind
from catalog.tables import Managed, TableEntry, Tables
from functions.index.columns import index_columns, retyped
from functions.index.maintain import Maintenance, Refreshed, refresh
from functions.newest import newest_snapshot
from storage.errors import ConflictError, FirnlineError, InternalError, InvalidError, NotFoundError, UnsupportedError
from storage.stores import join, normalize
from storage.tables.snapshot import FIELD_ID, Snapshot

__all__ = [
    "INDEX_PRIMARY_KEY",
    "Kept",
    "drop_strays",
    "ensure_primary",
    "indexes_due",
    "keep_indexes",
    "kind_for",
    "sweep_segments",
    "wants_primary",
]

INDEX_PRIMARY_KEY = "firn.index_primary_key"
_OLD_MS = 3_600_000
"""A blob that no index names after an hour will never be named: naming follows storing at once."""

Progress = Callable[[str, int, int], None]
"""Is told an index as ``namespace.table.index``, and how many of its files are read of how many."""


@dataclass
class Kept:
    """What a pass did.

    refreshed : table → index → what was done, for those that changed
    errors : index as ``namespace.table.index`` → what stopped it
    """

    refreshed: dict[str, dict[str, Refreshed]] = field(default_factory=dict)
    errors: dict[str, FirnlineError] = field(default_factory=dict)

    @property
    def n_built(self) -> int:
        """Segments."""
        return sum(each.n_built for found in self.refreshed.values() for each in found.values())


async def keep_indexes(
    parts: Maintenance,
    entries: Collection[TableEntry],
    *,
    as_one: bool = False,
    progress: Progress | None = None,
    kept: Kept | None = None,
) -> Kept:
    """Refresh the indexes of these tables. What stops one is in the report and stops no other.

    Raises `UnavailableError` and the like when the catalog does not answer.
    """
    kept = kept or Kept()
    every = await parts.indexes.all() if entries else {}
    for entry in entries:
        found = every.get(entry.id, ())
        if not found and not wants_primary(entry, found):
            continue
        await _keep_table(parts, entry, found, kept, as_one, progress)
    parts.models.forget([index for found in (await parts.indexes.all()).values() for index in found] if entries else [])
    return kept


async def _keep_table(
    parts: Maintenance, entry: TableEntry, found: Sequence[IndexEntry], kept: Kept, as_one: bool,
    progress: Progress | None,
) -> None:  # fmt: skip
    shown = f"{entry.namespace}.{entry.name}"
    name = shown
    try:
        snapshot = await newest_snapshot(parts.stores, entry, parts.snapshots.get(entry.id), parts.footers)
        parts.remember(entry.id, snapshot)
        for index in await ensure_primary(parts, entry, snapshot, found):
            name = f"{shown}.{index.name}"
            told = None if progress is None else _told(progress, name)
            try:
                done = await refresh(parts, index, snapshot, as_one=as_one, progress=told)
            except (ConflictError, NotFoundError) as error:
                # Another process was faster, the index was dropped, or its files left: the next pass sees to it.
                if "index" not in error.facts:
                    kept.errors[name] = error
                continue
            if done.did_something:
                kept.refreshed.setdefault(shown, {})[index.name] = done
    except FirnlineError as error:
        kept.errors[name] = error
    except Exception as error:  # noqa: BLE001 — a defect that one table meets must not keep the others from their pass
        kept.errors[name] = InternalError("refreshing this index met a defect", index=name, reason=repr(error))


async def indexes_due(parts: Maintenance, tables: Tables) -> bool:
    """Tell whether a refresh of all indexes would do anything; tables that cannot be loaded do not count."""
    every = await parts.indexes.all()
    for entry in await tables.all():
        found = every.get(entry.id, ())
        if not found and not wants_primary(entry, found):
            continue
        try:
            snapshot = await newest_snapshot(parts.stores, entry, parts.snapshots.get(entry.id), parts.footers)
        except FirnlineError:
            continue
        parts.remember(entry.id, snapshot)
        if wants_primary(entry, found) and _can_change(entry, snapshot):
            return True
        if any(index.version != snapshot.version and not _is_gone(index, snapshot) for index in found):
            return True
    return False


def _can_change(entry: TableEntry, snapshot: Snapshot) -> bool:
    assert entry.managed is not None
    return not _is_wanted(entry.managed) or _primary(entry, entry.managed, snapshot, 0) is not None


def _is_gone(index: IndexEntry, snapshot: Snapshot) -> bool:
    return isinstance(retyped(index.columns, snapshot.schema), str)


def _told(progress: Progress, name: str) -> Callable[[int, int], None]:
    return lambda done, of: progress(name, done, of)


def wants_primary(entry: TableEntry, found: Sequence[IndexEntry]) -> bool:
    """Tell whether the table is to get the index of its primary key, or to lose it."""
    if entry.managed is None or not entry.managed.spec.primary_key:
        return False
    return _is_wanted(entry.managed) != any(each.is_primary for each in found)


def _is_wanted(managed: Managed) -> bool:
    return managed.spec.properties.get(INDEX_PRIMARY_KEY, "true").lower() != "false"


async def ensure_primary(
    parts: Maintenance, entry: TableEntry, snapshot: Snapshot, found: Sequence[IndexEntry]
) -> tuple[IndexEntry, ...]:
    """Give a table with a primary key its index, or drop it where a property says so; return the table's indexes."""
    if not wants_primary(entry, found):
        return tuple(found)
    assert entry.managed is not None
    if not _is_wanted(entry.managed):
        await parts.indexes.drop(entry.id, PRIMARY)
        return tuple(each for each in found if not each.is_primary)
    made = _primary(entry, entry.managed, snapshot, parts.clock.now_ms())
    if made is None:
        return tuple(found)
    await parts.indexes.create(made, if_not_exists=True)
    return await parts.indexes.of(entry.id)


def _primary(entry: TableEntry, managed: Managed, snapshot: Snapshot, now_ms: int) -> IndexEntry | None:
    """Return the index of the primary key; None if its columns cannot be in one."""
    outside = {*snapshot.partition_columns, *snapshot.files.partitions}
    names = [name for name in managed.spec.primary_key if name in snapshot.schema.names and name not in outside]
    if not names:
        return None
    try:
        columns = index_columns(snapshot, names)
    except (InvalidError, UnsupportedError):
        return None
    return IndexEntry(entry.id, PRIMARY, kind_for(managed, names), columns, now_ms, is_primary=True)


def kind_for(managed: Managed | None, names: Sequence[str]) -> IndexKind:
    """Return the kind that suits how the table's files are sorted: learned if by these columns, ascending."""
    if managed is None:
        return "locator"
    spec = managed.spec
    by_id = {int((each.metadata or {}).get(FIELD_ID, 0)): each.name for each in spec.schema}
    constant = {by_id.get(each.column_id) for each in spec.partition_by if each.transform == "identity"}
    order = [("" if each.descending else by_id.get(each.column_id, "")) for each in spec.order_by]
    order = [name for name in order or spec.primary_key if name not in constant]
    return "learned" if order[: len(names)] == list(names) else "locator"


async def sweep_segments(parts: Maintenance) -> int:
    """Delete the blobs of segments that no index names, once they are an hour old; return how many there were.

    May be run by anyone, and again. Raises what the lake's blobs and the catalog raise.
    """
    blobs, prefix = parts.stores.resolve(join(normalize(parts.lake), INDEX_FOLDER))
    old_ms = parts.clock.now_ms() - _OLD_MS
    # Listed first: what is named after the listing was young in it.
    listed = [meta.key async for meta in blobs.list(f"{prefix}/") if meta.modified_ms < old_ms]
    if not listed or await parts.indexes.damaged():
        return 0
    named = {(index.table_id, ref.id) for index in _flat(await parts.indexes.all()) for ref in index.segments}
    left = [key for key in listed if tuple(key.removeprefix(f"{prefix}/").split("/")) not in named]
    await asyncio.gather(*map(blobs.delete, left))
    return len(left)


async def drop_strays(parts: Maintenance, tables: Tables) -> int:
    """Remove the indexes of tables that were dropped; return how many there were."""
    # Listed first: an index that is made after its table was listed is not in it.
    every = await parts.indexes.all()
    if not every:
        return 0
    known = {entry.id for entry in await tables.all()}
    n = 0
    for table_id in every:
        if table_id not in known:
            n += len(await parts.indexes.drop(table_id))
    return n


def _flat(every: Mapping[str, Sequence[IndexEntry]]) -> list[IndexEntry]:
    return [index for found in every.values() for index in found]
