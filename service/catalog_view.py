"""What the catalog routes show of an engine's tables, as JSON-ready dictionaries."""

from __future__ import annotations

from typing import Any

from catalog.tables import TableEntry
from service.encode import type_name
from service.engine import Engine
from service.index_listing import shown_indexes
from service.loading import Loaded
from storage.tables.snapshot import FIELD_ID, Snapshot
from storage.tables.watermark import watermark_of

__all__ = ["EngineCatalog"]


class EngineCatalog:
    """A `service.routes.CatalogView` over an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def list_tables(self) -> list[dict[str, Any]]:
        """Return every table of the catalog that this release can read."""
        return [_entry(entry) for entry in (await self._engine.tables.listed()).entries]

    async def describe_table(self, namespace: str, name: str) -> dict[str, Any]:
        """Return a table as of its newest snapshot. Raises `NotFoundError`."""
        found = await self._engine.describe_table(namespace, name)
        assert found.entry is not None
        indexes = await self._engine.indexes.of(found.entry.id)
        shown = await shown_indexes(found.entry, indexes, found.snapshot, self._engine.models)
        return _entry(found.entry) | _snapshot(found.snapshot) | _managed(found) | {"indexes": list(map(_index, shown))}


def _entry(entry: TableEntry) -> dict[str, Any]:
    return {
        "namespace": entry.namespace,
        "name": entry.name,
        "format": entry.format,
        "location": entry.location,
        "created_ms": entry.created_ms,
    }


def _index(row: dict[str, Any]) -> dict[str, Any]:
    created = row["created"].isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {name: value for name, value in row.items() if name != "table"} | {"created": created}


def _managed(found: Loaded) -> dict[str, Any]:
    """Return what only a table has that we write: its shape, and what the log holds of it."""
    entry, tail = found.entry, found.tail
    if entry is None or entry.managed is None or tail is None:
        return {}
    spec = entry.managed.spec
    names = {int((field.metadata or {}).get(FIELD_ID, 0)): field.name for field in spec.schema}
    return {
        "table_id": entry.id,
        "primary_key": list(spec.primary_key),
        "partition_by": [
            {"column": names.get(each.column_id), "transform": each.transform, "name": each.name}
            for each in spec.partition_by
        ],
        "order_by": [{"column": names.get(each.column_id), "descending": each.descending} for each in spec.order_by],
        "log": {
            "shard": entry.managed.shard,
            "watermark": watermark_of(found.snapshot, str(entry.managed.shard)),
            "start": tail.start,
            "limit": tail.limit,
            "unfolded_rows": tail.n_rows,
            "unfolded_keys": tail.n_keys if tail.keys is not None else None,
            "unfolded_bytes": tail.n_bytes,
        },
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
