"""What is shown of a table's indexes: by ``SHOW INDEXES``, and over HTTP."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from catalog.indexes import IndexEntry
from catalog.tables import TableEntry
from functions.index.columns import column_names
from functions.index.models import Models
from storage.errors import FirnlineError
from storage.tables.snapshot import Snapshot

__all__ = ["INDEXES", "shown_indexes"]

INDEXES = pa.schema(
    [
        ("table", pa.string()), ("name", pa.string()), ("kind", pa.string()), ("columns", pa.string()),
        ("status", pa.string()), ("keys", pa.int64()), ("files_covered", pa.int64()), ("files_total", pa.int64()),
        ("segments", pa.int64()), ("bytes", pa.int64()), ("bytes_per_key", pa.float64()), ("error_bound", pa.int64()),
        ("skipped", pa.string()), ("created", pa.timestamp("ms", tz="UTC")),
    ]
)  # fmt: skip


async def shown_indexes(
    entry: TableEntry, indexes: Sequence[IndexEntry], snapshot: Snapshot | FirnlineError, models: Models
) -> list[dict[str, Any]]:
    """Return a row of each index, with the columns of `INDEXES`; ``columns`` are a list, ``skipped`` a mapping.

    Parameters
    ----------
    snapshot : the table's newest, or why it cannot be loaded
    """
    return [await _row(entry, index, snapshot, models) for index in indexes]


async def _row(
    entry: TableEntry, index: IndexEntry, snapshot: Snapshot | FirnlineError, models: Models
) -> dict[str, Any]:
    covered, total = 0, 0
    names: Sequence[str] = [column.name for column in index.columns]
    if isinstance(snapshot, FirnlineError):
        status = f"unknown: the table cannot be loaded: {snapshot.message}"
    else:
        coverage = await models.coverage(index, snapshot)
        covered, total = int(coverage.covered.sum()), len(snapshot.files)
        names = coverage.names or names
        status = _status(index, snapshot, covered, total, coverage.reason)
    return {
        "table": f"{entry.namespace}.{entry.name}",
        "name": index.name,
        "kind": index.kind,
        "columns": list(names),
        "status": status,
        "keys": index.n_keys,
        "files_covered": covered,
        "files_total": total,
        "segments": len(index.segments),
        "bytes": index.n_bytes,
        "bytes_per_key": round(index.n_bytes / index.n_keys, 4) if index.n_keys else None,
        "error_bound": max((each.error for each in index.segments), default=0) if index.kind == "learned" else None,
        "skipped": dict(index.skipped),
        "created": dt.datetime.fromtimestamp(index.created_ms / 1000, dt.UTC),
    }


def _status(index: IndexEntry, snapshot: Snapshot, covered: int, total: int, reason: str) -> str:
    """ready: every file that can be covered is; behind: the next pass has work; building: its first is not over."""
    if isinstance(gone := column_names(index.columns, snapshot.schema), str):
        return f"invalid: {gone}"
    if index.version is None:
        return "building"
    if covered == total or (index.version == snapshot.version and covered + sum(index.skipped.values()) >= total):
        return "ready"
    return f"behind: {reason}" if reason else "behind"
