"""Rows by their keys, in the order asked: the statement behind ``POST /v1/lookup`` and ``.lookup``.

Where an index covers the table the rows come straight from its files (`service.point`). Where not, a query finds them
among all rows. Either may find more than was asked; here the keys are compared, so the answer is the same.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog.tables import TableEntry
from functions.index.columns import column_names
from functions.keys import key_hashes, last_indices
from functions.literals import identifier, typed_literal
from functions.records import key_names, plain
from service.found import noted
from service.ingest.errors import unknown_name
from service.loading import Loaded, Loading
from service.lookup_keys import check_type, key_table
from service.point import load_ahead, point_rows
from service.reading import Reading
from service.statement import KeyLookup, Receipt, Statement
from storage.errors import FirnlineError, InvalidError, NotFoundError, TooLargeError

if TYPE_CHECKING:
    from service.engine import Engine

__all__ = ["KEYS_MAX", "run_lookup"]

KEYS_MAX = 100_000
_LISTED_MAX = 1_000
"""More keys than that are joined, not listed: a list is read as text."""
_PRODUCT_MAX = 32
"""Keys of several columns up to which each column's values are listed by themselves."""
_KEYS = "firnline_keys"


async def run_lookup(
    engine: Engine, reading: Reading, loading: Loading, statement: Statement, receipt: Receipt, *, plans: bool = True
) -> pa.Table | None:
    """Return the rows of the keys asked for, key by key in their order; a key asked for twice has its rows twice.

    The columns are those asked for, else the key's and then the others. The schema says which keys were found
    (`service.found`). Without ``plans`` it is None where finding them takes the planner.

    Raises
    ------
    NotFoundError : there is no such table
    InvalidError : a key or a column is not one of the table's, or it has no key and nothing says by what to look up
    UnsupportedError : a key column's type is none that rows are found by
    """
    asked = statement.lookup
    assert asked is not None
    if len(asked.keys) > KEYS_MAX:
        raise TooLargeError("too many keys at once; ask in parts", keys=len(asked.keys), keys_max=KEYS_MAX)
    entry = await _entry(loading, asked.table)
    async with load_ahead(loading, entry) as (guess, newest):
        if newest is not None:
            try:
                return await _found(engine, reading, loading, statement, receipt, guess, newest, plans=plans)
            except FirnlineError:
                # What is wrong with the table as it was may be right with it as it is.
                guess = await newest
        return await _found(engine, reading, loading, statement, receipt, guess, None, plans=plans)


async def _found(
    engine: Engine, reading: Reading, loading: Loading, statement: Statement, receipt: Receipt, loaded: Loaded,
    newest: Awaitable[Loaded] | None, *, plans: bool,
) -> pa.Table | None:  # fmt: skip
    """Return what `run_lookup` does, of a table as ``newest`` will say, or as of now."""
    asked = statement.lookup
    assert asked is not None
    schema = loaded.snapshot.schema
    names = await _key_of(engine, loaded, asked)
    wanted = _wanted(schema, names, asked)
    fields = [plain(schema.field(name)) for name in names]
    for field in fields:
        check_type(field)
    exact = key_table(asked.keys, fields)
    keys = _comparable(exact)
    read = [*names, *(name for name in dict.fromkeys(wanted) if name not in names)]
    rows = schema.empty_table().select(read)
    if keys.num_rows:
        kept = pa.array(last_indices(_hashable(keys), names))
        found_rows = None
        if not _has_zeros(keys):
            distinct = exact.take(kept)
            found_rows = await point_rows(
                reading, loading, loaded, names, distinct, read, receipt, statement.route, newest,
                bytes_max=statement.limits.scan_bytes_max,
            )  # fmt: skip
        if found_rows is None and not plans:
            return None
        if found_rows is None and newest is not None:
            # The table as it was may have had other columns.
            return await _found(engine, reading, loading, statement, receipt, await newest, None, plans=plans)
        if found_rows is None:
            found_rows = await _query(engine, statement, receipt, asked.table, names, read, keys.take(kept))
        rows = found_rows
    keys_of, rows_of = _pairs(keys, _comparable(rows.select(list(names))), names)
    found = np.zeros(len(asked.keys), dtype=bool)
    found[keys_of] = True
    answer = rows.select(wanted)
    if not np.array_equal(rows_of, np.arange(rows.num_rows)):
        answer = answer.take(pa.array(rows_of))
    return answer.cast(noted(answer.schema, found))


