"""Who owns which log, as last read from the catalog, and the way to an owner that can be asked.

`Directory.refresh` reads it anew; whoever begins a statement does. While the catalog does not answer, what was read
last is used: nobody can become owner of a log in that time.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from catalog.logs import LogCatalog, LogOwner, LogShards, LogsState
from catalog.process import Process, is_dead
from service.log.http_client import HttpClient
from service.log.observe import LogObserver, Unobserved
from service.log.place import LogPlace
from service.log.remote import RemoteLog
from service.settings import LogAccess
from storage.clock import Clock
from storage.errors import IndeterminateError, UnavailableError

__all__ = ["Directory"]

_FRESH_S = 1.0
_LOOPBACK = ("127.", "localhost", "[::1]", "::1")


class Directory:
    """What all logs of an open lake share."""

    def __init__(
        self, catalog: LogCatalog, place: LogPlace, settings: LogAccess, process: Process, clock: Clock
    ) -> None:
        self.catalog = catalog
        self.place = place
        self.settings = settings
        self.process = process
        self.clock = clock
        self.observer: LogObserver = Unobserved()
        self.instance = clock.new_id()
        self._state: LogsState | None = None
        self._read_s = 0.0
        self._shards: LogShards | None = None
        self._clients: dict[str, HttpClient] = {}

    async def refresh(self) -> LogsState:
        """Return the catalog's state now. Raises `UnavailableError` if it does not answer and never did."""
        return (await self.hear())[0]

    async def hear(self) -> tuple[LogsState, bool]:
        """`refresh`, and whether the catalog said so just now."""
        try:
            return await self.ask(), True
        except (UnavailableError, IndeterminateError):
            if self._state is None:
                raise
            return self._state, False

    async def ask(self) -> LogsState:
        """`refresh` that raises when the catalog does not answer."""
        asked_s = self.clock.monotonic_s()
        state = await self.catalog.load()
        if self._state is None or asked_s >= self._read_s:
            self._state, self._read_s = state, asked_s
        return state

    def recent(self) -> LogsState | None:
        """Return the state as of the last second, if it is known."""
        if self._state is None or self.clock.monotonic_s() - self._read_s > _FRESH_S:
            return None
        return self._state

    async def current(self) -> LogsState:
        """`recent`, or else `refresh`."""
        return self.recent() or await self.refresh()

    def doubt(self) -> None:
        """What was read does not hold any more."""
        self._read_s = float("-inf")

    async def journal_name(self, shard: int) -> str:
        """Return what a journal of the log says that it belongs to; it outlives a move of the lake."""
        if self._shards is None:
            self._shards = await self.catalog.shards(self.settings.shards)
        return f"{self._shards.lake_id}/{shard}"

    def is_other(self, owner: LogOwner | None) -> bool:
        """Whether another one, which may be alive, owns the log."""
        return owner is not None and owner.instance != self.instance and not is_dead(owner.process)

    def remote(self, shard: int, owner: LogOwner | None) -> RemoteLog | None:
        """Return the way to another owner that is alive, if it can be asked from here."""
        if owner is None or not self.is_other(owner) or owner.url is None:
            return None
        host = urlsplit(owner.url).netloc
        if host.startswith(_LOOPBACK) and owner.process.host != self.process.host:
            return None
        return self._way(shard, owner.url, owner.secret or "")

    def via(self, shard: int) -> RemoteLog | None:
        """Return the way to the server that owns the logs when nobody does, if this process has one."""
        settings = self.settings
        return self._way(shard, settings.via_url, settings.via_secret or "") if settings.via_url else None

    def _way(self, shard: int, url: str, secret: str) -> RemoteLog:
        if url not in self._clients:
            self._clients[url] = HttpClient(url, self.clock)
        return RemoteLog(self._clients[url], shard, secret, self.settings)

    async def close(self) -> None:
        """Close the connections to other processes."""
        for client in self._clients.values():
            await client.close()
        self._clients.clear()
