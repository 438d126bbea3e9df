"""An HTTP/1.1 client for servers of ours behind one URL: kept connections, TLS, bodies by length or in chunks.

It exists because the base install has no HTTP library, and to tell whether a request left: `LostError.sent`.
Source: RFC 9112, sections 6 and 7.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from storage.clock import Clock
from storage.errors import InvalidError

__all__ = ["Answer", "Client", "LostError", "TooLongError"]

_IDLE_S = 30.0
_IDLE_MAX = 256
_CONNECT_S = 10.0
_STALE_S = 0.2
"""What ends later than that after a request was sent has been worked on."""
_BUFFER_BYTES = 1 << 20
_HEAD_BYTES_MAX = 1 << 16
_NO_BODY = frozenset((204, 304))


class LostError(Exception):
    """No whole answer came; ``sent``: some of the request left."""

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.sent = sent


class TooLongError(Exception):
    """The answer's body is longer than asked for; its bytes, as far as they are known."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, fields by their lower-case names, and body."""

    status: int
    fields: Mapping[str, str]
    body: bytes


@dataclass(slots=True, eq=False)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    used: bool = False
    since_s: float = 0.0
    """When it began what it does: an exchange, or idling."""


class Client:
    """Connections to ``url`` (``http[s]://host[:port][/path]``); used by the tasks of one event loop.

    Parameters
    ----------
    ca_file : PEM file of the CA that signed an https server's certificate; None: the system's
    connect_s : that a connection may take to be made
    idle_s : connections are kept for so long; below what the server keeps them for

    Raises `InvalidError` for a URL that names no host, or a CA's file that does not read.
    """

    def __init__(
        self, url: str, clock: Clock, *, ca_file: str | None = None, connect_s: float = _CONNECT_S,
        idle_s: float = _IDLE_S,
    ) -> None:  # fmt: skip
        parts = urlsplit(url)
        if not parts.hostname or parts.scheme not in ("http", "https"):
            raise InvalidError("the server's URL names no host; write http://host:port", url=url)
        self.url = url
        self._host, self._path = parts.hostname, parts.path.rstrip("/")
        self._tls = _tls(ca_file) if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self._authority = parts.netloc.rpartition("@")[2]
        self._clock, self._connect_s, self._idle_s = clock, connect_s, idle_s
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()

    async def request(
        self, method: str, path: str, body: bytes = b"", *, body_bytes_max: int,
        fields: Mapping[str, str] | None = None, may_repeat: bool = True,
    ) -> Answer:  # fmt: skip
        """Send a request and return the answer. A kept connection that the server closed before it said a word is
        replaced by a new one, once, if the request ``may_repeat``: it may have been heard.

        Raises
        ------
        LostError : no whole answer came
        TooLongError : the answer is longer than ``body_bytes_max``
        """
        told = "".join(f"{name}: {value}\r\n" for name, value in (fields or {}).items())
        head = (
            f"{method} {self._path}{path} HTTP/1.1\r\nHost: {self._authority}\r\nAccept: */*\r\n{told}"
            f"Content-Type: application/octet-stream\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode("latin-1")
        while True:
            connection = self._kept() or await self._connect()
            kept = False
            connection.since_s = self._clock.monotonic_s()
            try:
                connection.writer.writelines([head, body])
                answer, kept = await _read_answer(connection.reader, body_bytes_max)
                return answer
            except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
                if may_repeat and self._was_stale(connection, error):
                    continue
                raise LostError(str(error) or type(error).__name__, sent=True) from error
            finally:
                self._put_back(connection, kept)

    def abort(self) -> None:
        """Cut every connection; who waits for an answer gets `LostError`."""
        for connection in list(self._open):
            self._drop(connection)
        self._idle.clear()

    async def close(self) -> None:
        """Cut every connection and wait until they are gone."""
        writers = [connection.writer for connection in self._open]
        self.abort()
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)

    def _was_stale(self, connection: _Connection, error: Exception) -> bool:
        """Tell whether a kept connection had been closed by the server when the request was sent."""
        silent = isinstance(error, asyncio.IncompleteReadError) and not error.partial
        at_once = self._clock.monotonic_s() - connection.since_s < _STALE_S
        ours = connection not in self._open
        return connection.used and not ours and at_once and (silent or isinstance(error, ConnectionError))

    def _put_back(self, connection: _Connection, kept: bool) -> None:
        if not kept or len(self._idle) >= _IDLE_MAX or connection not in self._open:
            self._drop(connection)
            return
        connection.used, connection.since_s = True, self._clock.monotonic_s()
        self._idle.append(connection)

    def _kept(self) -> _Connection | None:
        """An idle connection that the server has not closed, the latest used."""
        now_s = self._clock.monotonic_s()
        while self._idle:
            connection = self._idle.pop()
            if not connection.reader.at_eof() and now_s - connection.since_s < self._idle_s:
                return connection
            self._drop(connection)
        return None

    def _drop(self, connection: _Connection) -> None:
        self._open.discard(connection)
        connection.writer.transport.abort()

    async def _connect(self) -> _Connection:
        try:
            async with asyncio.timeout(self._connect_s):
                reader, writer = await asyncio.open_connection(
                    self._host, self._port, limit=_BUFFER_BYTES, ssl=self._tls
                )
        except (OSError, TimeoutError) as error:
            raise LostError(str(error) or "no connection in time", sent=False) from error
        connection = _Connection(reader, writer)
        self._open.add(connection)
        return connection


