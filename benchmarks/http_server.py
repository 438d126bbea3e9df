"""A bare HTTP/1.1 server on asyncio: just enough for `benchmarks.s3_facade`, at thousands of requests a second.

Bodies have a Content-Length. Requests of one connection are answered in order; connections are kept alive.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import cast
from urllib.parse import parse_qsl, unquote

__all__ = ["Act", "HttpProtocol", "Request", "Response", "serve_http"]

HEAD_BYTES_MAX = 1 << 16
_REASONS = {status.value: status.phrase for status in HTTPStatus}


@dataclass(slots=True)
class Request:
    """One request; header names are lower case."""

    method: str
    path: str
    """Decoded, with its leading slash."""
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes = b""


@dataclass(slots=True)
class Response:
    """One answer; Content-Length is added, and the body is not sent to HEAD."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


Act = Callable[[Request], "Response | None"]
"""Answers a request; None closes the connection without an answer."""


class HttpProtocol(asyncio.Protocol):
    """One connection. ``act`` runs ``delay_s`` after its request is complete, without blocking other connections."""

    def __init__(self, act: Act, delay_s: float, connections: set[HttpProtocol]) -> None:
        self._act = act
        self._connections = connections
        self._delay_s = delay_s
        self._buffer = bytearray()
        self._busy = False
        self._continued = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._busy:
            self._next()

    def _next(self) -> None:
        end = self._buffer.find(b"\r\n\r\n", 0, HEAD_BYTES_MAX)
        if end < 0:
            if len(self._buffer) > HEAD_BYTES_MAX:
                self._transport.close()
            return
        request = parse_head(bytes(self._buffer[:end]))
        n_body = int(request.headers.get("content-length", 0))
        if len(self._buffer) < end + 4 + n_body:
            if request.headers.get("expect", "").lower() == "100-continue" and not self._continued:
                self._continued = True
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return
        request.body = bytes(self._buffer[end + 4 : end + 4 + n_body])
        del self._buffer[: end + 4 + n_body]
        self._busy, self._continued = True, False
        if self._delay_s:
            asyncio.get_running_loop().call_later(self._delay_s, self._answer, request)
        else:
            self._answer(request)

    def _answer(self, request: Request) -> None:
        if self._transport.is_closing():
            return
        response = self._act(request)
        if response is None:
            self._transport.close()
            return
        head = [f"HTTP/1.1 {response.status} {_REASONS[response.status]}"]
        head += [f"{name}: {value}" for name, value in response.headers.items()]
        if "Content-Length" not in response.headers:
            head.append(f"Content-Length: {len(response.body)}")
        body = b"" if request.method == "HEAD" else response.body
        self._transport.write(("\r\n".join(head) + "\r\n\r\n").encode("latin-1") + body)
        self._busy = False
        if self._buffer:
            self._next()


@asynccontextmanager
async def serve_http(act: Act, *, port: int, delay_s: float) -> AsyncIterator[str]:
    """Serve on the loopback, on a free port if it is 0, and yield the URL; connections are closed at the end."""
    connections: set[HttpProtocol] = set()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: HttpProtocol(act, delay_s, connections), "127.0.0.1", port)
    async with server:
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            while connections:
                for connection in tuple(connections):
                    connection.abort()
                await asyncio.sleep(0)


def parse_head(head: bytes) -> Request:
    """Parse a request line and its headers."""
    line, *lines = head.decode("latin-1").split("\r\n")
    method, target, _version = line.split(" ", 2)
    path, _, query = target.partition("?")
    headers = {}
    for header in lines:
        name, _, value = header.partition(":")
        headers[name.lower()] = value.strip()
    return Request(method, unquote(path), dict(parse_qsl(query, keep_blank_values=True)) if query else {}, headers)
