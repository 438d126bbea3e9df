"""How far a table holds the records of a log, as its own metadata says (`storage.tables.write`).

A Delta table tells it by the transaction of an application that is named after the log, an Iceberg table by a property:
a snapshot's summary would be lost with the snapshot, and an outside append makes a snapshot without it.
"""

from __future__ import annotations

from storage.errors import CorruptError
from storage.tables.snapshot import Snapshot

__all__ = ["delta_application", "iceberg_property", "watermark_of"]


def delta_application(log: str) -> str:
    """Return the ``appId`` of the log in a Delta table's ``txn`` actions."""
    return f"firnline-log-{log}"


def iceberg_property(log: str) -> str:
    """Return the name of the log's property of an Iceberg table."""
    return f"firnline.log.{log}"


def watermark_of(snapshot: Snapshot, log: str) -> int:
    """Return up to which sequence (exclusive) the snapshot holds the log's records of this table; 0: none.

    Raises `CorruptError` if what the table says is no number.
    """
    if snapshot.format == "delta":
        # By name: a process that reads no Delta table does not load its reader.
        transactions = getattr(getattr(snapshot, "state", None), "transactions", {})
        return int(transactions.get(delta_application(log), 0))
    text = snapshot.properties.get(iceberg_property(log), "0")
    if not text.isdecimal():
        raise CorruptError("the table's watermark is no number", table=snapshot.location, watermark=text)
    return int(text)
