"""One execution environment of a function: AWS's emulator, and under it AWS's runtime client with our handler.

An environment runs one invocation at a time. Between two, the runtime's processes are stopped (SIGSTOP), as Lambda
freezes them: nothing of them runs, and their clocks go on. A runtime that dies or runs out of time is started anew by
the emulator; an emulator that dies is started anew by the next invocation.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

__all__ = ["Answer", "Environment", "Function"]

_ROOT = Path(__file__).resolve().parents[1]
_START_S = 20.0
_LOOK_S = 0.2
_LATE_S = 20.0
"""Longer than its time limit an emulator is not waited for: it enforces the limit, and its runtime may start first."""
_PATH = "/2015-03-31/functions/function/invocations"
_PR_SET_PDEATHSIG = 1
_ERROR_KEYS = {"errorMessage", "errorType", "requestId", "stackTrace"}


@dataclass(frozen=True)
class Function:
    """What a function is.

    handler : module and function, as Lambda is told
    environment : all variables that it sees, beside those that Lambda sets
    concurrency : environments, at most
    code : folder that modules come from first
    command : the runtime, in place of awslambdaric with this Python; the handler's name is put behind it
    freeze : whether nothing runs between two invocations
    """

    name: str
    handler: str
    memory_mb: int = 1769
    timeout_s: int = 900
    concurrency: int = 2
    environment: Mapping[str, str] = field(default_factory=dict)
    code: str = str(_ROOT)
    command: tuple[str, ...] = (sys.executable, "-m", "awslambdaric")
    freeze: bool = True

    def variables(self, scratch: str) -> dict[str, str]:
        """Return the whole environment of the emulator and the runtime."""
        lambdas = {
            "AWS_LAMBDA_FUNCTION_NAME": self.name,
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(self.memory_mb),
            "AWS_LAMBDA_FUNCTION_TIMEOUT": str(self.timeout_s),
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_EXECUTION_ENV": f"AWS_Lambda_python{sys.version_info.major}.{sys.version_info.minor}",
            "AWS_REGION": "us-east-1",
            "LAMBDA_TASK_ROOT": self.code,
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "TMPDIR": scratch,
            "PYTHONPATH": self.code,
        }
        return lambdas | dict(self.environment)


@dataclass(frozen=True)
class Answer:
    """What an invocation gave: the handler's answer, or how it failed."""

    payload: bytes
    failed: bool = False


class Environment:
    """One emulator and what runs under it. Use `invoke` from one task at a time.

    ports : those of all environments of the front
    """

    def __init__(self, function: Function, emulator: Path, number: int, ports: set[int]) -> None:
        self.function, self.number = function, number
        self.n_starts = self.n_invocations = 0
        self.busy = False
        self.used_s = 0.0
        self._emulator = emulator
        self._process: asyncio.subprocess.Process | None = None
        self._scratch = tempfile.TemporaryDirectory(prefix=f"{function.name}-{number}-", ignore_cleanup_errors=True)
        self._ports, self._own, self._port = ports, set[int](), 0

    @property
    def pid(self) -> int | None:
        """The emulator's process, while there is one."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    def runtime_pids(self) -> list[int]:
        """Return the processes under the emulator."""
        return _descendants(self.pid) if self.pid is not None else []

    async def invoke(self, session: aiohttp.ClientSession, event: bytes) -> Answer:
        """Run the handler on an event. Raises `ConnectionError` if the emulator died."""
        if self.pid is None:
            await self._start()
        self._signal(signal.SIGCONT)
        self.n_invocations += 1
        limit = aiohttp.ClientTimeout(total=self.function.timeout_s + _LATE_S)
        watching = asyncio.create_task(self._watch_memory())
        try:
            async with session.post(f"http://127.0.0.1:{self._port}{_PATH}", data=event, timeout=limit) as response:
                answer = _answer(await response.read(), response.status)
        except (aiohttp.ClientError, TimeoutError, asyncio.CancelledError) as error:
            await self.stop()
            if isinstance(error, asyncio.CancelledError):
                raise
            raise ConnectionError(f"the emulator of {self.function.name} died: {error!r}") from None
        finally:
            watching.cancel()
        if self.function.freeze:
            self._signal(signal.SIGSTOP)
        return answer

    async def stop(self) -> None:
        """End the emulator and all under it, at once: Lambda gives no notice either."""
        process, self._process = self._process, None
        if process is None:
            return
        for pid in [*_descendants(process.pid), process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await process.wait()

    async def close(self) -> None:
        """Stop, and delete its temporary folder."""
        await self.stop()
        self._scratch.cleanup()

    async def _start(self) -> None:
        await self.stop()
        self._ports -= self._own
        self._own = _free_ports(self._ports)
        self._ports |= self._own
        self._port, api = self._own
        self.n_starts += 1
        self._process = await asyncio.create_subprocess_exec(
            str(self._emulator),
            "--runtime-interface-emulator-address", f"127.0.0.1:{self._port}",
            "--runtime-api-address", f"127.0.0.1:{api}", "--log-level", "error",
            *self.function.command, self.function.handler,
            env=self.function.variables(self._scratch.name), cwd=self.function.code,
            stdin=asyncio.subprocess.DEVNULL, stdout=sys.stderr.fileno(), preexec_fn=_die_with_parent,
        )  # fmt: skip
        ends_s = asyncio.get_running_loop().time() + _START_S
        while asyncio.get_running_loop().time() < ends_s:
            if self._process.returncode is not None:
                raise ConnectionError(f"the emulator ended with {self._process.returncode}")
            try:
                _reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                await asyncio.sleep(0.01)
                continue
            writer.close()
            return
        await self.stop()
        raise ConnectionError(f"the emulator of {self.function.name} did not start within {_START_S:.0f} s")

    async def _watch_memory(self) -> None:
        """Kill a runtime that takes more memory than its function has, as Lambda does."""
        while True:
            await asyncio.sleep(_LOOK_S)
            pids = self.runtime_pids()
            if sum(map(_resident_bytes, pids)) > self.function.memory_mb << 20:
                self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self.runtime_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def _answer(payload: bytes, status: int) -> Answer:
    """Tell an answer from a failure, which the emulator says in words that differ from Lambda's."""
    if payload.startswith(b"Task timed out after"):
        said = payload.decode()
        return Answer(json.dumps({"errorType": "Sandbox.Timedout", "errorMessage": said}).encode(), failed=True)
    if status != 200:
        return Answer(payload or b'{"errorType":"Runtime.Unknown","errorMessage":"no answer"}', failed=True)
    return Answer(payload, failed=_is_error(payload))


def _is_error(payload: bytes) -> bool:
    if len(payload) > 256 << 10 or b'"errorType"' not in payload:
        return False
    with contextlib.suppress(ValueError):
        found: Any = json.loads(payload)
        return isinstance(found, dict) and set(found) <= _ERROR_KEYS and "errorMessage" in found
    return False


def _free_ports(taken: set[int]) -> set[int]:
    """Return two ports that nothing listens on, and that nobody else was given who does not listen yet."""
    while True:
        with socket.socket() as one, socket.socket() as other:
            for each in (one, other):
                each.bind(("127.0.0.1", 0))
            found = {one.getsockname()[1], other.getsockname()[1]}
        if not found & taken:
            return found


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, path.read_text().split()):
                found += [child, *_descendants(child)]
    return found


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    except (OSError, IndexError):  # it has just ended
        return 0


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