async def _entry(loading: Loading, table: tuple[str, str]) -> TableEntry:
    await loading.names()
    entry = loading.entry(table)
    if entry is None:
        raise NotFoundError("no such table", table=".".join(table))
    return entry


async def _key_of(engine: Engine, loaded: Loaded, asked: KeyLookup) -> tuple[str, ...]:
    """Return the columns of the key: those asked by, the primary key's, or those of the only index."""
    schema = loaded.snapshot.schema
    if asked.by:
        for name in asked.by:
            _check_name(schema, name)
        if len(set(asked.by)) < len(asked.by):
            raise InvalidError('"by" names a column twice', by=", ".join(asked.by))
        return asked.by
    entry = loaded.entry
    assert entry is not None
    if entry.managed is not None and entry.managed.spec.primary_key:
        return key_names(entry, schema)
    indexes = await engine.indexes.of(entry.id)
    if len(indexes) == 1:
        names = column_names(indexes[0].columns, schema)
        if isinstance(names, str):
            raise InvalidError('the table\'s only index cannot be used; say by which columns, with "by"', reason=names)
        return names
    table = f"{entry.namespace}.{entry.name}"
    named = ", ".join(index.name for index in indexes)
    raise InvalidError(
        f'the table has several indexes; say by which columns, with "by" (indexes: {named})'
        if indexes
        else 'the table has no primary key and no index; say by which columns, with "by"',
        table=table,
    )


def _wanted(schema: pa.Schema, names: Sequence[str], asked: KeyLookup) -> list[str]:
    if asked.columns is None:
        return [*names, *(name for name in schema.names if name not in names)]
    if not asked.columns:
        raise InvalidError('"columns" is empty; name a column, or leave it out for all')
    for name in asked.columns:
        _check_name(schema, name)
    return list(asked.columns)


def _check_name(schema: pa.Schema, name: str) -> None:
    if name not in schema.names:
        raise InvalidError(unknown_name(name, schema.names), column=name[:80])


async def _query(
    engine: Engine, statement: Statement, receipt: Receipt, table: tuple[str, str], names: Sequence[str],
    read: Sequence[str], keys: pa.Table,
) -> pa.Table:  # fmt: skip
    """Return at least the rows of ``keys``, which are distinct, by a query."""
    keys = _both_zeros(keys)
    given = {}
    conditions = [each for name in names if (each := _condition(name, keys, len(names)))]
    if (len(names) > 1 and keys.num_rows > _PRODUCT_MAX) or keys.num_rows > _LISTED_MAX:
        given[_KEYS] = keys.rename_columns([f"k{place}" for place in range(len(names))])
        same = " AND ".join(f"k.k{place} = t.{identifier(name)}" for place, name in enumerate(names))
        conditions.append(f"EXISTS (SELECT 1 FROM {_KEYS} AS k WHERE {same})")
    columns = ", ".join(f"t.{identifier(name)}" for name in read)
    source = ".".join(map(identifier, table))
    sql = f"SELECT {columns} FROM {source} AS t WHERE {' AND '.join(conditions)}"
    query = await engine.query(sql, None, statement, receipt, given)
    return pa.Table.from_batches([batch async for batch in query.batches], query.schema)


