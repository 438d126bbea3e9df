"""The logs of a lake for tests: an open `LakeLogs` over a catalog and blobs of one's own, with hasty settings."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import uvicorn
from starlette.types import Receive, Scope, Send

from catalog.kv import KV
from catalog.kv.sqlite import SqliteKV
from service.http_server import bound
from service.log.open import LakeLogs, open_logs
from service.log.own_url import served_by
from service.log.routes import LogMount, LogRoutes
from service.problems import send_json
from service.settings import LogAccess
from storage.blobs import Blobs
from storage.blobs.open import open_blobs
from storage.blobs.s3_options import S3Options
from storage.clock import SystemClock
from storage.log import Record, RecordKind
from storage.log.access import LogRange, Touched
from storage.log.settings import LogSettings
from storage.stores import Stores

__all__ = ["HASTY", "answering", "opened", "row", "texts", "touching"]

HASTY = LogAccess(
    lease_ttl_s=2.0,
    wait_s=5.0,
    poll_s=0.02,
    writer=LogSettings(flush_interval_ms=5, retry_delay_ms=5),
)


@asynccontextmanager
async def opened(
    folder: Path, *, kv: KV | None = None, blobs: Blobs | None = None, **settings: object
) -> AsyncIterator[LakeLogs]:
    """Open the logs of the lake in ``folder``; its catalog is a SQLite file unless one is given."""
    clock = SystemClock()
    folder.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240
    opener = (lambda _root: blobs) if blobs is not None else partial(open_blobs, s3=S3Options(), clock=clock)
    stores = Stores(opener)
    own = kv or SqliteKV(folder / "catalog.db", clock)
    logs = open_logs(str(folder), replace(HASTY, **settings), own, stores, clock)  # type: ignore[arg-type]
    try:
        yield logs
    finally:
        await logs.close()
        if kv is None:
            await own.close()
        if blobs is None:
            await stores.close()


def row(text: str, key: str | None = None, *, table: str = "t", kind: RecordKind = RecordKind.APPEND) -> Record:
    """A record told by its body's text."""
    return Record(table, 0, kind, text.encode(), key)


def texts(found: LogRange) -> list[str]:
    """The bodies of a range, after a check that its sequences are dense."""
    assert [each.position.sequence for each in found.records] == list(range(found.start, found.limit))
    return [each.record.body.decode() for each in found.records]


def touching(*keys: int, since: tuple[int, int] | None = None) -> Touched:
    """What an append of these key hashes says."""
    return Touched(np.array(keys, np.uint64), since)


@asynccontextmanager
async def answering(folder: Path, **settings: object) -> AsyncIterator[tuple[LakeLogs, str]]:
    """Open the logs of the lake and answer for them over HTTP; yields the URL too."""
    with bound("127.0.0.1", 0) as listener:
        access = served_by(replace(HASTY, **settings), listener, SystemClock())  # type: ignore[arg-type]
        async with opened(folder, **settings | {"url": access.url, "secret": access.secret}) as logs:
            app = LogMount(_nothing, LogRoutes(logs, access.secret or ""))
            config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", ws="none")
            server = uvicorn.Server(config)
            server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]
            work = asyncio.create_task(server.serve([listener]))
            while not server.started:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            try:
                yield logs, access.url or ""
            finally:
                server.should_exit = True
                await work


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    await send_json(send, {"status": "nothing here"}, status=404)
