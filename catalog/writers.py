"""The writer of a managed table, in the format of its entry."""

from __future__ import annotations

from catalog.tables import TableEntry, Tables
from storage.clock import Clock
from storage.errors import UnsupportedError
from storage.stores import Stores
from storage.tables.write import TableWriter

__all__ = ["writer_of"]


def writer_of(entry: TableEntry, stores: Stores, tables: Tables, clock: Clock) -> TableWriter:  # noqa: ARG001
    """Return the writer of ``entry``'s table. Raises `UnsupportedError` for a format that we only read."""
    if entry.format == "delta":
        from storage.tables.delta.commit import DeltaWriter

        return DeltaWriter(stores, entry.location, clock)
    raise UnsupportedError(
        "tables of this format are only read", table=f"{entry.namespace}.{entry.name}", format=entry.format
    )
