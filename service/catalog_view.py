"""What the catalog routes show of an engine's tables, as JSON-ready dictionaries."""

from __future__ import annotations

from typing import Any

from catalog.tables import TableEntry
from service.encode import type_name
from service.engine import Engine
from storage.tables.snapshot import Snapshot

__all__ = ["EngineCatalog"]


class EngineCatalog:
    """A `service.routes.CatalogView` over an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def list_tables(self) -> list[dict[str, Any]]:
        """Return every table of the catalog."""
        return [_entry(entry) for entry in await self._engine.tables.all()]

    async def describe_table(self, namespace: str, name: str) -> dict[str, Any]:
        """Return a table as of its newest snapshot. Raises `NotFoundError`."""
        entry, snapshot = await self._engine.describe_table(namespace, name)
        return _entry(entry) | _snapshot(snapshot)


def _entry(entry: TableEntry) -> dict[str, Any]:
    return {
        "namespace": entry.namespace,
        "name": entry.name,
        "format": entry.format,
        "location": entry.location,
        "created_ms": entry.created_ms,
    }


def _snapshot(snapshot: Snapshot) -> dict[str, Any]:
    known = snapshot.files.n_rows
    return {
        "columns": [
            {"name": field.name, "type": type_name(field.type), "nullable": field.nullable} for field in snapshot.schema
        ],
        "partition_columns": list(snapshot.partition_columns),
        "snapshot": {"version": str(snapshot.version), "timestamp_ms": snapshot.timestamp_ms},
        "files": {
            "count": len(snapshot.files),
            "bytes": int(snapshot.files.sizes.sum()),
            "rows_before_deletes": int(known.sum()) if (known >= 0).all() else None,
            "with_deletes": len(snapshot.files.deletes),
        },
        "properties": dict(snapshot.properties),
    }
