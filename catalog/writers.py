"""The writer of a managed table, in the format of its entry; and how such a table comes to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from catalog.pointers import CatalogPointer
from catalog.tables import TableEntry, Tables
from storage.clock import Clock
from storage.errors import ConflictError, InvalidError, NotFoundError, UnsupportedError
from storage.stores import Stores
from storage.tables.write import DataFile, TableWriter

__all__ = ["create_table", "writer_of"]


def writer_of(entry: TableEntry, stores: Stores, tables: Tables, clock: Clock) -> TableWriter:
    """Return the writer of ``entry``'s table. Raises `UnsupportedError` for a format that we only read."""
    if entry.format == "delta":
        from storage.tables.delta.commit import DeltaWriter

        return DeltaWriter(stores, entry.location, clock)
    if entry.format == "iceberg":
        from storage.tables.iceberg.commit import IcebergWriter

        return IcebergWriter(stores, entry.location, clock, CatalogPointer(tables, entry))
    raise UnsupportedError(
        "tables of this format are only read", table=f"{entry.namespace}.{entry.name}", format=entry.format
    )


async def create_table(
    entry: TableEntry,
    stores: Stores,
    tables: Tables,
    clock: Clock,
    *,
    files: tuple[DataFile, ...] = (),
    facts: Mapping[str, str] | None = None,
    if_not_exists: bool = False,
) -> TableEntry | None:
    """Write a managed table with its first files, then name it in the catalog; None if the name is taken and may be.

    The catalog's entry makes the table exist, so a crash before it leaves files at a location that is never used
    again, and no table. An Iceberg entry is named with its metadata file in the same transaction.

    Raises
    ------
    ConflictError
        the name is taken
    NotFoundError
        no such namespace
    """
    if entry.managed is None:
        raise InvalidError("the table is external; register it", table=f"{entry.namespace}.{entry.name}")
    if await _taken(entry, tables):
        if if_not_exists:
            return None
        raise ConflictError("the table exists already", table=f"{entry.namespace}.{entry.name}")
    spec = entry.managed.spec
    if entry.format == "iceberg":
        from storage.tables.iceberg.commit import IcebergWriter, MemoryPointer

        pointer = MemoryPointer()
        await IcebergWriter(stores, entry.location, clock, pointer).create(spec, files, facts)
        entry = replace(entry, managed=replace(entry.managed, metadata_location=pointer.location))
    else:
        await writer_of(entry, stores, tables, clock).create(spec, files, facts)
    return entry if await tables.create(entry, if_not_exists=if_not_exists) else None


async def _taken(entry: TableEntry, tables: Tables) -> bool:
    try:
        await tables.get(entry.namespace, entry.name)
    except NotFoundError:
        return False
    return True
