"""Slots: what makes a transaction take effect once however often it is sent.

A slot is a key of this client's. A transaction also compares the slot's revision with the one that this client knows
and also writes its own request id there. So of several sends of one transaction at most one takes effect, and a send
whose answer was lost is recognised: the slot holds the request's id, at the revision of the transaction. A slot
serves one transaction at a time and is used again after it.

Slots hang on a lease, so that a client that is gone leaves nothing behind. It is replaced when half its time is over,
long after every transaction that took a slot of it has ended; nothing needs to keep it alive.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from operator import attrgetter

from catalog.kv.etcd_members import Members, unary
from catalog.kv.etcd_stubs import load_etcdrpc
from storage.clock import Clock

__all__ = ["Slot", "Slots"]

_LEASE_TTL_S = 120
_LEASE_USED_S = 60


@dataclass(slots=True)
class Slot:
    """A key, the lease it hangs on, and its modification revision as this client knows it (0: never written)."""

    key: bytes
    lease: int
    revision: int = 0


class Slots:
    """The slots of one client under ``prefix``."""

    def __init__(self, members: Members, clock: Clock, prefix: bytes) -> None:
        self._members = members
        self._clock = clock
        self._prefix = prefix
        self._free: list[Slot] = []
        self._lease = 0
        self._use_until_s = 0.0
        self._granting = asyncio.Lock()

    async def take(self) -> Slot:
        """Return a slot that nobody else uses. Raises `UnavailableError`."""
        async with self._granting:
            if self._clock.monotonic_s() >= self._use_until_s:
                await self._renew()
        if self._free:
            return self._free.pop()
        return Slot(self._prefix + self._clock.new_id().encode(), self._lease)

    def give_back(self, slot: Slot) -> None:
        """Let others use the slot. Only when it is known what it holds."""
        if slot.lease == self._lease:
            self._free.append(slot)

    def forget(self, slot: Slot) -> None:
        """Stop using the slot's lease: it is no more."""
        if slot.lease == self._lease:
            self._use_until_s = 0.0

    async def _renew(self) -> None:
        asked_s = self._clock.monotonic_s()
        request = load_etcdrpc().LeaseGrantRequest(TTL=_LEASE_TTL_S)
        reply = await self._members.call(unary(attrgetter("lease.LeaseGrant"), request), repeatable=True)
        self._lease, self._use_until_s, self._free = int(reply.message.ID), asked_s + _LEASE_USED_S, []
