"""The one writer of a log: appends become batches, batches become segments, and everyone in one is told together.

`open_log` claims a log for a lease and returns its `LogWriter`; leaving its ``async with`` stores what was accepted.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType

from storage.blobs import Blobs
from storage.clock import Clock
from storage.errors import (
    FencedError,
    FirnlineError,
    IndeterminateError,
    InvalidError,
    TooLargeError,
    UnavailableError,
)
from storage.log import APPEND_RECORDS_MAX, AckMode, Lease, LogRecord, Position, Receipt, Record, RecordKind
from storage.log.claim import claim_log
from storage.log.commit import JournalCommit, ObjectCommit, State
from storage.log.journal import Journal, lock_journal, read_journal
from storage.log.put import Slots
from storage.log.queue import Queue, Signal, Waiting, fail_all
from storage.log.records import decode_record, encode_record
from storage.log.settings import LogSettings
from storage.log.tail import Entry, Tail
from storage.log.window import appends_of

__all__ = ["LogWriter", "open_log"]

_ENCODE_HERE_BYTES = 64 << 10


async def open_log(
    blobs: Blobs,
    log: str,
    lease: Lease,
    settings: LogSettings,
    clock: Clock,
    journal_path: Path | None = None,
    *,
    name: str | None = None,
) -> LogWriter:
    """Claim the log under the prefix ``log`` and return its writer, running.

    The journal knows its log by ``name`` (None: the prefix), which should outlive a move of the bucket or folder.

    With ``journal_path`` appends are acknowledged by ``fsync`` of that file unless they ask for ``object``; without,
    only ``object`` is offered. What an earlier writer left in the journal is in the log, or in the new journal, when
    this returns. Raises `FencedError` (claim a newer lease), `ConflictError` (the journal is in use), `CorruptError`.
    """
    slots = Slots(blobs, log, clock, settings)
    nonce = int(clock.new_id()[:16], 16)
    if journal_path is None:
        claim = await claim_log(slots, lease.epoch, nonce, None)
        state = State(slots, lease, nonce, claim.slot, claim.window, claim.backlog)
        return LogWriter(state, None, None)
    lock = await asyncio.to_thread(lock_journal, journal_path)
    try:
        contents = await asyncio.to_thread(read_journal, journal_path, name or log)
        claim = await claim_log(slots, lease.epoch, nonce, contents)
        state = State(slots, lease, nonce, claim.slot, claim.window, claim.backlog)
        journal = Journal(journal_path, name or log, lease.epoch)
        restored = _restore(state, claim.stranded)
        await asyncio.to_thread(journal.replace, restored)
        return LogWriter(state, JournalCommit(state, journal, restored), lock)
    except BaseException:
        os.close(lock)
        raise


def _restore(state: State, stranded: list[list[bytes]]) -> list[Entry]:
    """Give stranded records new positions, and remember their keys."""
    entries = []
    now_ms = state.slots.clock.now_ms()
    for records in stranded:
        entry = Entry(state.next, records)
        state.backlog.queued(entry.n_bytes)
        state.durable(entry)
        entries.append(entry)
        positioned = [
            LogRecord(Position(entry.first.epoch, entry.first.sequence + index), decode_record(data, "journal"))
            for index, data in enumerate(records)
        ]
        for record, receipt in appends_of(positioned, AckMode.FSYNC):
            state.window.remember(record, receipt, now_ms)
    return entries


class LogWriter:
    """Appends to one log; see `open_log`. Used by the tasks of one event loop."""

    def __init__(self, state: State, journaled: JournalCommit | None, lock: int | None) -> None:
        self._state = state
        self._settings = state.slots.settings
        self._journaled = journaled
        self._lock = lock
        self._commit = journaled or ObjectCommit(state)
        self._queue = Queue()
        self._pending: dict[tuple[str, str], Waiting] = {}
        self._in_batch: list[Waiting] = []
        self._n_flushing = 0
        self._next_put_s = 0.0
        self._changed = Signal()
        self._closing = False
        self._error: BaseException | None = None
        self.on_batch: Callable[[int, int, int], None] | None = None
        """Is called with the number of appends, of records and of bytes of each group commit."""
        self._tasks = [asyncio.create_task(self._guard(self._commit_batches))]
        if journaled is not None:
            self._tasks.append(asyncio.create_task(self._guard(self._upload)))

    # Appending

    async def append(self, records: Sequence[Record], *, ack: AckMode | None = None) -> Receipt:
        """Store the records, all or none, and return once they are durable.

        They are of one table and have one idempotency key (or none has). ``ack`` None is the log's own mode.

        Raises
        ------
        InvalidError, TooLargeError : nothing was stored; mend the request
        OverloadedError : nothing was stored; retry after ``retry_after_s``
        UnavailableError : nothing was stored; retry
        FencedError : nothing was stored, and this writer has stopped
        IndeterminateError : may have been stored, and this writer has stopped; retry with the idempotency key
        """
        return await asyncio.shield(await self.append_unconfirmed(records, ack=ack))

    async def append_unconfirmed(
        self,
        records: Sequence[Record],
        *,
        ack: AckMode | None = None,
        encoded: list[bytes] | None = None,
        admit: Callable[[Waiting], None] | None = None,
    ) -> asyncio.Future[Receipt]:
        """Accept the records and return the future of their receipt; nothing is durable yet.

        ``encoded`` are the same records as `encode_record` has them; then the bodies of ``records`` are not looked at.
        ``admit`` is called as the last thing before they are accepted, and may raise; a retry of a known key is not
        asked for. Raises what `append` raises for a request that is not accepted; the future raises the rest.
        """
        mode = self._check(records, ack)
        if (known := self._find(records[0])) is not None:
            return known
        if encoded is None:
            encoded = await self._encode_all(records)
        n_bytes = sum(map(len, encoded))
        if n_bytes > self._settings.append_bytes_max:
            raise TooLargeError("append in parts", bytes=n_bytes, max=self._settings.append_bytes_max)
        self._check_open()
        # A retry may have come in while this one was encoded.
        if (known := self._find(records[0])) is not None:
            return known
        self._state.backlog.check(n_bytes)
        waiting = Waiting(records[0], encoded, n_bytes, mode, asyncio.get_running_loop().create_future())
        if admit is not None:
            admit(waiting)
        self._state.backlog.queued(n_bytes)
        self._expect(waiting)
        self._queue.add(waiting)
        self._changed.notify()
        return waiting.done

    def _check(self, records: Sequence[Record], ack: AckMode | None) -> AckMode:
        self._check_open()
        if not 0 < len(records) <= APPEND_RECORDS_MAX:
            raise InvalidError("an append has 1 to 65536 records", n_records=len(records))
        if len({(record.table_id, record.idempotency_key) for record in records}) > 1:
            raise InvalidError("the records of one append have one table and one idempotency key")
        if self._journaled is None and ack is AckMode.FSYNC:
            raise InvalidError("this log has no journal; use ack=object")
        return ack or (AckMode.OBJECT if self._journaled is None else AckMode.FSYNC)

    def _check_open(self) -> None:
        if self._error is not None:
            raise FencedError("this writer has stopped; open the log anew", reason=str(self._error))
        if self._closing:
            raise UnavailableError("the log is closing; retry")

    async def _encode_all(self, records: Sequence[Record]) -> list[bytes]:
        """Encoding is decided on its bytes: a small append is not worth a thread."""
        if sum(len(record.body) for record in records) > _ENCODE_HERE_BYTES:
            return await asyncio.to_thread(self._encode, records)
        return self._encode(records)

    def _encode(self, records: Sequence[Record]) -> list[bytes]:
        return [encode_record(record, self._settings.compression_level) for record in records]

    def _find(self, record: Record) -> asyncio.Future[Receipt] | None:
        """The future of an append of the same key, done or under way."""
        if record.idempotency_key is None:
            return None
        waiting = self._pending.get((record.table_id, record.idempotency_key))
        if waiting is not None:
            return waiting.done
        receipt = self._state.window.find(record, self._state.slots.clock.now_ms())
        if receipt is None:
            return None
        done: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        done.set_result(receipt)
        return done

    def _expect(self, waiting: Waiting) -> None:
        """Keep the key while the append is under way, and remember it once it is acknowledged."""
        record = waiting.first_record
        if record.idempotency_key is None:
            return
        key = (record.table_id, record.idempotency_key)
        self._pending[key] = waiting

        def settle(done: asyncio.Future[Receipt]) -> None:
            self._pending.pop(key, None)
            if not done.cancelled() and done.exception() is None:
                self._state.window.remember(record, done.result(), self._state.slots.clock.now_ms())

        waiting.done.add_done_callback(settle)

    async def find(self, table_id: str, idempotency_key: str) -> Receipt | None:
        """Return the receipt of an append of this key, once it is durable; None if none is remembered."""
        self._check_running()
        found = self._find(Record(table_id, 0, RecordKind.APPEND, b"", idempotency_key))
        return await asyncio.shield(found) if found is not None else None

    # Reading and folding

    def tail(self) -> Tail:
        """The newest acknowledged records; `storage.log.reader.replay` reads the rest from blobs.

        Raises `FencedError` once the writer has stopped: another one's records may have the same sequences by now.
        """
        self._check_running()
        return self._state.tail

    @property
    def running(self) -> bool:
        """False once it takes no more appends."""
        return self._error is None and not self._closing

    @property
    def next_position(self) -> Position:
        """The position after the last acknowledged record."""
        return self._state.next

    @property
    def unflushed_bytes(self) -> int:
        """Accepted and not in the object store."""
        return self._state.backlog.unflushed_bytes

    @property
    def unfolded_bytes(self) -> int:
        """In the object store and not folded."""
        return self._state.backlog.unfolded_bytes

    def mark_folded(self, before: Position) -> None:
        """Every record before this position is in its table: that much more may be appended."""
        self._state.backlog.folded(before.sequence)

    # Running

    async def _guard(self, run: Callable[[], Awaitable[None]]) -> None:
        try:
            await run()
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 — every waiter hears of it, and later appends too
            self._stop(error)

    def _stop(self, error: BaseException) -> None:
        """Fail everyone who waits: those not begun for certain, those begun with what is known of them."""
        if self._error is None:
            self._error = error
        begun = error
        if isinstance(error, Exception) and not isinstance(error, FirnlineError):
            begun = IndeterminateError("the log's writer failed; it is unknown what was stored", reason=str(error))
        journaled = begun
        if isinstance(error, FencedError):
            journaled = IndeterminateError("fenced; what is in the journal is kept for the next writer")
        fail_all(self._in_batch, begun if self._journaled is None else journaled)
        if self._journaled is not None:
            self._journaled.fail_waiting(journaled)
        not_begun: BaseException = FencedError("this writer has stopped; open the log anew", reason=str(error))
        if not isinstance(error, Exception):
            not_begun = error
        fail_all(self._queue.take(1 << 62), not_begun)
        self._changed.notify()

    async def _commit_batches(self) -> None:
        while self._error is None and not (self._closing and not self._queue.filled.is_set()):
            if not self._queue.filled.is_set():
                await self._changed.wait()
                continue
            if self._journaled is None:
                # The interval is from put to put: an append that comes after a pause need not wait for others.
                await asyncio.sleep(0)
                await self._gather_bytes(lambda: self._queue.n_bytes, self._next_put_s)
                self._next_put_s = self._in_interval_s()
            self._in_batch = self._queue.take(self._settings.segment_bytes_max)
            self._tell_batch()
            await self._commit.commit(self._in_batch)
            self._in_batch = []
            self._changed.notify()

    def _tell_batch(self) -> None:
        for waiting in self._in_batch:
            if waiting.taken is not None:
                waiting.taken()
        if self.on_batch is not None:
            batch = self._in_batch
            self.on_batch(len(batch), sum(len(each.records) for each in batch), sum(each.n_bytes for each in batch))

    async def _upload(self) -> None:
        journaled = self._journaled
        assert journaled is not None
        n_failed = 0
        while self._error is None and not (self._closing and self._tasks[0].done() and not journaled.filled.is_set()):
            if not journaled.filled.is_set():
                await self._changed.wait()
                continue
            await self._gather_bytes(lambda: journaled.n_bytes, self._in_interval_s())
            try:
                await journaled.upload_once()
            except (UnavailableError, IndeterminateError):
                n_failed += 1
                if self._closing and n_failed >= self._settings.put_tries_max:
                    return
                await self._state.slots.pause(n_failed)
            else:
                n_failed = 0
                self._changed.notify()

    @property
    def _hurried(self) -> bool:
        return self._closing or self._n_flushing > 0 or self._error is not None

    def _in_interval_s(self) -> float:
        return asyncio.get_running_loop().time() + self._settings.flush_interval_ms / 1000

    async def _gather_bytes(self, n_bytes: Callable[[], int], limit: float) -> None:
        """Wait until the loop's time ``limit``, or less if there is enough for a segment or someone is in a hurry."""
        loop = asyncio.get_running_loop()
        while n_bytes() < self._settings.segment_bytes_max and not self._hurried:
            left = limit - loop.time()
            if left <= 0:
                return
            await self._changed.wait(left)

    # Ending

    async def flush(self, before: int | None = None) -> None:
        """Return once all records before a sequence are in the object store; None: all that was ever accepted.

        With None it may wait for as long as others append. While the store does not answer, this waits.
        Raises `FencedError` when the writer has stopped.
        """
        self._n_flushing += 1
        try:
            while self._state.backlog.unflushed_bytes > 0 and (before is None or self._state.slot.sequence < before):
                self._check_running()
                self._changed.notify()
                await self._changed.wait()
            self._check_running()
        finally:
            self._n_flushing -= 1

    def _check_running(self) -> None:
        if self._error is not None:
            raise FencedError("this writer has stopped; open the log anew", reason=str(self._error))

    async def close(self) -> None:
        """Store what was accepted and stop; what the store does not take stays in the journal, and is no error."""
        self._closing = True
        # The uploader looks again once the last batch is in the journal.
        for task in self._tasks:
            self._changed.notify()
            await asyncio.shield(task)
        if self._journaled is not None and self._lock is not None:
            self._journaled.fail_waiting(IndeterminateError("the log closed; what is in the journal is uploaded later"))
            if self._error is None:
                await self._journaled.shorten()
            self._journaled.close()
            os.close(self._lock)
            self._lock = None

    async def __aenter__(self) -> LogWriter:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
