"""The write-ahead log: acknowledged rows before they are in a table. One writer, any number of readers, over `Blobs`.

A log is a chain of *slots*. A slot is a position: the epoch that may fill it, and the sequence of the record that comes
next. What is put into slot ``(e, s)`` decides which slot follows: a segment of n records is followed by ``(e, s + n)``,
a seal by epoch f > e is followed by ``(f, s)``. The chain begins at slot ``(0, 0)``, which the first writer seals.

1. A slot is filled once, by put-if-absent, and never changes. So there is one chain, and everyone reads the same.
2. A writer fills only the slot at the end of the chain, one at a time, and only a slot of its own epoch; before its
   first segment it seals the slot at the end. A writer whose slot was sealed learns it from the put, acknowledges
   nothing and stops. So nothing that a fenced writer puts after the seal is in the chain.
3. Sequences are dense: they count all records of the log, across epochs, from 0. Positions grow along the chain.
4. A slot that is missing while a later one exists is a gap, and a gap raises `CorruptError`.
5. An append is in one segment whole, or not in the log.
6. An append is acknowledged only once its bytes are where its ack mode says. What raised `UnavailableError` or
   `OverloadedError` is not in the log and never will be; what raised `IndeterminateError` may be.
7. An append whose idempotency key was stored within the window is not stored again; it gets the first one's position.
8. Sweeping moves the base (the first sequence that must be readable) before it deletes. Seals and the last slot that is
   filled are never deleted: they keep old writers out and hold the end of the chain.
9. What was acknowledged with ``fsync`` and not uploaded is in the journal. It is uploaded by the next writer that opens
   this journal: under its own positions if no one sealed the epoch in between, else under new ones.

The format is in ``storage/log/README.md``, the reasons in ``docs/design/006-log.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

__all__ = [
    "APPEND_RECORDS_MAX",
    "BODY_BYTES_MAX",
    "KEY_BYTES_MAX",
    "TABLE_ID_BYTES_MAX",
    "AckMode",
    "Lease",
    "LogRecord",
    "Position",
    "Receipt",
    "Record",
    "RecordKind",
]

BODY_BYTES_MAX = 64 << 20
KEY_BYTES_MAX = 256
TABLE_ID_BYTES_MAX = 256
APPEND_RECORDS_MAX = 1 << 16


class RecordKind(Enum):
    """What the rows of a record do to their table; the value is what is stored."""

    APPEND = 1
    UPSERT = 2
    DELETE = 3


class AckMode(Enum):
    """Where an acknowledged append is."""

    OBJECT = "object"
    """In the object store."""
    FSYNC = "fsync"
    """Fsynced on the log host's disk; in the object store soon after."""


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A slot or a record: the epoch that wrote it, and its sequence. Sequences alone are unique."""

    epoch: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Record:
    """Some rows for one table, as one Arrow IPC stream; the log does not look inside.

    Attributes
    ----------
    table_id : 1 to `TABLE_ID_BYTES_MAX` bytes of UTF-8
    schema_id : which of the table's schemas the body has, 0 to 2³²-1
    idempotency_key : 1 to `KEY_BYTES_MAX` bytes of UTF-8, or None
    body : at most `BODY_BYTES_MAX` bytes
    """

    table_id: str
    schema_id: int
    kind: RecordKind
    body: bytes
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class LogRecord:
    """A record and where it is."""

    position: Position
    record: Record


@dataclass(frozen=True, slots=True)
class Receipt:
    """An acknowledged append: its first record's position, how many records it has, and where they are."""

    position: Position
    n_records: int
    ack: AckMode


class Lease(Protocol):
    """Ownership of one log, as the catalog grants it."""

    @property
    def epoch(self) -> int:
        """From 1, greater than that of every earlier lease of this log, and never granted twice."""
        ...

    def held(self) -> bool:
        """False once another may own the log. Looks at the clock only, and never waits.

        Safety does not depend on it (rules 1 and 2); it bounds how long a fenced writer goes on acknowledging
        to its own disk.
        """
        ...
