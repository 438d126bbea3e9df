"""A granted epoch, kept alive in the KV until it is released or lost."""

from __future__ import annotations

import asyncio
import contextlib

from catalog.kv import KV
from storage.clock import Clock
from storage.errors import FirnlineError, NotFoundError

__all__ = ["LogLease"]

_PARTS = 3
_RETRY_PARTS = 12


class LogLease:
    """A `storage.log.Lease` over a lease of the KV.

    ``held`` is true for the time to live after the start of the last keepalive that was confirmed, as this process's
    own monotonic clock tells it: the KV, which began to count later, gives the log to nobody else before.
    """

    def __init__(self, kv: KV, clock: Clock, epoch: int, lease: int, ttl_s: float, started_s: float) -> None:
        self._kv = kv
        self._clock = clock
        self._epoch = epoch
        self._lease = lease
        self._ttl_s = ttl_s
        self._until_s = started_s + ttl_s
        self._lost = False
        self._keeping = asyncio.create_task(self._keep())

    @property
    def epoch(self) -> int:
        """See `storage.log.Lease`."""
        return self._epoch

    def held(self) -> bool:
        """See `storage.log.Lease`."""
        return not self._lost and self._clock.monotonic_s() < self._until_s

    def lose(self) -> None:
        """Another owns the log, as the catalog says."""
        self._lost = True

    async def release(self) -> None:
        """Let the log go. Only after its writer was closed. If the KV does not answer, the lease runs out by itself."""
        self._lost = True
        self._keeping.cancel()
        await asyncio.gather(self._keeping, return_exceptions=True)
        with contextlib.suppress(FirnlineError):
            await self._kv.lease_revoke(self._lease)

    async def _keep(self) -> None:
        pause_s = self._ttl_s / _PARTS
        while not self._lost:
            await asyncio.sleep(pause_s)
            asked_s = self._clock.monotonic_s()
            try:
                await self._kv.lease_keepalive(self._lease)
            except NotFoundError:
                self._lost = True
            except FirnlineError:
                pause_s = self._ttl_s / _RETRY_PARTS
            else:
                self._until_s = asked_s + self._ttl_s
                pause_s = self._ttl_s / _PARTS
