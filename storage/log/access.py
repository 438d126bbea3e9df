"""A log as statements see it, wherever its writer runs: `Log` is the contract, `Logs` finds the log of a shard.

1. ``append`` returns once the rows are durable, and every ``read`` that begins afterwards has them.
2. An append with `Touched.since` is refused with `ConflictError` if any of its keys was touched after the range that
   its statement read: of two statements that read a row and write it, one begins anew (snapshot isolation, first
   committer wins).
3. A read is of one *epoch*. Records that were read under another epoch may have other positions now, unless they are
   in the object store: whoever keeps records drops them when the epoch changes.
4. Records move into tables only from the object store (`flush` brings them there), never from a writer's memory or
   journal: those could get new positions after a crash.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from storage.log import AckMode, LogRecord, Receipt, Record

__all__ = ["Log", "LogRange", "Logs", "Marks", "Touched"]


@dataclass(frozen=True)
class Touched:
    """Which rows of a table with a primary key an append writes.

    keys : uint64[n], hashes of the rows' keys (`functions.keys.key_hashes`), in any order
    since : (epoch, limit) of the `LogRange` that the statement read; None: it read nothing that matters
    """

    keys: np.ndarray
    since: tuple[int, int] | None = None


@dataclass(frozen=True)
class LogRange:
    """The records of sequences [start, limit), in order.

    epoch : of the writer that told them; 0 if they were read from the object store alone
    more : the range was cut at ``bytes_max``; there are records from ``limit`` on
    """

    start: int
    limit: int
    records: Sequence[LogRecord]
    epoch: int
    more: bool = False


class Marks(dict[int, int]):
    """Shard → the sequence before which every record is in its table.

    quiet : shard → the sequence behind which nobody had been acknowledged anything when the marks were asked for;
        only of shards of which this process knows that without reading them
    """

    def __init__(self, folded: Mapping[int, int], quiet: Mapping[int, int]) -> None:
        super().__init__(folded)
        self.quiet = quiet


class Log(Protocol):
    """One shard of the lake's log."""

    async def append(
        self, records: Sequence[Record], *, ack: AckMode | None = None, touched: Touched | None = None
    ) -> Receipt:
        """Store the records, all or none; see `storage.log.writer.LogWriter.append` for what it raises.

        Also raises `ConflictError` (nothing was stored): see rule 2.
        """
        ...

    async def find(self, table_id: str, idempotency_key: str) -> Receipt | None:
        """Return the receipt of an append of this key, if it is still remembered."""
        ...

    async def read(self, start: int, *, bytes_max: int = 0) -> LogRange:
        """Return all acknowledged records from sequence ``start`` on; 0 for ``bytes_max`` means no bound.

        Raises `NotFoundError` if records from ``start`` on were swept: load the tables' newer snapshots and begin anew.
        """
        ...

    async def flush(self) -> int:
        """Return once all that was acknowledged before is in the object store, with the sequence after it."""
        ...


class Logs(Protocol):
    """The logs of one lake."""

    async def log(self, shard: int) -> Log:
        """Return the shard's log for reading and appending. Its appends raise `UnavailableError` where none runs."""
        ...

    async def stored(self, shard: int) -> Log:
        """Return the shard's log as the object store has it, for folding; it takes no appends."""
        ...

    async def folded(self) -> dict[int, int]:
        """Return shard → the sequence before which every record is in its table. Shards without records are missing.

        Ask *before* loading a snapshot: the snapshot then holds all of its records before that sequence.
        """
        ...

    async def set_folded(self, shard: int, sequence: int) -> None:
        """Raise the mark; a lower one changes nothing. Only after every table's commit up to there."""
        ...

    async def close(self) -> None:
        """Store what was accepted, and release what this process owns."""
        ...
