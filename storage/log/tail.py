"""The newest acknowledged records, in the memory of their writer, for readers in its process. Does no IO."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from storage.log import Position

__all__ = ["Entry", "Tail", "cut_entry"]


@dataclass(frozen=True, slots=True)
class Entry:
    """Encoded records of consecutive positions, all of one epoch."""

    first: Position
    records: list[bytes]

    @property
    def limit(self) -> int:
        """The sequence after the last record."""
        return self.first.sequence + len(self.records)

    @property
    def n_bytes(self) -> int:
        """Bytes of the encoded records."""
        return sum(map(len, self.records))


def cut_entry(entry: Entry, start: int, limit: int | None = None) -> Entry:
    """The part of an entry whose sequences are in [start, limit); it may have no records."""
    first = entry.first.sequence
    if first >= start and (limit is None or entry.limit <= limit):
        return entry
    skipped = max(0, start - first)
    kept = entry.records[skipped : None if limit is None else max(limit - first, 0)]
    return Entry(Position(entry.first.epoch, first + skipped), kept)


@dataclass(slots=True)
class Tail:
    """Entries in order, without a gap; those that are in the object store go once there are too many bytes."""

    bytes_max: int
    stored: int
    """The sequence up to which all is in the object store."""
    _entries: deque[Entry] = field(default_factory=deque)
    _n_bytes: int = 0

    def add(self, entry: Entry) -> None:
        """Add acknowledged records; they follow the last ones."""
        self._entries.append(entry)
        self._n_bytes += entry.n_bytes
        self._trim()

    def mark_stored(self, limit: int) -> None:
        """All below the sequence ``limit`` is in the object store."""
        self.stored = limit
        self._trim()

    def entries(self) -> list[Entry]:
        """What is held now. Whatever comes before it is in the object store."""
        return list(self._entries)

    def _trim(self) -> None:
        while self._entries and self._n_bytes > self.bytes_max and self._entries[0].limit <= self.stored:
            self._n_bytes -= self._entries.popleft().n_bytes
