"""A small HTTP/1.1 client for one server of ours: requests and answers with a Content-Length, over kept connections.

It exists for latency and for the base install, which has no HTTP library. What it raises tells what may have happened:
`NotReachedError` if no byte of the request left, `IndeterminateError` if any did and no whole answer came.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from urllib.parse import urlsplit

from storage.clock import Clock
from storage.errors import IndeterminateError, UnavailableError

__all__ = ["HttpAnswer", "HttpClient", "NotReachedError"]

_IDLE_S = 20.0
_IDLE_MAX = 64
_CONNECT_S = 2.0
_BUFFER_BYTES = 1 << 20
_HEAD_BYTES_MAX = 1 << 16


class NotReachedError(UnavailableError):
    """No connection could be made: nothing was asked."""


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """Status and body."""

    status: int
    body: bytes


@dataclass(slots=True)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    idle_since_s: float = 0.0


class HttpClient:
    """Connections to ``url`` (``http://host:port``); used by the tasks of one event loop."""

    def __init__(self, url: str, clock: Clock) -> None:
        parts = urlsplit(url)
        self.url = url
        self._host = parts.hostname or "127.0.0.1"
        self._port = parts.port or 80
        self._authority = parts.netloc
        self._clock = clock
        self._idle: list[_Connection] = []

    async def request(
        self, method: str, path: str, body: bytes = b"", *, secret: str, timeout_s: float, traceparent: str = ""
    ) -> HttpAnswer:
        """Send a request and return the answer. Raises what the module says."""
        trace = f"traceparent: {traceparent}\r\n" if traceparent else ""
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: {self._authority}\r\nAuthorization: Bearer {secret}\r\n"
            f"{trace}Content-Type: application/octet-stream\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode("latin-1")
        connection = self._kept() or await self._connect()
        try:
            async with asyncio.timeout(timeout_s):
                connection.writer.write(head + body if len(body) < _BUFFER_BYTES else head)
                if len(body) >= _BUFFER_BYTES:
                    connection.writer.write(body)
                await connection.writer.drain()
                answer, keep = await _read_answer(connection.reader)
        except (OSError, EOFError, ValueError, TimeoutError, asyncio.LimitOverrunError) as error:
            connection.writer.close()
            raise IndeterminateError(
                "the log's owner was asked and did not answer", url=self.url, reason=str(error) or type(error).__name__
            ) from error
        except BaseException:
            connection.writer.close()
            raise
        if keep and len(self._idle) < _IDLE_MAX:
            connection.idle_since_s = self._clock.monotonic_s()
            self._idle.append(connection)
        else:
            connection.writer.close()
        return answer

    async def close(self) -> None:
        """Close what is idle."""
        for connection in self._idle:
            connection.writer.close()
            with contextlib.suppress(OSError):
                await connection.writer.wait_closed()
        self._idle.clear()

    def _kept(self) -> _Connection | None:
        """An idle connection that the server has not closed, the latest used."""
        now_s = self._clock.monotonic_s()
        while self._idle:
            connection = self._idle.pop()
            # The server closes what is idle for longer; what arrives unasked is the end.
            if not connection.reader.at_eof() and now_s - connection.idle_since_s < _IDLE_S:
                return connection
            connection.writer.close()
        return None

    async def _connect(self) -> _Connection:
        try:
            async with asyncio.timeout(_CONNECT_S):
                reader, writer = await asyncio.open_connection(self._host, self._port, limit=_BUFFER_BYTES)
        except (OSError, TimeoutError) as error:
            reason = str(error) or type(error).__name__
            raise NotReachedError("the log's owner cannot be reached", url=self.url, reason=reason) from error
        return _Connection(reader, writer)


async def _read_answer(reader: asyncio.StreamReader) -> tuple[HttpAnswer, bool]:
    head = await reader.readuntil(b"\r\n\r\n")
    if len(head) > _HEAD_BYTES_MAX:
        raise ValueError("the answer's head is too long")
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(fields["content-length"])) if "content-length" in fields else b""
    keep = fields.get("connection", "").lower() != "close" and "content-length" in fields
    return HttpAnswer(int(first.split(" ", 2)[1]), body), keep
