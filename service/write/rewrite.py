"""UPDATE, DELETE and MERGE of tables without a primary key: files written anew without the rows that change.

What was acknowledged is folded into the table first, so that the statement sees it. Rows that are acknowledged later
come after the statement, wherever its commit falls. A commit that removes the same files as another begins anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from catalog.tables import TableEntry
from functions.fold_log import FoldReport, TableFold, fold_shard
from functions.live_rows import live_rows
from functions.partition_values import check_partition_values
from functions.records import plain
from functions.rewrite import rewrite_rows
from service.write.alter import adopt
from service.write.bulk import commit
from service.write.compose import quoted
from service.write.context import Outcome, Work
from service.write.feed import Answer, answer, wanted_files
from service.write.modify import select_target, updated_rows
from service.write.mutate import committed_before, repeated
from service.write.retry import LostError
from service.write.statements import Delete, Update
from storage.errors import InvalidError, NotFoundError
from storage.tables.snapshot import Snapshot

__all__ = [
    "ROW",
    "TARGET",
    "Changes",
    "Folded",
    "Group",
    "commit_rows",
    "delete_files",
    "folded",
    "groups",
    "update_files",
]

TARGET = "firn_target"
"""What stands for the table in the queries: the rows of some of its files."""
ROW = "firn_row"
"""The row's number among them."""
GROUP_BYTES = 256 << 20
"""Rows of as many files as have this many bytes of Arrow are looked at together."""


@dataclass(frozen=True)
class Group:
    """Live rows of some files.

    rows : with `ROW` as the last column
    files : (file index, where its rows begin, how many there are)
    """

    rows: pa.Table
    files: tuple[tuple[int, int, int], ...]


@dataclass
class Changes:
    """What a statement does to the files: which rows go, and which come.

    dropped : file index → bool[n]
    """

    dropped: dict[int, np.ndarray] = field(default_factory=dict)
    rows: list[pa.Table] = field(default_factory=list)

    def drop(self, group: Group, gone: np.ndarray) -> None:
        """Let rows of the group go, given by their numbers."""
        mask = np.zeros(group.rows.num_rows, dtype=bool)
        mask[gone] = True
        for index, start, count in group.files:
            part = mask[start : start + count]
            if part.any():
                self.dropped[index] = part


@dataclass(frozen=True)
class Folded:
    """A table with all that was acknowledged before ``limit``, a sequence of its log.

    n_records, n_rows : of the log, that came into the table for it; 0 if others had folded them
    """

    snapshot: Snapshot
    limit: int
    n_records: int = 0
    n_rows: int = 0

    async def check_read(self, work: Work, entry: TableEntry, found: Answer) -> None:
        """Raise `LostError` if a query read the table at another state than this one."""
        assert entry.managed is not None
        name = (entry.namespace, entry.name)
        read, since = found.snapshots.get(name), found.since.get(name)
        if read is None:
            return
        changed = read.version != self.snapshot.version
        if not changed and since is not None and since[1] > self.limit:
            try:
                later = await (await work.engine.logs.log(entry.managed.shard)).read(self.limit)
                changed = any(each.record.table_id == entry.id for each in later.records)
            except NotFoundError:
                changed = True
        if changed:
            raise LostError("the table changed while the statement read it")


async def folded(work: Work, entry: TableEntry) -> Folded:
    """Return the table with all that was acknowledged before. Raises `LostError` while its schema changes."""
    assert entry.managed is not None
    shard = entry.managed.shard
    log = await work.engine.logs.log(shard)
    limit = await log.flush()
    # Asked before the snapshot is loaded: a mark that is told later may be past records that the snapshot lacks.
    mark = (await work.engine.logs.folded()).get(shard, 0)
    snapshot = await work.load(entry)
    # Before the fold, which takes the key's columns by the names that the catalog has.
    await adopt(work, entry, snapshot)
    counts: Counter[str] = Counter()
    if max(work.writer(entry).watermark(snapshot, str(shard)), mark) < limit:
        report = FoldReport()

        def tell(_done: TableFold) -> None:
            work.tell(report.total["rows"], None, "rows folded")

        parts = (work.stores, work.engine.logs, work.engine.tables, work.engine.clock)
        await fold_shard(*parts, shard, report=report, progress=tell)
        name = f"{entry.namespace}.{entry.name}"
        counts, error = report.by_table.get(name, counts), report.errors.get(name)
        if error is not None:
            raise error
        snapshot = await work.load(entry)
    await adopt(work, entry, snapshot)
    return Folded(snapshot, limit, counts["records"], counts["rows"])


