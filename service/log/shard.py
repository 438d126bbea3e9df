"""One log as this process sees it: its own, another process's over HTTP, or what is stored.

An append goes to the owner; if there is none, this process becomes it. A read never claims: an owner that is alive and
can be asked is asked, else the object store and the journal on this machine's disk hold all that was acknowledged.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

from catalog.logs import LogOwner, ShardState
from service.log.claim import Claimer
from service.log.directory import Directory
from service.log.http_client import NotReachedError
from service.log.owned import OwnedLog, decode_range
from service.log.remote import RemoteLog
from service.log.stored import StoredLog, journal_limit, read_stored
from storage.errors import FencedError, FirnlineError, IndeterminateError, OverloadedError, UnavailableError
from storage.log import AckMode, Receipt, Record
from storage.log.access import LogRange, Touched

__all__ = ["ShardLog"]

_TRIES = 4
_PAUSE_S = 0.02
_PAUSE_MAX_S = 0.2
_WANT_AGAIN_S = 1.0


class ShardLog:
    """A `storage.log.access.Log`, whoever owns it."""

    def __init__(self, directory: Directory, shard: int, claimed: Callable[[], None]) -> None:
        self._directory = directory
        self._claimed = claimed
        self._shard = shard
        self._claimer = Claimer(directory, shard)
        self._owned: OwnedLog | None = None
        self._changing = asyncio.Lock()
        self._quiet: tuple[int, int] | None = None
        self._closed = False
        self.claimed_s = 0.0
        self.used_s = 0.0
        self.n_fenced = 0

    @property
    def owned(self) -> OwnedLog | None:
        """The log, while this process owns it."""
        return self._owned if self._owned is not None and self._owned.running else None

    # Appending

    async def append(
        self, records: Sequence[Record], *, ack: AckMode | None = None, touched: Touched | None = None
    ) -> Receipt:
        """See `storage.log.access.Log.append`.

        Another try is made where nothing was stored, and where the records' key tells whether it was.
        """
        unknown: IndeterminateError | None = None
        for n_left in reversed(range(_TRIES)):
            try:
                log = await self._appender()
                return await log.append(records, ack=ack, touched=touched)
            except (FencedError, NotReachedError) as error:
                self._directory.doubt()
                if not n_left:
                    raise unknown or UnavailableError(
                        "the log changes its owner again and again; retry", shard=self._shard, reason=error.message
                    ) from error
            except IndeterminateError as error:
                self._directory.doubt()
                if not n_left or records[0].idempotency_key is None:
                    raise
                unknown = error
            except UnavailableError as error:
                # An earlier try may have been stored, whatever became of this one.
                if unknown is not None:
                    raise unknown from error
                raise
            await asyncio.sleep(self._directory.clock.uniform(0, _PAUSE_MAX_S))
        raise AssertionError("unreachable")

    async def find(self, table_id: str, idempotency_key: str) -> Receipt | None:
        """See `storage.log.access.Log.find`."""
        if self.owned is None and (await self._directory.refresh()).of(self._shard).epoch == 0:
            return None
        for _ in range(_TRIES):
            log = await self._appender()
            with contextlib.suppress(FencedError, NotReachedError):
                return await log.find(table_id, idempotency_key)
            self._directory.doubt()
        raise UnavailableError("the log changes its owner again and again; retry", shard=self._shard)

    async def own(self) -> OwnedLog:
        """Return the log as this process's own, claimed now if need be.

        Raises `FencedError` if another process owns it that can be asked.
        """
        log = await self._appender()
        if isinstance(log, OwnedLog):
            return log
        raise FencedError("another process owns this log", shard=self._shard, owner=log.url)

    async def _appender(self) -> OwnedLog | RemoteLog:
        self.used_s = self._directory.clock.monotonic_s()
        if (owned := self.owned) is not None:
            return owned
        known = self._directory.recent()
        if known is not None and self._owned is None:
            # An owner that is none any more says so, and is then asked for in the catalog.
            remote = self._directory.remote(self._shard, known.of(self._shard).owner)
            if remote is not None:
                return remote
        async with self._changing:
            if (owned := self.owned) is not None:
                return owned
            await self._retire()
            return await self._find_owner()

    async def _find_owner(self) -> OwnedLog | RemoteLog:
        """Wait for an owner that can be asked, or become it; at most for the settings' time."""
        directory, clock = self._directory, self._directory.clock
        limit_s = clock.monotonic_s() + directory.settings.wait_s
        wanted_s = float("-inf")
        pause_s = _PAUSE_S
        while True:
            if self._closed:
                raise UnavailableError("the lake is closing", shard=self._shard)
            state = await self._state_now()
            remote = directory.remote(self._shard, state.owner)
            if remote is not None:
                return remote
            if not directory.settings.may_own:
                via = directory.via(self._shard)
                if via is not None:
                    return via
                if state.epoch == 0 or clock.monotonic_s() > limit_s:
                    raise UnavailableError(
                        "no process owns this log and this one may not; start firn wal or firn serve",
                        shard=self._shard,
                    )
            elif not directory.is_other(state.owner):
                owned = await self._claimer.claim(state)
                if owned is not None:
                    return self._begin(owned, state.folded)
            elif clock.monotonic_s() - wanted_s > _WANT_AGAIN_S:
                wanted_s = clock.monotonic_s()
                await directory.catalog.want(self._shard, directory.instance)
            if clock.monotonic_s() > limit_s:
                raise _blocked(self._shard, state.owner, directory.settings.wait_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _PAUSE_MAX_S)

    async def _state_now(self) -> ShardState:
        """The catalog's word, not what was read earlier: an owner is made by it alone."""
        try:
            return (await self._directory.ask()).of(self._shard)
        except (UnavailableError, IndeterminateError) as error:
            raise UnavailableError(
                "the catalog does not answer, so nobody can be told to own the log; nothing was stored",
                shard=self._shard, reason=str(error),
            ) from error  # fmt: skip

    def _begin(self, owned: OwnedLog, folded: int) -> OwnedLog:
        owned.mark_folded(folded)
        self._owned = owned
        self.claimed_s = self.used_s = self._directory.clock.monotonic_s()
        self._claimed()
        return owned

    async def _retire(self) -> None:
        """Close what does not run any more."""
        if self._owned is not None:
            owned, self._owned = self._owned, None
            self.n_fenced += 1
            await owned.close()

    # Reading

    async def read(self, start: int, *, bytes_max: int = 0) -> LogRange:
        """See `storage.log.access.Log.read`."""
        directory = self._directory
        limit_s = directory.clock.monotonic_s() + directory.settings.wait_s
        state = (await directory.current()).of(self._shard)
        while True:
            if (owned := self.owned) is not None:
                with contextlib.suppress(FencedError):
                    return await owned.read(start, bytes_max=bytes_max)
                state = (await directory.refresh()).of(self._shard)
            remote = directory.remote(self._shard, state.owner)
            if remote is None:
                if await self._nothing_since(start):
                    return LogRange(start, start, [], 0)
                return await self._read_here(state, start, bytes_max)
            try:
                return await remote.read(start, bytes_max=bytes_max)
            except OverloadedError:
                raise
            except (FencedError, UnavailableError):
                before, state = state, (await directory.refresh()).of(self._shard)
            if state.owner == before.owner:
                # Without a journal, all that the owner acknowledged is in the object store.
                if state.journal is None or self._journal(state) is not None:
                    return await self._read_here(state, start, bytes_max)
                if directory.clock.monotonic_s() > limit_s:
                    raise _blocked(self._shard, state.owner, directory.settings.wait_s)
                await asyncio.sleep(_PAUSE_MAX_S)

    async def _read_here(self, state: ShardState, start: int, bytes_max: int) -> LogRange:
        place = self._directory.place
        journal = self._journal(state)
        name = await self._directory.journal_name(self._shard) if journal is not None else ""
        prefix = place.log(self._shard)
        found = await read_stored(place.blobs, prefix, start, bytes_max=bytes_max, journal=journal, name=name)
        if state.owner is None and not found.more:
            self._quiet = (state.epoch, found.limit)
        return await decode_range(found, prefix)

    async def _nothing_since(self, start: int) -> bool:
        """Whether nobody can have been acknowledged anything behind ``start``, so that nothing need be read.

        So it is when nobody owned the log before it was last read to its end, and nobody became its owner since:
        an owner acknowledges only while it holds its lease (`storage.log.commit`).
        """
        if self._quiet is None or start < self._quiet[1]:
            return False
        try:
            state = (await self._directory.ask()).of(self._shard)
        except (UnavailableError, IndeterminateError):
            return False
        return self.quiet_end(state) is not None

    def quiet_end(self, state: ShardState) -> int | None:
        """Return the sequence behind which nobody had been acknowledged anything when the catalog said ``state``; None
        if that is not known without a read."""
        quiet = self._quiet
        return quiet[1] if quiet is not None and state.owner is None and state.epoch == quiet[0] else None

    def _journal(self, state: ShardState) -> Path | None:
        path = self._directory.place.journal_of(self._shard, state, self._directory.process.host)
        return path if path is not None and path.exists() else None

    async def flush(self) -> int:
        """See `storage.log.access.Log.flush`."""
        directory = self._directory
        for _ in range(_TRIES):
            log: OwnedLog | RemoteLog | None = self.owned
            if log is None:
                log = directory.remote(self._shard, (await directory.refresh()).of(self._shard).owner)
            with contextlib.suppress(FencedError, NotReachedError):
                return await (self._flush_here() if log is None else log.flush())
            directory.doubt()
        raise UnavailableError("the log changes its owner again and again; retry", shard=self._shard)

    async def _flush_here(self) -> int:
        """Wait until the journal of an owner that cannot be asked is uploaded, or claim the log and do it."""
        directory = self._directory
        stored = StoredLog(directory.place.blobs, directory.place.log(self._shard))
        limit_s = directory.clock.monotonic_s() + directory.settings.wait_s
        wanted: int | None = None
        while True:
            state = (await directory.refresh()).of(self._shard)
            journal = self._journal(state)
            end = await stored.flush()
            if journal is None:
                return end
            name = await directory.journal_name(self._shard)
            if wanted is None:
                place = directory.place
                wanted = await journal_limit(place.blobs, place.log(self._shard), journal, name)
            if end >= wanted:
                return end
            if not directory.is_other(state.owner):
                return await (await self._appender()).flush()
            if directory.clock.monotonic_s() > limit_s:
                raise _blocked(self._shard, state.owner, directory.settings.wait_s)
            await asyncio.sleep(_PAUSE_MAX_S)

    # Keeping

    async def release(self, *, closing: bool = False) -> None:
        """Store what was accepted and let the log go."""
        self._closed = self._closed or closing
        async with self._changing:
            if self._owned is not None:
                owned, self._owned = self._owned, None
                await owned.close()


def _blocked(shard: int, owner: LogOwner | None, wait_s: float) -> FirnlineError:
    """Nothing was stored, and who is in the way."""
    if owner is None:
        return UnavailableError(
            "the log could not be claimed: its journal is held by a process whose lease ran out; end that process",
            shard=shard, waited_s=wait_s,
        )  # fmt: skip
    return UnavailableError(
        "another process owns this log and cannot be asked; end it, or wait until its lease runs out",
        shard=shard, owner=owner.process.host, pid=owner.process.pid, url=owner.url, epoch=owner.epoch, waited_s=wait_s,
    )  # fmt: skip
