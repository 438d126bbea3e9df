"""The HTTP service for tests: worker processes and uvicorn on a free port, over `tests.support.runner`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn

from catalog.kv.memory import MemoryKV
from functions.worker_pool import WorkerSettings
from service.app import AppComponents, AppSettings, create_app
from service.auth import VerifyToken
from service.http_server import bound, serve_app
from service.statement import Runner
from service.workers import ProcessRunner
from storage.blobs.memory import MemoryBlobs
from storage.clock import SystemClock
from storage.errors import NotFoundError
from tests.support.runner import open_sql_runner

TABLE = {"namespace": "default", "name": "trips", "format": "parquet", "location": "file:///trips.parquet"}


class OneTable:
    """A catalog of one table."""

    async def list_tables(self) -> list[dict[str, Any]]:
        return [TABLE]

    async def describe_table(self, namespace: str, name: str) -> dict[str, Any]:
        if (namespace, name) != ("default", "trips"):
            raise NotFoundError("no such table", table=f"{namespace}.{name}")
        return TABLE | {"columns": []}


@dataclass
class Serving:
    """A server that runs."""

    client: httpx.AsyncClient
    runner: ProcessRunner
    components: AppComponents
    port: int
    stop: Callable[[], None]

    async def sql(self, sql: str, **members: Any) -> httpx.Response:
        """Send a statement."""
        return await self.client.post("/v1/sql", json={"sql": sql, **members})


@asynccontextmanager
async def serving(
    workers: WorkerSettings | None = None,
    settings: AppSettings | None = None,
    *,
    verify: VerifyToken | None = None,
    open_runner: Callable[[], AbstractAsyncContextManager[Runner]] = open_sql_runner,
    drain_s: float = 1.0,
) -> AsyncIterator[Serving]:
    """Serve until the block ends."""
    clock = SystemClock()
    workers = workers or WorkerSettings(workers_min=1, workers_max=2)
    async with ProcessRunner(open_runner, clock, workers) as runner:
        components = AppComponents(runner, OneTable(), MemoryKV(clock), MemoryBlobs(clock), clock, verify)
        app = create_app(components, settings)
        ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        servers: list[uvicorn.Server] = []
        with bound("127.0.0.1", 0) as listener:
            work = asyncio.create_task(
                serve_app(app, runner, listener, drain_s=drain_s, announce=ready.set_result, started=servers.append)
            )
            await asyncio.wait({work, ready}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                await work
            await runner.wait_ready()

            def stop() -> None:
                servers[0].should_exit = True

            async with httpx.AsyncClient(base_url=ready.result(), timeout=60, trust_env=False) as client:
                yield Serving(client, runner, components, listener.getsockname()[1], stop)
            stop()
            await work
