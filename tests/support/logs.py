"""Builders for logs: a lease that is granted by the test, records, and what a log and its bucket hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from storage.blobs import Blobs
from storage.clock import Clock, SystemClock
from storage.log import Position, Record, RecordKind
from storage.log.reader import replay
from storage.log.settings import LogSettings
from storage.log.tail import Tail
from storage.log.writer import LogWriter, open_log

__all__ = ["FAST", "LOG", "TestLease", "bodies", "keys", "open_test_log", "record"]

LOG = "wal/0"
FAST = LogSettings(flush_interval_ms=0, retry_delay_ms=0, put_tries_max=6)


@dataclass
class TestLease:
    """A lease of ``epoch`` that is held until the test says otherwise."""

    __test__ = False
    epoch: int
    is_held: bool = True

    def held(self) -> bool:
        return self.is_held


def record(body: str | bytes, key: str | None = None, table: str = "t") -> Record:
    """A record whose body is told by its text; the log does not look inside."""
    return Record(table, 7, RecordKind.APPEND, body if isinstance(body, bytes) else body.encode(), key)


async def open_test_log(
    blobs: Blobs,
    epoch: int,
    journal: Path | None = None,
    *,
    settings: LogSettings = FAST,
    clock: Clock | None = None,
) -> LogWriter:
    """Open the log `LOG`."""
    return await open_log(blobs, LOG, TestLease(epoch), settings, clock or SystemClock(), journal)


async def bodies(blobs: Blobs, start: Position | None = None, tail: Tail | None = None) -> list[str]:
    """The bodies of the log in order, after a check that its positions are dense."""
    found = [item async for item in replay(blobs, LOG, start, tail=tail)]
    sequences = [item.position.sequence for item in found]
    assert sequences == list(range(sequences[0], sequences[0] + len(sequences))) if sequences else True
    assert [item.position for item in found] == sorted(item.position for item in found)
    return [item.record.body.decode() for item in found]


async def keys(blobs: Blobs) -> list[str]:
    """Every key of the bucket, shortened: ``s/<epoch>-<sequence>`` for a slot."""
    prefix = f"{LOG}/segments/"
    found = []
    async for meta in blobs.list():
        if meta.key.startswith(prefix):
            epoch, _, sequence = meta.key.removeprefix(prefix).partition("-")
            assert len(epoch) == len(sequence) == 20
            found.append(f"s/{int(epoch)}-{int(sequence)}")
        else:
            found.append(meta.key)
    return found
