"""``firn wal``: the lake's logs in a process of their own.

It owns its shards for as long as it runs, or waits for their owner to go: two of them are one and its stand-by. At
SIGTERM or SIGINT it takes no more requests, ends those it has, brings all to the object store and releases the logs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import uvloop
from starlette.types import Receive, Scope, Send

from catalog.kv.counted import CountedKV
from functions import tracing
from service.components import access_policy, open_catalog
from service.counted import register_counts, register_process
from service.http_server import bound, serve_app
from service.log.metrics import LogMetrics
from service.log.open import LakeLogs, open_logs
from service.log.own_url import served_by
from service.log.routes import LogMount, LogRoutes
from service.logs import configure_logs
from service.metrics import METRICS_TYPE
from service.problems import send_json, send_problem
from service.settings import EngineSettings
from storage.blobs.counted import counting
from storage.blobs.open import open_blobs
from storage.clock import Clock, SystemClock
from storage.counts import Counts
from storage.errors import FirnlineError, NotFoundError, UnavailableError
from storage.stores import Stores

__all__ = ["LogServerSettings", "serve_log"]

_log = logging.getLogger("firnline.log")
_KEEP_S = 0.5


@dataclass(frozen=True, slots=True)
class LogServerSettings:
    """Everything `serve_log` is told.

    shards : which logs to own; None: all of the lake
    port : 0 takes a free one
    drain_s : how long requests may go on after SIGTERM
    """

    engine: EngineSettings = field(default_factory=EngineSettings)
    shards: tuple[int, ...] | None = None
    host: str = "127.0.0.1"
    port: int = 8081
    drain_s: float = 10.0
    log_level: str = "info"


def serve_log(settings: LogServerSettings) -> None:
    """Serve until a signal ends it; print ``listening on http://…`` once it can be asked.

    Raises `InvalidError` for an address or a folder of journals that cannot be had.
    """
    configure_logs(settings.log_level)
    if settings.engine.traces:
        tracing.start("wal")
    uvloop.run(_serve(settings))
    tracing.flush()


async def _serve(settings: LogServerSettings) -> None:
    clock = SystemClock()
    with bound(settings.host, settings.port) as listener:
        access = served_by(settings.engine.log, listener, clock)
        engine = replace(settings.engine, log=access)
        counts = Counts()
        async with _opened(engine, clock, counts) as logs:
            metrics = LogMetrics()
            register_counts(metrics.registry, counts, ("store", "catalog"))
            register_process(metrics.registry, "wal")
            logs.observe(metrics)
            metrics.watch(logs)
            shards = settings.shards if settings.shards is not None else tuple(range(await logs.n_shards()))
            await asyncio.to_thread(logs.check_journals, shards)
            app = LogMount(_Health(logs, shards, metrics), LogRoutes(logs, access.secret or ""))
            keeping = asyncio.create_task(_keep(logs, shards))
            try:
                await serve_app(app, _Nothing(), listener, drain_s=settings.drain_s, announce=_announce)
            finally:
                keeping.cancel()
                await asyncio.gather(keeping, return_exceptions=True)


@asynccontextmanager
async def _opened(settings: EngineSettings, clock: Clock, counts: Counts) -> AsyncIterator[LakeLogs]:
    """Open a lake's logs without an engine: the service starts fast and holds little memory."""
    stores = Stores(counting(partial(open_blobs, s3=settings.s3, clock=clock), counts, clock), access_policy(settings))
    kv = CountedKV(await open_catalog(settings, clock, stores), counts, clock)
    try:
        logs = open_logs(settings.lake, settings.log, kv, stores, clock)
        try:
            yield logs
        finally:
            await logs.close()
    finally:
        await kv.close()
        await stores.close()


async def _keep(logs: LakeLogs, shards: Sequence[int]) -> None:
    """Own the shards, again whenever one is lost."""
    refused: dict[int, str] = {}
    while True:
        for shard in shards:
            if logs.shard(shard).owned is not None:
                continue
            try:
                owned = await logs.shard(shard).own()
            except FirnlineError as error:
                if refused.get(shard) != error.message:
                    _log.warning("a log is not owned: %s", error, extra={"shard": shard})
                    refused[shard] = error.message
            else:
                refused.pop(shard, None)
                _log.info("a log is owned", extra={"shard": shard, "epoch": owned.epoch})
        await asyncio.sleep(_KEEP_S)


class _Health:
    """``/healthz``, ``/readyz`` and ``/metrics`` of the log service."""

    def __init__(self, logs: LakeLogs, shards: Sequence[int], metrics: LogMetrics) -> None:
        self._logs = logs
        self._shards = shards
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        try:
            await self._answer(scope, send)
        except FirnlineError as error:
            await send_problem(send, error)

    async def _answer(self, scope: Scope, send: Send) -> None:
        if scope["path"] == "/healthz":
            await send_json(send, {"status": "ok"})
        elif scope["path"] == "/readyz":
            missing = [shard for shard in self._shards if self._logs.shard(shard).owned is None]
            if missing:
                raise UnavailableError("some logs are not owned yet", shards=missing, retry_after_s=1)
            await send_json(send, {"status": "ready", "shards": list(self._shards)})
        elif scope["path"] == "/metrics":
            body = self._metrics.exposition()
            headers = [(b"content-type", METRICS_TYPE.encode()), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        else:
            raise NotFoundError("no such path; a log service has /healthz, /readyz, /metrics", path=scope["path"][:200])


class _Nothing:
    """No statements run here."""

    def stop_all(self) -> None:
        """See `service.http_server.Stops`."""


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return


def _announce(url: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(f"listening on {url}", flush=True)
