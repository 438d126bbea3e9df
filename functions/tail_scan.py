"""A table's snapshot and its tail as one table: the scan without the keys that the tail touched, and the tail's rows.

Only files that may hold one of these keys are joined with them (`functions.tail_files`). Filters and projections pass
through all parts, so files are still pruned by row group and page. The tail is registered with the engine once for each
of its states, without a copy.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from datafusion.catalog import Table

from functions.literals import identifier
from functions.records import plain
from functions.scan import TableScan
from functions.session import SCANS, Session
from functions.tail import TableTail
from functions.tail_files import KeyValues, key_values, may_hold
from storage.tables.snapshot import Snapshot

__all__ = ["TailScanCache", "with_tail"]

ENTRIES_MAX = 64


Scan = Callable[[np.ndarray], Awaitable[TableScan]]
"""Makes a scan of the files where a mask (bool[n_files]) holds."""


@dataclass(frozen=True)
class _Made:
    """A tail's rows and keys as the engine's tables, and the last scans that they were put on.

    values : id of a batch of keys → the batch and what pruning asks of it
    held : (etag of a snapshot, which of its files may hold the tail's keys)
    """

    state: object
    rows: Table | None
    keys: Table | None
    values: Mapping[int, tuple[pa.RecordBatch, KeyValues]]
    held: tuple[str, np.ndarray] = ("", np.empty(0, dtype=bool))
    bases: tuple[TableScan, ...] = ()
    scan: TableScan | None = None


class TailScanCache:
    """What was made of the tails of the most recently used tables."""

    def __init__(self, entries_max: int = ENTRIES_MAX) -> None:
        self._entries_max = entries_max
        self._made: OrderedDict[str, _Made] = OrderedDict()

    def get(self, location: str) -> _Made | None:
        return self._made.get(location)

    def put(self, location: str, made: _Made) -> None:
        self._made[location] = made
        self._made.move_to_end(location)
        while len(self._made) > self._entries_max:
            self._made.popitem(last=False)


async def with_tail(
    session: Session, snapshot: Snapshot, wanted: np.ndarray, tail: TableTail, key: Sequence[str], scan: Scan,
    cache: TailScanCache,
) -> TableScan:  # fmt: skip
    """Return the files of ``snapshot`` where ``wanted`` (bool[n_files]) holds, with the tail of its table.

    Parameters
    ----------
    key : columns of the primary key, as the snapshot names them
    """
    if tail.is_empty:
        return replace(await scan(wanted), tail=tail)
    made = cache.get(snapshot.location)
    if made is None or made.state is not tail.state:
        made = await session.in_planner(_make, session, tail, made.values if made else {})
    if made.held[0] != snapshot.etag or not snapshot.etag:
        held = may_hold(snapshot, [values for _batch, values in made.values.values()])
        made = replace(made, held=(snapshot.etag, held))
    held = made.held[1]
    # A scan without the tail's keys goes first, though it may have no file.
    bases = (await scan(wanted & held), await scan(wanted & ~held))
    if made.scan is None or any(old is not new for old, new in zip(made.bases, bases, strict=False)):
        table = await session.in_planner(_united, session, bases, key, made)
        made = replace(made, bases=bases, scan=_sum(bases, table))
    cache.put(snapshot.location, made)
    assert made.scan is not None
    return replace(made.scan, tail=tail)


def _make(session: Session, tail: TableTail, known: Mapping[int, tuple[pa.RecordBatch, KeyValues]]) -> _Made:
    values = {id(batch): known.get(id(batch)) or (batch, key_values(batch)) for batch in tail.keys or ()}
    rows = session.memory_table(tail.batches) if tail.batches else None
    return _Made(tail.state, rows, session.memory_table(tail.keys) if tail.keys else None, values)


def _sum(bases: tuple[TableScan, TableScan], table: Table) -> TableScan:
    first, second = bases
    reasons = dict(first.slow_reasons)
    for reason, n in second.slow_reasons.items():
        reasons[reason] = reasons.get(reason, 0) + n
    return replace(
        first, table=table, files=first.files + second.files, slow_reasons=reasons,
        n_native_scans=first.n_native_scans + second.n_native_scans, n_slow=first.n_slow + second.n_slow,
        here_only=first.here_only or second.here_only, merged=first.merged + second.merged,
    )  # fmt: skip


def _united(session: Session, bases: tuple[TableScan, TableScan], key: Sequence[str], made: _Made) -> Table:
    touched, untouched = bases
    schema = touched.snapshot.schema
    columns = [identifier(name) for name in schema.names]
    plain_columns = ", ".join(columns)
    tables: dict[str, Table] = {}
    selects = []
    if touched.n_scanned and made.keys is not None:
        tables |= {"touched": touched.table, "keys": made.keys}
        # The keys come first, so that they are what is held in memory when the engine has no statistics.
        equal = " AND ".join(_equal(plain(schema.field(name))) for name in key)
        selected = ", ".join("t." + name for name in columns)
        selects.append(f"SELECT {selected} FROM {SCANS}.keys AS k RIGHT ANTI JOIN {SCANS}.touched AS t ON {equal}")
    if untouched.n_scanned:
        tables["untouched"] = untouched.table
        selects.append(f"SELECT {plain_columns} FROM {SCANS}.untouched")
    if made.rows is not None:
        tables["rows"] = made.rows
        selects.append(f"SELECT {plain_columns} FROM {SCANS}.rows")
    if not selects:
        return touched.table
    if len(selects) == 1 and "keys" not in tables:
        return next(iter(tables.values()))
    return session.view(" UNION ALL ".join(selects), tables)


def _equal(field: pa.Field) -> str:
    name = identifier(field.name)
    if pa.types.is_floating(field.type):
        # -0.0 equals 0.0, but has another hash; the keys have no -0.0 (`functions.keys.key_columns`).
        return f"t.{name} + CAST(0 AS {'REAL' if field.type == pa.float32() else 'DOUBLE'}) = k.{name}"
    return f"t.{name} = k.{name}"
