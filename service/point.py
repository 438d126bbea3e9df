"""Rows by their keys without the query engine: for look-ups of keys, and for statements that ask for nothing else.

A table's live rows of some keys are those of its files that the tail of the log does not override, and those of the
tail. Where an index covers every file that may have the keys, and a look-up costs less than a scan, both are had with a
few ranged reads. Everything else is left to the planner, which gives the same rows.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from catalog.tables import TableEntry
from functions.lookup import read
from functions.lookup_scan import untouched
from functions.predicate import And, In
from functions.prune import may_match
from functions.records import key_names, plain
from functions.tail import TableTail
from service.cursor import Cursor, TableName
from service.lexer import Token
from service.loading import Loaded, Loading
from service.parsed import Parsed
from service.reading import Reading
from service.route import Asking, Routed, choose, exact_values
from service.statement import Receipt, Route
from storage.errors import NotFoundError, SqlError
from storage.tables.snapshot import Snapshot

__all__ = ["PointQuery", "load_ahead", "point_query", "point_rows", "run_point"]

_RESERVED = frozenset((
    "ALL", "AND", "ANY", "ARRAY", "AS", "ASC", "BETWEEN", "BOTH", "CASE", "CAST", "COLLATE", "CROSS",
    "CURRENT_CATALOG", "CURRENT_DATE", "CURRENT_ROLE", "CURRENT_SCHEMA", "CURRENT_TIME", "CURRENT_TIMESTAMP",
    "CURRENT_USER", "DATE", "DESC", "DISTINCT", "ELSE", "END", "EXCEPT", "EXCLUDE", "EXISTS", "EXTRACT", "FALSE",
    "FROM", "FULL", "GROUP", "HAVING", "IN", "INNER", "INTERSECT", "INTERVAL", "INTO", "IS", "JOIN", "LATERAL",
    "LEFT", "LIKE", "LIMIT", "LOCALTIME", "LOCALTIMESTAMP", "NATURAL", "NOT", "NULL", "OFFSET", "ON", "OR", "ORDER",
    "OUTER", "OVERLAY", "POSITION", "QUALIFY", "REPLACE", "RIGHT", "SELECT", "SESSION_USER", "SIMILAR", "STRUCT",
    "SUBSTRING", "TABLE", "THEN", "TIME", "TIMESTAMP", "TOP", "TRIM", "TRUE", "UNION", "UNIQUE", "UNNEST", "USER",
    "USING", "VALUES", "WHEN", "WHERE", "WINDOW", "WITH",
))  # fmt: skip
"""Words that may be more than a name where a column can stand; a statement with one goes to the planner."""
_LISTED_MAX = 1_000


@dataclass(frozen=True)
class PointQuery:
    """``SELECT columns FROM table WHERE column = value AND column IN (values) … LIMIT limit``, and nothing else.

    columns : None for ``*``
    values : column → what it may be
    """

    table: TableName
    columns: tuple[str, ...] | None
    values: Mapping[str, tuple[Any, ...]]
    limit: int | None


def point_query(parsed: Parsed) -> PointQuery | None:
    """Return what a statement of that shape asks for; None for any other statement. Reads its tokens only."""
    if parsed.refs or parsed.explained or not parsed.tokens[0].is_word("SELECT"):
        return None
    cursor = Cursor(parsed.sql, parsed.tokens, 1)
    try:
        columns = None if cursor.skip("*") else _columns(cursor)
        cursor.expect("FROM")
        table = cursor.table_name()
        cursor.expect("WHERE")
        values: dict[str, tuple[Any, ...]] = {}
        while True:
            name = _column(cursor)
            if name in values:
                return None
            values[name] = _listed(cursor, parsed.params)
            if not cursor.skip("AND"):
                break
        limit = cursor.integer("a number") if cursor.skip("LIMIT") else None
        cursor.end()
    except SqlError:
        return None
    return PointQuery(table, columns, values, limit)


def _columns(cursor: Cursor) -> tuple[str, ...]:
    found = [_column(cursor)]
    while cursor.skip(","):
        found.append(_column(cursor))
    if len(set(found)) < len(found):
        cursor.fail("expected distinct columns")
    return tuple(found)


def _column(cursor: Cursor) -> str:
    token = cursor.peek()
    if token is not None and token.kind == "word" and token.text.upper() in _RESERVED:
        cursor.fail("expected a column")
    return cursor.name("a column")


def _listed(cursor: Cursor, params: Mapping[str, Any]) -> tuple[Any, ...]:
    if cursor.skip("="):
        return (_value(cursor, params),)
    cursor.expect("IN")
    cursor.expect("(")
    found = [_value(cursor, params)]
    while cursor.skip(","):
        found.append(_value(cursor, params))
        if len(found) > _LISTED_MAX:
            cursor.fail("expected fewer values")
    cursor.expect(")")
    return tuple(found)


def _value(cursor: Cursor, params: Mapping[str, Any]) -> Any:
    """Read a whole number, a plain string, or a parameter that is one."""
    sign = -1 if cursor.skip("-") else 1
    token = cursor.peek()
    if token is None:
        cursor.fail("expected a value")
    if token.kind == "number" and token.text.isascii() and token.text.isdecimal() and len(token.text) < 19:
        cursor.position += 1
        return sign * int(token.text)
    if sign < 0:
        cursor.fail("expected a number")
    if token.kind == "string" and cursor.sql[token.start] == "'":
        cursor.position += 1
        return token.text
    name = _parameter(cursor, token)
    value = params.get(name)
    if type(value) not in (int, str):
        cursor.fail("expected a whole number or a string")
    return value


def _parameter(cursor: Cursor, token: Token) -> str:
    cursor.position += 1
    if token.kind == "param":
        return token.text[1:]
    word = cursor.peek()
    if token.text != ":" or word is None or word.kind != "word" or word.start != token.limit:
        cursor.fail("expected a value")
    cursor.position += 1
    return word.text


async def run_point(
    reading: Reading, loading: Loading, asked: PointQuery, route: Route, receipt: Receipt, *, bytes_max: int = 0
) -> pa.Table | None:
    """Return the answer to the statement, as the planner would; None if it takes the planner.

    Parameters
    ----------
    bytes_max : as in `point_rows`
    """
    loading.begin(asked.table)
    await loading.names()
    entry = loading.entry(asked.table)
    if entry is None or not loading.known.indexes.get(entry.id):
        return None
    async with load_ahead(loading, entry) as (loaded, newest):
        schema = loaded.snapshot.schema
        columns = schema.names if asked.columns is None else list(asked.columns)
        keys = _keys(asked, schema) if columns and {*columns, *asked.values} <= set(schema.names) else None
        if keys is None:
            return None
        names = keys.column_names
        rows = await point_rows(
            reading, loading, loaded, names, keys, columns, receipt, route, newest, bytes_max=bytes_max
        )
    return rows.slice(0, asked.limit) if rows is not None and asked.limit is not None else rows


@asynccontextmanager
async def load_ahead(loading: Loading, entry: TableEntry) -> AsyncIterator[tuple[Loaded, asyncio.Task[Loaded] | None]]:
    """Yield a table as this process knew it last, and what loads it as of now meanwhile, for `point_rows`; or the
    table as of now, and None."""
    guess = loading.guess(entry)
    if guess is None:
        yield await loading.load(entry), None
        return
    newest = asyncio.create_task(loading.load(entry))
    try:
        yield guess, newest
    finally:
        newest.cancel()
        await asyncio.wait([newest])
        if not newest.cancelled():
            newest.exception()


def _keys(asked: PointQuery, schema: pa.Schema) -> pa.Table | None:
    """Return the keys, all combinations of the columns' values, or None where a type is not plainly the column's."""
    fields, columns = [], []
    for name, values in asked.values.items():
        field = plain(schema.field(name)).with_nullable(True)
        wanted = int if pa.types.is_integer(field.type) else str if pa.types.is_string(field.type) else None
        if wanted is None or any(type(value) is not wanted for value in values):
            return None
        found = exact_values(values, field.type)
        if isinstance(found, str):
            return None
        fields.append(field)
        columns.append(found)
    sizes = [len(column) for column in columns]
    if len(columns) > 1:
        if math.prod(sizes) > _LISTED_MAX:
            return None
        places = np.indices(sizes).reshape(len(sizes), -1)
        columns = [column.take(pa.array(place)) for column, place in zip(columns, places, strict=True)]
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


async def point_rows(
    reading: Reading, loading: Loading, loaded: Loaded, names: Sequence[str], keys: pa.Table, columns: Sequence[str],
    receipt: Receipt, route: Route = "auto", newest: Awaitable[Loaded] | None = None, *, bytes_max: int = 0,
) -> pa.Table | None:  # fmt: skip
    """Return all live rows whose ``names`` equal one of ``keys``; None if that takes the planner.

    Parameters
    ----------
    loaded : as of now, or a guess if ``newest`` is given, see `load_ahead`
    keys : the columns ``names``, in the table's types, distinct, without NULL and NaN and floating-point zeros
    columns : of the answer, in its order
    bytes_max : what would read more is left to the planner, which refuses it; 0: no limit
    """
    if route == "scan" or not loading.indexes_of(loaded):
        return None
    key = _Key(tuple(names), keys, tuple(columns), bytes_max)
    try:
        found = await _in_files(reading, loading, loaded, key, receipt, route)
    except NotFoundError:
        if newest is None:
            raise
        found = None
    if newest is not None:
        now = await newest
        if not _same(loaded.snapshot, now.snapshot):
            if not now.snapshot.schema.equals(loaded.snapshot.schema, check_metadata=True):
                return None
            found = await _in_files(reading, loading, now, key, receipt, route)
        loaded = now
    if found is None:
        return None
    routed, rows = found
    if loaded.tail is not None and loaded.tail.keys:
        rows = await untouched(rows, loaded.tail, _primary(loaded))
    rows = rows.select(list(columns))
    if loaded.tail is not None and not loaded.tail.is_empty:
        rows = pa.concat_tables([rows, await _of_tail(loaded.tail, key)])
    _count(loaded, routed, receipt)
    return rows


@dataclass(frozen=True)
class _Key:
    """What is asked for: columns, the values of them, and columns of the answer; and how much may be read for it."""

    names: tuple[str, ...]
    keys: pa.Table
    columns: tuple[str, ...]
    bytes_max: int = 0


def _same(one: Snapshot, other: Snapshot) -> bool:
    return one is other or (bool(one.etag) and one.etag == other.etag and one.location == other.location)


def _primary(loaded: Loaded) -> tuple[str, ...]:
    """Return the columns of the primary key, by which the tail overrides rows."""
    if loaded.entry is None or loaded.entry.managed is None:
        return ()
    return key_names(loaded.entry, loaded.snapshot.schema)


async def _in_files(
    reading: Reading, loading: Loading, loaded: Loaded, key: _Key, receipt: Receipt, route: Route
) -> tuple[Routed, pa.Table] | None:
    """Return the rows of the table's files, and the way they were found; None if that takes the planner."""
    snapshot = loaded.snapshot
    every = np.ones(len(snapshot.files), dtype=bool)
    columns = tuple(dict.fromkeys([*key.columns, *_primary(loaded)]))
    asking = Asking(snapshot, loading.indexes_of(loaded), (), columns, every, key.keys)
    routed = await choose(reading.models, reading.looked_up, asking, route)
    if routed.plan is None or not _covers(routed, asking):
        return None
    tail_bytes = loaded.tail.n_bytes if loaded.tail is not None else 0
    if key.bytes_max and routed.plan.n_bytes + tail_bytes > key.bytes_max:
        return None
    stores = loading.stores.scoped()
    found = await read(stores, routed.plan, reading.looked_up)
    receipt.requests += stores.count.requests
    receipt.bytes_scanned += stores.count.bytes
    return None if found.distrusted else (routed, found.rows)