async def groups(work: Work, snapshot: Snapshot, candidates: np.ndarray | None = None) -> AsyncIterator[Group]:
    """Yield the live rows of the files, some at a time.

    Parameters
    ----------
    candidates : bool[n], which files to look at; None: all
    """
    plain_schema = pa.schema([plain(each).with_nullable(True) for each in snapshot.schema])
    parts: list[pa.RecordBatch] = []
    files: list[tuple[int, int, int]] = []
    n_rows = n_bytes = n_groups = 0
    indexes = range(len(snapshot.files)) if candidates is None else np.flatnonzero(candidates).tolist()
    for n_done, index in enumerate(indexes):
        work.tell(n_done, len(indexes), "files read")
        start = n_rows
        async for batch in live_rows(work.stores, snapshot, int(index)):
            parts.append(pa.RecordBatch.from_arrays(batch.columns, schema=plain_schema))
            n_rows += batch.num_rows
            n_bytes += batch.nbytes
        files.append((int(index), start, n_rows - start))
        if n_bytes >= GROUP_BYTES:
            yield _group(parts, plain_schema, files)
            parts, files, n_rows, n_bytes = [], [], 0, 0
            n_groups += 1
    if files or not n_groups:
        # Without any row the statement is planned all the same, so that what is wrong with it is said.
        yield _group(parts, plain_schema, files)


def _group(parts: list[pa.RecordBatch], schema: pa.Schema, files: list[tuple[int, int, int]]) -> Group:
    rows = pa.Table.from_batches(parts, schema)
    return Group(rows.append_column(ROW, pa.array(np.arange(rows.num_rows))), tuple(files))


async def commit_rows(work: Work, entry: TableEntry, snapshot: Snapshot, changes: Changes, operation: str) -> None:
    """Write the files anew and commit; nothing if nothing changed."""
    assert entry.managed is not None
    new = pa.concat_tables(changes.rows) if changes.rows else None
    if not changes.dropped and (new is None or not new.num_rows):
        return
    if new is not None:
        check_partition_values(entry, new)
    change = await rewrite_rows(
        work.stores,
        work.engine.clock,
        snapshot,
        entry.managed.spec,
        changes.dropped,
        new,
        operation=operation,
        facts=work.facts,
        progress=lambda n_done, n_total: work.tell(n_done, n_total, "files written anew"),
    )
    await commit(work, entry, snapshot, change)


async def _candidates(work: Work, statement: Update | Delete, snapshot: Snapshot) -> np.ndarray | None:
    """Return which files may hold rows that the statement means."""
    if statement.where is None or len(snapshot.files) <= 1:
        return None
    text = select_target(work, statement, snapshot.schema, [], quoted(*statement.table))
    return await wanted_files(work, text, statement.table, snapshot)


async def update_files(work: Work, entry: TableEntry, statement: Update) -> Outcome:
    """Run an UPDATE by writing files anew."""
    assert entry.managed is not None
    schema = entry.managed.spec.schema
    base = await folded(work, entry)
    if await committed_before(work, entry):
        return repeated(entry)
    changes, count = Changes(), 0
    text = select_target(work, statement, schema, schema.names, TARGET, ROW)
    async for group in groups(work, base.snapshot, await _candidates(work, statement, base.snapshot)):
        found = await answer(work, text, tables={TARGET: group.rows})
        await base.check_read(work, entry, found)
        numbers = found.rows.column(ROW).to_numpy()
        unique = np.unique(numbers)
        if len(unique) != len(numbers):
            raise InvalidError("a row of the table meets several rows of FROM; make the join give one")
        changes.drop(group, unique)
        changes.rows.append(updated_rows(found.rows, schema, statement.assignments))
        count += len(unique)
    await commit_rows(work, entry, base.snapshot, changes, "update")
    return Outcome(f"updated {count} row{'s' * (count != 1)} of {entry.namespace}.{entry.name}", count)


async def delete_files(work: Work, entry: TableEntry, statement: Delete) -> Outcome:
    """Run a DELETE by writing files anew."""
    base = await folded(work, entry)
    if await committed_before(work, entry):
        return repeated(entry)
    changes, count = Changes(), 0
    text = select_target(work, statement, base.snapshot.schema, [], TARGET, ROW)
    async for group in groups(work, base.snapshot, await _candidates(work, statement, base.snapshot)):
        found = await answer(work, text, tables={TARGET: group.rows})
        await base.check_read(work, entry, found)
        gone = np.unique(found.rows.column(ROW).to_numpy())
        changes.drop(group, gone)
        count += len(gone)
    await commit_rows(work, entry, base.snapshot, changes, "delete")
    return Outcome(f"deleted {count} row{'s' * (count != 1)} from {entry.namespace}.{entry.name}", count)
