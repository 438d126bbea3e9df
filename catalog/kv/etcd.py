"""`KV` in an etcd cluster, over the wire stubs of the package etcd3 on grpc's asyncio channels.

etcd3's own client is not used: it blocks, its watches end with their member, and its transactions do not tell their
revision (docs/design/002-kv.md). Keys are kept under ``{namespace}/``; what the transactions need for themselves
under ``{namespace}!txn/``.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, suppress
from operator import attrgetter
from typing import Any

from catalog.kv import Entry, Event, Put, TxnResult
from catalog.kv.checks import check_key, check_start_revision, check_ttl, check_txn, encode_key, prefix_limit
from catalog.kv.etcd_members import EtcdOptions, Member, Members, Metadata, unary
from catalog.kv.etcd_slots import Slot, Slots
from catalog.kv.etcd_stubs import load_etcdrpc
from catalog.kv.etcd_watch import watch_forever
from storage.clock import Clock
from storage.errors import IndeterminateError, NotFoundError, UnavailableError

__all__ = ["EtcdKV", "EtcdOptions"]

_RANGE = attrgetter("kv.Range")
_TXN = attrgetter("kv.Txn")

_RANGE_PAGE_KEYS = 256
_RANGE_ATTEMPTS = 3
_SLOT_ATTEMPTS = 3
_DELETE = 1
"""``mvccpb.Event.DELETE``."""

_LEASE_TTL_MIN_S = 2
"""What etcd rounds shorter leases up to, at its default election timeout."""


class EtcdKV:
    """A `KV` over the cluster at ``endpoints`` (each ``host:port``)."""

    def __init__(self, endpoints: Sequence[str], clock: Clock, options: EtcdOptions | None = None) -> None:
        options = options or EtcdOptions()
        self._rpc = load_etcdrpc()
        self._clock = clock
        self._members = Members(endpoints, clock, options)
        self._slots = Slots(self._members, clock, f"{options.namespace}!txn/".encode())
        self._root = f"{options.namespace}/".encode()

    async def get(self, key: str) -> Entry | None:
        request = self._rpc.RangeRequest(key=self._root + check_key(key))
        reply = await self._members.call(unary(_RANGE, request), repeatable=True)
        return self._entry(reply.message.kvs[0]) if reply.message.kvs else None

    async def range(self, prefix: str) -> tuple[list[Entry], int]:
        start = self._root + encode_key(prefix)
        for _ in range(_RANGE_ATTEMPTS):
            try:
                return await self._range(start)
            except NotFoundError:
                continue  # compacted between two pages
        raise UnavailableError("the range was compacted while it was read; try again", prefix=prefix)

    async def txn(self, compares: Mapping[str, int], puts: Sequence[Put]) -> TxnResult:
        check_txn(compares, puts)
        if not puts:
            request = self._rpc.TxnRequest(compare=self._compares(compares))
            reply = await self._members.call(unary(_TXN, request), repeatable=True)
            return TxnResult(reply.message.succeeded, reply.message.header.revision)
        for attempt in range(_SLOT_ATTEMPTS):
            slot = await self._slots.take()
            try:
                result = await self._txn(slot, compares, puts)
            except NotFoundError:
                # The slot's lease, or the caller's: a second time with a new slot it is the caller's.
                self._slots.forget(slot)
                if attempt > 0:
                    raise
                continue
            if result is not None:
                self._slots.give_back(slot)
                return result
            self._slots.forget(slot)
        raise UnavailableError("etcd keeps losing this client's lease; see that its clock and data are sound")

    async def watch(self, prefix: str, start_revision: int) -> AsyncIterator[Event]:
        check_start_revision(start_revision)
        start = self._root + encode_key(prefix)
        events = watch_forever(self._members, self._clock, start, _limit(start), start_revision)
        async with aclosing(events):
            async for event in events:
                value = None if event.type == _DELETE else event.kv.value
                yield Event(self._key(event.kv.key), value, event.kv.mod_revision)

    async def lease_grant(self, ttl_s: float) -> int:
        check_ttl(ttl_s)
        request = self._rpc.LeaseGrantRequest(TTL=max(_LEASE_TTL_MIN_S, math.ceil(ttl_s)))
        reply = await self._members.call(unary(attrgetter("lease.LeaseGrant"), request), repeatable=True)
        return int(reply.message.ID)

    async def lease_keepalive(self, lease: int) -> None:
        request = self._rpc.LeaseKeepAliveRequest(ID=lease)

        async def send(member: Member, timeout_s: float, metadata: Metadata) -> Any:
            stream = member.lease.LeaseKeepAlive(timeout=timeout_s, metadata=metadata)
            try:
                with suppress(asyncio.InvalidStateError):  # the stream has ended already: the read says why
                    await stream.write(request)
                return await stream.read()
            finally:
                stream.cancel()

        reply = await self._members.call(send, repeatable=True)
        if not hasattr(reply.message, "TTL"):
            raise UnavailableError("etcd closed the stream without an answer; try again", lease=lease)
        if reply.message.TTL <= 0:
            raise NotFoundError("the lease has expired or was revoked", lease=lease)

    async def lease_revoke(self, lease: int) -> None:
        request = self._rpc.LeaseRevokeRequest(ID=lease)
        try:
            await self._members.call(unary(attrgetter("lease.LeaseRevoke"), request), repeatable=True)
        except NotFoundError:
            return

    async def close(self) -> None:
        await self._members.close()

    async def _range(self, start: bytes) -> tuple[list[Entry], int]:
        """Return the entries from ``start``, page by page as of the first page's revision."""
        entries: list[Entry] = []
        limit, revision = _limit(start), 0
        while True:
            request = self._rpc.RangeRequest(key=start, range_end=limit, limit=_RANGE_PAGE_KEYS, revision=revision)
            message = (await self._members.call(unary(_RANGE, request), repeatable=True)).message
            revision = revision or message.header.revision
            entries += map(self._entry, message.kvs)
            if not message.more:
                return entries, revision
            start = message.kvs[-1].key + b"\0"

    async def _txn(self, slot: Slot, compares: Mapping[str, int], puts: Sequence[Put]) -> TxnResult | None:
        """Send the transaction under ``slot``; None when the slot is gone and nothing has happened."""
        request_id = self._clock.new_id().encode()
        request = self._rpc.TxnRequest(
            compare=[self._compare(slot.key, slot.revision), *self._compares(compares)],
            success=[self._mark(slot, request_id), *map(self._op, puts)],
            failure=[self._look(slot)],
        )
        reply = await self._members.call(unary(_TXN, request), repeatable=False)
        if reply.message.succeeded:
            return self._happened(slot, reply.message.header.revision)
        mark, marked_at = _mark_in(reply.message)
        if mark == request_id:
            return self._happened(slot, marked_at)
        if marked_at != slot.revision:
            if reply.doubtful:
                raise IndeterminateError("the mark of the transaction is gone; it may or may not have happened")
            return None
        if reply.doubtful:
            return await self._fence(slot, request_id)
        return TxnResult(False, reply.message.header.revision)

    async def _fence(self, slot: Slot, request_id: bytes) -> TxnResult:
        """Take the slot away from sends of the transaction that may be under way still; tell whether one was in."""
        fence_id = b"fence " + request_id
        request = self._rpc.TxnRequest(
            compare=[self._compare(slot.key, slot.revision)],
            success=[self._mark(slot, fence_id)],
            failure=[self._look(slot)],
        )
        try:
            reply = await self._members.call(unary(_TXN, request), repeatable=True)
        except UnavailableError as error:
            raise IndeterminateError("the transaction cannot be read back; it may have happened") from error
        revision = reply.message.header.revision
        mark, marked_at = (fence_id, revision) if reply.message.succeeded else _mark_in(reply.message)
        if mark == request_id:
            return self._happened(slot, marked_at)
        if mark != fence_id:
            raise IndeterminateError("the mark of the transaction is gone; it may or may not have happened")
        slot.revision = marked_at
        return TxnResult(False, revision)

    def _happened(self, slot: Slot, revision: int) -> TxnResult:
        slot.revision = revision
        return TxnResult(True, revision)

    def _compares(self, compares: Mapping[str, int]) -> list[Any]:
        return [self._compare(self._root + key.encode(), revision) for key, revision in compares.items()]

    def _compare(self, key: bytes, revision: int) -> Any:
        compare = self._rpc.Compare
        return compare(key=key, result=compare.EQUAL, target=compare.MOD, mod_revision=revision)

    def _op(self, put: Put) -> Any:
        key = self._root + put.key.encode()
        if put.value is None:
            return self._rpc.RequestOp(request_delete_range=self._rpc.DeleteRangeRequest(key=key))
        request = self._rpc.PutRequest(key=key, value=put.value, lease=put.lease or 0)
        return self._rpc.RequestOp(request_put=request)

    def _mark(self, slot: Slot, request_id: bytes) -> Any:
        request = self._rpc.PutRequest(key=slot.key, value=request_id, lease=slot.lease)
        return self._rpc.RequestOp(request_put=request)

    def _look(self, slot: Slot) -> Any:
        return self._rpc.RequestOp(request_range=self._rpc.RangeRequest(key=slot.key))

    def _entry(self, kv: Any) -> Entry:
        return Entry(self._key(kv.key), kv.value, kv.mod_revision)

    def _key(self, key: bytes) -> str:
        return key[len(self._root) :].decode()


def _limit(prefix: bytes) -> bytes:
    """Return where the keys under a prefix end; the namespace's own ``/`` makes sure that there is such a place."""
    return prefix_limit(prefix) or b"\0"


def _mark_in(message: Any) -> tuple[bytes, int]:
    """Return what a failed transaction found in its slot, and since which revision; ``(b"", 0)`` for an empty slot."""
    found = message.responses[0].response_range.kvs
    return (found[0].value, found[0].mod_revision) if found else (b"", 0)
