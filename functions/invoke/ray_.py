"""`RayInvoker`: tasks as remote functions of Ray, which places them, runs them again when a node is lost, and keeps
large messages and replies in its object store.

1. A Ray worker process opens what runs tasks once and keeps it warm; a task has one core to itself.
2. A worker that dies is started again by Ray, up to ``retries`` times, since tasks are pure; then it is
   `UnavailableError`.
3. A cancelled task's worker is killed. `close` ends a Ray that we started, and leaves one that was there alone.
4. A cluster elsewhere (``ray://HOST:PORT``) is spoken to by Ray's client. Its machines have Firnline in their Python.

Source: Moritz et al.: "Ray: A Distributed Framework for Emerging AI Applications", OSDI 2018.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import logging
import os
import threading
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import lru_cache
from typing import Any

from functions.invoke import InvokerLimits
from functions.invoke.outcome import (
    SMALLER,
    allowed,
    check_message,
    check_reply,
    closed,
    refused,
    seconds,
    timed_out,
)
from functions.invoke.worker import OpenTasks, RunsTasks
from functions.signed import MESSAGE_BYTES_MAX
from storage.errors import FirnlineError, InternalError, InvalidError, LimitError, UnavailableError

__all__ = ["RayInvoker", "connect_ray", "load_ray", "open_ray"]

RETRIES = 1
_ENDED_S = 5.0
_CONNECTS = 3
_PUT_BYTES = 100_000
"""Ray passes what is smaller with the call itself."""
_OBJECT_STORE_BYTES = 512 << 20
_log = logging.getLogger("firnline.invoke")


class RayInvoker:
    """An `functions.invoke.Invoker` of a Ray that is connected; `open_ray` makes one.

    Parameters
    ----------
    started : whether Ray is ours, to be ended by `close`
    """

    name = "ray"

    def __init__(self, ray: Any, open_tasks: OpenTasks, limits: InvokerLimits, *, started: bool, retries: int) -> None:
        self.limits = limits
        self._ray, self._started = ray, started
        self._run = ray.remote(num_cpus=1, max_retries=retries)(_task_of(ray, open_tasks))
        self._places = asyncio.Semaphore(max(1, limits.concurrency))
        self._running: dict[int, Any] = {}
        """Tasks by their reference's identity: to hash one asks the cluster, where it is elsewhere."""
        self._answers: set[asyncio.Future[Any]] = set()
        """Of tasks that Ray has not told the end of, those that nobody waits for included."""
        self._closed = False

    async def invoke(self, message: bytes, *, timeout_ms: int) -> bytes:
        if self._closed:
            raise closed(self.name)
        check_message(message, self.limits)
        timeout_s = seconds(timeout_ms, self.limits)
        try:
            async with asyncio.timeout(timeout_s), self._places:
                reply, wire = await self._asked(message)
        except TimeoutError:
            raise timed_out(timeout_s) from None
        if wire is not None:
            raise refused(wire)
        return check_reply(reply, self.limits)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for reference in list(self._running.values()):
            self._cancel(reference)
        while self._running:  # noqa: ASYNC110 - each ends with an error now
            await asyncio.sleep(0.01)
        if self._answers:
            await asyncio.wait(self._answers, timeout=_ENDED_S)
        if self._started:
            await asyncio.to_thread(self._ray.shutdown)

    async def _asked(self, message: bytes) -> tuple[bytes, dict[str, Any] | None]:
        argument = message if len(message) < _PUT_BYTES else await asyncio.to_thread(self._ray.put, message)
        if self._closed:
            raise closed(self.name)
        reference = self._run.remote(argument)
        self._running[id(reference)] = reference
        answer = asyncio.wrap_future(reference.future())
        self._answers.add(answer)
        answer.add_done_callback(self._heard)
        try:
            # Not cancelled with the wait: Ray's client ends its connection when it cannot say how a task ended.
            found: tuple[bytes, dict[str, Any] | None] = await asyncio.shield(answer)
            return found
        except asyncio.CancelledError:
            self._cancel(reference)
            raise
        except Exception as error:  # noqa: BLE001 - Ray's own, and they are many
            raise self._error_of(error) from None
        finally:
            self._running.pop(id(reference), None)

    def _heard(self, answer: asyncio.Future[Any]) -> None:
        self._answers.discard(answer)
        if not answer.cancelled():
            answer.exception()  # it may be nobody's any more

    def _cancel(self, reference: Any) -> None:
        try:
            self._ray.cancel(reference, force=True)
        except Exception:  # noqa: BLE001 - it has just ended
            _log.debug("a task could not be cancelled", exc_info=True)

    def _error_of(self, error: Exception) -> FirnlineError:
        names = {cls.__name__ for cls in type(error).__mro__}
        reason = str(error).partition("\n")[0][:300] or None
        if self._closed:
            return closed(self.name)
        if names & {"OutOfMemoryError", "ObjectStoreFullError"}:
            return LimitError(
                f"the task ran out of Ray's memory; {SMALLER}, or give Ray's nodes more", limit="worker_memory",
                reason=reason,
            )  # fmt: skip
        return UnavailableError("a Ray worker ended without a reply", kind=type(error).__name__, reason=reason)


