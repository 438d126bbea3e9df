"""Records of the log into their tables: each once, however often it is tried and whoever else tries.

A fold of one table is one commit that adds the records' rows and moves the table's watermark past them (rule 1 of
`storage.tables.write`). Tables without a primary key get the rows as they are. Tables with one get the last row of each
key, and lose the rows that have these keys now; a deletion only loses.

A fold of a log takes its records a range at a time, and raises the log's mark once every table has its part of the
range. Only what is in the object store is folded (``storage/log/access.py``, rule 4). Killed anywhere, it is run again.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from catalog.tables import TableEntry, Tables
from catalog.writers import writer_of
from functions.discard import discard
from functions.keys import last_indices
from functions.layout import LayoutSettings
from functions.records import key_names, rows_of
from functions.rewrite import drop_keys, rewrite_rows
from storage.clock import Clock
from storage.errors import ConflictError, CorruptError, IndeterminateError, InvalidError, NotFoundError
from storage.log import LogRecord, RecordKind
from storage.stores import Stores
from storage.tables.snapshot import At, Snapshot
from storage.tables.write import Change, Committed, TableSpec, TableWriter, Watermark

__all__ = ["Extra", "FoldSettings", "Folded", "ManagedTable", "fold_table", "load_managed"]

_PAUSE_S, _PAUSE_MAX_S = 0.02, 1.0


@dataclass(frozen=True, slots=True)
class FoldSettings:
    """How a fold goes.

    range_bytes : of the log that are held and folded at once
    attempts_max : tries of one table's commit, each from the newer table, before the `ConflictError` is raised
    """

    range_bytes: int = 64 << 20
    attempts_max: int = 20
    layout: LayoutSettings = field(default_factory=LayoutSettings)


@dataclass(frozen=True, slots=True)
class Folded:
    """What a fold of a table did; all zero if it was done before.

    n_bytes : of the records' bodies
    n_bytes_written : of data files
    committed : None if nothing was committed
    """

    n_records: int = 0
    n_rows: int = 0
    n_bytes: int = 0
    n_files: int = 0
    n_files_removed: int = 0
    n_bytes_written: int = 0
    committed: Committed | None = None


@dataclass(frozen=True)
class Extra:
    """Rows of a bulk write that become part of the fold's commit, after all of its records.

    rows : in the columns of the snapshot; for `RecordKind.DELETE` those of the primary key
    """

    kind: RecordKind
    rows: pa.Table


@dataclass(frozen=True)
class ManagedTable:
    """A table that we write, as of now. ``spec`` names the primary key as ``snapshot`` does."""

    entry: TableEntry
    spec: TableSpec
    snapshot: Snapshot
    writer: TableWriter
    log: str

    @property
    def watermark(self) -> int:
        """Up to which sequence the snapshot holds the table's records."""
        return self.writer.watermark(self.snapshot, self.log)


async def load_managed(
    stores: Stores, tables: Tables, clock: Clock, entry: TableEntry, known: Snapshot | None = None
) -> ManagedTable:
    """Load the newest state of the table that ``entry`` once was.

    Raises `NotFoundError` if it was dropped, `InvalidError` if it is not one that we write.
    """
    found = await _entry_of(tables, entry)
    if found.managed is None:
        raise InvalidError("this table is external and only read", table=f"{entry.namespace}.{entry.name}")
    module = importlib.import_module(f"storage.tables.{found.format}")
    snapshot: Snapshot = await module.load(stores, found.source, At(), known)
    writer = writer_of(found, stores, tables, clock)
    # The table's own metadata is changed before the catalog's: its columns may have other names by now.
    spec = replace(found.managed.spec, primary_key=key_names(found, snapshot.schema))
    return ManagedTable(found, spec, snapshot, writer, str(found.managed.shard))


async def _entry_of(tables: Tables, entry: TableEntry) -> TableEntry:
    """Return the entry as it is now; a table that was renamed is found by its id."""
    try:
        found = await tables.get(entry.namespace, entry.name)
        if found.id == entry.id:
            return found
    except NotFoundError:
        pass
    for each in await tables.all():
        if each.id == entry.id:
            return each
    raise NotFoundError("no such table; it was dropped", table=f"{entry.namespace}.{entry.name}")


