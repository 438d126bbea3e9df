"""INSERT … ON CONFLICT DO UPDATE: rows whose key exists become updates of the rows there are."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from catalog.tables import TableEntry
from service.cursor import Span
from service.write.alter import check_columns
from service.write.compose import Text, quoted
from service.write.context import Outcome, Work
from service.write.feed import answer
from service.write.fit import fit_column, fit_table
from service.write.keys import key_condition
from service.write.mutate import earliest, put
from service.write.statements import Assignment, Insert
from storage.errors import InvalidError, SqlError
from storage.log import RecordKind

__all__ = ["check_assignments", "on_conflict_update"]

_NEW = "firn_new"


def check_assignments(assignments: tuple[Assignment, ...], schema: pa.Schema, key: tuple[str, ...] = ()) -> None:
    """Raise `SqlError` for a column that there is not, `InvalidError` for one of ``key``, which cannot be set."""
    for each in assignments:
        if each.column not in schema.names:
            raise SqlError(f"no such column: {each.column}; the columns are {', '.join(schema.names)}")
        if each.column in key:
            raise InvalidError("a column of the primary key cannot be set here", column=each.column)


async def on_conflict_update(
    work: Work, entry: TableEntry, statement: Insert, rows: pa.Table, since: tuple[int, int] | None
) -> Outcome:
    """Insert the rows, and update those whose key exists."""
    assert entry.managed is not None
    assert statement.on_conflict is not None
    spec, conflict = entry.managed.spec, statement.on_conflict
    check_assignments(conflict.assignments, spec.schema, spec.primary_key)
    alias = statement.alias or statement.table[1]
    extra: dict[str, Any] = {}
    # The new rows' columns get names of their own, so that a bare name means the table's column.
    new = rows.rename_columns([f"{_NEW}_{at}" for at in range(rows.num_columns)])
    places = {name: at for at, name in enumerate(spec.schema.names)}
    matched = f"{quoted(alias, spec.primary_key[0])} IS NOT NULL"
    text = Text(work.parsed.sql).add("SELECT ", matched, " AS firn_matched, ")
    if conflict.where is None:
        text.add(matched)
    else:
        text.add("(", matched, " AND (", *_excluded(work, conflict.where, places), "))")
    text.add(" AS firn_updated")
    for at, name in enumerate(spec.schema.names):
        text.add(f", {_NEW}.{_NEW}_{at} AS {_NEW}_{at}, {quoted(alias, name)} AS firn_old_{at}")
    for at, each in enumerate(conflict.assignments):
        value: list[str | Span] = ["NULL"] if each.value is None else _excluded(work, each.value, places)
        if value == [each.value]:
            value = [text.exact(value[0], spec.schema.field(each.column))]
        text.add(", CASE WHEN ", matched)
        if conflict.where is not None:
            text.add(" AND (", *_excluded(work, conflict.where, places), ")")
        text.add(" THEN (", *value, f") END AS firn_set_{at}")
    on = " AND ".join(f"{_NEW}.{_NEW}_{places[name]} = {quoted(alias, name)}" for name in spec.primary_key)
    where = key_condition(rows, spec.primary_key, extra)
    text.add(
        f" FROM {_NEW} LEFT JOIN (SELECT * FROM {quoted(*statement.table)} WHERE {where}) AS {quoted(alias)} ON {on}"
    )
    found = await answer(work, text, tables={_NEW: new}, extra=extra)
    await check_columns(work, entry, found.snapshots.get(statement.table))
    inserted, updated = _split(found.rows, spec.schema, conflict.assignments)
    both = pa.concat_tables([inserted, updated])
    await put(work, entry, [(RecordKind.UPSERT, both)], earliest(since, found.since.get(statement.table)))
    shown = f"{entry.namespace}.{entry.name}"
    return Outcome(f"inserted {inserted.num_rows} and updated {updated.num_rows} rows of {shown}", both.num_rows)


def _split(found: pa.Table, schema: pa.Schema, assignments: tuple[Assignment, ...]) -> tuple[pa.Table, pa.Table]:
    is_old = found.column("firn_matched").combine_chunks()
    fresh = found.filter(pa.compute.invert(is_old))
    inserted = fit_table([fresh.column(f"{_NEW}_{at}") for at in range(len(schema))], schema, fresh.num_rows)
    changed = found.filter(found.column("firn_updated"))
    places = {each.column: at for at, each in enumerate(assignments)}
    columns = []
    for at, field in enumerate(schema):
        if field.name in places:
            columns.append(fit_column(changed.column(f"firn_set_{places[field.name]}"), field.remove_metadata()))
        else:
            columns.append(changed.column(f"firn_old_{at}"))
    return inserted, fit_table(columns, schema, changed.num_rows)


def _excluded(work: Work, span: Span, places: dict[str, int]) -> list[str | Span]:
    """Return the expression in pieces, ``excluded.column`` replaced by the new row's column."""
    tokens = [token for token in work.parsed.tokens if span.start <= token.start < span.limit]
    pieces: list[str | Span] = []
    start = span.start
    for at, token in enumerate(tokens[:-2]):
        following, name = tokens[at + 1], tokens[at + 2]
        if token.name != "excluded" or token.kind not in ("word", "quoted") or following.text != ".":
            continue
        if name.name not in places:
            raise SqlError(f"no such column: excluded.{name.name}; the columns are {', '.join(places)}")
        if token.start > start:
            pieces.append(Span(start, token.start))
        pieces.append(f"{_NEW}.{_NEW}_{places[name.name]}")
        start = name.limit
    if start < span.limit:
        pieces.append(Span(start, span.limit))
    return pieces
