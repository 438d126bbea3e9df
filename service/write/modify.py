"""UPDATE and DELETE of tables with a primary key: a query gives the rows, which go into the log."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from catalog.tables import TableEntry
from functions.keys import key_hashes
from service.write.alter import check_columns
from service.write.compose import Text, quoted
from service.write.context import Outcome, Work
from service.write.feed import Answer, answer
from service.write.fit import fit_column, fit_table
from service.write.keys import check_unique, existing, shown_key
from service.write.mutate import done_before, earliest, put, repeated
from service.write.retry import retried
from service.write.statements import Assignment, Delete, Update
from service.write.upsert import check_assignments
from storage.errors import ConflictError, InvalidError
from storage.log import RecordKind

__all__ = ["delete", "old_name", "select_target", "set_name", "update", "updated_rows"]


def old_name(at: int) -> str:
    """Return what column ``at`` of the table is called in a query that feeds a change."""
    return f"firn_old_{at}"


def set_name(at: int) -> str:
    """Return what the value of assignment ``at`` is called there."""
    return f"firn_set_{at}"


def select_target(
    work: Work, statement: Update | Delete, schema: pa.Schema, columns: list[str], target: str, first: str | None = None
) -> Text:
    """Return the query for the rows that the statement means.

    Parameters
    ----------
    columns : of the table, by place; what is not needed may be left out by giving an empty list
    target : the name, quoted, of what stands for the table
    first : another column of ``target``, that comes first
    """
    alias = quoted(statement.alias or statement.table[1])
    text = Text(work.parsed.sql).add("SELECT ")
    listed = [f"{alias}.{quoted(first)} AS {quoted(first)}"] if first else []
    listed += [f"{alias}.{quoted(name)} AS {old_name(at)}" for at, name in enumerate(columns)]
    text.add(", ".join(listed) or "1 AS firn_one")
    if isinstance(statement, Update):
        for at, each in enumerate(statement.assignments):
            value = text.exact(each.value or "NULL", schema.field(each.column))
            text.add(", ", value, " AS ", set_name(at))
    text.add(" FROM ", target, " AS ", alias)
    if statement.source is not None:
        text.add(", ", statement.source)
    if statement.where is not None:
        text.add(" WHERE ", statement.where)
    return text


def updated_rows(found: pa.Table, schema: pa.Schema, assignments: tuple[Assignment, ...]) -> pa.Table:
    """Return the rows as they are after the update, fitted to the table."""
    places = {each.column: at for at, each in enumerate(assignments)}
    columns = []
    for at, field in enumerate(schema):
        if field.name in places:
            columns.append(found.column(set_name(places[field.name])))
        else:
            columns.append(found.column(old_name(at)))
    return fit_table(columns, schema, found.num_rows)


async def update(work: Work, statement: Update) -> Outcome:
    """Run an UPDATE.

    Raises
    ------
    InvalidError
        a value does not fit its column, or a row of the table meets several rows of FROM
    ConflictError
        a primary key is set to one that exists
    """

    async def once() -> Outcome:
        entry = await work.managed(statement.table)
        assert entry.managed is not None
        check_assignments(statement.assignments, entry.managed.spec.schema)
        if await done_before(work, entry):
            return repeated(entry)
        if not entry.managed.spec.primary_key:
            from service.write.rewrite import update_files

            return await update_files(work, entry, statement)
        return await _update_keyed(work, entry, statement)

    return await retried(work, once)


async def _update_keyed(work: Work, entry: TableEntry, statement: Update) -> Outcome:
    assert entry.managed is not None
    spec = entry.managed.spec
    text = select_target(work, statement, spec.schema, spec.schema.names, quoted(*statement.table))
    found = await answer(work, text)
    await check_columns(work, entry, found.snapshots.get(statement.table))
    rows = updated_rows(found.rows, spec.schema, statement.assignments)
    old = _old_keys(found.rows, entry)
    _check_once(old, spec.primary_key, statement)
    since = found.since.get(statement.table)
    parts = [(RecordKind.UPSERT, rows)]
    if {each.column for each in statement.assignments} & set(spec.primary_key):
        gone, since = await _moved_keys(work, statement, rows, old, spec.primary_key, since)
        parts.append((RecordKind.DELETE, gone))
    await put(work, entry, parts, since)
    return Outcome(f"updated {rows.num_rows} row{'s' * (rows.num_rows != 1)} of {_shown(entry)}", rows.num_rows)


def _old_keys(found: pa.Table, entry: TableEntry) -> pa.Table:
    assert entry.managed is not None
    schema = entry.managed.spec.schema
    key = entry.managed.spec.primary_key
    columns = [
        fit_column(found.column(old_name(schema.get_field_index(name))), schema.field(name).remove_metadata())
        for name in key
    ]
    return pa.Table.from_arrays(columns, schema=pa.schema([schema.field(name).remove_metadata() for name in key]))


def _check_once(old: pa.Table, key: tuple[str, ...], statement: Update) -> None:
    if statement.source is None:
        return
    hashes = key_hashes(old, key)
    unique, first = np.unique(hashes, return_index=True)
    if len(unique) != len(hashes):
        row = int(np.setdiff1d(np.arange(len(hashes)), first)[0])
        raise InvalidError(
            "a row of the table meets several rows of FROM; make the join give one", key=shown_key(old, key, row)
        )


async def _moved_keys(
    work: Work, statement: Update, rows: pa.Table, old: pa.Table, key: tuple[str, ...], since: tuple[int, int] | None
) -> tuple[pa.Table, tuple[int, int] | None]:
    """Return the old keys that no row has any more. Raises `ConflictError` where a new key is another row's."""
    check_unique(rows, key)
    new_hashes, old_hashes = key_hashes(rows, key), key_hashes(old, key)
    moved = rows.filter(pa.array(~np.isin(new_hashes, old_hashes)))
    known, found = await existing(work, statement.table, moved, key)
    if known.any():
        row = int(np.flatnonzero(known)[0])
        raise ConflictError("a row with this primary key exists already", key=shown_key(moved, key, row))
    gone = old.filter(pa.array(~np.isin(old_hashes, new_hashes)))
    return gone, earliest(since, found.since.get(statement.table))


