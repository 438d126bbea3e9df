"""A worker process of a pool: runs one task at a time for the process that started it.

Started as ``python -m functions.task_process FD PARENT_PID [SCRATCH]`` with one end of a socket pair; what the engine
spills goes to the folder SCRATCH. Frames both ways:

======  ======  ==================================================================================
offset  size    field
======  ======  ==================================================================================
0       1       kind: one of the ``Kind`` constants
1       4       length of the payload, little endian, unsigned
5       length  payload
======  ======  ==================================================================================

The process ends when its socket does, or when its engine is in doubt after a reply; the kernel kills it when its parent
dies. A task that must stop is stopped
by killing the process.
"""

from __future__ import annotations

import asyncio
import ctypes
import enum
import json
import os
import pickle
import signal
import socket
import struct
import sys
import tempfile
import traceback
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from storage.errors import FirnlineError, InternalError

__all__ = ["Kind", "OpenTasks", "RunsTasks", "main", "receive_frame", "send_frame"]

_HEADER = struct.Struct("<BI")
_PR_SET_PDEATHSIG = 1


class Kind(enum.IntEnum):
    """What a frame says; the first two go to the worker."""

    OPEN = 1
    """Pickled `OpenTasks`."""
    RUN = 2
    """A message (`functions.tasks.encode_task`)."""
    READY = 3
    """Tasks can be sent."""
    REPLY = 4
    """The reply to the last message."""
    ERROR = 5
    """Why there is none, as an error on the wire, JSON; ``"broken": true`` when the process should be replaced."""


class RunsTasks(Protocol):
    """What a process runs its tasks with, such as `functions.run_task.TaskRunner`, which says what these mean."""

    broken: bool
    doubtful: bool

    def run(self, message: bytes) -> Awaitable[bytes]:
        """Return the reply to a message, or raise a `FirnlineError`."""
        ...

    def rested(self) -> Awaitable[bool]:
        """Whether it came to rest after a task that was stopped."""
        ...


OpenTasks = Callable[[], AbstractAsyncContextManager[RunsTasks]]


def send_frame(end: socket.socket, kind: Kind, payload: bytes = b"") -> None:
    """Send one frame over a blocking socket. Raises `OSError` when the other end is gone."""
    end.sendall(_HEADER.pack(kind, len(payload)))
    end.sendall(payload)


def receive_frame(end: socket.socket) -> tuple[Kind, bytes] | None:
    """Return the next frame of a blocking socket; None when the other end is gone, even in the middle of a frame."""
    header = _exactly(end, _HEADER.size)
    if header is None:
        return None
    kind, length = _HEADER.unpack(header)
    payload = _exactly(end, length)
    return None if payload is None else (Kind(kind), payload)


def _exactly(end: socket.socket, n_bytes: int) -> bytes | None:
    data = bytearray(n_bytes)
    view = memoryview(data)
    while view:
        try:
            got = end.recv_into(view)
        except OSError:
            return None
        if not got:
            return None
        view = view[got:]
    return bytes(data)


async def _serve(end: socket.socket, open_tasks: OpenTasks) -> None:
    async with open_tasks() as runner:
        send_frame(end, Kind.READY)
        while True:
            # Blocks the event loop, on which nothing else runs between two tasks.
            frame = receive_frame(end)
            if frame is None:
                os._exit(0)  # whoever waited is gone: what still runs in the engine's threads must not keep us
            kind, answer = Kind.REPLY, b""
            try:
                answer = await runner.run(frame[1])
            except BaseException as error:  # noqa: BLE001 - a panic of the engine is one; whoever asked hears of it
                kind, answer = Kind.ERROR, _described(error, broken=not isinstance(error, FirnlineError))
            send_frame(end, kind, answer)
            if runner.broken or (runner.doubtful and not await runner.rested()):
                os._exit(0)


def _described(error: BaseException, *, broken: bool) -> bytes:
    if not isinstance(error, FirnlineError):
        traceback.print_exception(error, file=sys.stderr)
        sys.stderr.flush()
        error = InternalError("a worker failed internally; the log has the details", kind=type(error).__name__)
    return json.dumps(error.to_wire() | {"broken": broken}, default=str).encode()


def main(arguments: list[str]) -> None:
    """Serve the socket ``arguments[0]`` until it ends."""
    fd, parent = int(arguments[0]), int(arguments[1])
    if len(arguments) > 2:
        os.putenv("TMPDIR", arguments[2])
        tempfile.tempdir = arguments[2]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if os.getppid() != parent:
        return
    with socket.socket(fileno=fd) as end:
        end.setblocking(True)
        first = receive_frame(end)
        if first is None:
            return
        try:
            asyncio.run(_serve(end, pickle.loads(first[1])))
        except OSError:
            return
        except Exception as error:  # noqa: BLE001 - whoever started it must hear why it does not open
            send_frame(end, Kind.ERROR, _described(error, broken=True))


if __name__ == "__main__":
    main(sys.argv[1:])
