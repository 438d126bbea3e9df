"""`LakeLogs`: all logs of an open lake. Opening it reads nothing; a read of a lake without logs asks the KV once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from pathlib import Path

from catalog.kv import KV
from catalog.logs import LogCatalog, LogsState
from catalog.process import this_process
from service.log.directory import Directory
from service.log.observe import LogObserver
from service.log.place import LOG_FOLDER, LogPlace
from service.log.shard import ShardLog
from service.log.stored import StoredLog
from service.settings import LogAccess
from storage.clock import Clock
from storage.errors import FirnlineError, InvalidError
from storage.log import AckMode
from storage.log.access import Marks
from storage.stores import Stores, join, normalize

__all__ = ["LakeLogs", "open_logs"]

_POLL_LOCAL_S = 0.1
_POLL_S = 1.0
_HOLD_S = 0.2


def open_logs(lake: str, settings: LogAccess, kv: KV, stores: Stores, clock: Clock) -> LakeLogs:
    """Return the logs of a lake. Raises `InvalidError` for settings that cannot be."""
    location = normalize(lake)
    blobs, prefix = stores.resolve(join(location, LOG_FOLDER))
    folder = Path(location.removeprefix("file://")) if location.startswith("file://") else None
    journals = Path(settings.journal).absolute() if settings.journal else None
    place = LogPlace(blobs, prefix, folder, journals)
    if settings.ack is AckMode.FSYNC and not place.journaled:
        raise InvalidError("acknowledging by fsync needs a local folder for the journal: set FIRN_LOG_JOURNAL")
    return LakeLogs(Directory(LogCatalog(kv, clock), place, settings, this_process(), clock))


class LakeLogs:
    """A `storage.log.access.Logs`."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._logs: dict[int, ShardLog] = {}
        self._watching: asyncio.Task[None] | None = None

    async def log(self, shard: int) -> ShardLog:
        """See `storage.log.access.Logs.log`."""
        return self.shard(shard)

    def shard(self, shard: int) -> ShardLog:
        """`log`, at once."""
        if shard not in self._logs:
            self._logs[shard] = ShardLog(self._directory, shard, self._begin_watching)
        return self._logs[shard]

    def observe(self, observer: LogObserver) -> None:
        """Tell ``observer`` of the appends to the logs that are claimed from now on."""
        self._directory.observer = observer

    def check_journals(self, shards: Iterable[int]) -> None:
        """See `LogPlace.check_journals`."""
        self._directory.place.check_journals(shards)

    async def n_shards(self) -> int:
        """Return how many logs the lake has; one that has none yet gets as many as the settings say."""
        return (await self._directory.catalog.shards(self._directory.settings.shards)).n

    async def stored(self, shard: int) -> StoredLog:
        """See `storage.log.access.Logs.stored`."""
        place = self._directory.place
        return StoredLog(place.blobs, place.log(shard))

    async def folded(self) -> Marks:
        """See `storage.log.access.Logs.folded`. Also learns who owns the logs, for the reads that follow."""
        state, is_news = await self._directory.hear()
        ends = {shard: log.quiet_end(state.of(shard)) for shard, log in self._logs.items()} if is_news else {}
        return Marks(
            {shard: each.folded for shard, each in state.by_shard.items() if each.epoch},
            {shard: end for shard, end in ends.items() if end is not None},
        )

    async def set_folded(self, shard: int, sequence: int) -> None:
        """See `storage.log.access.Logs.set_folded`."""
        await self._directory.catalog.raise_folded(shard, sequence)
        if shard in self._logs and (owned := self._logs[shard].owned) is not None:
            owned.mark_folded(sequence)

    def all(self) -> dict[int, ShardLog]:
        """The logs that were asked for so far."""
        return dict(self._logs)

    async def close(self) -> None:
        """See `storage.log.access.Logs.close`."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        try:
            await asyncio.gather(*(log.release(closing=True) for log in self._logs.values()))
        finally:
            await self._directory.close()

    def _begin_watching(self) -> None:
        """A log was claimed. Who never owns one is never woken."""
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        """Look now and then what became of the logs that this process owns."""
        directory = self._directory
        local = directory.place.lake_folder is not None
        poll_s = directory.settings.poll_s or (_POLL_LOCAL_S if local else _POLL_S)
        while True:
            await asyncio.sleep(poll_s)
            if any(log.owned is not None for log in self._logs.values()):
                with contextlib.suppress(FirnlineError):
                    await self._look(await directory.refresh())

    async def _look(self, state: LogsState) -> None:
        directory = self._directory
        now_s = directory.clock.monotonic_s()
        for number, log in self._logs.items():
            if (owned := log.owned) is None:
                continue
            known = state.of(number)
            if known.epoch > owned.epoch:
                owned.lease.lose()
                continue
            owned.mark_folded(known.folded)
            if directory.settings.url is not None:
                continue
            wanted = known.wanted_by not in (None, directory.instance)
            idle = owned.n_appending == 0 and now_s - log.used_s > directory.settings.idle_s
            if (wanted and now_s - log.claimed_s > _HOLD_S) or idle:
                await log.release()
