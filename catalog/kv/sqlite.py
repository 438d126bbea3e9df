"""`KV` in one SQLite file that many processes of one machine may open at once: the embedded catalog.

Reads and writes have a thread and a connection each, so a writer that waits for another process never holds up a
read. Reads that are asked for in one turn of the event loop go to the thread together: the way there and back takes
longer than most of them. The file must be on a local disk: WAL mode shares memory between processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from catalog.kv import Entry, Event, Put, TxnResult
from catalog.kv.checks import check_key, check_start_revision, check_ttl, check_txn, encode_key
from catalog.kv.sqlite_file import SqliteFile
from catalog.kv.state import HistoryLimits
from storage.clock import Clock

__all__ = ["SqliteKV"]

T = TypeVar("T")


class SqliteKV:
    """A `KV` over the file ``path``, created when absent.

    Parameters
    ----------
    busy_timeout_s : how long a write waits for other processes before it raises `UnavailableError`
    poll_interval_ms : how often a watch looks for changes (one indexed read)
    history : how far back a watch may begin
    """

    def __init__(
        self,
        path: Path,
        clock: Clock,
        *,
        busy_timeout_s: float = 10.0,
        poll_interval_ms: int = 20,
        history: HistoryLimits | None = None,
    ) -> None:
        limits = history or HistoryLimits()
        self._clock = clock
        self._poll_interval_s = poll_interval_ms / 1000
        self._reader = _Worker("firn-kv-read", SqliteFile(path, busy_timeout_s, limits))
        self._writer = _Worker("firn-kv-write", SqliteFile(path, busy_timeout_s, limits))
        self._reads = _Reads(self._reader)

    async def get(self, key: str) -> Entry | None:
        encoded = check_key(key)
        return await self._read(lambda file: file.get(encoded))

    async def range(self, prefix: str) -> tuple[list[Entry], int]:
        encoded = encode_key(prefix)
        return await self._read(lambda file: file.range(encoded))

    async def txn(self, compares: Mapping[str, int], puts: Sequence[Put]) -> TxnResult:
        check_txn(compares, puts)
        now_ms = self._clock.now_ms()
        return await self._writer.run(lambda file: file.txn(compares, puts, now_ms))

    async def watch(self, prefix: str, start_revision: int) -> AsyncIterator[Event]:
        encoded = encode_key(prefix)
        check_start_revision(start_revision)
        cursor, after_seq = start_revision, 0
        while True:
            look = partial(SqliteFile.events, prefix=encoded, start_revision=cursor, after_seq=after_seq)
            events, cursor, after_seq = await self._read(look)
            for event in events:
                yield event
            if not events:
                await asyncio.sleep(self._poll_interval_s)

    async def lease_grant(self, ttl_s: float) -> int:
        check_ttl(ttl_s)
        ttl_ms, now_ms = math.ceil(ttl_s * 1000), self._clock.now_ms()
        return await self._writer.run(lambda file: file.lease_grant(ttl_ms, now_ms))

    async def lease_keepalive(self, lease: int) -> None:
        now_ms = self._clock.now_ms()
        await self._writer.run(lambda file: file.lease_keepalive(lease, now_ms))

    async def lease_revoke(self, lease: int) -> None:
        now_ms = self._clock.now_ms()
        await self._writer.run(lambda file: file.lease_revoke(lease, now_ms))

    async def close(self) -> None:
        await self._reader.close()
        await self._writer.close()

    async def _read(self, act: Callable[[SqliteFile], T]) -> T:
        """Run ``act`` on the reading connection once no lease is past its time."""
        now_ms = self._clock.now_ms()
        expired, result = await self._reads.run(act, now_ms)
        if not expired:
            return result
        await self._writer.run(lambda file: file.expire(now_ms))
        return await self._reader.run(act)


class _Worker:
    """One thread that owns one connection."""

    def __init__(self, name: str, file: SqliteFile) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._file = file

    async def run(self, act: Callable[[SqliteFile], T]) -> T:
        return await asyncio.wrap_future(self.start(act))

    def start(self, act: Callable[[SqliteFile], T]) -> Future[T]:
        """Raises `RuntimeError` once it was closed."""
        return self._executor.submit(act, self._file)

    async def close(self) -> None:
        await self.run(SqliteFile.close)
        await asyncio.to_thread(self._executor.shutdown)


_Waiting = tuple[Callable[[SqliteFile], Any], int, "asyncio.Future[tuple[bool, Any]]"]
"""A read, the time when it was asked for, and who waits for it."""
_Outcome = tuple[bool, Any] | BaseException


class _Reads:
    """Hands reads to a worker, those of one turn of an event loop together."""

    def __init__(self, worker: _Worker) -> None:
        self._worker = worker
        self._waiting: dict[asyncio.AbstractEventLoop, list[_Waiting]] = {}

    async def run(self, act: Callable[[SqliteFile], T], now_ms: int) -> tuple[bool, T]:
        """Return whether a lease is past its time at ``now_ms``, and what ``act`` returns."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[tuple[bool, T]] = loop.create_future()
        waiting = self._waiting.setdefault(loop, [])
        waiting.append((act, now_ms, future))
        if len(waiting) == 1:
            loop.call_soon(self._start, loop)
        return await future

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        waiting = self._waiting.pop(loop)
        try:
            read = self._worker.start(lambda file: _read_all(file, waiting))
        except RuntimeError as error:
            _tell(waiting, [error] * len(waiting))
            return
        read.add_done_callback(lambda _read: _tell_in(loop, waiting, read))


def _tell_in(loop: asyncio.AbstractEventLoop, waiting: Sequence[_Waiting], read: Future[list[_Outcome]]) -> None:
    error = read.exception()
    outcomes = read.result() if error is None else [error] * len(waiting)
    with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
        loop.call_soon_threadsafe(_tell, waiting, outcomes)


def _tell(waiting: Sequence[_Waiting], outcomes: Sequence[_Outcome]) -> None:
    for (_act, _now_ms, future), outcome in zip(waiting, outcomes, strict=True):
        if future.done():
            continue
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)


def _read_all(file: SqliteFile, waiting: Sequence[_Waiting]) -> list[_Outcome]:
    """Do the reads that somebody still waits for, as of one moment, leases looked at first."""
    found: list[_Outcome] = []
    with file.one_moment():
        expired = file.has_expired(max(now_ms for _act, now_ms, _future in waiting))
        for act, _now_ms, future in waiting:
            try:
                found.append((expired, None if future.cancelled() else act(file)))
            except Exception as error:  # noqa: BLE001 — told to whoever asked
                found.append(error)
    return found
