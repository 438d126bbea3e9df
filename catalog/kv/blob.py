"""`KV` in one blob that changes by put-if-match: a catalog for a bucket, with no server beside it.

Every change writes the whole map, so this is for catalogs of up to some thousands of keys and a few changes a
second; larger or busier ones belong in etcd. Leases end by the wall clocks of the processes that look at them.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Generic, Literal, TypeVar

from catalog.kv import Entry, Event, Put, TxnResult
from catalog.kv.blob_head import REQUESTS_KEPT, Head, decode, encode
from catalog.kv.checks import check_key, check_start_revision, check_ttl, check_txn, encode_key
from catalog.kv.state import HistoryLimits, MapState
from storage.blobs import Blobs
from storage.clock import Clock
from storage.errors import (
    ConflictError,
    CorruptError,
    IndeterminateError,
    InvalidError,
    NotFoundError,
    UnavailableError,
)

__all__ = ["BlobKV"]

T = TypeVar("T")

_HEAD_BYTES_MAX = 16 << 20
_PAUSE_MAX_S = 0.25


class BlobKV:
    """A `KV` in the blob ``key``, created by the first change. The blobs are the caller's to close.

    Parameters
    ----------
    poll_interval_ms : how often a watch asks for the head's etag (one request)
    deadline_s : how long a change goes on losing races before it raises `UnavailableError`
    history : how far back a watch may begin; kept in the head, so keep it small
    """

    def __init__(
        self,
        blobs: Blobs,
        key: str,
        clock: Clock,
        *,
        poll_interval_ms: int = 1000,
        deadline_s: float = 30.0,
        history: HistoryLimits | None = None,
    ) -> None:
        self._blobs = blobs
        self._key = key
        self._clock = clock
        self._poll_interval_s = poll_interval_ms / 1000
        self._deadline_s = deadline_s
        self._limits = history or HistoryLimits(events_max=256, bytes_max=256 << 10)
        self._head: Head | None = None
        self._turn = asyncio.Lock()

    async def get(self, key: str) -> Entry | None:
        check_key(key)
        return await self._read(lambda state: state.get(key))

    async def range(self, prefix: str) -> tuple[list[Entry], int]:
        encode_key(prefix)
        return await self._read(lambda state: (state.range(prefix), state.revision))

    async def txn(self, compares: Mapping[str, int], puts: Sequence[Put]) -> TxnResult:
        check_txn(compares, puts)
        return await self._change(lambda state: state.txn(compares, puts))

    async def watch(self, prefix: str, start_revision: int) -> AsyncIterator[Event]:
        encode_key(prefix)
        check_start_revision(start_revision)
        cursor = start_revision
        while True:
            events, revision = await self._read(partial(_news, prefix=prefix, start_revision=cursor))
            cursor = max(cursor, revision + 1)
            for event in events:
                yield event
            await asyncio.sleep(self._poll_interval_s)

    async def lease_grant(self, ttl_s: float) -> int:
        check_ttl(ttl_s)
        return await self._change(lambda state: state.grant(math.ceil(ttl_s * 1000), self._clock.now_ms()))

    async def lease_keepalive(self, lease: int) -> None:
        await self._change(lambda state: state.keepalive(lease, self._clock.now_ms()))

    async def lease_revoke(self, lease: int) -> None:
        await self._change(lambda state: state.end_leases([lease]))

    async def close(self) -> None:
        self._head = None

    async def _read(self, look: Callable[[MapState], T]) -> T:
        """Return what ``look`` finds in the latest map; leases past their time are ended first, for everybody."""
        head = await self._load()
        if head.state.has_expired(self._clock.now_ms()):
            return await self._change(look)
        return look(head.state)

    async def _load(self) -> Head:
        """Return the latest head: one request when it has not changed since this process last saw it."""
        known = self._head
        try:
            if known is not None and known.etag == (await self._blobs.head(self._key)).etag:
                return known
            data, meta = await self._blobs.get(self._key)
        except NotFoundError as error:
            if known is not None:
                raise CorruptError("the catalog head has been deleted", key=self._key) from error
            return Head(MapState(self._limits), 0, (), None)
        self._head = decode(data, meta.etag, self._limits, self._key)
        return self._head

    async def _change(self, act: Callable[[MapState], T]) -> T:
        """Put what ``act`` makes of the map in the head's place, once; tasks of one process take turns."""
        async with self._turn:
            request_id = self._clock.new_id()
            head = self._head
            # What this process remembers is good enough to write over (if-match tells), not to answer from.
            if head is None or self._propose(head, act, request_id).successor is None:
                head = await self._load()
            doubtful: _Step[T] | None = None
            for pause_s in self._pauses_s():
                step = self._propose(head, act, request_id)
                if step.successor is None:
                    if doubtful is not None and head.etag == doubtful.base.etag:
                        break  # the put of unknown outcome may be on its way still
                    return step.answer()
                put = await self._put(step.successor, doubtful)
                if put == "done":
                    return step.answer()
                if put == "unknown":
                    doubtful = step
                await asyncio.sleep(pause_s)
                head = await self._reload(doubtful)
                if doubtful is not None:
                    if request_id in head.requests:
                        return doubtful.answer()
                    if head.sequence - doubtful.base.sequence > REQUESTS_KEPT:
                        break  # the head no longer names so old a request
            if doubtful is not None:
                raise IndeterminateError("the change may or may not be in the catalog head", key=self._key)
            raise UnavailableError("too many writers change the catalog head; try again", key=self._key)

    def _propose(self, head: Head, act: Callable[[MapState], T], request_id: str) -> _Step[T]:
        state = head.state.copy()
        state.expire(self._clock.now_ms())
        try:
            result: T | NotFoundError = act(state)
        except NotFoundError as error:
            result = error
        changed = state.revision != head.state.revision or state.leases != head.state.leases
        return _Step(head, head.followed_by(state, request_id) if changed else None, result)

    async def _put(self, successor: Head, doubtful: _Step[T] | None) -> Literal["done", "lost", "unknown"]:
        data = encode(successor)
        if len(data) > _HEAD_BYTES_MAX:
            raise InvalidError(
                "the catalog is too large for one blob; keep it in etcd",
                key=self._key,
                bytes=len(data),
                limit=_HEAD_BYTES_MAX,
            )
        try:
            absent = successor.etag is None
            meta = await self._blobs.put(self._key, data, if_absent=absent, if_match=successor.etag)
        except ConflictError:
            return "lost"
        except IndeterminateError:
            return "unknown"
        except UnavailableError:
            if doubtful is None:
                raise
            return "lost"
        self._head = replace(successor, etag=meta.etag)
        return "done"

    async def _reload(self, doubtful: _Step[T] | None) -> Head:
        try:
            return await self._load()
        except UnavailableError as error:
            if doubtful is None:
                raise
            raise IndeterminateError("the change cannot be read back from the catalog head", key=self._key) from error

    def _pauses_s(self) -> Iterator[float]:
        """Yield jittered pauses until the deadline has passed."""
        give_up_s, bound_s = self._clock.monotonic_s() + self._deadline_s, 0.01
        while self._clock.monotonic_s() < give_up_s:
            yield self._clock.uniform(0, bound_s)
            bound_s = min(_PAUSE_MAX_S, bound_s * 2)


@dataclass(frozen=True, slots=True)
class _Step(Generic[T]):
    """What a change makes of ``base``: the head to put after it (None: nothing to write) and what to answer."""

    base: Head
    successor: Head | None
    result: T | NotFoundError

    def answer(self) -> T:
        """Return the result, or raise it."""
        if isinstance(self.result, NotFoundError):
            raise self.result
        return self.result


def _news(state: MapState, prefix: str, start_revision: int) -> tuple[list[Event], int]:
    return state.events(prefix, start_revision), state.revision
