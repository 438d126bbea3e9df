"""The coordinator of an engine's settings."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from service.coordinate.fan_out import FanOut, FanOutOptions
from service.coordinate.terms import Workers
from service.cost import prices_of
from service.settings import EngineSettings
from storage.clock import Clock
from storage.errors import InvalidError
from storage.stores import Stores

if TYPE_CHECKING:
    from catalog.kv import KV
    from functions.invoke import Invoker
    from functions.session import Session
    from service.coordinate.jobs import Jobs

__all__ = ["open_fan_out", "open_jobs"]

_HERE = ("inline", "processes", "ray")
"""Places whose workers this process starts, with a secret of its own."""


def open_fan_out(settings: EngineSettings, session: Session, stores: Stores, clock: Clock) -> FanOut:
    """Return the coordinator; nothing is started until a statement has tasks.

    Raises `InvalidError` for workers elsewhere without a secret that they could know.
    """
    access = settings.functions
    place, secret = access.place, _secret(settings, clock)
    n_cores = settings.target_partitions or len(os.sched_getaffinity(0))
    options = FanOutOptions(
        place, secret, access.tasks_max, access.max_usd, n_cores, prices_of(settings.s3.region, access.prices),
        broadcast_bytes=access.broadcast_bytes, task_timeout_ms=access.timeout_ms,
    )  # fmt: skip
    return FanOut(options, partial(_open, settings, secret, stores, clock), session, stores, clock, settings.lake)


@asynccontextmanager
async def open_jobs(settings: EngineSettings, stores: Stores, kv: KV, clock: Clock) -> AsyncIterator[Jobs | None]:
    """Open what runs whole jobs on the lake's tables as tasks of workers; None: the settings say this process.

    Nothing is started until there is a job. Raises `InvalidError` as `open_fan_out`.
    """
    if settings.functions.place == "inline":
        yield None
        return
    # Imported here: most processes never write.
    from service.coordinate.jobs import Jobs

    secret, opening = _secret(settings, clock), asyncio.Lock()
    opened: list[Invoker] = []

    async def invoker() -> Invoker:
        async with opening:
            if not opened:
                opened.append(await _open(settings, secret, stores, clock))
            return opened[0]

    try:
        yield Jobs(Workers(invoker, secret, settings.functions.timeout_ms), stores, kv, clock, settings.lake)
    finally:
        for each in opened:
            await each.close()


def _secret(settings: EngineSettings, clock: Clock) -> bytes:
    access = settings.functions
    place = access.place
    if access.secret is None and place.partition(":")[0] not in _HERE:
        raise InvalidError(
            "tasks go to workers elsewhere, and there is no secret to sign them with; set FIRN_TASK_SECRET to the same "
            "text for servers and workers",
            functions=place,
        )
    return (access.secret or clock.new_id()).encode()


async def _open(settings: EngineSettings, secret: bytes, stores: Stores, clock: Clock) -> Invoker:
    # Imported here: most processes never send a task.
    from functions.invoke.open import InvokerOptions, open_invoker
    from functions.task_worker import TaskWorkerSettings, open_task_runner

    access = settings.functions
    worker = TaskWorkerSettings(
        lake=settings.lake,
        secret=secret,
        allow=settings.allow,
        memory_bytes=settings.memory_bytes,
        spill_dir=settings.spill_dir,
        target_partitions=settings.target_partitions,
        s3=settings.s3,
        traces=settings.traces,
    )
    options = InvokerOptions(
        concurrency=access.concurrency, memory_bytes=access.memory_bytes, stores=stores, lake=settings.lake,
        endpoint=access.lambda_endpoint, region=settings.s3.region, ca_file=access.ca_file,
        secret=secret,
    )  # fmt: skip
    return await open_invoker(access.place, partial(open_task_runner, worker), clock, options)
