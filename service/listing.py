"""What ``SHOW`` lists of the catalog: tables, schemas, indexes, and the history of a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from catalog.tables import TableEntry
from functions.index.models import Models
from service.cursor import Cursor, TableName
from service.history import HISTORY, history_of
from service.index_listing import INDEXES, shown_indexes
from service.loading import Loading
from service.parsed import Parsed
from storage.errors import FirnlineError, NotFoundError
from storage.tables.snapshot import Snapshot

__all__ = ["listing"]

HISTORY_MAX = 1000


async def listing(parsed: Parsed, loading: Loading, models: Models) -> pa.Table | None:
    """Return what a ``SHOW`` statement of ours lists; None for any other statement."""
    cursor = Cursor(parsed.sql, parsed.tokens)
    if not cursor.skip("SHOW"):
        return None
    if cursor.skip("HISTORY"):
        return await _history(cursor, loading)
    if cursor.skip("INDEXES") or cursor.skip("INDEX") or cursor.skip("INDICES"):
        return await _indexes(cursor, loading, models)
    word = cursor.peek()
    if word is None or cursor.peek(1) is not None:
        return None
    if word.is_word("TABLES"):
        rows = [[e.namespace, e.name, e.format, e.location] for e in loading.entries.values()]
        return _texts(["namespace", "name", "format", "location"], rows)
    if word.is_word("SCHEMAS", "NAMESPACES", "DATABASES"):
        return _texts(["namespace"], [[each] for each in loading.namespaces])
    return None


async def _history(cursor: Cursor, loading: Loading) -> pa.Table:
    if not cursor.skip("FROM") and not cursor.skip("FOR"):
        cursor.skip("OF")
    name = cursor.table_name()
    limit = cursor.integer("how many commits") if cursor.skip("LIMIT") else HISTORY_MAX
    cursor.end()
    entry = loading.entry(name)
    if entry is None:
        raise NotFoundError("no such table", table=".".join(name))
    rows = await history_of(loading, await loading.load(entry), limit)
    return pa.Table.from_pylist([_flat(row) for row in rows], schema=HISTORY)


async def _indexes(cursor: Cursor, loading: Loading, models: Models) -> pa.Table:
    wanted: TableName | None = None
    if cursor.skip("FROM") or cursor.skip("ON") or cursor.skip("IN") or cursor.skip("OF"):
        wanted = cursor.table_name()
    cursor.end()
    if wanted is not None and loading.entry(wanted) is None:
        raise NotFoundError("no such table", table=".".join(wanted))
    entries = [entry for name, entry in loading.entries.items() if wanted in (None, name)]
    every = await loading.indexes.all()
    rows = []
    for entry in entries:
        if found := every.get(entry.id, ()):
            rows += await shown_indexes(entry, found, await _snapshot(loading, entry), models)
    return pa.Table.from_pylist([_shown(row) for row in rows], schema=INDEXES)


async def _snapshot(loading: Loading, entry: TableEntry) -> Snapshot | FirnlineError:
    try:
        return (await loading.load(entry, tail=False)).snapshot
    except FirnlineError as error:
        return error


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    skipped = ", ".join(f"{reason}: {count}" for reason, count in row["skipped"].items())
    return {**row, "columns": ", ".join(row["columns"]), "skipped": skipped}


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "facts": json.dumps(row["facts"], sort_keys=True)}


def _texts(names: Sequence[str], rows: Sequence[Sequence[str]]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) if rows else [() for _ in names]
    return pa.table({n: pa.array(list(c), pa.string()) for n, c in zip(names, columns, strict=True)})
