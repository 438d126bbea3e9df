"""Where a batch of appends goes before it is acknowledged: into a segment, or into the journal and then into segments.

Both keep the position of the next record and the tail; a batch that failed for certain takes no position.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from storage.errors import FencedError, IndeterminateError, UnavailableError
from storage.log import AckMode, Lease, Position
from storage.log.backlog import Backlog
from storage.log.journal import Journal
from storage.log.put import Slots
from storage.log.queue import Waiting, fail_all
from storage.log.segments import RECORDS_MAX, encode_segment
from storage.log.tail import Entry, Tail
from storage.log.window import Window

__all__ = ["JournalCommit", "ObjectCommit", "State"]


class State:
    """What a writer knows of its log.

    Attributes
    ----------
    slot : where the next segment goes; everything before is in the object store
    next : the position of the next record
    """

    def __init__(self, slots: Slots, lease: Lease, writer: int, slot: Position, window: Window, backlog: Backlog):
        self.slots = slots
        self.lease = lease
        self.writer = writer
        self.slot = slot
        self.next = slot
        self.window = window
        self.backlog = backlog
        self.tail = Tail(slots.settings.tail_bytes_max, slot.sequence)

    def entry_of(self, batch: list[Waiting]) -> Entry:
        """Give every append of the batch its position."""
        sequence = self.next.sequence
        for waiting in batch:
            waiting.position = Position(self.next.epoch, sequence)
            sequence += len(waiting.records)
        return Entry(self.next, [record for waiting in batch for record in waiting.records])

    def durable(self, entry: Entry) -> None:
        """The entry's positions are taken, and readers may see it."""
        self.next = Position(self.next.epoch, entry.limit)
        self.tail.add(entry)

    def check_lease(self, batch: list[Waiting], where: str) -> None:
        """Fail the batch and raise `FencedError` unless the log is still ours.

        An acknowledgement is given only while the lease is held: whoever sees in the catalog that nobody owns the log,
        and then reads all that is stored, has read all that was ever acknowledged in this epoch.
        """
        if not self.lease.held():
            fail_all(batch, IndeterminateError(f"the lease of the log ran out; {where}; look before you send it again"))
            raise FencedError("the lease ran out; claim the log anew", epoch=self.slot.epoch)

    def encode(self, records: list[bytes]) -> bytes:
        """The segment for the next slot."""
        return encode_segment(self.slot, records, created_ms=self.slots.clock.now_ms(), writer=self.writer)

    async def upload(self, data: bytes, limit: int, n_bytes: int) -> None:
        """Fill the next slot with the segment of all records below ``limit``. Raises as `Slots.fill` does."""
        await self.slots.fill(self.slot, data)
        self.slot = Position(self.slot.epoch, limit)
        self.tail.mark_stored(limit)
        self.backlog.dropped(n_bytes)
        self.backlog.stored(limit, len(data))


class Commit(Protocol):
    """One of the two ways."""

    async def commit(self, batch: list[Waiting]) -> None:
        """Acknowledge or fail every append of the batch; raises what must stop the writer."""
        ...


class ObjectCommit:
    """One put per batch; an acknowledged append is in the object store."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def commit(self, batch: list[Waiting]) -> None:
        """See `Commit`. A batch that the store certainly did not take fails, and the next one has its slot."""
        state = self._state
        entry = state.entry_of(batch)
        try:
            await state.upload(state.encode(entry.records), entry.limit, entry.n_bytes)
        except UnavailableError as error:
            state.backlog.dropped(entry.n_bytes)
            fail_all(batch, error)
            return
        state.durable(entry)
        state.check_lease(batch, "its rows are in the log")
        for waiting in batch:
            waiting.acknowledge(AckMode.OBJECT)


class JournalCommit:
    """One fsync per batch, then uploads of many batches together.

    `commit` and `upload_once` are called by one task each; the journal itself is used by one of them at a time.
    """

    def __init__(self, state: State, journal: Journal, restored: list[Entry]) -> None:
        self._state = state
        self._journal = journal
        self._using = asyncio.Lock()
        self._entries: deque[Entry] = deque(restored)
        self._waiting: deque[Waiting] = deque()
        self._sending: tuple[list[Entry], bytes] | None = None
        self.n_bytes = sum(entry.n_bytes for entry in restored)
        self.filled = asyncio.Event()
        if restored:
            self.filled.set()

    async def commit(self, batch: list[Waiting]) -> None:
        """See `Commit`. Appends that asked for ``object`` wait on, for their upload."""
        state = self._state
        entry = state.entry_of(batch)
        async with self._using:
            try:
                await asyncio.to_thread(self._journal.append, entry)
            except UnavailableError as error:
                state.backlog.dropped(entry.n_bytes)
                fail_all(batch, error)
                return
        self._waiting.extend(waiting for waiting in batch if waiting.ack is AckMode.OBJECT)
        state.check_lease(batch, "what is in the journal is kept for the next writer")
        state.durable(entry)
        self._entries.append(entry)
        self.n_bytes += entry.n_bytes
        self.filled.set()
        for waiting in batch:
            if waiting.ack is AckMode.FSYNC:
                waiting.acknowledge(AckMode.FSYNC)

    async def upload_once(self) -> None:
        """Upload a segment of the oldest entries.

        Raises `UnavailableError` or `IndeterminateError` if it should be tried again. After the latter the segment
        must stay what it was: only the same bytes tell our own put from another's.
        """
        taken, data = self._sending or self._next_segment()
        self._sending = (taken, data)
        try:
            await self._state.upload(data, taken[-1].limit, sum(entry.n_bytes for entry in taken))
        except UnavailableError:
            self._sending = None
            raise
        self._sending = None
        for entry in taken:
            self._entries.popleft()
            self.n_bytes -= entry.n_bytes
        if not self._entries:
            self.filled.clear()
        stored = taken[-1].limit
        uploaded = []
        while self._waiting and (position := self._waiting[0].position) and position.sequence < stored:
            uploaded.append(self._waiting.popleft())
        self._state.check_lease(uploaded, "its rows are in the log")
        for waiting in uploaded:
            waiting.acknowledge(AckMode.OBJECT)
        # Twice what must stay, so that a long backlog is not written again with each segment.
        if self._journal.n_bytes > max(self._state.slots.settings.journal_bytes_max, 2 * self.n_bytes):
            await self.shorten()

    def _next_segment(self) -> tuple[list[Entry], bytes]:
        """Whole entries, at least one and then as many as fit, and their segment."""
        taken: list[Entry] = []
        n_bytes = n_records = 0
        for entry in self._entries:
            n_bytes += entry.n_bytes
            n_records += len(entry.records)
            if taken and (n_bytes > self._state.slots.settings.segment_bytes_max or n_records > RECORDS_MAX):
                break
            taken.append(entry)
        return taken, self._state.encode([record for entry in taken for record in entry.records])

    async def shorten(self) -> None:
        """Write the journal anew without what is uploaded; with a full disk it stays as it is.

        If it is unknown which file the disk has, both are right, and the next append hears of it.
        """
        async with self._using:
            try:
                await asyncio.to_thread(self._journal.replace, list(self._entries))
            except (UnavailableError, IndeterminateError):
                return

    def fail_waiting(self, error: BaseException) -> None:
        """Fail the appends that wait for their upload: they are in the journal, so they may be in the log yet."""
        fail_all(list(self._waiting), error)
        self._waiting.clear()

    def close(self) -> None:
        """Close the file; what was not uploaded stays in it."""
        self._journal.close()
