"""MERGE INTO: the source is evaluated once; then the rows that meet, the source's rows alone, the table's rows alone.

The first clause whose condition holds decides what becomes of a row. A row of the table that several rows of the source
would change is an error, since the answer would depend on their order.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from catalog.tables import TableEntry
from functions.keys import key_hashes
from service.cursor import Span
from service.write.alter import check_columns
from service.write.compose import Text, quoted
from service.write.context import Outcome, Work
from service.write.feed import answer
from service.write.fit import fit_table
from service.write.keys import check_unique, existing, shown_key
from service.write.modify import old_name
from service.write.mutate import committed_before, done_before, earliest, put, repeated
from service.write.retry import LostError, retried
from service.write.rewrite import ROW, TARGET, Changes, Folded, commit_rows, folded, groups
from service.write.statements import Merge, MergeClause
from service.write.upsert import check_assignments
from storage.errors import ConflictError, InvalidError, SqlError, UnsupportedError
from storage.log import RecordKind

__all__ = ["merge"]

SOURCE, SOURCE_ROW = "firn_source", "firn_source_row"
_ACT = "firn_act"
_DOUBTS_MAX = 5
"""So often a row that should not be there is taken for one that came between the two looks at the table."""
_VOLATILE = ("random", "uuid", "gen_random_uuid")


@dataclass
class _Merging:
    """One run of a MERGE: what it reads, and what came of it so far.

    updated : rows as they are afterwards; ``old`` the keys they had, or for a table without a key nothing
    """

    work: Work
    entry: TableEntry
    statement: Merge
    source: pa.Table
    since: tuple[int, int] | None
    base: Folded | None = None
    updated: list[pa.Table] = field(default_factory=list)
    old: list[pa.Table] = field(default_factory=list)
    deleted: list[pa.Table] = field(default_factory=list)
    inserted: list[pa.Table] = field(default_factory=list)
    met: list[np.ndarray] = field(default_factory=list)

    @property
    def schema(self) -> pa.Schema:
        assert self.entry.managed is not None
        schema: pa.Schema = self.entry.managed.spec.schema
        return schema

    @property
    def key(self) -> tuple[str, ...]:
        assert self.entry.managed is not None
        return self.entry.managed.spec.primary_key

    @property
    def alias(self) -> str:
        return quoted(self.statement.alias or self.statement.table[1])

    @property
    def source_name(self) -> str:
        return quoted(self.statement.source_alias)

    def clauses(self, when: str) -> list[MergeClause]:
        return [each for each in self.statement.clauses if each.when == when]


async def merge(work: Work, statement: Merge) -> Outcome:
    """Run a MERGE.

    Raises
    ------
    InvalidError
        a row of the table would be changed by several rows of the source, or a value does not fit
    ConflictError
        a row is inserted whose primary key exists
    """
    _check_stable(work, statement)

    async def once() -> Outcome:
        entry = await work.managed(statement.table)
        shown = f"{entry.namespace}.{entry.name}"
        if await done_before(work, entry):
            return repeated(entry)
        run = await _begin(work, entry, statement)
        if run.base is not None and await committed_before(work, entry):
            return repeated(entry)
        if run.key:
            await _look(run, quoted(*statement.table), None, {})
            await _insert(run)
            await _put(run)
        else:
            await _merge_files(run)
        counts = [sum(part.num_rows for part in parts) for parts in (run.inserted, run.updated, run.deleted)]
        told = f"inserted {counts[0]}, updated {counts[1]} and deleted {counts[2]} rows of {shown}"
        return Outcome(told, sum(counts))

    return await retried(work, once)


def _check_stable(work: Work, statement: Merge) -> None:
    spans = [statement.on, *(each.condition for each in statement.clauses if each.condition is not None)]
    for token in work.parsed.tokens:
        if token.name in _VOLATILE and any(span.start <= token.start < span.limit for span in spans):
            raise UnsupportedError("a condition of MERGE must give the same answer twice", function=token.name)


async def _begin(work: Work, entry: TableEntry, statement: Merge) -> _Merging:
    assert entry.managed is not None
    base = None if entry.managed.spec.primary_key else await folded(work, entry)
    found = await answer(work, Text(work.parsed.sql).add("SELECT * FROM ", statement.source))
    if base is not None:
        await base.check_read(work, entry, found)
    names = found.rows.column_names
    for name in names:
        if names.count(name) > 1:
            raise SqlError("the source has two columns of one name; rename one with AS", column=name)
    source = found.rows.append_column(SOURCE_ROW, pa.array(np.arange(found.rows.num_rows)))
    run = _Merging(work, entry, statement, source, found.since.get(statement.table), base)
    for each in statement.clauses:
        check_assignments(each.assignments or (), run.schema)
        for name in each.columns or ():
            if name not in run.schema.names:
                raise SqlError(f"no such column: {name}; the columns are {', '.join(run.schema.names)}")
    return run


async def _look(run: _Merging, target: str, row: str | None, tables: dict[str, pa.Table]) -> list[np.ndarray]:
    """Find what becomes of the target's rows; return the numbers of those that go, if they have numbers."""
    gone = [await _matched(run, target, row, tables)]
    if run.clauses("not matched by source"):
        gone.append(await _alone(run, target, row, tables))
    return gone


