"""The HTTP service over a runner of this process, served by a real uvicorn on a free port of a background thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI

from catalog.kv.memory import MemoryKV
from service.app import AppComponents, AppSettings, create_app
from service.auth import Caller
from service.executor import InlineExecutor
from service.statement import Runner
from storage.blobs.memory import MemoryBlobs
from storage.clock import SystemClock
from storage.errors import UnauthenticatedError

SECRET = "firn_test_secret"


class NoTables:
    """A catalog view of an empty catalog."""

    async def list_tables(self) -> list[dict[str, Any]]:
        return []

    async def describe_table(self, namespace: str, name: str) -> dict[str, Any]:
        raise AssertionError("not asked for")


async def verify(presented: str) -> Caller:
    """Know one token, `SECRET`."""
    if presented != SECRET:
        raise UnauthenticatedError("no such token")
    return Caller("admin", "test")


def app_over(runner: Runner, *, tokens: bool = False, settings: AppSettings | None = None) -> FastAPI:
    """Return the HTTP service over a runner."""
    clock = SystemClock()
    components = AppComponents(
        executor=InlineExecutor(runner, clock),
        catalog=NoTables(),
        kv=MemoryKV(clock),
        blobs=MemoryBlobs(clock),
        clock=clock,
        verify=verify if tokens else None,
    )
    return create_app(components, settings)


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """Serve an ASGI app; yields its URL."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", lifespan="on", access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise RuntimeError("the server did not start")
        thread.join(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)
