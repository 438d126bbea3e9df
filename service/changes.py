"""The change data feed: ``table_changes('ns.t', from_version [, to_version])`` as a table.

A row for each row that a commit inserted or deleted; where there is a primary key, a deleted and an inserted row of
one key are the two sides of an update. Both versions are inclusive; for Iceberg they are snapshot ids on the way from
the current one to the first, and 0 is the first. Without ``to_version`` the rows that are not folded yet come last, and
have no version.

It is derived from the files that each commit added and removed, so it needs no table property and covers outside
writers. What merely merged files has no changes. Commits that only add files are scanned natively; of the others the
files are read at once, and their rows compared (`functions.row_diff`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from datafusion.catalog import Table

from functions.execute import stream
from functions.literals import identifier
from functions.records import key_names, plain
from functions.row_diff import CHANGE_TYPE, changed_rows
from functions.scan import TableScan, make_scan
from functions.session import SCANS
from functions.tail import TableTail
from service.loading import Loaded, Loading
from service.reading import Reading
from storage.errors import InvalidError, LimitError, NotFoundError, UnsupportedError
from storage.tables.snapshot import FIELD_ID, At, Snapshot

__all__ = ["COMMIT_TIMESTAMP", "COMMIT_VERSION", "changes_table"]

COMMIT_VERSION = "_commit_version"
COMMIT_TIMESTAMP = "_commit_timestamp"
_TIME = pa.timestamp("us", "UTC")


@dataclass(frozen=True)
class _Step:
    """One commit and the version before it."""

    version: int
    timestamp_ms: int
    before: int | None
    data_change: bool


@dataclass
class _Feed:
    """What the changes are made of: scans of files that hold insertions only, and rows that were compared."""

    inserted: list[tuple[TableScan, _Step]]
    compared: list[pa.Table]
    n_bytes: int = 0


async def changes_table(
    reading: Reading, loading: Loading, loaded: Loaded, start: int, limit: int | None, scan_bytes_max: int = 0
) -> Table:
    """Return the changes as a table.

    Parameters
    ----------
    loaded : the table as of ``limit``
    start, limit : versions, both inclusive; ``limit`` None: all, and what the log has beyond

    Raises
    ------
    NotFoundError : a version that never was, or whose commit or files are gone
    InvalidError : the table has a column of one of the feed's names, or the versions are the wrong way round
    LimitError : more bytes of files would be read than the statement may
    """
    final = loaded.snapshot
    _check(final, start)
    feed = _Feed([], [])
    known: Snapshot | None = final
    key = key_names(loaded.entry, final.schema) if loaded.entry is not None and loaded.entry.managed else ()
    for step in await _steps(loading, final, start):
        if not step.data_change:
            continue
        before = None if step.before is None else await _at(loading, loaded, step.before, known)
        after = await _at(loading, loaded, step.version, before or known)
        known = after
        await _add_step(reading, loading, feed, step, before, after, final, key, scan_bytes_max)
    if limit is None and loaded.tail is not None and not loaded.tail.is_empty:
        feed.compared.append(await _tail_changes(reading, loading, final, loaded.tail, key))
    return await reading.session.in_planner(_united, reading, feed, final.schema)


def _check(final: Snapshot, start: int) -> None:
    if final.format == "parquet":
        raise UnsupportedError("a parquet table has no versions, and so no changes", table=final.location)
    for name in (CHANGE_TYPE, COMMIT_VERSION, COMMIT_TIMESTAMP):
        if name in final.schema.names:
            raise InvalidError("the table has a column that its changes would have too; rename it", column=name)
    if final.format == "delta" and start > final.version:
        raise NotFoundError("the first version is not before the last", from_version=start, last_version=final.version)


async def _steps(loading: Loading, final: Snapshot, start: int) -> list[_Step]:
    """Return the commits, oldest first."""
    if final.format == "delta":
        from storage.tables.delta.history import history as delta_history

        logged = await delta_history(
            loading.stores, final.location, final.version - start + 1, before=final.version + 1
        )
        if len(logged) != final.version - start + 1:
            oldest = logged[-1].version if logged else final.version
            raise NotFoundError("the commits of the first versions are gone", from_version=start, oldest_version=oldest)
        return [
            _Step(each.version, each.timestamp_ms, each.version - 1 if each.version else None, each.data_change)
            for each in reversed(logged)
        ]
    return await _iceberg_steps(loading, final, start)


async def _iceberg_steps(loading: Loading, final: Snapshot, start: int) -> list[_Step]:
    from storage.tables.iceberg.history import history

    found: list[_Step] = []
    for commit in await history(loading.stores, _metadata_location(final)):
        if not found and commit.version != final.version:
            continue
        found.append(_Step(commit.version, commit.timestamp_ms, commit.parent, commit.data_change))
        if commit.version == start:
            return found[::-1]
    if start != 0:
        raise NotFoundError(
            "no such snapshot leads to the last one; it may have expired",
            from_version=start, last_version=final.version,
        )  # fmt: skip
    return found[::-1]


def _metadata_location(snapshot: Snapshot) -> str:
    state: Any = getattr(snapshot, "state", None)
    return str(state.pointer.location)


async def _at(loading: Loading, loaded: Loaded, version: int, known: Snapshot | None) -> Snapshot:
    """Return the table as of a version; ``known`` is of any other, and saves reading."""
    final = loaded.snapshot
    if version == final.version:
        return final
    if final.format == "delta":
        from storage.tables.delta import load as load_delta

        older = known if known is not None and known.version <= version else None
        return await load_delta(loading.stores, final.location, At(version=version), older)
    from storage.tables.iceberg import load as load_iceberg

    return await load_iceberg(loading.stores, _metadata_location(final), At(version=version), known)


async def _add_step(
    reading: Reading, loading: Loading, feed: _Feed, step: _Step, before: Snapshot | None, after: Snapshot,
    final: Snapshot, key: Sequence[str], scan_bytes_max: int,
) -> None:  # fmt: skip
    old, new = _deletes(before), _deletes(after)
    gone = {path for path, deletes in old.items() if path not in new or new[path] != deletes}
    come = {path for path, deletes in new.items() if path not in old or old[path] != deletes}
    feed.n_bytes += _size(before, gone) + _size(after, come)
    if scan_bytes_max and feed.n_bytes > scan_bytes_max:
        raise LimitError(
            "the changes would scan more than the statement may; ask for fewer versions",
            scan_bytes=feed.n_bytes, max_bytes=scan_bytes_max,
        )  # fmt: skip
    added = await _scan(reading, loading, after, come, final)
    if before is None or not gone:
        if come:
            feed.inserted.append((added, step))
        return
    removed = await _scan(reading, loading, before, gone, final)
    rows = [await _rows(reading, each.table, final.schema) for each in (removed, added)]
    changed = await asyncio.to_thread(changed_rows, rows[0], rows[1], key)
    feed.compared.append(_stamped(changed, step))


def _deletes(snapshot: Snapshot | None) -> Mapping[str, Any]:
    """Return where each file's delete information is."""
    if snapshot is None:
        return {}
    return {path: snapshot.files.deletes.get(index) for index, path in enumerate(snapshot.files.paths)}