def _act(clauses: list[MergeClause]) -> list[str | Span]:
    pieces: list[str | Span] = ["CASE"]
    for at, each in enumerate(clauses):
        pieces += [" WHEN (", each.condition or "true", f") THEN {at}"]
    return [*pieces, " END"] if clauses else ["NULL"]


def _assignments(run: _Merging, clause: MergeClause) -> list[tuple[str, Span | str]]:
    """Return what the clause sets: the table's column, and an expression."""
    if clause.assignments is None:
        names = [name for name in run.source.column_names if name != SOURCE_ROW]
        for name in names:
            if name not in run.schema.names:
                raise SqlError("UPDATE SET * takes all columns of the source, and the table lacks one", column=name)
        return [(name, f"{run.source_name}.{quoted(name)}") for name in names]
    return [(each.column, each.value or "NULL") for each in clause.assignments]


async def _matched(run: _Merging, target: str, row: str | None, tables: dict[str, pa.Table]) -> np.ndarray:
    clauses = run.clauses("matched")
    text = _select(run, clauses, row).add(f", {run.source_name}.{SOURCE_ROW} AS {SOURCE_ROW}")
    text.add(f" FROM {target} AS {run.alias} JOIN {SOURCE} AS {run.source_name} ON (", run.statement.on, ")")
    rows = await _answer(run, text, tables)
    run.met.append(np.unique(rows.column(SOURCE_ROW).to_numpy()))
    return _take(run, clauses, rows, row)


async def _alone(run: _Merging, target: str, row: str | None, tables: dict[str, pa.Table]) -> np.ndarray:
    clauses = run.clauses("not matched by source")
    text = _select(run, clauses, row)
    text.add(f" FROM {target} AS {run.alias} LEFT ANTI JOIN {SOURCE} AS {run.source_name} ON (", run.statement.on, ")")
    return _take(run, clauses, await _answer(run, text, tables), row)


def _select(run: _Merging, clauses: list[MergeClause], row: str | None) -> Text:
    act = _act(clauses)
    text = Text(run.work.parsed.sql).add("SELECT ", *act, f" AS {_ACT}")
    if row is not None:
        text.add(f", {run.alias}.{row} AS {row}")
    for at, name in enumerate(run.schema.names):
        text.add(f", {run.alias}.{quoted(name)} AS {old_name(at)}")
    for number, clause in enumerate(clauses):
        if clause.action == "update":
            for at, (name, given) in enumerate(_assignments(run, clause)):
                value = text.exact(given, run.schema.field(name))
                text.add(", CASE WHEN (", *act, f") = {number} THEN (", value, f") END AS firn_set_{number}_{at}")
    return text


async def _answer(run: _Merging, text: Text, tables: dict[str, pa.Table]) -> pa.Table:
    found = await answer(run.work, text, tables={SOURCE: run.source, **tables})
    run.since = earliest(run.since, found.since.get(run.statement.table))
    if run.base is not None:
        await run.base.check_read(run.work, run.entry, found)
    await check_columns(run.work, run.entry, found.snapshots.get(run.statement.table))
    return found.rows


def _take(run: _Merging, clauses: list[MergeClause], rows: pa.Table, row: str | None) -> np.ndarray:
    """Sort the rows by what becomes of them; return the numbers of those that go."""
    acts = np.asarray(rows.column(_ACT).cast(pa.int64()).fill_null(-1).to_numpy())
    changing = [at for at, each in enumerate(clauses) if each.action != "nothing"]
    _check_once(run, rows.filter(pa.array(np.isin(acts, changing))), row)
    gone: list[np.ndarray] = []
    for number, clause in enumerate(clauses):
        part = rows.filter(pa.array(acts == number))
        if clause.action == "nothing" or not part.num_rows:
            continue
        if row is not None:
            gone.append(part.column(row).to_numpy())
        before = [part.column(old_name(at)) for at in range(len(run.schema))]
        old = fit_table(before, run.schema, part.num_rows)
        if clause.action == "delete":
            run.deleted.append(old)
            continue
        places = {name: at for at, (name, _value) in enumerate(_assignments(run, clause))}
        after = [
            part.column(f"firn_set_{number}_{places[each.name]}") if each.name in places else before[at]
            for at, each in enumerate(run.schema)
        ]
        run.old.append(old)
        run.updated.append(fit_table(after, run.schema, part.num_rows))
    return np.concatenate([np.empty(0, np.int64), *gone])


