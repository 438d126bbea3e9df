"""A whole KV as one value in memory: entries, leases and the recent changes. Decides and does no IO.

`MemoryKV` holds one; `BlobKV` stores one as its head. Invariants: ``revision`` is that of the last change;
every change with revision >= ``floor`` is in ``history``, in order, and none of one revision is there without the
others. Time is an argument, in milliseconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from catalog.kv import Entry, Event, Put, TxnResult
from storage.errors import NotFoundError

__all__ = ["HistoryLimits", "Lease", "MapState", "Stored"]


@dataclass(frozen=True, slots=True)
class HistoryLimits:
    """How many changes, and how many bytes of their values, a watch can look back on."""

    events_max: int = 4096
    bytes_max: int = 64 << 20


@dataclass(frozen=True, slots=True)
class Stored:
    """What the map holds under a key."""

    value: bytes
    revision: int
    lease: int | None


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease and the wall-clock time at which it ends unless kept alive."""

    ttl_ms: int
    expires_ms: int


@dataclass(slots=True)
class MapState:
    """The map, its leases and its recent changes."""

    limits: HistoryLimits
    revision: int = 0
    floor: int = 1
    next_lease: int = 1
    entries: dict[str, Stored] = field(default_factory=dict)
    leases: dict[int, Lease] = field(default_factory=dict)
    history: deque[Event] = field(default_factory=deque)
    history_bytes: int = 0

    def copy(self) -> MapState:
        """Return a state that can be changed without changing this one."""
        return MapState(
            self.limits,
            self.revision,
            self.floor,
            self.next_lease,
            dict(self.entries),
            dict(self.leases),
            self.history.copy(),
            self.history_bytes,
        )

    def get(self, key: str) -> Entry | None:
        """Return the entry, or None."""
        stored = self.entries.get(key)
        return None if stored is None else Entry(key, stored.value, stored.revision)

    def range(self, prefix: str) -> list[Entry]:
        """Return the entries under ``prefix`` in key order (code point order is UTF-8 order)."""
        keys = sorted(key for key in self.entries if key.startswith(prefix))
        return [Entry(key, self.entries[key].value, self.entries[key].revision) for key in keys]

    def txn(self, compares: Mapping[str, int], puts: Sequence[Put]) -> TxnResult:
        """Apply ``puts`` if every compare holds. Raises `NotFoundError` for an unknown lease."""
        for key, expected in compares.items():
            stored = self.entries.get(key)
            if (stored.revision if stored else 0) != expected:
                return TxnResult(False, self.revision)
        for put in puts:
            if put.lease is not None and put.value is not None and put.lease not in self.leases:
                raise NotFoundError("the lease has expired or was revoked", lease=put.lease)
        self._change(puts)
        return TxnResult(True, self.revision)

    def events(self, prefix: str, start_revision: int) -> list[Event]:
        """Return the changes under ``prefix`` from ``start_revision``. Raises `NotFoundError` below ``floor``."""
        if start_revision < self.floor:
            raise NotFoundError(
                "the changes since this revision are no longer held; read the range again",
                start_revision=start_revision,
                oldest=self.floor,
            )
        found: list[Event] = []
        for event in reversed(self.history):
            if event.revision < start_revision:
                break
            if event.key.startswith(prefix):
                found.append(event)
        found.reverse()
        return found

    def grant(self, ttl_ms: int, now_ms: int) -> int:
        """Return the id of a new lease."""
        lease = self.next_lease
        self.next_lease += 1
        self.leases[lease] = Lease(ttl_ms, now_ms + ttl_ms)
        return lease

    def keepalive(self, lease: int, now_ms: int) -> None:
        """Start the lease's time anew. Raises `NotFoundError`."""
        if lease not in self.leases:
            raise NotFoundError("the lease has expired or was revoked", lease=lease)
        self.leases[lease] = Lease(self.leases[lease].ttl_ms, now_ms + self.leases[lease].ttl_ms)

    def has_expired(self, now_ms: int) -> bool:
        """Whether a lease's time has run out and `expire` has not been called since."""
        return any(lease.expires_ms <= now_ms for lease in self.leases.values())

    def expire(self, now_ms: int) -> None:
        """End the leases whose time has run out."""
        self.end_leases([lease for lease, held in self.leases.items() if held.expires_ms <= now_ms])

    def end_leases(self, leases: Iterable[int]) -> None:
        """Forget these leases and delete their keys, in one revision."""
        ended = {lease for lease in leases if self.leases.pop(lease, None) is not None}
        self._change([Put(key, None) for key, stored in self.entries.items() if stored.lease in ended])

    def _change(self, puts: Sequence[Put]) -> None:
        effective = [put for put in puts if put.value is not None or put.key in self.entries]
        if not effective:
            return
        self.revision += 1
        for put in effective:
            if put.value is None:
                del self.entries[put.key]
            else:
                self.entries[put.key] = Stored(put.value, self.revision, put.lease)
            self.history.append(Event(put.key, put.value, self.revision))
            self.history_bytes += len(put.value or b"")
        self._forget()

    def _forget(self) -> None:
        """Drop the oldest whole revisions until the history is within its limits; the newest one always stays."""
        while len(self.history) > self.limits.events_max or self.history_bytes > self.limits.bytes_max:
            oldest = self.history[0].revision
            if oldest == self.revision:
                return
            while self.history[0].revision == oldest:
                self.history_bytes -= len(self.history.popleft().value or b"")
            self.floor = oldest + 1