def _size(snapshot: Snapshot | None, paths: set[str]) -> int:
    return 0 if snapshot is None else int(snapshot.files.sizes[_mask(snapshot, paths)].sum())


def _mask(snapshot: Snapshot, paths: set[str]) -> np.ndarray:
    return np.fromiter((path in paths for path in snapshot.files.paths), bool, len(snapshot.files))


async def _scan(reading: Reading, loading: Loading, snapshot: Snapshot, paths: set[str], final: Snapshot) -> TableScan:
    """Return the files of a version, read as the last version's columns."""
    seen = _as_of(snapshot, final)
    return await make_scan(
        reading.session, loading.stores, seen, _mask(snapshot, paths), reading.footers, reading.scans
    )


def _as_of(snapshot: Snapshot, final: Snapshot) -> Snapshot:
    """Return the version's files under the last version's schema, as the table itself reads old files."""
    numbers = {_number(each): each.name for each in final.schema}
    names = {
        each.name: numbers.get(number, each.name) if (number := _number(each)) is not None else each.name
        for each in snapshot.schema
    }
    types = {each.name: each.type for each in final.schema}
    files = snapshot.files
    partitions = {
        names[name]: values.cast(types[names[name]])
        for name, values in files.partitions.items()
        if names.get(name) in types
    }
    absent = {
        names[name]: (values.cast(types[names[name]]), known)
        for name, (values, known) in files.absent.items()
        if names.get(name) in types
    }
    return replace(
        snapshot, schema=final.schema, matching=final.matching, name_mapping=final.name_mapping,
        files=replace(files, partitions=partitions, absent=absent, stats=lambda _name: None),
        etag=f"{snapshot.etag}|as of {final.etag}",
    )  # fmt: skip


