"""Many rows at once: written as files and committed, past the log, where the order of things stays right."""

from __future__ import annotations

import hashlib

import pyarrow as pa

from catalog.tables import TableEntry
from functions.barrier import append_barrier, has_records
from functions.discard import discard as delete_files
from functions.layout import write_files
from functions.partition_values import check_partition_values
from functions.rewrite import format_of
from service.write.alter import adopt
from service.write.context import Work
from service.write.retry import LostError
from storage.errors import ConflictError, NotFoundError
from storage.tables.snapshot import Snapshot
from storage.tables.write import Change, DataFile, Watermark

__all__ = ["BULK_BYTES", "append_files", "commit", "new_files", "passed_watermark"]

BULK_BYTES = 32 << 20
"""Inserts of more Arrow bytes than this become files at once."""


async def append_files(work: Work, entry: TableEntry, rows: pa.Table) -> bool:
    """Add the rows to a table without a primary key, where order does not matter; False if it was done before.

    Two commits that only add are both true, so one with an idempotency key also moves a watermark of its own.
    """
    snapshot = await work.load(entry)
    watermark = None
    if work.key is not None:
        watermark = Watermark(f"once-{hashlib.sha256(work.key.encode()).hexdigest()[:24]}", 0, 1)
        if work.writer(entry).watermark(snapshot, watermark.log):
            work.committed()
            return False
    files = await new_files(work, entry, snapshot, rows)
    change = Change("insert", tuple(files), watermark=watermark, facts=work.facts)
    await commit(work, entry, snapshot, change)
    return True


async def new_files(work: Work, entry: TableEntry, snapshot: Snapshot, rows: pa.Table) -> list[DataFile]:
    """Write rows, fitted to the table, as files that belong to no table yet."""
    assert entry.managed is not None
    check_partition_values(entry, rows)
    await adopt(work, entry, snapshot)
    return await write_files(
        work.stores, work.engine.clock, snapshot.location, snapshot.schema, entry.managed.spec, rows,
        table_format=format_of(snapshot), progress=lambda n_done: work.tell(n_done, rows.num_rows, "rows written"),
    )  # fmt: skip


async def commit(work: Work, entry: TableEntry, base: Snapshot, change: Change, *, discard: bool = True) -> None:
    """Commit. Raises `LostError` if another writer was faster; the files, if they are new, are deleted then."""
    try:
        await work.writer(entry).commit(base, change)
    except ConflictError as error:
        if discard:
            await delete_files(work.stores, [file.location for file in change.add])
        raise LostError(error.message, **error.facts) from error
    work.committed()


async def passed_watermark(work: Work, entry: TableEntry, base: Snapshot, limit: int) -> Watermark:
    """Return the watermark of a commit that replaces rows of ``base``, which holds all records before ``limit``.

    It makes the change untrue once other records are folded. With a primary key it also makes folds untrue that began
    before the commit. Raises `LostError` if rows were written meanwhile that the commit would pass.
    """
    assert entry.managed is not None
    log = str(entry.managed.shard)
    mark = work.writer(entry).watermark(base, log)
    if not entry.managed.spec.primary_key:
        return Watermark(log, mark, mark)
    access = await work.engine.logs.log(entry.managed.shard)
    barrier = await append_barrier(access, entry)
    try:
        later = await access.read(limit)
    except NotFoundError as error:
        raise LostError(error.message, **error.facts) from error
    if has_records(later, entry, before=barrier):
        raise LostError("rows were written meanwhile")
    return Watermark(log, mark, max(mark, barrier + 1))
