"""Rows that a statement puts into its table's log; a race that it lost is told from other conflicts."""

from __future__ import annotations

import asyncio
import importlib

import pyarrow as pa

from catalog.tables import TableEntry
from functions.append import append_changes
from service.write.context import Outcome, Work
from service.write.retry import LostError
from storage.errors import ConflictError, TooLargeError
from storage.log import Receipt, RecordKind

__all__ = ["KEY_FACT", "committed_before", "done_before", "earliest", "put", "repeated"]

KEY_FACT = "idempotency_key"
"""Fact of a commit: the key of the statement that made it."""


async def put(
    work: Work, entry: TableEntry, parts: list[tuple[RecordKind, pa.Table]], since: tuple[int, int] | None
) -> Receipt | None:
    """Append the rows, all or none; None if there are none. Raises `LostError` if a row that was read has changed."""
    assert entry.managed is not None
    parts = [(kind, rows) for kind, rows in parts if rows.num_rows]
    if not parts:
        return None
    log = await work.engine.logs.log(entry.managed.shard)
    # A statement that is cancelled already ends here: what the log has accepted is not taken back.
    await asyncio.sleep(0)
    try:
        receipt = await append_changes(log, entry, parts, idempotency_key=work.key, since=since)
    except ConflictError as error:
        raise LostError(error.message, **error.facts) from error
    except TooLargeError as error:
        raise TooLargeError(
            "the statement writes more than the log takes at once; write the rows in parts", **error.facts
        ) from error
    work.acknowledged(receipt)
    return receipt


def earliest(first: tuple[int, int] | None, second: tuple[int, int] | None) -> tuple[int, int] | None:
    """Return where the older of two reads of a log ended. Raises `LostError` if its writer changed between them."""
    if first is None or second is None:
        return first or second
    if first[0] != second[0]:
        raise LostError("the log changed its writer while the statement read")
    return min(first, second)


async def done_before(work: Work, entry: TableEntry) -> bool:
    """Tell whether a statement of the same idempotency key is in the table's log already."""
    if work.key is None or entry.managed is None:
        return False
    log = await work.engine.logs.log(entry.managed.shard)
    receipt = await log.find(entry.id, work.key)
    if receipt is None:
        return False
    work.acknowledged(receipt)
    return True


async def committed_before(work: Work, entry: TableEntry) -> bool:
    """Tell whether a commit of the table has the statement's idempotency key.

    To be asked after the snapshot was loaded that a change is computed from: a commit of the same key that comes later
    makes that change untrue.
    """
    if work.key is None:
        return False
    module = importlib.import_module(f"storage.tables.{entry.format}.history")
    source = entry.location
    if entry.format == "iceberg":
        source = (await work.engine.tables.get(entry.namespace, entry.name)).source
    if await module.find_fact(work.stores, source, KEY_FACT, work.key) is None:
        return False
    work.committed()
    return True


def repeated(entry: TableEntry) -> Outcome:
    """Return what a statement says that took effect before, under the same idempotency key."""
    return Outcome(f"done before to {entry.namespace}.{entry.name}, under the same idempotency key")
