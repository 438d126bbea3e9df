"""A worker that does what its message says: for tests of invokers, where what a task computes does not matter.

``pid``, ``echo:TEXT``, ``sleep:S``, ``spin:S`` (never lets go of the event loop), ``big:N`` (a reply of N bytes),
``die`` (SIGKILL), ``exit``, ``raise:Class``, ``defect``, ``hold:N`` (N bytes of memory for 10 s), ``touch:PATH:S``
(writes ``start``, sleeps, writes ``end``). Signed tasks (``FNTK``) are answered with an empty signed reply.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from functions.invoke.worker import OpenTasks
from functions.tasks import Reply, decode_task, encode_reply
from storage.clock import SystemClock
from storage.errors import from_wire

__all__ = ["SECRET", "Doer", "open_doer"]

SECRET = b"a secret of tests"


class Doer:
    """Runs messages."""

    def __init__(self) -> None:
        self.running = 0
        self.most = 0

    async def run(self, message: bytes) -> bytes:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if message.startswith(b"FNTK"):
                task = decode_task(message, SECRET, SystemClock().now_ms())
                return encode_reply(Reply(task.statement_id, task.id, task.attempt), SECRET)
            return await _done(message)
        finally:
            self.running -= 1


async def _done(message: bytes) -> bytes:
    verb, _, rest = message.partition(b":")
    text = rest[:200].decode("latin-1")
    if verb == b"pid":
        return str(os.getpid()).encode()
    if verb == b"sleep":
        await asyncio.sleep(float(text))
    elif verb == b"spin":
        until = time.monotonic() + float(text)
        while time.monotonic() < until:
            pass
    elif verb == b"big":
        return b"x" * int(text)
    elif verb == b"die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif verb == b"exit":
        os._exit(7)
    elif verb == b"raise":
        raise from_wire({"error": text, "message": "as the task says", "facts": {"retry_after_s": 3}})
    elif verb == b"defect":
        raise RuntimeError("a defect")
    elif verb == b"hold":
        held = b"x" * int(text)
        await asyncio.sleep(10)
        return held[:1]
    elif verb == b"touch":
        path, _, pause_s = text.rpartition(":")
        Path(path).write_text("start")  # noqa: ASYNC240
        await asyncio.sleep(float(pause_s))
        Path(path).write_text("end")  # noqa: ASYNC240
    return rest


@asynccontextmanager
async def _open(doer: Doer | None = None) -> AsyncIterator[Doer]:
    yield doer or Doer()


def open_doer(doer: Doer | None = None) -> OpenTasks:
    """Return what opens a worker; ``doer`` only for one in this process."""
    return partial(_open, doer)
