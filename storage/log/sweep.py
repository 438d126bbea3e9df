"""Deleting segments whose records are folded. Seals and the last slot stay; see rule 8 of `storage.log`."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from storage.blobs import BlobMeta, Blobs
from storage.clock import Clock
from storage.errors import ConflictError
from storage.log import Position
from storage.log.chain import Listed, list_slots, load_base
from storage.log.segments import base_key, encode_base
from storage.log.settings import LogSettings

__all__ = ["Swept", "sweep"]


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep deleted, and the first sequence that is still readable."""

    n_segments: int
    n_bytes: int
    base: int


async def sweep(blobs: Blobs, log: str, before: Position, settings: LogSettings, clock: Clock) -> Swept:
    """Delete segments that hold only records before ``before``.

    Those younger than the idempotency window stay, and so does all behind them. May be run by anyone, and again after
    a crash: the base is moved first, so that what is missing below it is known to be swept. Readers that began
    earlier get `NotFoundError`.
    """
    listed = await list_slots(blobs, log)
    base, _etag = await load_base(blobs, log)
    doomed = _choose(listed, max(before.sequence, base), base, clock.now_ms() - settings.idempotency_window_ms)
    for _meta, limit in doomed[-1:]:
        base = await _move_base(blobs, log, limit)
    for meta, _limit in doomed:
        await blobs.delete(meta.key)
    return Swept(len(doomed), sum(meta.size for meta, _limit in doomed), base)


def _choose(listed: list[Listed], before: int, base: int, old_ms: int) -> list[tuple[BlobMeta, int]]:
    """Return the segments to delete, oldest first, each with the sequence after its last record."""
    doomed = []
    # Without a successor a slot's limit is unknown, and it holds the end of the chain: the last one stays.
    for (slot, meta), (following, _meta) in pairwise(listed):
        if following.sequence > before:
            break
        # The last slot of an epoch that another follows is its seal, whether or not what came after it is still there.
        if following.epoch > slot.epoch:
            continue
        # What lies below the base was to be deleted already.
        if following.sequence > base and meta.modified_ms > old_ms:
            break
        doomed.append((meta, following.sequence))
    return doomed


async def _move_base(blobs: Blobs, log: str, sequence: int) -> int:
    """Raise the base to ``sequence`` unless it is there already; return it."""
    while True:
        base, etag = await load_base(blobs, log)
        if base >= sequence:
            return base
        try:
            await blobs.put(base_key(log), encode_base(sequence), if_absent=etag is None, if_match=etag)
        except ConflictError:
            continue
        return sequence
