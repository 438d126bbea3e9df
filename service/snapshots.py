"""Tables resolved to snapshots, remembered between statements and checked for newness with one request."""

from __future__ import annotations

import importlib
from collections import OrderedDict
from collections.abc import Mapping

from storage.errors import FirnlineError, InvalidError
from storage.stores import Stores, normalize
from storage.tables.footers import FooterCache
from storage.tables.snapshot import At, Snapshot

__all__ = ["SnapshotCache"]


class SnapshotCache:
    """The newest known snapshot of each table, and recently asked older ones, of this process."""

    def __init__(self, footers: FooterCache, entries_max: int = 256) -> None:
        self._footers, self._entries_max = footers, entries_max
        self.n_hits = self.n_misses = 0
        self._known: OrderedDict[tuple[str, str, At], Snapshot] = OrderedDict()

    def known(self, format_: str, location: str) -> Snapshot | None:
        """Return a table's newest snapshot as this process saw it last; there may be a newer one by now."""
        location = normalize(location)
        return self._known.get((format_, _folder(format_, location), At()))

    async def resolve(
        self, stores: Stores, format_: str, location: str, at: At, options: Mapping[str, str] | None = None
    ) -> Snapshot:
        """Return the snapshot of a table as of ``at``; see `storage.tables` for what it raises."""
        catalog = {
            key.removeprefix("catalog."): value for key, value in (options or {}).items() if key.startswith("catalog.")
        }
        if format_ == "iceberg" and catalog:
            from storage.tables.iceberg.catalogs import resolve_metadata_location

            location = await resolve_metadata_location(catalog, location)
        location = normalize(location)
        stores.policy.check(location)
        newest = (format_, _folder(format_, location), At())
        key = newest if at == At() else (format_, location, at)
        known = self._known.get(key) or self._known.get(newest)
        self.n_hits += known is not None
        self.n_misses += known is None
        try:
            snapshot = await _load(stores, format_, location, at, known, self._footers)
        except FirnlineError as error:
            error.facts.setdefault("table", location)
            raise
        self._known[key] = snapshot
        self._known.move_to_end(key)
        while len(self._known) > self._entries_max:
            self._known.popitem(last=False)
        return snapshot


def _folder(format_: str, location: str) -> str:
    """Return what the metadata files of one Iceberg table share: a commit writes a new one, and few new manifests."""
    if format_ == "iceberg" and location.endswith(".metadata.json"):
        return location.rpartition("/")[0] + "/"
    return location


async def _load(
    stores: Stores, format_: str, location: str, at: At, known: Snapshot | None, footers: FooterCache
) -> Snapshot:
    if format_ == "parquet":
        from storage.tables import parquet

        return await parquet.load(stores, location, at, known, footers)
    if format_ not in ("delta", "iceberg"):
        raise InvalidError("unknown table format; use parquet, delta or iceberg", format=format_)
    # Imported by name so that a process that never meets a format never pays for its libraries.
    module = importlib.import_module(f"storage.tables.{format_}")
    snapshot: Snapshot = await module.load(stores, location, at, known)
    return snapshot
