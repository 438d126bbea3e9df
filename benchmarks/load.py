"""Load on an HTTP endpoint: the same request again and again on kept-alive connections, with the least of clients.

The client shares the machine with the server, so it parses no more of an answer than its length.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator, Sequence
from itertools import cycle
from urllib.parse import urlsplit

__all__ = ["exchange", "latencies", "request_bytes", "throughput"]


def request_bytes(url: str, body: bytes) -> bytes:
    """Return the bytes of a JSON POST to ``url``."""
    parts = urlsplit(url)
    head = (
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def exchange(url: str, request: bytes) -> tuple[bytes, bytes]:
    """Send one request on a connection of its own; return the answer's head and body."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname or "", parts.port or 80), 30) as connection:
        connection.sendall(request)
        buffer = b""
        while (end := _end_of_answer(buffer)) is None:
            more = connection.recv(1 << 16)
            if not more:
                raise ConnectionError("the server closed the connection")
            buffer += more
    head, _, body = buffer[:end].partition(b"\r\n\r\n")
    return head, _dechunked(body) if b"transfer-encoding: chunked" in head.lower() else body


def latencies(url: str, request: bytes, n_requests: int) -> list[float]:
    """Return the seconds of each of ``n_requests`` on one connection, one after another."""
    parts = urlsplit(url)
    found = []
    with socket.create_connection((parts.hostname or "", parts.port or 80), 30) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(n_requests):
            started = time.perf_counter()
            connection.sendall(request)
            buffer = connection.recv(1 << 16)
            while _end_of_answer(buffer) is None:
                buffer += connection.recv(1 << 16)
            found.append(time.perf_counter() - started)
            _check(buffer)
    return found


def throughput(
    url: str, request: bytes | Sequence[bytes], connections: int, seconds: float
) -> tuple[float, list[float]]:
    """Return answers a second and the seconds of each, with ``connections`` that send as soon as they are answered.

    Of several requests they send one after another, and begin anew.
    """
    requests = [request] if isinstance(request, bytes) else request
    return asyncio.run(_throughput(url, cycle(requests), connections, seconds))


async def _throughput(
    url: str, requests: Iterator[bytes], connections: int, seconds: float
) -> tuple[float, list[float]]:
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    found: list[float] = []
    clients = []
    for _ in range(connections):
        _transport, client = await loop.create_connection(
            lambda: _Sender(requests, found), parts.hostname or "", parts.port or 80
        )
        clients.append(client)
    started = time.perf_counter()
    for client in clients:
        client.send()
    await asyncio.sleep(seconds)
    elapsed, n_answers = time.perf_counter() - started, len(found)
    for client in clients:
        client.stop()
    failure = next((client.failure for client in clients if client.failure is not None), None)
    if failure is not None:
        raise failure
    return n_answers / elapsed, found[:n_answers]


class _Sender(asyncio.Protocol):
    """One connection: sends, waits for the answer, sends again."""

    def __init__(self, requests: Iterator[bytes], found: list[float]) -> None:
        self.failure: Exception | None = None
        self._requests, self._found = requests, found
        self._buffer = b""
        self._stopped = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._stopped:
            self.failure = exc or ConnectionError("the server closed the connection")

    def send(self) -> None:
        self._sent = time.perf_counter()
        self._transport.write(next(self._requests))

    def stop(self) -> None:
        self._stopped = True
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if _end_of_answer(self._buffer) is None or self._stopped:
            return
        self._found.append(time.perf_counter() - self._sent)
        try:
            _check(self._buffer)
        except ConnectionError as error:
            self.failure, self._stopped = error, True
            self._transport.abort()
            return
        self._buffer = b""
        self.send()


def _check(answer: bytes) -> None:
    if not answer.startswith(b"HTTP/1.1 200"):
        raise ConnectionError(answer[:500].decode(errors="replace"))


def _end_of_answer(buffer: bytes) -> int | None:
    """Return where the answer ends, or None when it does not end yet."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = buffer[:end].lower()
    at = head.find(b"content-length:")
    if at >= 0:
        limit = end + 4 + int(head[at + 15 :].split(b"\r\n", 1)[0])
        return limit if len(buffer) >= limit else None
    return len(buffer) if buffer.endswith(b"0\r\n\r\n") else None


def _dechunked(body: bytes) -> bytes:
    parts = []
    while body:
        size, _, rest = body.partition(b"\r\n")
        parts.append(rest[: int(size, 16)])
        body = rest[int(size, 16) + 2 :]
    return b"".join(parts)
