"""Taking a log over: upload what the journal holds, seal the epoch at the end of the chain, and see what is there.

The order is what makes a crash harmless. First the journal's own epoch is completed under its own positions, if it is
still the last; then the end is sealed; then the journal is replaced by one of the new epoch, in one rename, that
holds what could not be uploaded any more under new positions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from storage.errors import CorruptError, FencedError
from storage.log import AckMode, LogRecord, Position
from storage.log.backlog import Backlog
from storage.log.chain import Listed, find_tail, list_slots, load_base, load_slot
from storage.log.journal import JournalContents
from storage.log.put import Slots
from storage.log.records import decode_record
from storage.log.segments import RECORDS_MAX, Segment, encode_seal, encode_segment, slot_key
from storage.log.tail import Entry
from storage.log.window import Window, appends_of

__all__ = ["Claim", "claim_log"]


@dataclass(frozen=True, slots=True)
class Claim:
    """A log that was taken over.

    Attributes
    ----------
    slot : the first slot that is ours to fill
    window, backlog : as of the log's contents
    stranded : entries of the journal that another epoch's seal kept out, in order, without those whose
        idempotency key is in the log by now
    """

    slot: Position
    window: Window
    backlog: Backlog
    stranded: list[list[bytes]]


async def claim_log(slots: Slots, epoch: int, writer: int, journal: JournalContents | None) -> Claim:
    """Make ``epoch`` the log's last. Raises `FencedError` if a later one, or this one, has been there already."""
    listed = await list_slots(slots.blobs, slots.log)
    tail = await find_tail(slots.blobs, slots.log, listed)
    if journal is not None:
        tail = await _complete(slots, tail, journal, writer)
    slot = await _seal(slots, tail, epoch, writer)
    listed = await list_slots(slots.blobs, slots.log)
    base, _etag = await load_base(slots.blobs, slots.log)
    window = await _load_window(slots, listed, base)
    stranded = [] if journal is None else await _find_stranded(slots, listed, journal, window)
    return Claim(slot, window, _backlog(slots, listed, base, slot), stranded)


async def _complete(slots: Slots, tail: Position, journal: JournalContents, writer: int) -> Position:
    """Upload the rest of the journal if its epoch is the last; return the slot that is then at the end."""
    if tail.epoch < journal.epoch:
        raise CorruptError(
            "the journal is newer than the log; it belongs to another log, or segments were lost",
            journal_epoch=journal.epoch,
            log_epoch=tail.epoch,
        )
    while tail.epoch == journal.epoch:
        rest = [entry for entry in journal.entries if entry.limit > tail.sequence]
        if not rest:
            break
        if rest[0].first != tail:
            raise CorruptError("the journal does not join the log", journal=rest[0].first, log=tail)
        records = next(_segments_of(rest, slots.settings.segment_bytes_max))
        data = encode_segment(tail, records, created_ms=slots.clock.now_ms(), writer=writer)
        # Also by the dead writer itself, whose last put came late: then the epoch goes on behind that segment.
        with contextlib.suppress(FencedError):
            await slots.fill(tail, data)
        tail = (await load_slot(slots.blobs, slots.log, tail)).next_slot
    return tail


def _segments_of(entries: list[Entry], bytes_max: int) -> Iterator[list[bytes]]:
    """Yield the records of whole entries, as many as a segment should hold."""
    records: list[bytes] = []
    n_bytes = 0
    for entry in entries:
        if records and (n_bytes + entry.n_bytes > bytes_max or len(records) + len(entry.records) > RECORDS_MAX):
            yield records
            records, n_bytes = [], 0
        records = [*records, *entry.records]
        n_bytes += entry.n_bytes
    if records:
        yield records


async def _seal(slots: Slots, tail: Position, epoch: int, writer: int) -> Position:
    """Seal the end of the chain, wherever it has moved to; return our first slot."""
    while tail.epoch < epoch:
        seal = encode_seal(tail, epoch, created_ms=slots.clock.now_ms(), writer=writer)
        try:
            await slots.fill(tail, seal)
        except FencedError:
            tail = (await load_slot(slots.blobs, slots.log, tail)).next_slot
        else:
            return Position(epoch, tail.sequence)
    raise FencedError("a writer of this epoch or a later one owns the log; claim it anew", epoch=epoch, last=tail.epoch)


async def _load_window(slots: Slots, listed: list[Listed], base: int) -> Window:
    """Read the keys of the segments that are young enough, from the store's own clock's word on it."""
    settings = slots.settings
    window = Window(settings.idempotency_window_ms, settings.idempotency_keys_max)
    oldest_ms = slots.clock.now_ms() - settings.idempotency_window_ms
    for slot, meta in listed:
        if meta.modified_ms > oldest_ms and slot.sequence >= base:
            segment = await load_slot(slots.blobs, slots.log, slot)
            for record, receipt in appends_of(_records_of(segment, slots.log), AckMode.OBJECT):
                window.remember(record, receipt, segment.created_ms)
    return window


def _records_of(segment: Segment, log: str) -> list[LogRecord]:
    where = slot_key(log, segment.slot)
    epoch, first = segment.slot.epoch, segment.slot.sequence
    return [
        LogRecord(Position(epoch, first + index), decode_record(data, where))
        for index, data in enumerate(segment.records)
    ]


async def _find_stranded(
    slots: Slots, listed: list[Listed], journal: JournalContents, window: Window
) -> list[list[bytes]]:
    """Return the journal's appends behind the seal of its epoch, without those that were stored by another."""
    sealed_at = max((slot.sequence for slot, _meta in listed if slot.epoch == journal.epoch), default=0)
    now_ms = slots.clock.now_ms()
    stranded = []
    for entry in journal.entries:
        if entry.first.sequence >= sealed_at:
            decoded = [decode_record(data, "journal") for data in entry.records]
            kept = [
                data for data, record in zip(entry.records, decoded, strict=True) if window.find(record, now_ms) is None
            ]
            if kept:
                stranded.append(kept)
    return stranded


def _backlog(slots: Slots, listed: list[Listed], base: int, tail: Position) -> Backlog:
    """Count every segment as unfolded; compaction says what is folded."""
    backlog = Backlog(slots.settings)
    limits = [slot.sequence for slot, _meta in listed[1:]] + [tail.sequence]
    for (slot, meta), limit in zip(listed, limits, strict=True):
        if base <= slot.sequence < limit:
            backlog.stored(limit, meta.size)
    return backlog
