"""Filling a slot, and knowing whether it happened.

A put whose fate is unknown is read back; if the slot is still empty the same bytes are put again, which is the same
put. The answer is one of four: filled by us, definitely not (`UnavailableError`), filled by another (`FencedError`),
or still unknown after `LogSettings.put_tries_max` (`IndeterminateError`).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from storage.blobs import Blobs
from storage.clock import Clock
from storage.errors import (
    ConflictError,
    CorruptError,
    FencedError,
    IndeterminateError,
    NotFoundError,
    UnavailableError,
)
from storage.log import Position
from storage.log.segments import decode_segment, slot_key
from storage.log.settings import LogSettings

__all__ = ["Slots"]

_DELAY_MAX_MS = 5000


@dataclass(frozen=True, slots=True)
class Slots:
    """The slots of one log, to be filled."""

    blobs: Blobs
    log: str
    clock: Clock
    settings: LogSettings

    async def fill(self, slot: Position, data: bytes) -> None:
        """Put ``data`` into the slot; returns once it is there, and raises what the module's first lines say."""
        key = slot_key(self.log, slot)
        ambiguous = False
        for n_tries in range(1, self.settings.put_tries_max + 1):
            try:
                await self.blobs.put(key, data, if_absent=True)
                return
            except UnavailableError:
                # One earlier try may have happened, or happen yet.
                if not ambiguous:
                    raise
            except ConflictError:
                ambiguous = True
            except IndeterminateError:
                ambiguous = True
            if await self._filled_by_us(key, slot, data):
                return
            await self.pause(n_tries)
        raise IndeterminateError("it is unknown whether the segment was stored; the writer stops", key=key)

    async def _filled_by_us(self, key: str, slot: Position, data: bytes) -> bool:
        """False while the slot is empty or cannot be read. Raises `FencedError` when another filled it."""
        try:
            found, _meta = await self.blobs.get(key)
        except (NotFoundError, UnavailableError, IndeterminateError):
            return False
        if found == data:
            return True
        raise FencedError("another writer owns the log; stop this one", key=key, sealed_by=_sealed_by(found, slot, key))

    async def pause(self, n_tries: int) -> None:
        """Wait before the next try, longer each time."""
        ceiling = min(self.settings.retry_delay_ms * 2 ** min(n_tries - 1, 10), _DELAY_MAX_MS)
        await asyncio.sleep(self.clock.uniform(ceiling / 2, ceiling) / 1000)


def _sealed_by(found: bytes, slot: Position, key: str) -> int | None:
    try:
        return decode_segment(found, slot, key).sealed_by or None
    except CorruptError:
        return None
