"""A record that says that all rows of a table with a primary key change at once, by a commit and not by the log.

It is a deletion of no rows, and touches every key: a statement that read before it and writes after it begins anew. The
commit moves the table's watermark past it, so a fold that began before the commit is refused, as its rows were compared
with others.
"""

from __future__ import annotations

import pyarrow as pa

from catalog.tables import TableEntry
from functions.append import bare_schema
from storage.errors import IndeterminateError, UnavailableError
from storage.log import Record, RecordKind
from storage.log.access import Log, LogRange

__all__ = ["append_barrier", "has_records"]


async def append_barrier(log: Log, entry: TableEntry) -> int:
    """Append the record, wait until it is in the object store, and return its sequence.

    Raises `UnavailableError` and what `storage.log.access.Log.append` raises; no row is changed in any case.
    """
    assert entry.managed is not None
    spec = entry.managed.spec
    bare = bare_schema(spec.schema)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, pa.schema([bare.field(name) for name in spec.primary_key])):
        pass
    record = Record(entry.id, spec.schema_id, RecordKind.DELETE, sink.getvalue().to_pybytes())
    try:
        # Without `Touched` it may write any row of the table.
        receipt = await log.append([record])
    except IndeterminateError as error:
        raise UnavailableError("the log did not answer; nothing was changed", reason=str(error)) from error
    await log.flush()
    return receipt.position.sequence


def has_records(found: LogRange, entry: TableEntry, before: int) -> bool:
    """Tell whether the range has records of the table before a sequence."""
    return any(each.record.table_id == entry.id and each.position.sequence < before for each in found.records)
