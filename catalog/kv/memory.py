"""`KV` in this process's memory: for tests and for throw-away lakes. Gone when the process is."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Mapping, Sequence

from catalog.kv import Entry, Event, Put, TxnResult
from catalog.kv.checks import check_key, check_start_revision, check_ttl, check_txn, encode_key
from catalog.kv.state import HistoryLimits, MapState
from storage.clock import Clock

__all__ = ["MemoryKV"]

_LEASE_CHECK_S = 0.02
"""How often a watch looks whether a lease has run out; without leases it sleeps until something changes."""


class MemoryKV:
    """A `KV` whose transactions are atomic because nothing in them awaits."""

    def __init__(self, clock: Clock, *, history: HistoryLimits | None = None) -> None:
        self._clock = clock
        self._state = MapState(history or HistoryLimits())
        self._changed = asyncio.Event()

    async def get(self, key: str) -> Entry | None:
        check_key(key)
        return self._current().get(key)

    async def range(self, prefix: str) -> tuple[list[Entry], int]:
        encode_key(prefix)
        state = self._current()
        return state.range(prefix), state.revision

    async def txn(self, compares: Mapping[str, int], puts: Sequence[Put]) -> TxnResult:
        check_txn(compares, puts)
        result = self._current().txn(compares, puts)
        self._wake()
        return result

    async def watch(self, prefix: str, start_revision: int) -> AsyncIterator[Event]:
        encode_key(prefix)
        check_start_revision(start_revision)
        cursor = start_revision
        while True:
            changed = self._changed
            state = self._current()
            events = state.events(prefix, cursor)
            cursor = max(cursor, state.revision + 1)
            for event in events:
                yield event
            await _wait(changed, _LEASE_CHECK_S if state.leases else None)

    async def lease_grant(self, ttl_s: float) -> int:
        check_ttl(ttl_s)
        lease = self._current().grant(math.ceil(ttl_s * 1000), self._clock.now_ms())
        self._wake()
        return lease

    async def lease_keepalive(self, lease: int) -> None:
        self._current().keepalive(lease, self._clock.now_ms())

    async def lease_revoke(self, lease: int) -> None:
        self._current().end_leases([lease])
        self._wake()

    async def close(self) -> None:
        """Nothing to release."""

    def _current(self) -> MapState:
        now_ms = self._clock.now_ms()
        if self._state.has_expired(now_ms):
            self._state.expire(now_ms)
            self._wake()
        return self._state

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


async def _wait(changed: asyncio.Event, timeout_s: float | None) -> None:
    """Return when something changed, or after ``timeout_s`` seconds."""
    try:
        async with asyncio.timeout(timeout_s):
            await changed.wait()
    except TimeoutError:
        return
