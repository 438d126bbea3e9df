"""Becoming the owner of a log: the epoch from the catalog, then the log itself."""

from __future__ import annotations

import contextlib
from pathlib import Path

from catalog.log_lease import LogLease
from catalog.logs import LogOwner, ShardState
from service.log.directory import Directory
from service.log.owned import OwnedLog, OwnedRules
from storage.errors import ConflictError, FencedError, UnsupportedError
from storage.log.writer import LogWriter, open_log

__all__ = ["Claimer"]


class Claimer:
    """Claims one log for this process."""

    def __init__(self, directory: Directory, shard: int) -> None:
        self._directory = directory
        self._shard = shard
        self._at_least = 0
        self._emptied = 0

    async def claim(self, state: ShardState) -> OwnedLog | None:
        """Become the owner; None if another was faster, still holds the journal, or this has to be tried again.

        What the journal of an earlier owner on this machine holds is in the log when this returns. Raises what the
        catalog and `storage.log.writer.open_log` raise.
        """
        place = self._directory.place
        path, name = place.own_journal(self._shard)
        before = place.journal_of(self._shard, state, self._directory.process.host)
        if before is not None and before != path and state.epoch != self._emptied and before.exists():
            # An earlier owner kept its journal elsewhere: first what it left is brought into the object store. If that
            # owner hangs and holds on to it, what it left has to wait for it.
            with contextlib.suppress(ConflictError):
                found = await self._open(before, str(before))
                if found is not None:
                    await found.close()
                    self._emptied = found.epoch
                return None
        try:
            return await self._open(path, name)
        except ConflictError:
            # The journal's last process is alive though its lease ran out.
            return None

    async def _open(self, path: Path | None, journal: str | None) -> OwnedLog | None:
        """Raises `ConflictError` if another process holds the journal."""
        directory, shard, settings = self._directory, self._shard, self._directory.settings
        name = await directory.journal_name(shard)
        me = LogOwner(0, directory.instance, directory.process, settings.url, settings.secret)
        lease = await directory.catalog.claim(shard, me, journal, settings.lease_ttl_s, at_least=self._at_least)
        if lease is None:
            return None
        try:
            writer = await self._open_writer(lease, path, name)
        except FencedError as error:
            # The log knows of later epochs than the catalog, which was restored from an older copy.
            self._at_least = int(error.facts.get("last", lease.epoch)) + 1
            await lease.release()
            return None
        except BaseException:
            await lease.release()
            raise
        rules = OwnedRules(settings.ack, directory.clock, directory.observer)
        return OwnedLog(directory.place, shard, lease, writer, rules)

    async def _open_writer(self, lease: LogLease, path: Path | None, name: str) -> LogWriter:
        directory = self._directory
        prefix = directory.place.log(self._shard)
        settings = directory.settings.writer
        try:
            return await open_log(directory.place.blobs, prefix, lease, settings, directory.clock, path, name=name)
        except OSError as error:
            raise UnsupportedError("the journal's folder cannot be used", path=str(path), reason=str(error)) from error
