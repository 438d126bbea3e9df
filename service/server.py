"""`serve`: the HTTP service on an address of this machine, from its settings to its last statement.

Binds to loopback by default. Any other address asks for API tokens: every request must then carry one.
At SIGTERM or SIGINT it takes no more requests, gives those that run ``drain_s`` to end, and stops the rest.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from ipaddress import ip_address

import uvloop

from catalog.kv import KV
from functions import tracing
from functions.process_memory import machine_memory_bytes
from functions.worker_pool import WorkerSettings
from service.app import AppComponents, AppSettings, create_app
from service.auth import Caller, VerifyToken
from service.catalog_view import EngineCatalog
from service.compaction import Compaction, CompactionSettings, indexing_of
from service.compactor import compactor_process
from service.components import open_engine
from service.http_server import bound, serve_app
from service.iceberg_rest.open import iceberg_catalog
from service.local_names import LocalNames
from service.log.open import LakeLogs
from service.log.own_url import served_by, worker_of
from service.log.routes import LogMount, LogRoutes
from service.logs import configure_logs
from service.settings import EngineSettings
from service.workers import ProcessRunner
from storage.clock import Clock, SystemClock
from storage.errors import ForbiddenError
from storage.stores import join, normalize

__all__ = ["ServeSettings", "is_loopback", "serve"]

_MEMORY_SHARE = 0.7
_SPILL_SHARE = 0.5
_RESULTS_FOLDER = "_firnline"


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """Everything `serve` is told.

    port : 0 takes a free one
    require_tokens : also on loopback
    drain_s : how long running statements may go on after SIGTERM
    iceberg_credentials : whether clients of the Iceberg REST catalog are told the server's own S3 settings and keys
    """

    engine: EngineSettings = field(default_factory=EngineSettings)
    host: str = "127.0.0.1"
    port: int = 8080
    require_tokens: bool = False
    drain_s: float = 10.0
    fold_interval_s: float | None = 10.0
    iceberg_credentials: bool = False
    log_level: str = "info"
    app: AppSettings = field(default_factory=AppSettings)
    workers: WorkerSettings = field(default_factory=WorkerSettings)


def serve(settings: ServeSettings) -> None:
    """Serve until a signal ends it; print ``listening on http://…`` once a statement would run.

    Raises `ForbiddenError` for an address that others can reach when there are no tokens, `InvalidError` for one that
    cannot be bound, and what opening the lake raises.
    """
    configure_logs(settings.log_level)
    if settings.engine.traces:
        tracing.start("serve")
    uvloop.run(_serve(settings))
    tracing.flush()


async def _serve(settings: ServeSettings) -> None:
    clock = SystemClock()
    with bound(settings.host, settings.port) as listener:
        # The owner of a log is known by its address, so that comes first.
        access = served_by(settings.engine.log, listener, clock)
        workers = replace(settings.engine, log=worker_of(access, listener))
        settings = replace(settings, engine=replace(settings.engine, log=access))
        async with _components(settings, workers, clock) as (components, runner, logs):
            app = create_app(components, settings.app)
            served = LogMount(app if components.verify else LocalNames(app), LogRoutes(logs, access.secret or ""))
            await serve_app(served, runner, listener, drain_s=settings.drain_s, announce=_announce)


@asynccontextmanager
async def _components(
    settings: ServeSettings, workers: EngineSettings, clock: Clock
) -> AsyncIterator[tuple[AppComponents, ProcessRunner, LakeLogs]]:
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(open_engine(settings.engine, clock))
        logs = engine.logs
        assert isinstance(logs, LakeLogs)
        verify = await _verifier(settings, engine.kv, clock)
        open_runner = partial(open_engine, _engine(workers))
        async with ProcessRunner(open_runner, clock, _workers(settings.workers), engine.counts) as runner:
            await runner.wait_ready()
            if settings.fold_interval_s is not None:
                lake = settings.engine.lake
                indexing = indexing_of(engine.stores, engine.kv, clock, lake, engine.models)
                parts = Compaction(
                    engine.stores, logs, engine.tables, clock, lake, settings.engine.log.writer, indexing
                )
                folding = CompactionSettings(interval_s=settings.fold_interval_s)
                await stack.enter_async_context(compactor_process(settings.engine, parts, folding, engine.counts))
            folder = join(normalize(settings.engine.lake), _RESULTS_FOLDER)
            blobs, prefix = engine.stores.resolve(folder)
            yield (
                AppComponents(
                    executor=runner,
                    catalog=EngineCatalog(engine),
                    kv=engine.kv,
                    blobs=blobs,
                    clock=clock,
                    verify=verify,
                    results_prefix=prefix + "/",
                    ingest=engine,
                    logs=logs,
                    counts=engine.counts,
                    iceberg=iceberg_catalog(engine, settings.engine, vend_credentials=settings.iceberg_credentials),
                ),
                runner,
                logs,
            )


def _engine(settings: EngineSettings) -> EngineSettings:
    """Return the settings of a worker's engine: with no limit of its own it spills before the worker is killed."""
    return replace(settings, memory_bytes=settings.memory_bytes or int(machine_memory_bytes() * _SPILL_SHARE))


def _workers(settings: WorkerSettings) -> WorkerSettings:
    if settings.worker_memory_bytes:
        return settings
    return replace(settings, worker_memory_bytes=int(machine_memory_bytes() * _MEMORY_SHARE))


async def _verifier(settings: ServeSettings, kv: KV, clock: Clock) -> VerifyToken | None:
    """Return how tokens are checked; None where nobody needs one."""
    if is_loopback(settings.host) and not settings.require_tokens:
        return None
    from catalog.tokens import list_tokens, verify_token

    if not await list_tokens(kv):
        raise ForbiddenError(
            "this server would need API tokens and the lake has none; create one with firn token create --role admin, "
            "or bind to 127.0.0.1",
            host=settings.host,
        )

    async def verify(presented: str) -> Caller:
        token = await verify_token(kv, clock, presented)
        return Caller(token.role, token.token_id)

    return verify


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _announce(url: str) -> None:
    print(f"listening on {url}", flush=True)
