"""INSERT: rows are evaluated, fitted to the table's columns, checked against its key, and appended."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from catalog.tables import TableEntry
from functions.keys import key_hashes
from service.cursor import Span
from service.write.aliases import with_aliases
from service.write.bulk import BULK_BYTES, append_files
from service.write.compose import Text
from service.write.context import Outcome, Work
from service.write.feed import answer
from service.write.fit import fit_table
from service.write.keys import check_unique, existing, shown_key
from service.write.literals import literal_rows
from service.write.mutate import done_before, earliest, put, repeated
from service.write.overwrite import overwrite
from service.write.retry import retried
from service.write.statements import Insert
from service.write.upsert import on_conflict_update
from storage.errors import ConflictError, InvalidError, SqlError
from storage.log import RecordKind

__all__ = ["Rows", "insert", "insert_rows", "source_rows"]


@dataclass(frozen=True)
class Rows:
    """Rows to insert, fitted to the table; ``since`` if the table itself was read for them."""

    table: pa.Table
    since: tuple[int, int] | None = None


async def insert(work: Work, statement: Insert) -> Outcome:
    """Run an INSERT.

    Raises
    ------
    ConflictError
        a row has a primary key that exists, and the statement has no ON CONFLICT
    InvalidError
        a value does not fit its column, or one is missing
    """

    async def once() -> Outcome:
        entry = await work.managed(statement.table)
        _check(entry, statement)
        if await done_before(work, entry):
            return repeated(entry)
        rows = await source_rows(work, entry, statement)
        if statement.overwrite:
            return await overwrite(work, entry, rows.table, rows.since)
        return await insert_rows(work, entry, statement, rows)

    return await retried(work, once)


async def insert_rows(work: Work, entry: TableEntry, statement: Insert, rows: Rows) -> Outcome:
    """Insert rows that are fitted already. Raises `LostError` if a row that was read changed."""
    assert entry.managed is not None
    key = entry.managed.spec.primary_key
    if not key:
        if rows.table.nbytes > BULK_BYTES:
            if not await append_files(work, entry, rows.table):
                return repeated(entry)
        else:
            await put(work, entry, [(RecordKind.APPEND, rows.table)], None)
        return _inserted(entry, rows.table.num_rows)
    conflict = statement.on_conflict
    if conflict is not None and conflict.assignments:
        check_unique(rows.table, key)
        return await on_conflict_update(work, entry, statement, rows.table, rows.since)
    if conflict is None:
        check_unique(rows.table, key)
    table = rows.table if conflict is None else _first_of_each(rows.table, key)
    known, found = await existing(work, statement.table, table, key)
    if conflict is None and known.any():
        if await done_before(work, entry):
            # By this very statement: the client sent it again while it ran.
            return repeated(entry)
        row = int(np.flatnonzero(known)[0])
        raise ConflictError(
            "a row with this primary key exists already; ON CONFLICT DO NOTHING or DO UPDATE takes it",
            table=_shown(entry), key=shown_key(table, key, row),
        )  # fmt: skip
    new = table if not known.any() else table.filter(pa.array(~known))
    since = earliest(rows.since, found.since.get(statement.table))
    await put(work, entry, [(RecordKind.UPSERT, new)], since)
    return _inserted(entry, new.num_rows)


def _first_of_each(rows: pa.Table, key: tuple[str, ...]) -> pa.Table:
    from functions.keys import check_keys

    check_keys(rows, key)
    _, first = np.unique(key_hashes(rows, key), return_index=True)
    return rows if len(first) == rows.num_rows else rows.take(pa.array(np.sort(first)))


def _inserted(entry: TableEntry, n_rows: int) -> Outcome:
    return Outcome(f"inserted {n_rows} row{'s' * (n_rows != 1)} into {_shown(entry)}", n_rows)


def _shown(entry: TableEntry) -> str:
    return f"{entry.namespace}.{entry.name}"


def _check(entry: TableEntry, statement: Insert) -> None:
    """Raise what is wrong with the statement whatever its rows are."""
    assert entry.managed is not None
    spec = entry.managed.spec
    for name in statement.columns or ():
        if name not in spec.schema.names:
            raise SqlError(
                f"no such column: {name}; the columns are {', '.join(spec.schema.names)}", table=_shown(entry)
            )
        if (statement.columns or ()).count(name) > 1:
            raise SqlError("a column is named twice", column=name)
    conflict = statement.on_conflict
    if conflict is None:
        return
    if not spec.primary_key:
        raise InvalidError("ON CONFLICT needs a table with a primary key", table=_shown(entry))
    if conflict.columns and set(conflict.columns) != set(spec.primary_key):
        raise InvalidError(
            "ON CONFLICT names other columns than the primary key",
            primary_key=", ".join(spec.primary_key), table=_shown(entry),
        )  # fmt: skip


async def source_rows(work: Work, entry: TableEntry, statement: Insert) -> Rows:
    """Evaluate the statement's source and fit it to the table's columns."""
    assert entry.managed is not None
    schema = entry.managed.spec.schema
    names = list(statement.columns) if statement.columns is not None else schema.names
    if statement.source is None:
        return Rows(fit_table([None] * len(schema), schema, 1))
    since = None
    columns = None
    if not statement.by_name:
        fields = [schema.field(name) for name in names]
        columns = literal_rows(work.parsed.sql, work.parsed.tokens, statement.source, work.parsed.params, fields)
    if columns is None:
        text = Text(work.parsed.sql)
        pieces: list[str | Span] = [statement.source]
        if not statement.by_name:
            pieces = with_aliases(work.parsed.tokens, statement.source)
        found = await answer(work, text.add(*_exact(work, text, pieces, [schema.field(name) for name in names])))
        since = found.since.get(statement.table)
        columns = found.rows.columns
        if statement.by_name:
            names = found.rows.column_names
            _check_names(names, schema)
        n_rows = found.rows.num_rows
    else:
        n_rows = len(columns[0])
    if len(columns) != len(names):
        raise SqlError(
            f"the query has {len(columns)} columns for {len(names)} of the table; name those that are meant",
            table=_shown(entry),
        )
    given = dict(zip(names, columns, strict=True))
    return Rows(fit_table([given.get(name) for name in schema.names], schema, n_rows), since)


def _exact(work: Work, text: Text, pieces: list[str | Span], fields: list[pa.Field]) -> list[str | Span]:
    """Return the pieces of VALUES with exact decimals."""
    if len(pieces) != 1 or not isinstance(pieces[0], Span):
        return pieces
    span = pieces[0]
    tokens = [token for token in work.parsed.tokens if span.start <= token.start < span.limit]
    if not tokens[0].is_word("VALUES"):
        return pieces
    found: list[str | Span] = []
    start, depth, column, cell = span.start, 0, 0, 0
    for token in tokens[1:]:
        if token.kind != "symbol" or token.text not in "()[]{},":
            continue
        ends = depth == 1 and token.text in "),"
        if ends and column < len(fields):
            value = text.exact(Span(cell, token.start), fields[column])
            if isinstance(value, str):
                found += [Span(start, cell), value]
                start = token.start
        depth += (token.text in "([{") - (token.text in ")]}")
        if depth == 1 and token.text in "(,":
            column, cell = (0 if token.text == "(" else column + 1), token.limit
    return [*found, Span(start, span.limit)]


def _check_names(names: list[str], schema: pa.Schema) -> None:
    for name in names:
        if name not in schema.names:
            raise SqlError(f"no such column: {name}; the columns are {', '.join(schema.names)}")
        if names.count(name) > 1:
            raise SqlError("the query has a column twice", column=name)
