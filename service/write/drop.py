"""DROP TABLE, of external and of managed tables."""

from __future__ import annotations

from catalog.indexes import Indexes
from service.write.context import Outcome, Work
from service.write.statements import DropTable
from storage.errors import InvalidError, NotFoundError

__all__ = ["drop_table"]


async def drop_table(work: Work, statement: DropTable) -> Outcome:
    """Forget a table; with PURGE, delete the files of one that CREATE TABLE made, which are then gone for good."""
    space, name = statement.table
    shown = f"{space}.{name}"
    try:
        entry = await work.engine.tables.get(space, name)
    except NotFoundError:
        if not statement.if_exists:
            raise
        return Outcome(f"there is no table {shown}")
    if statement.purge and entry.managed is None:
        raise InvalidError(
            "PURGE deletes the files of tables that CREATE TABLE made; this one is external", table=shown
        )
    await work.engine.tables.drop(space, name, if_exists=statement.if_exists)
    # A crash before this leaves indexes of no table, which a compaction pass removes.
    await Indexes(work.engine.kv, work.engine.clock).drop(entry.id)
    if not statement.purge:
        return Outcome(f"dropped table {shown}; its files are untouched")
    n_files = 0
    async for location, _meta in work.stores.list(entry.location.rstrip("/") + "/"):
        blobs, key = work.stores.resolve(location)
        await blobs.delete(key)
        n_files += 1
    return Outcome(f"dropped table {shown} and deleted its {n_files} files")
