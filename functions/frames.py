"""Messages between a process and its worker processes: length-framed bytes over a socket pair.

======  ======  ==============================================
offset  size    field
======  ======  ==============================================
0       1       kind: one of the ``Kind`` constants
1       4       length of the payload, little endian, unsigned
5       length  payload
======  ======  ==============================================

Only the parent sends pickles (to processes it started itself); what a worker sends is JSON, Arrow IPC or result bytes.
"""

from __future__ import annotations

import asyncio
import enum
import socket
import struct

__all__ = ["Chunk", "Frames", "Kind"]

Chunk = bytes | memoryview

_HEADER = struct.Struct("<BI")


class Kind(enum.IntEnum):
    """What a frame says; the first three go to the worker."""

    OPEN = 1
    """Pickled callable that opens the worker's runner."""
    RUN = 2
    """Pickled ``(statement, format or None)``."""
    CANCEL = 3
    """Stop the running statement; the id of it, so that a late one does no harm."""
    READY = 4
    """The runner is open."""
    SCHEMA = 5
    """Serialized Arrow schema of the result."""
    CHUNK = 6
    """Result bytes."""
    END = 7
    """The receipt, JSON; the statement succeeded."""
    ERROR = 8
    """The error on the wire, JSON; ``"broken": true`` when the worker should not be used again."""
    ELSEWHERE = 9
    """The look-up worker leaves a statement to the others."""


class Frames:
    """One end of the socket pair. One task reads and one at a time writes."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._header = bytearray(_HEADER.size)
        self._write = asyncio.Lock()

    async def send(self, kind: Kind, payload: Chunk = b"") -> None:
        """Send one frame, waiting while the other end does not read. Raises `OSError` when it is gone.

        A cancelled sender never leaves half a frame behind: the rest goes out before the next frame.
        """
        await self._write.acquire()
        header = _HEADER.pack(kind, len(payload))
        try:
            n_bytes = self._socket.sendmsg([header, payload])
        except BlockingIOError:
            n_bytes = 0
        except BaseException:
            self._write.release()
            raise
        if n_bytes == len(header) + len(payload):
            self._write.release()
            return
        await asyncio.shield(asyncio.ensure_future(self._rest(header, payload, n_bytes)))

    async def _rest(self, header: bytes, payload: Chunk, start: int) -> None:
        loop = asyncio.get_running_loop()
        try:
            if start < len(header):
                await loop.sock_sendall(self._socket, header[start:])
            await loop.sock_sendall(self._socket, memoryview(payload)[max(0, start - len(header)) :])
        finally:
            self._write.release()

    async def receive(self) -> tuple[Kind, memoryview] | None:
        """Return the next frame, or None when the other end is gone, even in the middle of a frame."""
        if not await self._fill(memoryview(self._header)):
            return None
        kind, length = _HEADER.unpack(self._header)
        payload = memoryview(bytearray(length))
        return (Kind(kind), payload) if await self._fill(payload) else None

    def close(self) -> None:
        """Close this end; the other sees the end of the stream."""
        self._socket.close()

    async def _fill(self, view: memoryview) -> bool:
        loop = asyncio.get_running_loop()
        while view:
            try:
                n_bytes = await loop.sock_recv_into(self._socket, view)
            except OSError:
                return False
            if not n_bytes:
                return False
            view = view[n_bytes:]
        return True