def _covers(routed: Routed, asking: Asking) -> bool:
    """Tell whether the look-up finds all rows: no file that it does not cover may have one."""
    assert routed.plan is not None
    rest = ~routed.plan.covered
    if not rest.any():
        return True
    assert asking.keys is not None
    terms = tuple(In(name, tuple(asking.keys.column(name).to_pylist())) for name in asking.keys.column_names)
    return not (rest & may_match(asking.snapshot, And(terms))).any()


async def _of_tail(tail: TableTail, key: _Key) -> pa.Table:
    # Imported here: most tables have nothing in the log.
    from functions.tail_index import find, prepare

    await prepare(tail, key.names)
    return find(tail, key.names, key.keys.select(list(key.names))).rows.select(list(key.columns))


def _count(loaded: Loaded, routed: Routed, receipt: Receipt) -> None:
    assert routed.plan is not None
    entry = loaded.entry
    shown = f"{entry.namespace}.{entry.name}" if entry is not None else loaded.snapshot.location
    receipt.routes[shown] = routed.text
    receipt.snapshots[shown] = loaded.snapshot.version
    receipt.files_total += len(loaded.snapshot.files)
    receipt.files_scanned += len(routed.plan.reads)
    receipt.files_pruned += len(loaded.snapshot.files) - len(routed.plan.reads)
    if loaded.tail is not None:
        receipt.log[shown] = loaded.tail.limit
        receipt.tail_rows += loaded.tail.n_rows