def _number(field: pa.Field) -> bytes | None:
    found: bytes | None = (field.metadata or {}).get(FIELD_ID)
    return found


async def _rows(
    reading: Reading, table: Table, schema: pa.Schema, text: str | None = None, **tables: Table
) -> pa.Table:
    session = reading.session
    fields = [plain(each).with_nullable(True) for each in schema]
    selected = ", ".join(f"t.{identifier(each.name)}" for each in fields)
    query = (text or f"SELECT {selected} FROM {SCANS}.base AS t").replace("{selected}", selected)
    plan = await session.in_planner(session.plan, query, {"base": table, **tables})
    batches = [batch async for batch in stream(session.running, plan) if batch.num_rows]
    wanted = pa.schema(fields)
    return pa.concat_tables([wanted.empty_table(), *(pa.Table.from_batches([batch]).cast(wanted) for batch in batches)])


def _stamped(rows: pa.Table, step: _Step | None) -> pa.Table:
    n = rows.num_rows
    version = pa.scalar(None if step is None else step.version, pa.int64())
    moment = pa.scalar(None if step is None else step.timestamp_ms * 1000, pa.int64()).cast(_TIME)
    return rows.append_column(COMMIT_VERSION, pa.repeat(version, n)).append_column(
        COMMIT_TIMESTAMP, pa.repeat(moment, n)
    )


async def _tail_changes(
    reading: Reading, loading: Loading, final: Snapshot, tail: TableTail, key: Sequence[str]
) -> pa.Table:
    """Return what the log does to the table: with a primary key, beside the rows whose keys it touches."""
    if tail.keys is None:
        inserted = tail.rows.append_column(CHANGE_TYPE, pa.repeat(pa.scalar("insert"), tail.n_rows))
        return _stamped(inserted, None)
    every = np.ones(len(final.files), dtype=bool)
    scan = await make_scan(reading.session, loading.stores, final, every, reading.footers, reading.scans)
    keys = await reading.session.in_planner(reading.session.memory_table, tail.keys)
    equal = " AND ".join(f"k.{identifier(name)} = t.{identifier(name)}" for name in key)
    text = f"SELECT {{selected}} FROM {SCANS}.keys AS k RIGHT SEMI JOIN {SCANS}.base AS t ON {equal}"
    before = await _rows(reading, scan.table, final.schema, text, keys=keys)
    return _stamped(await asyncio.to_thread(changed_rows, before, tail.rows, key), None)


def _united(reading: Reading, feed: _Feed, schema: pa.Schema) -> Table:
    session = reading.session
    names = [identifier(name) for name in schema.names]
    tables: dict[str, Table] = {}
    selects = []
    for number, (scan, step) in enumerate(feed.inserted):
        tables[f"i{number}"] = scan.table
        moment = f"arrow_cast(arrow_cast({step.timestamp_ms * 1000}, 'Int64'), 'Timestamp(Microsecond, Some(\"UTC\"))')"
        selects.append(
            f"SELECT {', '.join(names)}, 'insert' AS {CHANGE_TYPE}, arrow_cast({step.version}, 'Int64') AS "
            f"{COMMIT_VERSION}, {moment} AS {COMMIT_TIMESTAMP} FROM {SCANS}.i{number}"
        )
    empty = _stamped(_empty(schema), None)
    compared = pa.concat_tables([empty, *(table for table in feed.compared if table.num_rows)])
    if compared.num_rows or not selects:
        batches = [batch for batch in compared.to_batches() if batch.num_rows]
        tables["c"] = session.memory_table(batches or [pa.RecordBatch.from_pylist([], schema=compared.schema)])
        selects.append(f"SELECT * FROM {SCANS}.c")
    return session.view(" UNION ALL ".join(selects), tables)


def _empty(schema: pa.Schema) -> pa.Table:
    fields = [plain(each).with_nullable(True) for each in schema]
    return pa.schema([*fields, pa.field(CHANGE_TYPE, pa.string())]).empty_table()
