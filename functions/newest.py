"""The newest snapshot of any table of the catalog, managed or external."""

from __future__ import annotations

import importlib

from catalog.tables import TableEntry
from storage.stores import Stores, normalize
from storage.tables.footers import FooterCache
from storage.tables.snapshot import At, Snapshot

__all__ = ["newest_snapshot"]


async def newest_snapshot(
    stores: Stores, entry: TableEntry, known: Snapshot | None = None, footers: FooterCache | None = None
) -> Snapshot:
    """Load the table as ``entry`` names it. Raises what the format raises.

    Parameters
    ----------
    known : an earlier snapshot of it
    footers : those that are remembered, of a Parquet table
    """
    location = entry.source
    if entry.format == "parquet":
        from storage.tables import parquet

        return await parquet.load(stores, normalize(location), At(), known, footers or FooterCache())
    catalog = {
        key.removeprefix("catalog."): value for key, value in entry.options.items() if key.startswith("catalog.")
    }
    if entry.format == "iceberg" and catalog:
        from storage.tables.iceberg.catalogs import resolve_metadata_location

        location = await resolve_metadata_location(catalog, location)
    # Imported by name, so that a process that never meets a format never pays for its libraries.
    module = importlib.import_module(f"storage.tables.{entry.format}")
    snapshot: Snapshot = await module.load(stores, normalize(location), At(), known)
    return snapshot