def _condition(name: str, keys: pa.Table, n_columns: int) -> str:
    """Return what the column's values satisfy, for files to be left out by; "" where nothing short says it."""
    values = keys.column(name).unique()
    kind = values.type
    if isinstance(kind, pa.BaseExtensionType):
        values, kind = values.cast(kind.storage_type), kind.storage_type
    if len(values) <= (_LISTED_MAX if n_columns == 1 else _PRODUCT_MAX):
        listed = ", ".join(typed_literal(value, kind) for value in values)
        return f"t.{identifier(name)} IN ({listed})"
    if pa.types.is_dictionary(kind) or pa.types.is_fixed_size_binary(kind):
        return ""
    ends = pc.min_max(values)
    low, high = (typed_literal(ends[end], kind) for end in ("min", "max"))
    return f"t.{identifier(name)} BETWEEN {low} AND {high}"


def _has_zeros(keys: pa.Table) -> bool:
    """Tell whether a key has a floating-point zero, which is found under both its signs."""
    floats = [column for column in keys.columns if pa.types.is_floating(column.type)]
    return any(pc.any(pc.equal(column, pa.scalar(0.0, column.type))).as_py() for column in floats)


def _both_zeros(keys: pa.Table) -> pa.Table:
    """Return the keys, those with a zero of either sign with both: the engine tells them apart, and keys do not."""
    for place, field in enumerate(keys.schema):
        if pa.types.is_floating(field.type):
            column = keys.column(place)
            zeros = keys.filter(pc.equal(column, pa.scalar(0.0, field.type)))
            for zero in (0.0, -0.0) if zeros.num_rows else ():
                signed = pa.array(np.full(zeros.num_rows, zero), pa.float64()).cast(field.type)
                keys = pa.concat_tables([keys, zeros.set_column(place, field, signed)])
    return keys


def _comparable(keys: pa.Table) -> pa.Table:
    """Return key columns in types that are hashed and compared, equal where the keys are."""
    columns = list(map(_plain_column, keys.columns))
    return pa.table(columns, names=keys.column_names)


def _plain_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], kind.storage_type)
        kind = kind.storage_type
    if pa.types.is_dictionary(kind):
        return _plain_column(column.cast(kind.value_type))
    return column


def _hashable(keys: pa.Table) -> pa.Table:
    return pa.table(list(_hashable_columns(keys)), names=keys.column_names)


def _hashable_columns(keys: pa.Table) -> Iterator[pa.ChunkedArray]:
    for column in keys.columns:
        if pa.types.is_timestamp(column.type):
            yield column.cast(pa.int64())
        elif pa.types.is_fixed_size_binary(column.type):
            yield column.cast(pa.binary())
        elif pa.types.is_uint64(column.type):
            yield column.cast(pa.int64(), safe=False)
        else:
            yield column


def _pairs(keys: pa.Table, rows: pa.Table, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return which key has which row, in the order of the keys, then of the rows: int64[p] each."""
    if keys.num_rows == 1:
        # Nothing but its rows was asked for.
        return np.zeros(rows.num_rows, np.int64), np.arange(rows.num_rows)
    of_keys, of_rows = key_hashes(_hashable(keys), names), key_hashes(_hashable(rows), names)
    order = np.argsort(of_rows, kind="stable")
    ordered = of_rows[order]
    start, limit = np.searchsorted(ordered, of_keys, "left"), np.searchsorted(ordered, of_keys, "right")
    n_rows = limit - start
    keys_of = np.repeat(np.arange(len(of_keys)), n_rows)
    within = np.arange(len(keys_of)) - np.repeat(np.cumsum(n_rows) - n_rows, n_rows)
    rows_of = order[np.repeat(start, n_rows) + within]
    same = np.ones(len(keys_of), dtype=bool)
    taken_keys, taken_rows = pa.array(keys_of), pa.array(rows_of)
    for name in names:
        left, right = keys.column(name).take(taken_keys), rows.column(name).take(taken_rows)
        equal = pc.equal(left, right.cast(left.type) if right.type != left.type else right)
        same &= equal.fill_null(False).to_numpy(zero_copy_only=False)
    return keys_of[same], rows_of[same]
