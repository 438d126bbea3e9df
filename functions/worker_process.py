"""The parent's side of one worker process: start it, talk to it, watch it, kill it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from functions.frames import Chunk, Frames, Kind
from functions.json_lines import log_line
from functions.process_memory import rss_bytes, wants_cpu
from storage.errors import FirnlineError, InternalError, LimitError, UnavailableError, from_wire

__all__ = ["Frame", "WorkerProcess", "error_of", "start_worker", "sweep_scratch"]

_log = logging.getLogger("firnline.workers")
_SCRATCH = "firnline-worker-"
_SOCKET_BYTES = 1 << 20
_INBOX_FRAMES = 4
_STDERR_LINES = 40
_EXIT_S = 1.0
_SETTLE_S = 0.02
_SETTLE_LOOKS = 5
_SETTLE_LOOKS_MAX = 15

Frame = tuple[Kind, memoryview]


class WorkerProcess:
    """One worker: a process, its end of the socket pair, and the frames that it sent and nobody read yet.

    The inbox holds few frames, so a reader that stops reading stops the worker.
    """

    def __init__(self, process: subprocess.Popen[bytes], frames: Frames, scratch: str) -> None:
        self.pid = process.pid
        self.idle_since_s = 0.0
        self.dead = asyncio.Event()
        self._process = process
        self._frames = frames
        self._scratch = scratch
        self._inbox: asyncio.Queue[Frame | None] = asyncio.Queue(_INBOX_FRAMES)
        self._stderr: deque[str] = deque(maxlen=_STDERR_LINES)
        self._pidfd = os.pidfd_open(process.pid)
        self._exited = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._pidfd, self._exited.set)
        self._reading = asyncio.create_task(self._read())
        self._listening = asyncio.create_task(self._read_stderr())
        self._reaping = asyncio.create_task(self._reap())

    async def open(self, open_runner: Callable[[], object], timeout_s: float) -> None:
        """Wait until the worker is ready. Raises what ``open_runner``, picklable, raised there, or
        `UnavailableError`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._frames.send(Kind.OPEN, pickle.dumps(open_runner))
                frame = await self.receive()
        except (TimeoutError, OSError):
            frame = None
        if frame is not None and frame[0] is Kind.READY:
            return
        await self.kill()
        if frame is not None and frame[0] is Kind.ERROR:
            raise from_wire(json.loads(bytes(frame[1])))
        raise UnavailableError("a worker process did not start; the log has its last words", pid=self.pid)

    async def start(self, work: Chunk) -> None:
        """Hand the worker what it is to do; its frames follow. A dead worker shows at the first `receive`."""
        with contextlib.suppress(OSError):
            await self._frames.send(Kind.RUN, work)

    async def send(self, kind: Kind, payload: bytes) -> None:
        """Send the worker a frame. Raises `OSError` when it is gone."""
        await self._frames.send(kind, payload)

    async def cancel(self, statement_id: str) -> None:
        """Ask the worker to stop a statement; it answers with an error frame, if it can."""
        with contextlib.suppress(OSError):
            await self._frames.send(Kind.CANCEL, statement_id.encode())

    async def receive(self) -> Frame | None:
        """Return the worker's next frame; None, for ever, once it is dead and all was read."""
        frame = await self._inbox.get()
        if frame is None:
            self._inbox.put_nowait(None)
        return frame

    @property
    def exit_code(self) -> int | None:
        """How the process ended: its code, or minus the signal; None while it lives."""
        return self._process.returncode

    def rss_bytes(self) -> int:
        """Return the worker's resident memory."""
        return rss_bytes(self.pid)

    async def settled(self) -> bool:
        """Whether the worker really stopped: after a cancelled statement some plans go on burning CPU, and hold the
        engine's threads. It has, when it is seen at rest several times in a row."""
        at_rest = 0
        for _ in range(_SETTLE_LOOKS_MAX):
            await asyncio.sleep(_SETTLE_S)
            if self.dead.is_set():
                return False
            at_rest = 0 if wants_cpu(self.pid) else at_rest + 1
            if at_rest == _SETTLE_LOOKS:
                return True
        return False

    async def kill(self) -> None:
        """End the process at once and give back all it held; who waits for a frame gets None."""
        if not self._exited.is_set():
            self._process.kill()
        await self.dead.wait()
        self._reading.cancel()
        while not self._inbox.empty():
            self._inbox.get_nowait()
        self._inbox.put_nowait(None)
        self._frames.close()

    async def crash(self) -> FirnlineError:
        """Return the error of a statement whose worker is dead, from how it died."""
        await self.dead.wait()
        code = self._process.returncode
        last = "\n".join(self._stderr)
        _log.error("a worker died", extra={"pid": self.pid, "code": code, "stderr": last[-4000:]})
        if "memory allocation of" in last or "MemoryError" in last:
            return LimitError(
                "the worker process ran out of memory and was ended; ask for less at once", limit="memory"
            )
        if code == -signal.SIGKILL:
            return InternalError(
                "the worker process of this statement was killed from outside, maybe by the system for lack of memory"
            )
        how = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        return InternalError("the worker process of this statement crashed; the log has the details", how=how)

    async def _read(self) -> None:
        while (frame := await self._frames.receive()) is not None:
            await self._inbox.put(frame)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._exited.wait(), _EXIT_S)
        if not self._exited.is_set():
            self._process.kill()
        await self.dead.wait()
        await self._inbox.put(None)

    async def _reap(self) -> None:
        await self._exited.wait()
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._process.wait()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._listening, _EXIT_S)
        self.dead.set()
        shutil.rmtree(self._scratch, ignore_errors=True)

    async def _read_stderr(self) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), self._process.stderr)
        try:
            while line := await reader.readline():
                text = line.decode("utf-8", "replace").rstrip()
                self._stderr.append(text)
                if not log_line(text, pid=self.pid):
                    _log.warning("worker: %s", text, extra={"pid": self.pid})
        except ValueError:  # a line longer than the reader's buffer
            self._stderr.append("(an overlong line)")
        finally:
            transport.close()


def start_worker(module: str) -> WorkerProcess:
    """Start a process that runs ``module``, from the event loop's own thread: it dies with the starting thread."""
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)
    scratch = tempfile.mkdtemp(prefix=f"{_SCRATCH}{os.getpid()}-")
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", module, str(theirs.fileno()), str(os.getpid()), scratch],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    return WorkerProcess(process, Frames(ours), scratch)


def sweep_scratch() -> None:
    """Remove the scratch folders of servers that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*-*"):
        pid = folder.name.removeprefix(_SCRATCH).partition("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(folder, ignore_errors=True)


def error_of(payload: memoryview) -> tuple[FirnlineError, bool]:
    """Return the error in an error frame, and whether the worker should not be used again."""
    wire: dict[str, Any] = json.loads(bytes(payload))
    return from_wire(wire), bool(wire.get("broken"))
