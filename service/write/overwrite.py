"""INSERT OVERWRITE and TRUNCATE: all rows that there were go, those in the log too, in one commit."""

from __future__ import annotations

import pyarrow as pa

from catalog.tables import TableEntry
from service.write.bulk import commit, new_files
from service.write.context import Outcome, Work
from service.write.keys import check_unique
from service.write.mutate import committed_before, done_before, repeated
from service.write.retry import LostError, retried
from service.write.statements import Truncate
from storage.tables.write import Change, Watermark

__all__ = ["overwrite", "truncate"]


async def overwrite(
    work: Work, entry: TableEntry, rows: pa.Table | None, since: tuple[int, int] | None, operation: str = "overwrite"
) -> Outcome:
    """Replace all rows that the table has by the given ones.

    Parameters
    ----------
    since : where the read of the table's log ended that ``rows`` come from; rows that were acknowledged later stay

    Raises
    ------
    LostError : another writer was faster
    """
    assert entry.managed is not None
    spec, shard = entry.managed.spec, entry.managed.shard
    if rows is not None and spec.primary_key:
        check_unique(rows, spec.primary_key)
    log = await work.engine.logs.log(shard)
    limit = await log.flush()
    if since is not None:
        epoch = (await log.read(limit)).epoch
        if epoch != since[0]:
            raise LostError("the log changed its writer while the statement read")
        limit = since[1]
    snapshot = await work.load(entry)
    if await committed_before(work, entry):
        return repeated(entry)
    mark = work.writer(entry).watermark(snapshot, str(shard))
    files = await new_files(work, entry, snapshot, rows) if rows is not None else []
    watermark = Watermark(str(shard), mark, max(mark, limit))
    change = Change(operation, tuple(files), tuple(snapshot.files.paths), watermark=watermark, facts=work.facts)
    await commit(work, entry, snapshot, change)
    shown = f"{entry.namespace}.{entry.name}"
    if rows is None:
        return Outcome(f"truncated table {shown}")
    return Outcome(f"replaced the rows of {shown} by {rows.num_rows}", rows.num_rows)


async def truncate(work: Work, statement: Truncate) -> Outcome:
    """Remove all rows."""

    async def once() -> Outcome:
        entry = await work.managed(statement.table)
        if await done_before(work, entry):
            return repeated(entry)
        return await overwrite(work, entry, None, None, "truncate")

    return await retried(work, once)
