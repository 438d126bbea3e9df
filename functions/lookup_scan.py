"""A table of which an index finds some rows: these in memory, and a scan of the files that it does not cover."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
from datafusion.catalog import Table

from functions.literals import identifier
from functions.lookup import Found, LookupPlan, Memory, read
from functions.records import plain
from functions.scan import TableScan
from functions.session import SCANS, Session
from functions.tail import TableTail
from storage.stores import Stores

__all__ = ["untouched", "with_found", "with_plan"]

Scan = Callable[[np.ndarray], Awaitable[TableScan]]
"""Makes a scan of the files where a mask (bool[n_files]) holds, with the table's tail."""


async def untouched(rows: pa.Table, tail: TableTail | None, key: Sequence[str]) -> pa.Table:
    """Return those rows of the table's files whose primary key the tail neither writes nor deletes.

    Parameters
    ----------
    key : columns of the primary key; empty if the table has none
    """
    if tail is None or not tail.keys or not key or not rows.num_rows:
        return rows
    # Imported here: most tables have no tail, or no key.
    from functions.tail_index import find, prepare

    await prepare(tail, key)
    touched = find(tail, key, rows.select(list(key))).touched
    return rows.filter(pa.array(~touched)) if touched.any() else rows


async def with_plan(planned: LookupPlan, wanted: np.ndarray, scan: Scan) -> TableScan:
    """Return the scan that is left beside a look-up which is only explained; nothing is looked up."""
    base = await scan(wanted & ~planned.covered)
    return replace(base, files=base.files + _paths(planned, planned.files))


async def with_found(
    session: Session, stores: Stores, planned: LookupPlan, wanted: np.ndarray, tail: TableTail | None,
    key: Sequence[str], scan: Scan, memory: Memory,
) -> tuple[TableScan, Found]:  # fmt: skip
    """Return the table of the files where ``wanted`` holds, and what was found; raises as `functions.lookup.lookup`.

    Columns that were not asked for are NULL in the rows found.
    """
    found = await read(stores, planned, memory)
    covered = planned.covered.copy()
    covered[list(found.distrusted)] = False
    base = await scan(wanted & ~covered)
    rows = await untouched(found.rows, tail, key)
    files = base.files + _paths(planned, (each for each in planned.files if each not in found.distrusted))
    if not rows.num_rows:
        return replace(base, files=files), found
    schema = pa.schema([plain(each).with_nullable(True) for each in planned.snapshot.schema])
    batches = _whole(rows, schema).to_batches()
    alone = not base.n_scanned and (base.tail is None or not base.tail.batches)
    table = await session.in_planner(_table, session, batches, None if alone else base.table, schema.names)
    return replace(base, table=table, files=files), found


def _paths(planned: LookupPlan, indices: Iterable[int]) -> tuple[str, ...]:
    return tuple(planned.snapshot.files.paths[index] for index in indices)


def _whole(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    have = set(rows.column_names)
    columns = [rows.column(each.name) if each.name in have else pa.nulls(rows.num_rows, each.type) for each in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def _table(session: Session, batches: list[pa.RecordBatch], base: Table | None, names: Sequence[str]) -> Table:
    found = session.memory_table(batches)
    if base is None:
        return found
    columns = ", ".join(map(identifier, names))
    selects = f"SELECT {columns} FROM {SCANS}.found UNION ALL SELECT {columns} FROM {SCANS}.rest"
    return session.view(selects, {"found": found, "rest": base})