def _tls(ca_file: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # ssl's errors are some of these
        raise InvalidError(
            "the CA's certificate cannot be read; give a PEM file", ca_file=ca_file, reason=str(error)
        ) from None


async def _read_answer(reader: asyncio.StreamReader, body_bytes_max: int) -> tuple[Answer, bool]:
    """Return the answer, and whether the connection can be used again."""
    status, fields, keep = await _read_head(reader)
    while 100 <= status < 200:
        status, fields, keep = await _read_head(reader)
    if "chunked" in fields.get("transfer-encoding", "").lower():
        body = await _read_chunks(reader, body_bytes_max)
    elif "content-length" in fields:
        length = int(fields["content-length"])
        if length > body_bytes_max:
            raise TooLongError(length)
        body = await reader.readexactly(length)
    elif status in _NO_BODY:
        body = b""
    else:
        body, keep = await _read_all(reader, body_bytes_max), False
    return Answer(status, fields, body), keep


async def _read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bool]:
    head = await reader.readuntil(b"\r\n\r\n")
    if len(head) > _HEAD_BYTES_MAX:
        raise ValueError("the answer's head is too long")
    first, *lines = head.decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    if not version.startswith("HTTP/1."):
        raise ValueError("this is no HTTP/1.1 server")
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
    connection = fields.get("connection", "").lower()
    keep = "close" not in connection if version == "HTTP/1.1" else "keep-alive" in connection
    return int(rest[:3]), fields, keep


async def _read_chunks(reader: asyncio.StreamReader, body_bytes_max: int) -> bytes:
    body = bytearray()
    while True:
        length = int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16)
        if not length:
            break
        if len(body) + length > body_bytes_max:
            raise TooLongError(len(body) + length)
        body += await reader.readexactly(length)
        if await reader.readexactly(2) != b"\r\n":
            raise ValueError("a chunk of the answer does not end where it says")
    while await reader.readuntil(b"\r\n") != b"\r\n":  # trailer fields
        pass
    return bytes(body)


async def _read_all(reader: asyncio.StreamReader, body_bytes_max: int) -> bytes:
    body = bytearray()
    while part := await reader.read(_BUFFER_BYTES):
        body += part
        if len(body) > body_bytes_max:
            raise TooLongError(len(body))
    return bytes(body)
