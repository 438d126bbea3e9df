"""Statements that write: from a parsed statement to one row that says what was done.

A statement is atomic over its one table. Rows of a table with a primary key go through the log as upserts and deletes;
plain inserts go through it as appends; everything else is one commit of the table. A statement that lost a race begins
anew, a bounded number of times. ``docs/sql.md`` has them all.
"""

from __future__ import annotations

import pyarrow as pa

from service.parsed import Parsed
from service.progress import telling
from service.statement import Receipt, Statement
from service.write.context import Outcome, Work, WriteContext
from service.write.dispatch import dispatch
from service.write.explain import explain
from service.write.mutate import KEY_FACT
from service.write.parse import explained, parse_write
from service.write.retry import LostError
from service.write.statements import Write
from storage.errors import FirnlineError, ForbiddenError, SqlError

__all__ = ["WriteContext", "run_write"]


async def run_write(engine: WriteContext, parsed: Parsed, statement: Statement, receipt: Receipt) -> pa.Table:
    """Run a statement that writes; the answer is one row of ``status`` and ``rows_affected``.

    Raises
    ------
    SqlError
        it is malformed; with line and column
    ForbiddenError
        the role is reader
    ConflictError
        a primary key exists already, or other writers were faster again and again; nothing was written
    """
    if statement.role == "reader":
        raise ForbiddenError("a reader may not write; use a writer's or an admin's token", role=statement.role)
    write = parse_write(parsed)
    stores = engine.stores.scoped()
    work = Work(engine, parsed, statement, receipt, stores)
    if explained(parsed):
        return await explain(work, write)
    work.facts["statement_id"] = statement.statement_id
    if statement.idempotency_key is not None:
        work.facts[KEY_FACT] = statement.idempotency_key
    async with telling(engine.kv, engine.clock, statement.statement_id) as work.tell:
        outcome = await _dispatched(work, write)
    receipt.requests += stores.count.requests
    receipt.metadata_bytes += stores.count.bytes
    return pa.table({"status": [outcome.status], "rows_affected": pa.array([outcome.rows], pa.int64())})


async def _dispatched(work: Work, write: Write) -> Outcome:
    try:
        return await dispatch(work, write)
    except SqlError:
        if not await _adopted(work, write):
            raise
        return await dispatch(work, write)


async def _adopted(work: Work, write: Write) -> bool:
    """Tell whether the catalog lacked columns that the table has: an ALTER is on its way, or was killed on it."""
    from service.write.alter import adopt

    name = getattr(write, "table", None)
    if name is None:
        return False
    try:
        entry = await work.managed(name)
        await adopt(work, entry, await work.load(entry))
    except LostError:
        return True
    except FirnlineError:
        return False
    return False
