"""How far a statement is that takes long, for those who wait for it: told by whoever runs it, read by anyone.

``progress/<statement id>`` in the KV holds it as JSON with a version, on a lease: it goes when the statement ends, and
soon after its process does. Nothing depends on it, so a catalog that does not answer hinders no statement.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from catalog.kv import KV, Put
from storage.clock import Clock
from storage.errors import FirnlineError

__all__ = ["Progress", "Tell", "progress_of", "telling", "untold"]

_log = logging.getLogger("firnline.progress")
_VERSION = 2
_FIRST_S = 0.5
_EVERY_S = 2.0
_LEASE_S = 30.0
_END_S = 1.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a statement is.

    what : is counted, as "files indexed"; a statement may count one thing after another
    n_done, n_total : of these; the total is None where nobody knows it yet
    elapsed_ms : since the first was begun
    """

    what: str
    n_done: int
    n_total: int | None
    elapsed_ms: int

    @property
    def left_ms(self) -> int | None:
        """How long it will take at this rate; None before anything is done, and where the total is not known."""
        if not self.n_done or self.n_total is None:
            return None
        return self.elapsed_ms * (self.n_total - self.n_done) // self.n_done

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready values."""
        return asdict(self) | {"left_ms": self.left_ms}

    def __str__(self) -> str:
        found = f"{self.n_done:,} {self.what}"
        if self.n_total is not None:
            found = f"{self.n_done:,} of {self.n_total:,} {self.what}"
        if self.n_done and self.elapsed_ms > 0:
            found += f", {self.n_done / self.elapsed_ms * 1000:,.1f} a second"
        if self.left_ms:
            found += f", {self.left_ms / 1000:,.0f} s left"
        return found


class Tell(Protocol):
    """Takes how far a statement is, as often as one likes; costs nothing to speak of."""

    def __call__(self, n_done: int, n_total: int | None, what: str) -> None:
        """As of `Progress`; the time begins anew with each ``what``."""
        ...


def untold(n_done: int, n_total: int | None, what: str) -> None:
    """Tell nobody."""


@asynccontextmanager
async def telling(kv: KV, clock: Clock, statement_id: str, *, every_s: float | None = None) -> AsyncIterator[Tell]:
    """Give a `Tell`, and pass the newest of what it takes on until the block ends: soon, and then every two seconds,
    or all of ``every_s``."""
    started_s = clock.monotonic_s()
    newest: list[Progress] = []

    def tell(n_done: int, n_total: int | None, what: str) -> None:
        nonlocal started_s
        if newest and newest[0].what != what:
            started_s = clock.monotonic_s()
        newest[:] = [Progress(what, n_done, n_total, round((clock.monotonic_s() - started_s) * 1000))]

    key = f"progress/{statement_id}"
    first_s, later_s = (_FIRST_S, _EVERY_S) if every_s is None else (every_s, every_s)
    task = asyncio.create_task(_tell(kv, key, newest, first_s, later_s))
    try:
        yield tell
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _tell(kv: KV, key: str, newest: list[Progress], first_s: float, later_s: float) -> None:
    await asyncio.sleep(first_s)
    lease: int | None = None
    try:
        while True:
            try:
                lease = await _put(kv, key, newest[0], lease) if newest else None
            except FirnlineError as error:
                _log.info("how far a statement is could not be told: %s", error)
                lease = None
            await asyncio.sleep(later_s if newest else first_s)
    finally:
        if lease is not None:
            # Whoever waits for the statement does not wait for a catalog that is away; the lease runs out by itself.
            with suppress(FirnlineError, TimeoutError):
                async with asyncio.timeout(_END_S):
                    await kv.lease_revoke(lease)


async def _put(kv: KV, key: str, progress: Progress, lease: int | None) -> int:
    if lease is None:
        lease = await kv.lease_grant(_LEASE_S)
    else:
        await kv.lease_keepalive(lease)
    value = json.dumps({"version": _VERSION, **asdict(progress)}).encode()
    await kv.txn({}, [Put(key, value, lease)])
    return lease


async def progress_of(kv: KV, statement_id: str) -> Progress | None:
    """Return how far the statement is, if it tells. Raises what the catalog raises."""
    entry = await kv.get(f"progress/{statement_id}")
    if entry is None:
        return None
    try:
        value = json.loads(entry.value)
        return Progress(**value) if value.pop("version") == _VERSION else None
    except (ValueError, TypeError, KeyError):
        return None
