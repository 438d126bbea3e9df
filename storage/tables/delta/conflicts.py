"""Is a change still true on a newer version of the table? Rule 2 of `storage.tables.write`.

The newer version may be the work of any Delta writer. What it may not have touched: the protocol, the schema, the
watermark, and the files that the change replaces, their deletion vectors included. What it may have done: add rows
(snapshot isolation: the change is of the rows it read), replace other files, set properties.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from storage.errors import ConflictError
from storage.tables.delta.replay import TableState
from storage.tables.delta.write_actions import app_id, removed_keys
from storage.tables.write import Change

__all__ = ["check_still_true"]


def check_still_true(table: str, base: TableState, newest: TableState, change: Change) -> None:
    """Return if ``change``, computed from ``base``, can be committed on ``newest``. Raises `ConflictError`."""
    _check_watermark(table, newest, change)
    _check_added(table, newest, change)
    if newest is base:
        return
    if newest.metadata.table_id != base.metadata.table_id:
        raise ConflictError("another delta table was made in this one's place", table=table)
    if newest.protocol != base.protocol:
        raise _moved("the table's protocol", table, base, newest)
    before, now = base.metadata, newest.metadata
    if (now.schema_json, now.partition_columns) != (before.schema_json, before.partition_columns):
        raise _moved("the table's schema", table, base, newest)
    if change.spec is not None and now != before:
        raise _moved("the table's properties", table, base, newest)
    if change.remove and removed_keys(newest, change.remove).keys() != removed_keys(base, change.remove).keys():
        raise _moved("rows of a file that the change replaces", table, base, newest)


def _check_watermark(table: str, newest: TableState, change: Change) -> None:
    if change.watermark is None:
        return
    found = newest.transactions.get(app_id(change.watermark.log), 0)
    if found != change.watermark.expected:
        raise ConflictError(
            "the table holds other records of the log than the change was computed from; begin anew",
            table=table,
            watermark=found,
            expected=change.watermark.expected,
        )


def _check_added(table: str, newest: TableState, change: Change) -> None:
    added = pa.array([file.location for file in change.add], pa.string())
    for batch in newest.batches if len(added) else ():
        locations = batch.columns.column("location")
        live = pc.is_in(locations, value_set=added)
        if pc.any(live).as_py():
            raise ConflictError(
                "a data file that the change adds is part of the table already",
                table=table,
                file=locations.filter(live)[0].as_py(),
            )


def _moved(what: str, table: str, base: TableState, newest: TableState) -> ConflictError:
    return ConflictError(
        f"{what} changed meanwhile; begin anew from the newer version",
        table=table,
        version=newest.version,
        computed_from=base.version,
    )
