"""Reading a log in order: along the chain through blobs, then on through the memory of a live writer.

What a fenced writer left is not in the chain and is not read. A reader that starts after an acknowledgement sees the
record, if it is given the writer's tail or the acknowledgement was ``object``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from storage.blobs import Blobs
from storage.errors import CorruptError, NotFoundError
from storage.log import LogRecord, Position
from storage.log.chain import FIRST_SLOT, Listed, find_tail, list_slots, load_base, load_slot
from storage.log.records import decode_record
from storage.log.segments import Segment, slot_key
from storage.log.tail import Entry, Tail, cut_entry

__all__ = ["end_of", "replay", "replay_entries"]

_READ_AHEAD = 4


async def end_of(blobs: Blobs, log: str) -> Position:
    """Return the position after the last record in the object store."""
    return await find_tail(blobs, log, await list_slots(blobs, log))


async def replay(
    blobs: Blobs, log: str, start: Position | None = None, *, tail: Tail | None = None
) -> AsyncIterator[LogRecord]:
    """Yield the records from ``start`` (the position after the last one known; None: from the base) to the end.

    Raises
    ------
    NotFoundError : records from ``start`` on were swept; they are in the table, read its newer snapshot
    CorruptError : a segment is missing or damaged
    """
    async for entry in replay_entries(blobs, log, start, tail=tail):
        for index, data in enumerate(entry.records):
            position = Position(entry.first.epoch, entry.first.sequence + index)
            yield LogRecord(position, decode_record(data, f"{log}@{position.sequence}"))


async def replay_entries(
    blobs: Blobs, log: str, start: Position | None = None, *, tail: Tail | None = None
) -> AsyncIterator[Entry]:
    """Yield what `replay` does as entries of encoded records; raises as it does."""
    # Memory first: what comes before it is in the object store by now, so nothing is missed in between.
    held = tail.entries() if tail is not None else []
    base, _etag = await load_base(blobs, log)
    first = start.sequence if start is not None else base
    if first < base:
        raise NotFoundError("this part of the log was swept; read the table's newer snapshot", start=first, base=base)
    if not held or first < held[0].first.sequence:
        limit = held[0].first.sequence if held else None
        from_epoch = start.epoch if start is not None else 0
        async for segment in _segments(blobs, log, first, from_epoch, limit):
            entry = cut_entry(Entry(segment.slot, segment.records), first, limit)
            if entry.records:
                yield entry
    for each in held:
        entry = cut_entry(each, first)
        if entry.records:
            yield entry


async def _segments(blobs: Blobs, log: str, first: int, from_epoch: int, limit: int | None) -> AsyncIterator[Segment]:
    """Yield the chain's segments that hold records in [first, limit)."""
    listed = await list_slots(blobs, log, from_epoch=from_epoch)
    if not any(slot.sequence <= first for slot, _meta in listed):
        # The position of a writer that has not put anything yet is of an epoch without slots.
        listed = await list_slots(blobs, log)
    slot = _find_start(listed, first)
    names = [found for found, _meta in listed if found >= slot]
    ahead: dict[Position, asyncio.Task[Segment]] = {}
    try:
        while limit is None or slot.sequence < limit:
            for name in names[:_READ_AHEAD]:
                if name not in ahead:
                    ahead[name] = asyncio.create_task(load_slot(blobs, log, name))
            segment = await _load(blobs, log, slot, ahead.pop(slot, None), names)
            if segment is None:
                if slot.sequence < (first if limit is None else limit):
                    raise CorruptError("the log ends too early; segments were lost", end=slot.sequence, start=first)
                return
            if segment.records and slot.sequence + len(segment.records) > first:
                yield segment
            slot = segment.next_slot
            names = [name for name in names if name >= slot]
    finally:
        for task in ahead.values():
            task.cancel()
        await asyncio.gather(*ahead.values(), return_exceptions=True)


def _find_start(listed: list[Listed], first: int) -> Position:
    """The first slot of the greatest sequence that is at most ``first``: seals share theirs with what follows."""
    sequences = [slot.sequence for slot, _meta in listed if slot.sequence <= first]
    if sequences:
        return next(slot for slot, _meta in listed if slot.sequence == sequences[-1])
    if not listed and first == 0:
        return FIRST_SLOT
    raise CorruptError("the log does not reach this far; segments were lost", sequence=first)


async def _load(
    blobs: Blobs, log: str, slot: Position, ahead: asyncio.Task[Segment] | None, names: list[Position]
) -> Segment | None:
    """Return the segment, or None at the end of the chain. Raises `CorruptError` for a gap."""
    if ahead is None and not names:
        return None
    try:
        # A slot that was not listed though a later one was: the listing may have passed before it was filled.
        return await (ahead if ahead is not None else load_slot(blobs, log, slot))
    except NotFoundError:
        base, _etag = await load_base(blobs, log)
        if slot.sequence < base:
            raise NotFoundError("the log was swept while it was read; begin again", base=base) from None
        raise CorruptError("the log has a gap", missing=slot_key(log, slot)) from None
