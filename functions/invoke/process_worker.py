"""A worker process of `ProcessInvoker`: runs one task at a time for the process that started it.

Started as ``python -m functions.invoke.process_worker FD PARENT_PID SCRATCH``, with frames of `functions.frames`: OPEN
(a pickled `OpenTasks`) is answered by READY; RUN (a message) by CHUNK (the reply) and END (``broken`` in it: replace
this process), or by ERROR; CANCEL stops what runs, which answers with ERROR. The process ends when its socket does, and
the kernel kills it when its parent dies.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pickle
import signal
import socket
import sys

from functions import tracing
from functions.child import serve_parent
from functions.frames import Chunk, Frames, Kind
from functions.invoke.worker import OpenTasks, RunsTasks
from storage.errors import CancelledError, FirnlineError, InternalError

__all__ = ["BROKEN", "main"]

_log = logging.getLogger("firnline.workers")
BROKEN = b"broken"
_FLUSH_S = 0.5


async def _serve(frames: Frames, runner: RunsTasks) -> None:
    work: asyncio.Task[None] | None = None
    while (frame := await frames.receive()) is not None:
        kind, payload = frame
        if kind is Kind.RUN:
            work = asyncio.create_task(_answer(frames, runner, payload))
        elif kind is Kind.CANCEL and work is not None:
            work.cancel()


async def _answer(frames: Frames, runner: RunsTasks, message: Chunk) -> None:
    try:
        reply = await runner.run(bytes(message))
        await frames.send(Kind.CHUNK, reply)
    except asyncio.CancelledError:
        await _fail(frames, CancelledError("the task was cancelled"))
    except FirnlineError as error:
        await _fail(frames, error)
    except BaseException as error:  # noqa: BLE001 - a panic of the engine is one
        _log.error("a task failed internally", exc_info=(type(error), error, error.__traceback__))
        await _fail(frames, InternalError("the log has the details", reason=type(error).__name__), broken=True)
    else:
        await frames.send(Kind.END, BROKEN if getattr(runner, "broken", False) else b"")


async def _fail(frames: Frames, error: FirnlineError, *, broken: bool = False) -> None:
    await frames.send(Kind.ERROR, json.dumps(error.to_wire() | {"broken": broken}, default=str).encode())


async def _main(end: socket.socket) -> None:
    frames = Frames(end)
    first = await frames.receive()
    if first is None:
        return
    try:
        open_tasks: OpenTasks = pickle.loads(first[1])
        async with open_tasks() as runner:
            await frames.send(Kind.READY)
            await _serve(frames, runner)
            tracing.flush(_FLUSH_S)
            os._exit(0)  # whoever waited is gone: what still runs in the engine's threads must not keep us
    except FirnlineError as error:
        await _fail(frames, error, broken=True)


def main(arguments: list[str]) -> None:
    """Serve the socket ``arguments[0]`` until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve_parent(arguments, _main)


if __name__ == "__main__":
    main(sys.argv[1:])
