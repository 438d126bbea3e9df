"""A `KV` whose calls are counted, by operation and outcome, with the time they took."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractContextManager

from catalog.kv import KV, Entry, Event, Put, TxnResult
from storage.clock import Clock
from storage.counts import Counts

__all__ = ["CountedKV"]


class CountedKV:
    """The map of another."""

    def __init__(self, inner: KV, counts: Counts, clock: Clock) -> None:
        self._inner, self._counts, self._clock = inner, counts, clock

    def _counted(self, operation: str) -> AbstractContextManager[None]:
        return self._counts.request(
            "firnline_catalog_requests", "firnline_catalog_seconds", self._clock, operation=operation
        )

    async def get(self, key: str) -> Entry | None:
        with self._counted("get"):
            return await self._inner.get(key)

    async def range(self, prefix: str) -> tuple[list[Entry], int]:
        with self._counted("range"):
            return await self._inner.range(prefix)

    async def txn(self, compares: Mapping[str, int], puts: Sequence[Put]) -> TxnResult:
        with self._counted("txn"):
            return await self._inner.txn(compares, puts)

    def watch(self, prefix: str, start_revision: int) -> AsyncIterator[Event]:
        return self._inner.watch(prefix, start_revision)

    async def lease_grant(self, ttl_s: float) -> int:
        with self._counted("lease_grant"):
            return await self._inner.lease_grant(ttl_s)

    async def lease_keepalive(self, lease: int) -> None:
        with self._counted("lease_keepalive"):
            await self._inner.lease_keepalive(lease)

    async def lease_revoke(self, lease: int) -> None:
        with self._counted("lease_revoke"):
            await self._inner.lease_revoke(lease)

    async def close(self) -> None:
        await self._inner.close()
