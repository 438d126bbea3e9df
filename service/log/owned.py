"""A log whose writer runs in this process."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from catalog.log_lease import LogLease
from functions import tracing
from service.log.append_steps import AppendSteps
from service.log.observe import LogObserver
from service.log.place import LogPlace
from service.log.touched import KeySet, TouchedKeys
from storage.clock import Clock
from storage.errors import FencedError, FirnlineError
from storage.log import AckMode, LogRecord, Position, Receipt, Record, RecordKind
from storage.log.access import LogRange, Touched
from storage.log.queue import Waiting
from storage.log.reader import replay_entries
from storage.log.records import decode_record
from storage.log.tail import Entry, cut_entry
from storage.log.writer import LogWriter

__all__ = ["EntryRange", "OwnedLog", "OwnedRules", "decode_range"]

_DECODE_HERE_BYTES = 256 << 10
_SORT_HERE_KEYS = 50_000
_AGE_STEP_S, _AGE_STEPS_MAX = 1.0, 4096


@dataclass(frozen=True)
class EntryRange:
    """A `LogRange` whose records are encoded."""

    start: int
    limit: int
    entries: Sequence[Entry]
    epoch: int
    more: bool = False


async def decode_range(found: EntryRange, where: str) -> LogRange:
    """Return the range with its records decoded. Raises `CorruptError` naming ``where``."""
    n_bytes = sum(entry.n_bytes for entry in found.entries)
    decode = partial(_decode, found.entries, where)
    records = await asyncio.to_thread(decode) if n_bytes > _DECODE_HERE_BYTES else decode()
    return LogRange(found.start, found.limit, records, found.epoch, found.more)


def _decode(entries: Sequence[Entry], where: str) -> list[LogRecord]:
    return [
        LogRecord(Position(entry.first.epoch, entry.first.sequence + index), decode_record(data, where))
        for entry in entries
        for index, data in enumerate(entry.records)
    ]


@dataclass(frozen=True)
class OwnedRules:
    """What an owner is told: the mode of an append that does not say, the clock, and who counts."""

    ack: AckMode | None
    clock: Clock
    observer: LogObserver


class OwnedLog:
    """Appends and reads of one epoch; a `storage.log.access.Log` until it raises `FencedError`, and never after.

    A `FencedError` means that nothing was stored: claim the log anew and append again.
    """

    def __init__(self, place: LogPlace, shard: int, lease: LogLease, writer: LogWriter, rules: OwnedRules) -> None:
        self._blobs = place.blobs
        self._prefix = place.log(shard)
        self._shard = shard
        self.lease = lease
        self.writer = writer
        self._rules = rules
        self.folded = 0
        self._touched = TouchedKeys(lease.epoch, writer.next_position.sequence)
        self.n_appending = 0
        self._begun: deque[tuple[int, float]] = deque([(0, rules.clock.monotonic_s())])
        writer.on_batch = self._on_batch

    def _on_batch(self, n_appends: int, n_records: int, n_bytes: int) -> None:
        self._rules.observer.committed(self._shard, n_appends, n_records, n_bytes)
        now_s = self._rules.clock.monotonic_s()
        if now_s - self._begun[-1][1] >= _AGE_STEP_S:
            self._begun.append((self.writer.next_position.sequence, now_s))
            if len(self._begun) > _AGE_STEPS_MAX:
                # Every other one: ages become coarser, never younger.
                self._begun = deque([*self._begun][::2])

    def unfolded_age_s(self) -> float:
        """How long the oldest record that is in no table has waited, to a second, since this process owns the log."""
        if self.folded >= self.writer.next_position.sequence:
            self._begun = deque([(self.folded, self._rules.clock.monotonic_s())])
            return 0.0
        while len(self._begun) > 1 and self._begun[1][0] <= self.folded:
            self._begun.popleft()
        return self._rules.clock.monotonic_s() - self._begun[0][1]

    @property
    def epoch(self) -> int:
        """Of its lease."""
        return self.lease.epoch

    @property
    def running(self) -> bool:
        """False once every call raises `FencedError`."""
        return self.writer.running and self.lease.held()

    async def append(
        self, records: Sequence[Record], *, ack: AckMode | None = None, touched: Touched | None = None
    ) -> Receipt:
        """See `storage.log.access.Log.append`."""
        return await self.append_encoded(records, None, ack=ack, touched=touched)

    async def append_encoded(
        self,
        records: Sequence[Record],
        encoded: list[bytes] | None,
        *,
        ack: AckMode | None = None,
        touched: Touched | None = None,
    ) -> Receipt:
        """Append records that are encoded already; the bodies of ``records`` are not looked at then."""
        started_s = self._rules.clock.monotonic_s()
        outcome = "abandoned"
        self.n_appending += 1
        try:
            about = {"firnline.shard": self._shard, "firnline.records": len(records)}
            with tracing.span("log append", about) as span:
                receipt = await self._append(records, encoded, ack, touched)
                span.set({"firnline.ack": receipt.ack.value, "firnline.position": receipt.position.sequence})
            outcome = "acknowledged"
            return receipt
        except FirnlineError as error:
            outcome = type(error).__name__
            raise
        finally:
            self.n_appending -= 1
            self._rules.observer.appended(self._shard, outcome, self._rules.clock.monotonic_s() - started_s)

    async def _append(
        self, records: Sequence[Record], encoded: list[bytes] | None, ack: AckMode | None, touched: Touched | None
    ) -> Receipt:
        self._check()
        steps = AppendSteps()
        keys = await _key_set(records, touched)
        since = touched.since if touched is not None else None

        def admit(waiting: Waiting) -> None:
            steps.watch(waiting)
            if keys is None:
                return
            if since is not None:
                self._touched.check(records[0].table_id, keys, since)
            self._touched.add(records[0].table_id, keys, waiting)

        mode = ack or self._rules.ack
        with steps:
            done = await self.writer.append_unconfirmed(records, ack=mode, encoded=encoded, admit=admit)
            return await asyncio.shield(done)

    async def find(self, table_id: str, idempotency_key: str) -> Receipt | None:
        """See `storage.log.access.Log.find`."""
        self._check()
        return await self.writer.find(table_id, idempotency_key)

    async def read(self, start: int, *, bytes_max: int = 0) -> LogRange:
        """See `storage.log.access.Log.read`."""
        return await decode_range(await self.read_entries(start, bytes_max=bytes_max), self._prefix)

    async def read_entries(self, start: int, *, bytes_max: int = 0) -> EntryRange:
        """`read` with encoded records; what the writer has in memory costs no request."""
        self._check()
        held = self.writer.tail().entries()
        limit = self.writer.next_position.sequence
        if start >= limit:
            return EntryRange(start, start, [], self.epoch)
        if held and start >= held[0].first.sequence:
            found = _within([cut_entry(each, start) for each in held if each.limit > start], bytes_max)
        else:
            found = []
            n_bytes = 0
            replayed = replay_entries(self._blobs, self._prefix, Position(0, start), tail=self.writer.tail())
            async with contextlib.aclosing(replayed) as entries:  # type: ignore[type-var]
                async for entry in entries:
                    if found and bytes_max and n_bytes + entry.n_bytes > bytes_max:
                        break
                    found.append(entry)
                    n_bytes += entry.n_bytes
        # Whoever owns the log now may have acknowledged what we have not heard of.
        self._check()
        end = found[-1].limit if found else start
        return EntryRange(start, end, found, self.epoch, end < limit)

    async def flush(self) -> int:
        """See `storage.log.access.Log.flush`."""
        self._check()
        limit = self.writer.next_position.sequence
        await self.writer.flush(limit)
        return limit

    def mark_folded(self, sequence: int) -> None:
        """Every record before ``sequence`` is in its table."""
        self.folded = max(self.folded, sequence)
        self.writer.mark_folded(Position(self.epoch, sequence))

    async def close(self) -> None:
        """Store what was accepted, then release the lease."""
        try:
            await self.writer.close()
        finally:
            await self.lease.release()

    def _check(self) -> None:
        if not self.lease.held():
            raise FencedError("the lease of this log ran out; claim it anew", epoch=self.epoch)
        if not self.writer.running:
            raise FencedError("this writer has stopped; open the log anew", epoch=self.epoch)


def _within(entries: list[Entry], bytes_max: int) -> list[Entry]:
    """The first entries, at least one, of at most ``bytes_max`` together."""
    if not bytes_max:
        return entries
    n_bytes = 0
    for index, entry in enumerate(entries):
        n_bytes += entry.n_bytes
        if index and n_bytes > bytes_max:
            return entries[:index]
    return entries


async def _key_set(records: Sequence[Record], touched: Touched | None) -> KeySet | None:
    """The keys that an append writes; None if its table has none."""
    if touched is not None:
        if len(touched.keys) > _SORT_HERE_KEYS:
            return await asyncio.to_thread(KeySet, touched.keys)
        return KeySet(touched.keys)
    # Whoever does not say which rows it writes may write any.
    return KeySet(None) if any(record.kind is not RecordKind.APPEND for record in records) else None
