"""What ``SHOW`` lists of the catalog: tables, schemas, and the history of a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from service.cursor import Cursor
from service.history import HISTORY, history_of
from service.loading import Loading
from service.parse import Parsed
from storage.errors import NotFoundError

__all__ = ["listing"]

HISTORY_MAX = 1000


async def listing(parsed: Parsed, loading: Loading) -> pa.Table | None:
    """Return what a ``SHOW`` statement of ours lists; None for any other statement."""
    cursor = Cursor(parsed.sql, parsed.tokens)
    if not cursor.skip("SHOW"):
        return None
    if cursor.skip("HISTORY"):
        return await _history(cursor, loading)
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
    entry = loading.entries.get(name)
    if entry is None:
        raise NotFoundError("no such table", table=".".join(name))
    rows = await history_of(loading, await loading.load(entry), limit)
    return pa.Table.from_pylist([_flat(row) for row in rows], schema=HISTORY)


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "facts": json.dumps(row["facts"], sort_keys=True)}


def _texts(names: Sequence[str], rows: Sequence[Sequence[str]]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) if rows else [() for _ in names]
    return pa.table({n: pa.array(list(c), pa.string()) for n, c in zip(names, columns, strict=True)})
