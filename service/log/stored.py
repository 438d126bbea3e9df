"""A log as it lies in the object store, and in the journal on this machine's disk: for those who do not own it.

The journal is read first and the object store after it. What the journal held then and does not hold any more was
uploaded in between, so the two together miss nothing that was acknowledged before.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from service.log.owned import EntryRange, decode_range
from storage.blobs import Blobs
from storage.errors import CorruptError, UnavailableError
from storage.log import Position, Receipt
from storage.log.access import LogRange
from storage.log.chain import find_tail, list_slots
from storage.log.journal import JournalContents, read_journal
from storage.log.reader import end_of, replay_entries
from storage.log.tail import Entry, cut_entry

__all__ = ["StoredLog", "journal_limit", "read_stored"]


class StoredLog:
    """The records that are in the object store; takes no appends. A `storage.log.access.Log`."""

    def __init__(self, blobs: Blobs, prefix: str) -> None:
        self._blobs = blobs
        self._prefix = prefix

    async def append(self, *_records: object, **_options: object) -> Receipt:
        """Raise `UnavailableError`."""
        raise UnavailableError("this log is only read here", log=self._prefix)

    async def find(self, *_key: str) -> Receipt | None:
        """Raise `UnavailableError`: only an owner remembers keys."""
        raise UnavailableError("this log is only read here", log=self._prefix)

    async def read(self, start: int, *, bytes_max: int = 0) -> LogRange:
        """See `storage.log.access.Log.read`."""
        found = await read_stored(self._blobs, self._prefix, start, bytes_max=bytes_max)
        return await decode_range(found, self._prefix)

    async def flush(self) -> int:
        """Return the sequence after the last record that is in the object store."""
        return (await end_of(self._blobs, self._prefix)).sequence


async def read_stored(
    blobs: Blobs,
    prefix: str,
    start: int,
    *,
    bytes_max: int = 0,
    journal: Path | None = None,
    name: str = "",
    retry: bool = True,
) -> EntryRange:
    """Return the records from ``start`` on that are in the object store, or in the journal of the last epoch.

    The range's epoch is the journal's if it gave records, else 0. Raises `NotFoundError` as `Log.read` does.
    """
    kept = await asyncio.to_thread(read_journal, journal, name) if journal is not None else None
    found: list[Entry] = []
    n_bytes = 0
    more = False
    try:
        async with contextlib.aclosing(replay_entries(blobs, prefix, Position(0, start))) as entries:  # type: ignore[type-var]
            async for entry in entries:
                if found and bytes_max and n_bytes + entry.n_bytes > bytes_max:
                    more = True
                    break
                found.append(entry)
                n_bytes += entry.n_bytes
    except CorruptError:
        # Records from before `start` may have been in the memory of an owner that is gone; then there is nothing here.
        if found or (await end_of(blobs, prefix)).sequence >= start:
            if found or not retry:
                raise
            # A new owner uploaded them while we looked; what is truly missing is missed again.
            return await read_stored(blobs, prefix, start, bytes_max=bytes_max, journal=journal, name=name, retry=False)
    limit = found[-1].limit if found else start
    if more or kept is None or not kept.entries or kept.entries[-1].limit <= limit:
        return EntryRange(start, limit, found, 0, more)
    tail = await find_tail(blobs, prefix, await list_slots(blobs, prefix))
    if tail.epoch != kept.epoch and tail.sequence > limit:
        # The journal was uploaded and its epoch sealed while we read; its records are in the object store now.
        return await read_stored(blobs, prefix, start, bytes_max=bytes_max, journal=journal, name=name)
    rest = _behind(kept, tail, limit)
    if not rest:
        return EntryRange(start, limit, found, 0)
    return EntryRange(start, rest[-1].limit, [*found, *rest], kept.epoch)


async def journal_limit(blobs: Blobs, prefix: str, journal: Path, name: str) -> int:
    """Return the sequence after the last record of the journal; 0 if it is empty, or its epoch was sealed.

    Whether it was is for the log to say: the catalog may have granted later epochs to owners that ended before they
    sealed anything.
    """
    kept = await asyncio.to_thread(read_journal, journal, name)
    if kept is None or not kept.entries or kept.epoch != (await end_of(blobs, prefix)).epoch:
        return 0
    return kept.entries[-1].limit


def _behind(journal: JournalContents, tail: Position, limit: int) -> list[Entry]:
    """The journal's entries that follow sequence ``limit``, if its epoch is still the last and they join."""
    if journal.epoch != tail.epoch:
        return []
    rest = [cut_entry(entry, limit) for entry in journal.entries if entry.limit > limit]
    return rest if rest and rest[0].first.sequence == limit else []
