"""Settings of the environment laid out for an engine in this process, and for a server."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from firnline.embedded import OpenRunner
from firnline.settings import Settings
from service.settings import EngineSettings, EtcdAccess, FunctionAccess, LogAccess
from service.statement import Limits
from storage.clock import SystemClock
from storage.log import AckMode
from storage.log.settings import LogSettings

if TYPE_CHECKING:
    from functions.task_worker import TaskWorkerSettings
    from service.log.server import LogServerSettings
    from service.server import ServeSettings
    from service.task_server import TaskServerSettings

__all__ = ["engine_settings", "limits", "log_access", "log_server_settings", "open_runner", "serve_settings",
           "task_server_settings", "task_worker_settings"]  # fmt: skip

_JOURNAL_BYTES_MAX = 32 << 20
"""Others on this machine read the journal as a whole."""


def engine_settings(lake: str, settings: Settings) -> EngineSettings:
    """Return the settings of an engine on ``lake`` that may read every location."""
    return EngineSettings(
        lake=lake,
        catalog=settings.catalog,
        memory_bytes=settings.memory_bytes,
        index_memory_bytes=settings.index_memory_bytes,
        spill_dir=settings.spill_dir,
        target_partitions=settings.target_partitions,
        compact=settings.compact,
        traces=settings.traces,
        s3=settings.s3_options(),
        log=log_access(settings),
        functions=FunctionAccess(
            place=settings.functions,
            secret=settings.task_secret,
            tasks_max=settings.tasks_max,
            max_usd=settings.max_cost,
            prices=settings.prices,
            lambda_endpoint=settings.aws.get("AWS_ENDPOINT_URL"),
            concurrency=settings.functions_concurrency,
            memory_bytes=settings.functions_memory_bytes,
            timeout_ms=settings.functions_timeout_ms,
            ca_file=settings.functions_ca_file,
            broadcast_bytes=settings.broadcast_bytes,
        ),
        etcd=EtcdAccess(
            ca_file=settings.etcd_ca_file,
            cert_file=settings.etcd_cert_file,
            key_file=settings.etcd_key_file,
            user=settings.etcd_user,
            password=settings.etcd_password,
        ),
    )


def log_access(settings: Settings) -> LogAccess:
    """Return how the lake's logs are reached."""
    return LogAccess(
        ack=AckMode(settings.log_ack) if settings.log_ack else None,
        journal=settings.log_journal,
        shards=settings.log_shards,
        may_own=settings.log_own,
        url=None,
        lease_ttl_s=settings.log_lease_ms / 1000,
        wait_s=settings.log_wait_ms / 1000,
        writer=LogSettings(
            flush_interval_ms=settings.log_flush_interval_ms,
            unfolded_bytes_max=settings.log_unfolded_max,
            journal_bytes_max=_JOURNAL_BYTES_MAX,
        ),
    )


def log_server_settings(settings: Settings, host: str, port: int, shards: tuple[int, ...] | None) -> LogServerSettings:
    """Return the settings of a log service."""
    from service.log.server import LogServerSettings

    engine = engine_settings(settings.lake, settings)
    engine = replace(engine, compact=False, log=replace(engine.log, url=settings.log_url, may_own=True))
    return LogServerSettings(engine=engine, shards=shards, host=host, port=port)


def task_worker_settings(settings: Settings) -> TaskWorkerSettings:
    """Return the settings of a worker, whose tasks reach the lake and ``allow`` only."""
    from functions.task_worker import settings_of

    return settings_of(settings)


def task_server_settings(
    settings: Settings, host: str, port: int, allow: tuple[str, ...], concurrency: int, listener: int | None
) -> TaskServerSettings:
    """Return the settings of a worker that is asked over HTTP."""
    from service.task_server import TaskServerSettings

    worker = task_worker_settings(replace(settings, allow=(*settings.allow, *allow)))
    return TaskServerSettings(worker, host=host, port=port, listener=listener, concurrency=concurrency)


def limits(settings: Settings) -> Limits:
    """Return the limits of a statement in this process: none that nobody asked for."""
    return Limits(
        timeout_ms=settings.statement_timeout_ms or 0,
        memory_bytes=settings.memory_bytes,
        result_rows_max=settings.result_rows_max,
        result_bytes_max=settings.result_bytes_max,
        scan_bytes_max=settings.scan_bytes_max,
    )


def serve_settings(settings: Settings) -> ServeSettings:
    """Return the settings of a server, whose statements reach the lake and ``allow`` only."""
    from service.app import AppSettings
    from service.server import ServeSettings
    from service.workers import WorkerSettings

    timeout_ms = settings.statement_timeout_ms
    bounds = replace(limits(settings), timeout_ms=Limits().timeout_ms if timeout_ms is None else timeout_ms)
    workers = WorkerSettings()
    if settings.statements_max:
        least = min(workers.workers_min, settings.statements_max)
        workers = replace(workers, workers_min=least, workers_max=settings.statements_max)
    engine = engine_settings(settings.lake, settings)
    return ServeSettings(
        engine=replace(engine, allow=settings.allow, compact=False, log=replace(engine.log, url=settings.log_url)),
        host=settings.host,
        port=settings.port,
        require_tokens=settings.require_tokens,
        iceberg_credentials=settings.iceberg_credentials,
        app=AppSettings(limits=bounds, log_sql=settings.log_sql),
        workers=workers,
        fold_interval_s=settings.compact_interval_ms / 1000 if settings.compact else None,
    )


def open_runner(lake: str, settings: Settings, *, isolated: bool = False) -> OpenRunner:
    """Return what opens an engine on the lake; its libraries are imported here, not before.

    ``isolated`` runs statements in a process of their own, which can be killed: cancelling in this process leaves
    some plans at work for long.
    """
    from service.components import open_engine

    opener = partial(open_engine, engine_settings(lake, settings))
    if not isolated:
        return opener
    from service.workers import ProcessRunner, WorkerSettings

    workers = WorkerSettings(workers_min=1, workers_max=2)
    return lambda: ProcessRunner(opener, SystemClock(), workers)