def _check_once(run: _Merging, rows: pa.Table, row: str | None) -> None:
    """Raise `InvalidError` if several rows of the source change the same row of the table."""
    if row is not None:
        numbers = rows.column(row).to_numpy()
        shown = ""
        doubled = len(np.unique(numbers)) != len(numbers)
    else:
        names = [old_name(run.schema.get_field_index(name)) for name in run.key]
        hashes = key_hashes(rows, names)
        unique, first = np.unique(hashes, return_index=True)
        doubled = len(unique) != len(hashes)
        at = int(np.setdiff1d(np.arange(len(hashes)), first)[0]) if doubled else 0
        shown = (
            shown_key(rows.rename_columns([_unmarked(run, name) for name in rows.column_names]), run.key, at)
            if doubled
            else ""
        )
    if doubled:
        raise InvalidError("several rows of the source change the same row of the table", key=shown or None)


def _unmarked(run: _Merging, name: str) -> str:
    prefix = old_name(0)[:-1]
    return run.schema.names[int(name.removeprefix(prefix))] if name.startswith(prefix) else name


async def _insert(run: _Merging) -> None:
    """Find the rows that the source's lonely rows become."""
    clauses = run.clauses("not matched")
    if not clauses:
        return
    met = np.concatenate([np.empty(0, np.int64), *run.met])
    alone = run.source.filter(pa.array(~np.isin(np.arange(run.source.num_rows), met)))
    act = _act(clauses)
    text = Text(run.work.parsed.sql).add("SELECT ", *act, f" AS {_ACT}")
    columns = [_inserted(run, clause) for clause in clauses]
    for number, values in enumerate(columns):
        for at, (name, given) in enumerate(values):
            value = text.exact(given, run.schema.field(name))
            text.add(", CASE WHEN (", *act, f") = {number} THEN (", value, f") END AS firn_set_{number}_{at}")
    text.add(f" FROM {SOURCE} AS {run.source_name}")
    rows = (await answer(run.work, text, tables={SOURCE: alone})).rows
    acts = np.asarray(rows.column(_ACT).cast(pa.int64()).fill_null(-1).to_numpy())
    for number, clause in enumerate(clauses):
        if clause.action != "insert":
            continue
        part = rows.filter(pa.array(acts == number))
        places = {name: at for at, (name, _value) in enumerate(columns[number])}
        fitted = [
            part.column(f"firn_set_{number}_{places[name]}") if name in places else None for name in run.schema.names
        ]
        run.inserted.append(fit_table(fitted, run.schema, part.num_rows))


def _inserted(run: _Merging, clause: MergeClause) -> list[tuple[str, Span | str]]:
    if clause.action != "insert":
        return []
    if clause.values is None:
        return _assignments(run, MergeClause("matched", None, "update", None))
    names = clause.columns if clause.columns is not None else tuple(run.schema.names)
    if len(names) != len(clause.values):
        raise SqlError(f"INSERT has {len(clause.values)} values for {len(names)} columns")
    return [(name, value or "NULL") for name, value in zip(names, clause.values, strict=True)]


async def _put(run: _Merging) -> None:
    """Bring the changes of a table with a primary key into its log."""
    names = list(run.key)
    new = pa.concat_tables([*run.updated, *run.inserted]) if run.updated or run.inserted else None
    old = [each.select(names) for each in (*run.old, *run.deleted)]
    gone = pa.concat_tables(old) if old else None
    if new is not None:
        check_unique(new, run.key)
        before = key_hashes(gone, names) if gone is not None else np.empty(0, np.uint64)
        fresh = new.filter(pa.array(~np.isin(key_hashes(new, names), before)))
        known, found = await existing(run.work, run.statement.table, fresh, run.key)
        since = found.since.get(run.statement.table)
        if known.any():
            if since != run.since and run.work.receipt.retries < _DOUBTS_MAX:
                raise LostError("another statement inserted one of these rows meanwhile")
            row = int(np.flatnonzero(known)[0])
            raise ConflictError("a row with this primary key exists already", key=shown_key(fresh, run.key, row))
        run.since = earliest(run.since, since)
        if gone is not None:
            gone = gone.filter(pa.array(~np.isin(before, key_hashes(new, names))))
    parts = [(RecordKind.UPSERT, new)] if new is not None else []
    if gone is not None:
        parts.append((RecordKind.DELETE, gone))
    await put(run.work, run.entry, parts, run.since)


async def _merge_files(run: _Merging) -> None:
    """Bring the changes of a table without a primary key into its files."""
    assert run.base is not None
    changes = Changes()
    async for group in groups(run.work, run.base.snapshot):
        gone = await _look(run, TARGET, ROW, {TARGET: group.rows})
        changes.drop(group, np.unique(np.concatenate(gone)))
    await _insert(run)
    changes.rows = [*run.updated, *run.inserted]
    await commit_rows(run.work, run.entry, run.base.snapshot, changes, "merge")