async def fold_table(
    stores: Stores,
    tables: Tables,
    clock: Clock,
    entry: TableEntry,
    records: Sequence[LogRecord],
    limit: int,
    settings: FoldSettings | None = None,
    *,
    extra: Extra | None = None,
) -> Folded:
    """Fold a table's records, and ``extra``, in one commit.

    Parameters
    ----------
    records : all records of this table, from its watermark or before it up to ``limit``, that are in the object store
    limit : the sequence after the last one of the range

    Returns
    -------
    Folded
        Without a commit if the table holds the records already.

    Raises
    ------
    ConflictError : other writers were faster again and again; nothing was folded
    NotFoundError : the table was dropped
    IndeterminateError : with ``extra``, whether it was committed cannot be told
    """
    settings = settings or FoldSettings()
    known: Snapshot | None = None
    for attempt in range(1, settings.attempts_max + 1):
        table = await load_managed(stores, tables, clock, entry, known)
        known = table.snapshot
        mark = table.watermark
        news = [each for each in records if each.position.sequence >= mark]
        if not news and extra is None:
            return Folded()
        moved = Watermark(table.log, mark, max(mark, limit))
        try:
            return await _fold_once(stores, clock, table, news, moved, settings, extra)
        except ConflictError:
            if attempt == settings.attempts_max:
                raise
        except IndeterminateError:
            # The watermark of the table as it is now tells whether it happened; of extra rows nothing does.
            if attempt == settings.attempts_max or extra is not None:
                raise
        await asyncio.sleep(clock.uniform(0, min(_PAUSE_S * 2**attempt, _PAUSE_MAX_S)))
    raise AssertionError("unreachable")


async def _fold_once(
    stores: Stores,
    clock: Clock,
    table: ManagedTable,
    records: Sequence[LogRecord],
    watermark: Watermark,
    settings: FoldSettings,
    extra: Extra | None,
) -> Folded:
    decoded = await asyncio.to_thread(_decoded, records, table)
    if extra is not None:
        decoded.append((extra.kind, extra.rows))
    rows, keys = await asyncio.to_thread(_outcome, decoded, table)
    dropped = await drop_keys(stores, table.snapshot, keys, table.spec.primary_key) if keys is not None else {}
    change = await rewrite_rows(
        stores,
        clock,
        table.snapshot,
        table.spec,
        dropped,
        rows,
        operation="fold",
        watermark=watermark,
        facts={"records": str(len(records)), "rows": str(rows.num_rows if rows is not None else 0)},
        settings=settings.layout,
    )
    committed = await _commit(stores, table, change)
    return Folded(
        len(records),
        sum(part.num_rows for _kind, part in decoded),
        sum(len(each.record.body) for each in records),
        len(change.add),
        len(change.remove),
        sum(file.size for file in change.add),
        committed,
    )


def _decoded(records: Sequence[LogRecord], table: ManagedTable) -> list[tuple[RecordKind, pa.Table]]:
    """Return what each record does with which rows. Raises `CorruptError` naming the record."""
    decoded = []
    for each in records:
        try:
            decoded.append((each.record.kind, rows_of(each.record, table.entry, table.snapshot.schema)))
        except (pa.ArrowException, KeyError) as error:
            raise CorruptError(
                "a record of the log does not fit its table",
                table=f"{table.entry.namespace}.{table.entry.name}",
                sequence=each.position.sequence,
                reason=str(error),
            ) from error
    return decoded


async def _commit(stores: Stores, table: ManagedTable, change: Change) -> Committed:
    """Commit; files of a change that certainly is none are deleted."""
    try:
        return await table.writer.commit(table.snapshot, change)
    except ConflictError:
        await discard(stores, [file.location for file in change.add])
        raise


def _outcome(parts: Sequence[tuple[RecordKind, pa.Table]], table: ManagedTable) -> tuple[pa.Table, pa.Table | None]:
    """Return the rows to add, and for a table with a primary key the keys whose rows they and deletions replace."""
    schema = table.snapshot.schema
    bare = pa.schema([pa.field(each.name, each.type) for each in schema])
    names = list(table.spec.primary_key)
    written = [(place, rows) for place, (kind, rows) in enumerate(parts) if kind is not RecordKind.DELETE]
    rows = _joined([rows for _place, rows in written], bare)
    if not names:
        return rows, None
    key_schema = pa.schema([bare.field(name) for name in names])
    keys = _joined([rows.select(names) for _kind, rows in parts], key_schema)
    # Where each row of `keys` is in `rows`; -1 for a deletion.
    places, start = [], 0
    for kind, part in parts:
        deletes = kind is RecordKind.DELETE
        places.append(np.full(part.num_rows, -1) if deletes else np.arange(start, start + part.num_rows))
        start += 0 if deletes else part.num_rows
    last = last_indices(keys, names)
    kept = np.concatenate([np.empty(0, np.int64), *places])[last]
    kept = kept[kept >= 0]
    unique = keys if len(last) == keys.num_rows else keys.take(pa.array(last))
    return (rows if len(kept) == rows.num_rows else rows.take(pa.array(kept))), unique


def _joined(parts: Sequence[pa.Table], schema: pa.Schema) -> pa.Table:
    tables = [pa.Table.from_arrays(part.columns, schema=schema) for part in parts]
    return pa.concat_tables(tables) if tables else schema.empty_table()