async def delete(work: Work, statement: Delete) -> Outcome:
    """Run a DELETE."""

    async def once() -> Outcome:
        entry = await work.managed(statement.table)
        assert entry.managed is not None
        if await done_before(work, entry):
            return repeated(entry)
        if not entry.managed.spec.primary_key:
            from service.write.rewrite import delete_files

            return await delete_files(work, entry, statement)
        return await _delete_keyed(work, entry, statement)

    return await retried(work, once)


async def _delete_keyed(work: Work, entry: TableEntry, statement: Delete) -> Outcome:
    assert entry.managed is not None
    spec = entry.managed.spec
    key = spec.primary_key
    text = select_target(work, statement, spec.schema, list(key), quoted(*statement.table))
    found: Answer = await answer(work, text)
    fields = [spec.schema.field(name).remove_metadata() for name in key]
    columns = [fit_column(column, field) for column, field in zip(found.rows.columns, fields, strict=True)]
    keys = pa.Table.from_arrays(columns, schema=pa.schema(fields))
    _, first = np.unique(key_hashes(keys, key), return_index=True)
    if len(first) != keys.num_rows:
        keys = keys.take(pa.array(np.sort(first)))
    await put(work, entry, [(RecordKind.DELETE, keys)], found.since.get(statement.table))
    return Outcome(f"deleted {keys.num_rows} row{'s' * (keys.num_rows != 1)} from {_shown(entry)}", keys.num_rows)


def _shown(entry: TableEntry) -> str:
    return f"{entry.namespace}.{entry.name}"
