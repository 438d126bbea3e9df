"""Finding one's way along the chain of slots: what is listed, what is in a slot, where the chain ends, where it begins.

Reads only. The rules are numbered in `storage.log`.
"""

from __future__ import annotations

from storage.blobs import BlobMeta, Blobs
from storage.errors import CorruptError, NotFoundError
from storage.log import Position
from storage.log.segments import Segment, base_key, decode_base, decode_segment, slot_key, slot_of, slots_prefix

__all__ = ["FIRST_SLOT", "Listed", "find_tail", "list_slots", "load_base", "load_slot"]

FIRST_SLOT = Position(0, 0)

Listed = tuple[Position, BlobMeta]


async def list_slots(blobs: Blobs, log: str, *, from_epoch: int = 0) -> list[Listed]:
    """Return the filled slots of ``from_epoch`` and later, in order."""
    after = f"{slots_prefix(log)}{from_epoch:020d}" if from_epoch else None
    listing = blobs.list(slots_prefix(log), start_after=after)
    return [(slot_of(log, meta.key), meta) async for meta in listing]


async def load_slot(blobs: Blobs, log: str, slot: Position) -> Segment:
    """Return what fills the slot. Raises `NotFoundError`, `CorruptError`."""
    key = slot_key(log, slot)
    data, _meta = await blobs.get(key)
    return decode_segment(data, slot, key)


async def load_base(blobs: Blobs, log: str) -> tuple[int, str | None]:
    """Return the first sequence that must be readable, and the etag of the base (None: absent, and the sequence 0)."""
    key = base_key(log)
    try:
        data, meta = await blobs.get(key)
    except NotFoundError:
        return 0, None
    return decode_base(data, key), meta.etag


async def find_tail(blobs: Blobs, log: str, slots: list[Listed]) -> Position:
    """Return the slot at the end of the chain, the one to fill next.

    Positions grow along the chain, and what a fenced writer could leave outside lies below (rules 2 and 3): the
    greatest slot that is filled is the chain's last. Raises `CorruptError` when the log ends before its base.
    """
    tail = (await load_slot(blobs, log, slots[-1][0])).next_slot if slots else FIRST_SLOT
    base, _etag = await load_base(blobs, log)
    if tail.sequence < base:
        raise CorruptError("the log ends before its base: segments were lost", log=log, end=tail.sequence, base=base)
    return tail
