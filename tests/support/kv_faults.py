"""Wrappers that make a catalog's `KV` fail as stores do; what `tests.support.faults` does for `Blobs`."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Literal

from catalog.kv import KV, Entry, Event, Put, TxnResult
from storage.errors import IndeterminateError, UnavailableError
from tests.support.faults import SimulatedCrash

__all__ = ["AwayKV", "CrashKV", "TwoCoinKV", "WrappedKV"]


class WrappedKV:
    """Passes every call on. ``n_calls`` counts the calls that reached it."""

    def __init__(self, inner: KV) -> None:
        self.inner = inner
        self.n_calls = 0

    async def _before(self, call: str, key: str) -> None:
        self.n_calls += 1

    async def _after(self, call: str, key: str) -> None:
        pass

    async def get(self, key: str) -> Entry | None:
        await self._before("get", key)
        answer = await self.inner.get(key)
        await self._after("get", key)
        return answer

    async def range(self, prefix: str) -> tuple[list[Entry], int]:
        await self._before("range", prefix)
        answer = await self.inner.range(prefix)
        await self._after("range", prefix)
        return answer

    async def txn(self, compares: Mapping[str, int], puts: Sequence[Put]) -> TxnResult:
        key = ",".join(put.key for put in puts)
        await self._before("txn", key)
        answer = await self.inner.txn(compares, puts)
        await self._after("txn", key)
        return answer

    def watch(self, prefix: str, start_revision: int) -> AsyncIterator[Event]:
        return self.inner.watch(prefix, start_revision)

    async def lease_grant(self, ttl_s: float) -> int:
        await self._before("lease_grant", "")
        answer = await self.inner.lease_grant(ttl_s)
        await self._after("lease_grant", "")
        return answer

    async def lease_keepalive(self, lease: int) -> None:
        await self._before("lease_keepalive", str(lease))
        await self.inner.lease_keepalive(lease)
        await self._after("lease_keepalive", str(lease))

    async def lease_revoke(self, lease: int) -> None:
        await self._before("lease_revoke", str(lease))
        await self.inner.lease_revoke(lease)
        await self._after("lease_revoke", str(lease))

    async def close(self) -> None:
        await self.inner.close()


class CrashKV(WrappedKV):
    """Raises `SimulatedCrash` at the ``crash_at``-th call (from 1), before or after it took effect; 0 never does.

    Once crashed, every later call crashes too: a dead process does nothing more.
    """

    def __init__(self, inner: KV, crash_at: int, when: Literal["before", "after"] = "before") -> None:
        super().__init__(inner)
        self._crash_at = crash_at
        self._when = when

    async def _before(self, call: str, key: str) -> None:
        self.n_calls += 1
        dead = 0 < self._crash_at < self.n_calls
        if dead or (self.n_calls == self._crash_at and self._when == "before"):
            raise SimulatedCrash(f"before {call} {key}")

    async def _after(self, call: str, key: str) -> None:
        if self.n_calls == self._crash_at and self._when == "after":
            raise SimulatedCrash(f"after {call} {key}")


class AwayKV(WrappedKV):
    """Answers nothing while ``is_away``."""

    is_away = False

    async def _before(self, call: str, key: str) -> None:
        self.n_calls += 1
        if self.is_away:
            raise UnavailableError("simulated: the catalog is away", call=call, key=key)


class TwoCoinKV(WrappedKV):
    """Each transaction throws two coins: did it happen, and was it acknowledged? Reads are reliable."""

    def __init__(self, inner: KV, seed: int, *, p_lost: float = 0.3, p_silent: float = 0.3) -> None:
        super().__init__(inner)
        self._random = random.Random(seed)
        self._p_lost, self._p_silent = p_lost, p_silent

    async def txn(self, compares: Mapping[str, int], puts: Sequence[Put]) -> TxnResult:
        self.n_calls += 1
        happens = self._random.random() >= self._p_lost
        acknowledged = self._random.random() >= self._p_silent
        if not happens:
            if acknowledged:
                raise UnavailableError("simulated: the transaction did not happen")
            raise IndeterminateError("simulated: no answer, and the transaction did not happen")
        answer = await self.inner.txn(compares, puts)
        if not acknowledged:
            raise IndeterminateError("simulated: no answer, though the transaction ran")
        return answer
