"""uvicorn around an app object: a bound socket, our own handling of signals, and a drain at the end."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Protocol

import uvicorn
from starlette.types import ASGIApp

from storage.errors import InvalidError

__all__ = ["Stops", "bound", "serve_app", "url_of"]

_CUT_S = 2.0
_ARRIVING_S = 0.05
_KEEP_ALIVE_S = 75


class Stops(Protocol):
    """What runs statements."""

    def stop_all(self) -> None:
        """Stop what runs now."""
        ...


@contextmanager
def bound(host: str, port: int) -> Generator[socket.socket, None, None]:
    """Bind and yield a socket. Raises `InvalidError` when the address cannot be had."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InvalidError(f"this address cannot be used: {error.strerror}", host=host) from None
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except (OSError, OverflowError) as error:
            raise InvalidError(
                f"cannot listen here: {error}; choose another --port, or 0 for a free one", host=host, port=port
            ) from None
        yield listener


class _Server(uvicorn.Server):
    """uvicorn with our own end: signals start the drain and are not raised again, so that everything is closed."""

    def __init__(self, config: uvicorn.Config, runner: Stops, drain_s: float, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._runner = runner
        self._drain_s = drain_s
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._announce()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        # Idle connections are closed next: one that was made a moment ago is not idle, its request is on the way.
        await asyncio.sleep(_ARRIVING_S)
        stop = asyncio.get_running_loop().call_later(self._drain_s, self._runner.stop_all)
        try:
            await super().shutdown(sockets)
        finally:
            stop.cancel()

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def url_of(listener: socket.socket) -> str:
    """Return the URL of a bound socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def serve_app(
    app: ASGIApp,
    runner: Stops,
    listener: socket.socket,
    *,
    drain_s: float,
    announce: Callable[[str], None],
    started: Callable[[uvicorn.Server], None] = lambda _server: None,
) -> None:
    """Serve the app on a bound socket until a signal, or ``should_exit`` of the server that ``started`` was given."""
    url = url_of(listener)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="on",
        ws="none",
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(drain_s + _CUT_S),
    )
    server = _Server(config, runner, drain_s, lambda: announce(url))
    started(server)
    await server.serve(sockets=[listener])
