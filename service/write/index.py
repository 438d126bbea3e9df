"""CREATE INDEX and DROP INDEX, of managed and of external tables.

The index is in the catalog first, without segments, and is then built: killed or cancelled in between, the next
compaction pass goes on with it, and so does the same statement.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from catalog.indexes import PRIMARY, IndexEntry, Indexes
from catalog.tables import TableEntry
from functions.index.columns import index_columns
from functions.index.keep import kind_for
from functions.index.maintain import Maintenance, Refreshed, refresh
from functions.index.models import Models
from functions.newest import newest_snapshot
from service.write.context import Outcome, Work
from service.write.statements import CreateIndex, DropIndex
from storage.errors import ConflictError, InvalidError, NotFoundError
from storage.tables.snapshot import Snapshot

__all__ = ["create_index", "drop_index", "maintenance_of"]

_OPTIONS: Mapping[str, Mapping[str, tuple[int, int]]] = {
    "learned": {"filter_bits": (0, 16), "epsilon": (4, 4096)},
    "locator": {"filter_bits": (1, 16)},
}
_ATTEMPTS = 5


async def create_index(work: Work, statement: CreateIndex) -> Outcome:
    """Make an index, and fill it from the files that the table has.

    Raises
    ------
    NotFoundError
        no such table
    ConflictError
        the table has an index of this name
    SqlError
        the table has no such column
    InvalidError
        a reserved name, an option that the kind does not take, a column of the partitioning, or a learned index where
        no file is sorted by the columns
    UnsupportedError
        a type that cannot be a key
    """
    entry = await _table(work, statement.table)
    parts = maintenance_of(work)
    name = statement.name or f"{entry.name}_{'_'.join(statement.columns)}_index"
    if name.lower() == PRIMARY:
        raise InvalidError("this name is reserved for the index of a primary key; give another", index=name)
    before = {each.name: each for each in await parts.indexes.of(entry.id)}
    found = before.get(name)
    if found is not None and found.version is not None:
        return _exists(work, statement, entry, found)
    snapshot = await newest_snapshot(work.stores, entry)
    columns = index_columns(snapshot, statement.columns)
    kind = statement.kind or kind_for(entry.managed, statement.columns)
    _check_options(kind, statement.options)
    if found is not None:
        if (found.kind, found.columns, dict(found.options)) != (kind, columns, dict(statement.options)):
            return _exists(work, statement, entry, found)
        return await _built(work, parts, entry, name, snapshot)
    index = IndexEntry(
        entry.id, name, "learned" if kind == "learned" else "locator", columns, work.engine.clock.now_ms(),
        options=statement.options, request=work.key or "",
    )  # fmt: skip
    if not await parts.indexes.create(index, if_not_exists=True):
        (made,) = [each for each in await parts.indexes.of(entry.id) if each.name == name] or [index]
        return _exists(work, statement, entry, made)
    return await _built(work, parts, entry, name, snapshot)


async def _built(work: Work, parts: Maintenance, entry: TableEntry, name: str, snapshot: Snapshot) -> Outcome:
    """Build what of the index is not built yet."""
    done = await _filled(work, parts, entry, name, snapshot)
    await _check_sorted(parts, done, snapshot)
    return Outcome(_told(entry, done, snapshot))


def _exists(work: Work, statement: CreateIndex, entry: TableEntry, found: IndexEntry) -> Outcome:
    shown = f"{entry.namespace}.{entry.name}"
    if work.key is not None and found.request == work.key:
        return Outcome(f"done before to {shown}, under the same idempotency key")
    if statement.if_not_exists:
        return Outcome(f"index {found.name} on {shown} exists already")
    raise ConflictError("the table has an index of this name already", index=found.name, table=shown)


async def _table(work: Work, name: tuple[str, str]) -> TableEntry:
    try:
        return await work.engine.tables.get(*name)
    except NotFoundError:
        known = [f"{each.namespace}.{each.name}" for each in (await work.engine.tables.listed()).entries]
        near = difflib.get_close_matches(".".join(name).lower(), [each.lower() for each in known], 3, 0.6)
        meant = [each.removeprefix("default.") for each in known if each.lower() in near]
        hint = f"; did you mean {' or '.join(meant)}?" if meant else "; an index is of a table of the catalog"
        raise NotFoundError(f"no such table{hint}", table=".".join(name)) from None


def maintenance_of(work: Work) -> Maintenance:
    """Return what the statement refreshes indexes with."""
    engine = work.engine
    jobs = engine.jobs
    return Maintenance(
        work.stores, Indexes(engine.kv, engine.clock), Models(engine.kv, work.stores, engine.lake), engine.clock,
        engine.lake, fit=None if jobs is None else jobs.fit,
    )  # fmt: skip


def _check_options(kind: str, options: Mapping[str, str]) -> None:
    known = _OPTIONS[kind]
    for name, value in options.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"a {kind} index takes {', '.join(known)}"
            raise InvalidError(f"unknown option of an index; {hint}", option=name)
        least, most = known[name]
        if not (value.isascii() and value.isdigit() and least <= int(value[:9]) <= most and len(value) < 10):
            raise InvalidError(
                f"this option is a whole number from {least} to {most}", option=name, value=repr(value[:40])
            )


async def _filled(work: Work, parts: Maintenance, entry: TableEntry, name: str, snapshot: Snapshot) -> Refreshed:
    """Build the index. Another process that finds it without segments may do so at the same time; one is enough."""

    def tell(n_done: int, n_total: int) -> None:
        work.tell(n_done, n_total, "files indexed")

    for _ in range(_ATTEMPTS):
        found = [each for each in await parts.indexes.of(entry.id) if each.name == name]
        if not found:
            raise NotFoundError("the index was dropped while it was built", index=name)
        try:
            return await refresh(parts, found[0], snapshot, progress=tell)
        except ConflictError:
            work.receipt.retries += 1
    raise ConflictError("other processes refresh this index at the same time; it is built by them", index=name)


async def _check_sorted(parts: Maintenance, done: Refreshed, snapshot: Snapshot) -> None:
    """A learned index that covers nothing would be of no use: leave none."""
    index = done.index
    if index.kind != "learned" or index.segments or not len(snapshot.files) or not index.skipped:
        return
    await parts.indexes.drop(index.table_id, index.name)
    reasons = ", ".join(f"{reason} ({count} files)" for reason, count in index.skipped.items())
    raise InvalidError(
        "no file of the table can be in a learned index, which needs files that are sorted by its columns; "
        "use USING locator, or ORDER BY these columns in CREATE TABLE",
        index=index.name,
        reason=reasons,
    )


def _told(entry: TableEntry, done: Refreshed, snapshot: Snapshot) -> str:
    index = done.index
    n_files = sum(each.n_files for each in index.segments)
    told = (
        f"created {index.kind} index {index.name} on {entry.namespace}.{entry.name}: {index.n_keys} keys of "
        f"{n_files} of {len(snapshot.files)} files in {index.n_bytes} bytes"
    )
    skipped = ", ".join(f"{count} files are left out: {reason}" for reason, count in index.skipped.items())
    return f"{told}; {skipped}" if skipped else told


async def drop_index(work: Work, statement: DropIndex) -> Outcome:
    """Forget an index. Raises `NotFoundError`, and `InvalidError` for that of a primary key."""
    shown = ".".join(statement.table)
    indexes = Indexes(work.engine.kv, work.engine.clock)
    try:
        entry = await _table(work, statement.table)
    except NotFoundError:
        if statement.if_exists:
            return Outcome(f"there is no table {shown}")
        raise
    known = {each.name: each for each in await indexes.of(entry.id)}
    found = known.get(statement.name)
    if found is not None and found.is_primary:
        raise InvalidError(
            "this is the index of the primary key; it goes with ALTER TABLE … SET ('firn.index_primary_key' = 'false')",
            index=found.name,
            table=shown,
        )
    if not await indexes.drop(entry.id, statement.name):
        if statement.if_exists:
            return Outcome(f"there is no index {statement.name} on {shown}")
        near = difflib.get_close_matches(statement.name, known, 1, 0.5)
        hint = f"did you mean {near[0]}?" if near else "SHOW INDEXES lists them"
        raise NotFoundError(f"no such index; {hint}", index=statement.name, table=shown)
    return Outcome(f"dropped index {statement.name} on {shown}")
