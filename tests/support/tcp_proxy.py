"""A TCP proxy that can lose replies: the request arrives and is executed, and the client never hears of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

__all__ = ["ReplyLosingProxy", "proxy_to"]


class ReplyLosingProxy:
    """Forwards to one server; while muted it drops what the server says."""

    def __init__(self, host: str, port: int) -> None:
        self._upstream = (host, port)
        self._muted = False
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0
        self.bytes_lost = 0

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    def mute(self) -> None:
        """Lose every reply from now on, on open connections and new ones."""
        self._muted = True

    def unmute(self) -> None:
        """Close the connections that lost something and forward again on new ones."""
        self._muted = False
        self.cut()

    def cut(self) -> None:
        """Close every connection."""
        for writer in self._writers:
            writer.close()
        self._writers.clear()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up_reader, up_writer = await asyncio.open_connection(*self._upstream)
        except OSError:
            writer.close()
            return
        self._writers |= {writer, up_writer}
        try:
            await asyncio.gather(self._forward(reader, up_writer), self._reply(up_reader, writer))
        finally:
            writer.close()
            up_writer.close()
            self._writers -= {writer, up_writer}

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def _reply(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                if self._muted:
                    self.bytes_lost += len(data)
                    continue
                writer.write(data)
                await writer.drain()
        writer.close()


@asynccontextmanager
async def proxy_to(port: int) -> AsyncIterator[ReplyLosingProxy]:
    """Run a proxy in front of a port of the loopback."""
    proxy = ReplyLosingProxy("127.0.0.1", port)
    server = await asyncio.start_server(proxy.handle, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.cut()
        await asyncio.sleep(0.05)
