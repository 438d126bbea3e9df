"""Wrappers that make a store fail as stores do. With the faults off they pass the conformance suite of `Blobs`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from typing import Literal

from storage.blobs import BlobMeta, Blobs
from storage.errors import ConflictError, IndeterminateError, UnavailableError

__all__ = ["CrashBlobs", "FlakyBlobs", "SimulatedCrash", "TwoCoinBlobs", "WrappedBlobs"]


class SimulatedCrash(BaseException):
    """The process ended here. A `BaseException`, so that no retry loop swallows it."""


class WrappedBlobs:
    """Passes every call on; the base of the fault wrappers. ``n_calls`` counts the calls that reached it."""

    def __init__(self, inner: Blobs) -> None:
        self.inner = inner
        self.n_calls = 0

    async def _before(self, call: str, key: str) -> None:
        self.n_calls += 1

    async def _after(self, call: str, key: str) -> None:
        pass

    async def get(self, key: str) -> tuple[bytes, BlobMeta]:
        await self._before("get", key)
        answer = await self.inner.get(key)
        await self._after("get", key)
        return answer

    async def get_range(self, key: str, start: int, limit: int) -> bytes:
        await self._before("get_range", key)
        answer = await self.inner.get_range(key, start, limit)
        await self._after("get_range", key)
        return answer

    async def get_range_with_etag(
        self, key: str, start: int, limit: int, *, if_match: str | None = None
    ) -> tuple[bytes, str]:
        await self._before("get_range_with_etag", key)
        answer = await self.inner.get_range_with_etag(key, start, limit, if_match=if_match)
        await self._after("get_range_with_etag", key)
        return answer

    async def get_ranges(
        self, key: str, ranges: Sequence[tuple[int, int]], *, if_match: str | None = None, exact: bool = False
    ) -> list[bytes]:
        await self._before("get_ranges", key)
        answer = await self.inner.get_ranges(key, ranges, if_match=if_match, exact=exact)
        await self._after("get_ranges", key)
        return answer

    async def head(self, key: str) -> BlobMeta:
        await self._before("head", key)
        answer = await self.inner.head(key)
        await self._after("head", key)
        return answer

    async def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> BlobMeta:
        await self._before("put", key)
        answer = await self.inner.put(key, data, if_absent=if_absent, if_match=if_match)
        await self._after("put", key)
        return answer

    async def list(self, prefix: str = "", *, start_after: str | None = None) -> AsyncIterator[BlobMeta]:
        await self._before("list", prefix)
        async for meta in self.inner.list(prefix, start_after=start_after):
            yield meta
        await self._after("list", prefix)

    async def delete(self, key: str) -> None:
        await self._before("delete", key)
        await self.inner.delete(key)
        await self._after("delete", key)

    async def presign(self, key: str, *, expires_s: int) -> str | None:
        return await self.inner.presign(key, expires_s=expires_s)

    async def close(self) -> None:
        await self.inner.close()


class TwoCoinBlobs(WrappedBlobs):
    """Each put throws two coins: did it happen, and was it acknowledged? Reads are reliable.

    A put that happened and was not acknowledged raises `IndeterminateError`; one that did not happen raises that or
    `UnavailableError`, as a store would. A condition that fails is reported, or its report is lost too.

    Parameters
    ----------
    seed : of the coins; equal seeds fail equally
    p_lost : chance that the put does not happen
    p_silent : chance that the answer gets lost
    """

    def __init__(self, inner: Blobs, seed: int, *, p_lost: float = 0.3, p_silent: float = 0.3) -> None:
        super().__init__(inner)
        self._random = random.Random(seed)
        self._p_lost = p_lost
        self._p_silent = p_silent

    async def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> BlobMeta:
        self.n_calls += 1
        happens = self._random.random() >= self._p_lost
        acknowledged = self._random.random() >= self._p_silent
        # Let other writers come in between, on either side.
        await asyncio.sleep(0)
        if not happens:
            if acknowledged:
                raise UnavailableError("simulated: the put did not happen", key=key)
            raise IndeterminateError("simulated: no answer, and the put did not happen", key=key)
        try:
            meta = await self.inner.put(key, data, if_absent=if_absent, if_match=if_match)
        except ConflictError:
            if acknowledged:
                raise
            raise IndeterminateError("simulated: no answer, and the condition failed", key=key) from None
        await asyncio.sleep(0)
        if not acknowledged:
            raise IndeterminateError("simulated: no answer, though the put happened", key=key)
        return meta


class CrashBlobs(WrappedBlobs):
    """Raises `SimulatedCrash` at the ``crash_at``-th call (from 1), before or after it took effect; 0 never does.

    Once crashed, every later call crashes too: a dead process does nothing more.
    """

    def __init__(self, inner: Blobs, crash_at: int, when: Literal["before", "after"] = "before") -> None:
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


class FlakyBlobs(WrappedBlobs):
    """Slow, and fails reads and puts with `UnavailableError` before they do anything.

    Parameters
    ----------
    p_fail : chance of a failure of each call
    delay_s : waited before each call
    """

    def __init__(self, inner: Blobs, seed: int, *, p_fail: float = 0.0, delay_s: float = 0.0) -> None:
        super().__init__(inner)
        self._random = random.Random(seed)
        self._p_fail = p_fail
        self._delay_s = delay_s

    async def _before(self, call: str, key: str) -> None:
        self.n_calls += 1
        await asyncio.sleep(self._delay_s)
        if self._random.random() < self._p_fail:
            raise UnavailableError("simulated: the store does not answer", call=call, key=key)
