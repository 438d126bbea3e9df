"""INSERT OVERWRITE and TRUNCATE: all rows that there were go, those in the log too, in one commit."""

from __future__ import annotations

import pyarrow as pa

from catalog.tables import TableEntry
from functions.barrier import append_barrier, has_records
from service.write.bulk import commit, new_files
from service.write.context import Outcome, Work
from service.write.keys import check_unique
from service.write.mutate import committed_before, done_before, repeated
from service.write.retry import LostError, retried
from service.write.statements import Truncate
from storage.errors import NotFoundError
from storage.tables.write import Change, Watermark

__all__ = ["overwrite", "truncate"]


async def overwrite(
    work: Work, entry: TableEntry, rows: pa.Table | None, since: tuple[int, int] | None, operation: str = "overwrite"
) -> Outcome:
    """Replace all rows that the table has by the given ones.

    Parameters
    ----------
    since : where the read of the table's log ended that ``rows`` come from; rows that were acknowledged later stay, or
        with a primary key let the statement begin anew

    Raises
    ------
    LostError : another writer was faster
    """
    assert entry.managed is not None
    spec, shard = entry.managed.spec, entry.managed.shard
    if rows is not None and spec.primary_key:
        check_unique(rows, spec.primary_key)
    snapshot = await work.load(entry)
    if await committed_before(work, entry):
        return repeated(entry)
    mark = work.writer(entry).watermark(snapshot, str(shard))
    limit = await _limit(work, entry, mark, since)
    files = await new_files(work, entry, snapshot, rows) if rows is not None else []
    watermark = Watermark(str(shard), mark, max(mark, limit))
    change = Change(operation, tuple(files), tuple(snapshot.files.paths), watermark=watermark, facts=work.facts)
    await commit(work, entry, snapshot, change)
    shown = f"{entry.namespace}.{entry.name}"
    if rows is None:
        return Outcome(f"truncated table {shown}")
    return Outcome(f"replaced the rows of {shown} by {rows.num_rows}", rows.num_rows)


async def _limit(work: Work, entry: TableEntry, mark: int, since: tuple[int, int] | None) -> int:
    """Return the sequence before which all that the table's log has of it is replaced too."""
    assert entry.managed is not None
    is_keyed = bool(entry.managed.spec.primary_key)
    log = await work.engine.logs.log(entry.managed.shard)
    limit = await append_barrier(log, entry) + 1 if is_keyed else await log.flush()
    if since is None:
        return limit
    epoch, read_limit = since
    if mark > read_limit:
        raise LostError("rows were folded into the table after the statement read it")
    try:
        later = await log.read(read_limit)
    except NotFoundError as error:
        raise LostError(error.message, **error.facts) from error
    if epoch not in (0, later.epoch):
        raise LostError("the log changed its writer while the statement read")
    if not is_keyed:
        return read_limit
    if has_records(later, entry, before=limit - 1):
        raise LostError("rows were written after the statement read them")
    return limit


async def truncate(work: Work, statement: Truncate) -> Outcome:
    """Remove all rows."""

    async def once() -> Outcome:
        entry = await work.managed(statement.table)
        if await done_before(work, entry):
            return repeated(entry)
        return await overwrite(work, entry, None, None, "truncate")

    return await retried(work, once)