async def open_ray(
    open_tasks: OpenTasks, address: str = "", *, concurrency: int = 0, retries: int = RETRIES,
    limits: InvokerLimits | None = None,
) -> RayInvoker:  # fmt: skip
    """Return an invoker of the Ray at ``address``; "": the one this process is connected to, else a new one on this
    machine, of ``concurrency`` cores (0: all).

    Raises
    ------
    InvalidError : Ray is not installed
    UnavailableError : there is none at the address, or it does not start
    """
    try:
        ray = load_ray()
    except ImportError:
        raise InvalidError("functions on Ray need it; install firnline[ray]") from None
    started = not ray.is_initialized()
    if started:
        try:
            # In a thread: it takes seconds, and in the main one Ray would take over this process's signals.
            await asyncio.to_thread(connect_ray, ray, address, concurrency)
        except Exception as error:
            raise UnavailableError(
                "Ray does not start, or is not there", address=address or None, reason=str(error)[:300]
            ) from error
    n_cores = int(ray.cluster_resources().get("CPU", 1))
    found = limits or InvokerLimits(MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX, concurrency=concurrency or n_cores)
    return RayInvoker(ray, open_tasks, found, started=started, retries=retries)


def load_ray() -> Any:
    """Import Ray. Raises `ImportError`.

    Where the program itself was started by ``uv run``, Ray would start each worker by it too, in a copy of the working
    folder and with packages of its own: our workers have the interpreter and the packages that we have.
    """
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # noqa: TID251 - Ray reads it when it is imported
    return importlib.import_module("ray")


def connect_ray(ray: Any, address: str, n_cores: int) -> None:
    """Connect this process to the Ray at ``address``; "": start one on this machine, of ``n_cores`` (0: all)."""
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    if not address:
        ray.init(num_cpus=n_cores or None, include_dashboard=False, object_store_memory=_OBJECT_STORE_BYTES, **quiet)
        return
    for left in reversed(range(_CONNECTS)):
        try:
            ray.init(address=address, **quiet)
            return
        except ConnectionAbortedError:
            # The cluster starts a process for each client, which now and then ends before it is of use.
            if not left:
                raise
            _log.warning("the Ray at %s has begun nothing for this process; asking it again", address)


def _task_of(ray: Any, open_tasks: OpenTasks) -> Callable[[bytes], tuple[bytes, dict[str, Any] | None]]:
    """Return what Ray runs: it takes functions, and no partial ones."""
    opened = hashlib.sha256(ray.cloudpickle.dumps(open_tasks)).hexdigest()

    def firnline_task(message: bytes) -> tuple[bytes, dict[str, Any] | None]:
        return _run(opened, open_tasks, message)

    return firnline_task


def _run(opened: str, open_tasks: OpenTasks, message: bytes) -> tuple[bytes, dict[str, Any] | None]:
    """Run one task in a Ray worker: its reply, or why there is none, on the wire."""
    host = _host()
    try:
        return host.run(opened, open_tasks, message), None
    except FirnlineError as error:
        return b"", allowed(error).to_wire()
    except Exception as error:  # noqa: BLE001 - the caller hears of it
        _log.exception("a task failed internally")
        return b"", allowed(InternalError("the log has the details", reason=type(error).__name__)).to_wire()


class _Host:
    """An event loop in a thread of a Ray worker process, with what runs tasks on it.

    Ray gives a worker to any invoker of the program: what was opened for one lake never runs the tasks of another.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._name = ""
        self._opened: AbstractAsyncContextManager[RunsTasks] | None = None
        self._runner: RunsTasks | None = None
        threading.Thread(target=self._loop.run_forever, name="firnline-tasks", daemon=True).start()

    def run(self, name: str, open_tasks: OpenTasks, message: bytes) -> bytes:
        if getattr(self._runner, "broken", False):
            os._exit(1)  # Ray runs the task in another worker
        if self._opened is not None and self._name != name:
            before, self._opened, self._runner = self._opened, None, None
            self._wait(before.__aexit__(None, None, None))
        if self._runner is None:
            self._name, self._opened = name, open_tasks()  # kept: what it opened is closed when it is forgotten
            self._runner = self._wait(self._opened.__aenter__())
        reply: bytes = self._wait(_awaited(self._runner.run, message))
        return reply

    def _wait(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


async def _awaited(run: Callable[[bytes], Awaitable[bytes]], message: bytes) -> bytes:
    return await run(message)


@lru_cache(maxsize=1)
def _host() -> _Host:
    return _Host()
