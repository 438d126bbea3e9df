"""A table's snapshot and its tail as one table: the scan without the keys that the tail touched, and the tail's rows.

Filters and projections pass through both, so files are still pruned by row group and page. The tail is registered with
the engine once for each of its states, without a copy.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
from datafusion.catalog import Table

from functions.literals import identifier
from functions.records import plain
from functions.scan import TableScan
from functions.session import SCANS, Session
from functions.tail import TableTail

__all__ = ["TailScanCache", "with_tail"]

ENTRIES_MAX = 64


@dataclass(frozen=True)
class _Made:
    """A tail's rows and keys as the engine's tables, and the last scan that they were put on."""

    state: object
    rows: Table | None
    keys: Table | None
    base: TableScan | None = None
    scan: TableScan | None = None


class TailScanCache:
    """What was made of the tails of the most recently used tables."""

    def __init__(self, entries_max: int = ENTRIES_MAX) -> None:
        self._entries_max = entries_max
        self._made: OrderedDict[str, _Made] = OrderedDict()

    def get(self, location: str, tail: TableTail) -> _Made | None:
        found = self._made.get(location)
        return found if found is not None and found.state is tail.state else None

    def put(self, location: str, made: _Made) -> None:
        self._made[location] = made
        self._made.move_to_end(location)
        while len(self._made) > self._entries_max:
            self._made.popitem(last=False)


async def with_tail(
    session: Session, scan: TableScan, tail: TableTail, key: Sequence[str], cache: TailScanCache
) -> TableScan:
    """Return the scan with the tail of its table.

    Parameters
    ----------
    key : columns of the primary key, as the snapshot names them
    """
    if tail.is_empty:
        return replace(scan, tail=tail)
    location = scan.snapshot.location
    made = cache.get(location, tail)
    if made is not None and made.base is scan and made.scan is not None:
        return replace(made.scan, tail=tail)
    made = await session.in_planner(_make, session, scan, tail, key, made)
    cache.put(location, made)
    assert made.scan is not None
    return made.scan


def _make(session: Session, scan: TableScan, tail: TableTail, key: Sequence[str], made: _Made | None) -> _Made:
    if made is None:
        rows = session.memory_table(tail.batches) if tail.batches else None
        made = _Made(tail.state, rows, session.memory_table(tail.keys) if tail.keys else None)
    table = _united(session, scan, key, made)
    return replace(made, base=scan, scan=replace(scan, table=table, tail=tail))


def _united(session: Session, scan: TableScan, key: Sequence[str], made: _Made) -> Table:
    if not scan.n_scanned:
        return scan.table if made.rows is None else made.rows
    schema = scan.snapshot.schema
    columns = [identifier(name) for name in schema.names]
    tables = {"base": scan.table}
    text = f"SELECT {', '.join('t.' + name for name in columns)} FROM {SCANS}.base AS t"
    if made.keys is not None:
        tables["keys"] = made.keys
        # The keys come first, so that they are what is held in memory when the engine has no statistics.
        equal = " AND ".join(_equal(plain(schema.field(name))) for name in key)
        selected = ", ".join("t." + name for name in columns)
        text = f"SELECT {selected} FROM {SCANS}.keys AS k RIGHT ANTI JOIN {SCANS}.base AS t ON {equal}"
    if made.rows is not None:
        tables["rows"] = made.rows
        text += f" UNION ALL SELECT {', '.join(columns)} FROM {SCANS}.rows"
    return session.view(text, tables)


def _equal(field: pa.Field) -> str:
    name = identifier(field.name)
    if pa.types.is_floating(field.type):
        # -0.0 equals 0.0, but has another hash; the keys have no -0.0 (`functions.keys.key_columns`).
        return f"t.{name} + CAST(0 AS {'REAL' if field.type == pa.float32() else 'DOUBLE'}) = k.{name}"
    return f"t.{name} = k.{name}"
