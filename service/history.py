"""What happened to a table, newest first: its commits, and before them what the log has that no commit holds yet."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from service.loading import Loaded, Loading
from storage.errors import UnsupportedError
from storage.tables.snapshot import Snapshot

__all__ = ["HISTORY", "UNFOLDED", "history_of"]

UNFOLDED = "unfolded"
"""The operation of the row that stands for the log."""
HISTORY = pa.schema(
    [
        pa.field("version", pa.int64()),
        pa.field("timestamp", pa.timestamp("ms", "UTC")),
        pa.field("operation", pa.string()),
        pa.field("engine", pa.string()),
        pa.field("files_added", pa.int64()),
        pa.field("files_removed", pa.int64()),
        pa.field("rows_added", pa.int64()),
        pa.field("rows_removed", pa.int64()),
        pa.field("facts", pa.string()),
    ]
)
"""Counts are null where a commit's writer did not say."""


async def history_of(loading: Loading, loaded: Loaded, limit: int) -> list[dict[str, Any]]:
    """Return up to ``limit`` rows with the names of `HISTORY`; ``facts`` is a mapping.

    Raises `UnsupportedError` for a format without versions.
    """
    snapshot = loaded.snapshot
    rows = _unfolded(loaded)
    if limit <= len(rows):
        return rows[:limit]
    if snapshot.format == "delta":
        return rows + await _delta(loading, snapshot, limit - len(rows))
    if snapshot.format == "iceberg":
        return rows + await _iceberg(loading, snapshot, limit - len(rows))
    raise UnsupportedError("a parquet table has no versions, and so no history", table=snapshot.location)


def _unfolded(loaded: Loaded) -> list[dict[str, Any]]:
    tail = loaded.tail
    if tail is None or tail.is_empty:
        return []
    facts = {"log_start": tail.start, "log_limit": tail.limit, "bytes": tail.n_bytes}
    if tail.keys is not None:
        facts["keys"] = tail.n_keys
    return [
        {
            "version": None, "timestamp": None, "operation": UNFOLDED, "engine": None, "files_added": 0,
            "files_removed": 0, "rows_added": tail.n_rows, "rows_removed": None, "facts": facts,
        }
    ]  # fmt: skip


async def _delta(loading: Loading, snapshot: Snapshot, limit: int) -> list[dict[str, Any]]:
    from storage.tables.delta.history import history

    commits = await history(loading.stores, snapshot.location, limit, before=snapshot.version + 1)
    return [_row(each, each.n_rows_added, getattr(each, "n_rows_removed", None), each.facts) for each in commits]


async def _iceberg(loading: Loading, snapshot: Snapshot, limit: int) -> list[dict[str, Any]]:
    from storage.tables.iceberg.history import history

    state: Any = getattr(snapshot, "state", None)
    commits = await history(loading.stores, state.pointer.location, limit)
    return [_row(each, each.n_rows_added, each.n_rows_removed, each.facts) for each in commits]


def _row(commit: Any, n_added: int | None, n_removed: int | None, facts: Mapping[str, str]) -> dict[str, Any]:
    return {
        "version": commit.version,
        "timestamp": dt.datetime.fromtimestamp(commit.timestamp_ms / 1000, dt.UTC),
        "operation": commit.operation,
        "engine": commit.engine or None,
        "files_added": commit.n_files_added,
        "files_removed": commit.n_files_removed,
        "rows_added": n_added,
        "rows_removed": n_removed,
        "facts": dict(facts),
    }
