"""``firn worker``: tasks over HTTP, one process of a service that scales with what is asked of it.

``POST /v1/task`` takes an encoded task (`functions.tasks`) and answers with the encoded reply; whoever may run tasks is
known by the task's signature. A task that this worker refuses, or has no room for, is a problem document. At SIGTERM
or SIGINT it takes no more tasks, gives those that run ``drain_s`` to end, and stops the rest.

Where a stopped task goes on in the engine, the process starts itself anew on the same listening socket as soon as no
other task runs, so that nobody who connects meanwhile is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial

import uvicorn
import uvloop
from starlette.types import Message, Receive, Scope, Send

from functions import tracing
from functions.admission import FIELD, is_admitted
from functions.run_task import TaskRunner
from functions.signed import MESSAGE_BYTES_MAX
from functions.task_worker import TaskWorkerSettings, open_task_runner
from functions.tasks import TASK_MAGIC, Reply, Task
from service.http_server import bound, serve_app
from service.logs import configure_logs
from service.metrics import METRICS_TYPE
from service.problems import PROBLEM_TYPE, problem_of, send_json
from service.requests import header, read_body
from service.task_metrics import TaskMetrics
from service.unadmitted import Unadmitted
from storage.clock import Clock, SystemClock
from storage.counts import Counts
from storage.errors import (
    CancelledError,
    FirnlineError,
    InternalError,
    InvalidError,
    NotFoundError,
    OverloadedError,
    UnavailableError,
)

__all__ = ["TASK_PATH", "TaskApp", "TaskServerSettings", "serve_tasks", "start_anew"]

_log = logging.getLogger("firnline.tasks")
TASK_PATH = "/v1/task"
_RETRY_S = 1
_LOGGED = frozenset(("wall_ms", "cpu_ms", "rows", "bytes_scanned", "requests", "page_bytes", "memory_mb"))
_LISTENER = "--listener"
"""The hidden option that tells a process started anew which socket it listens on."""


@dataclass(frozen=True, slots=True)
class TaskServerSettings:
    """Everything `serve_tasks` is told.

    port : 0 takes a free one
    listener : a listening socket that is open already, by its number; None: one is opened
    concurrency : tasks at once; more are told to come again (429)
    body_bytes_max : of a task whose coordinator says beforehand, signed, how long it is; others: `service.unadmitted`
    drain_s : how long tasks may go on after SIGTERM
    """

    worker: TaskWorkerSettings
    host: str = "127.0.0.1"
    port: int = 8082
    listener: int | None = None
    concurrency: int = 2
    body_bytes_max: int = MESSAGE_BYTES_MAX
    drain_s: float = 25.0
    log_level: str = "info"


def serve_tasks(settings: TaskServerSettings) -> int | None:
    """Serve until a signal ends it; print ``listening on http://…`` once a task would run.

    Returns None, or the listening socket's number when the process is to start anew (`start_anew`).

    Raises `InvalidError` without a secret, and for an address that cannot be had.
    """
    configure_logs(settings.log_level)
    try:
        return uvloop.run(_serve(settings))
    finally:
        tracing.flush()


def start_anew(listener: int, arguments: Sequence[str]) -> None:
    """Replace this process by a new one of the same command line that goes on with the listening socket."""
    kept = list(arguments)
    if _LISTENER in kept:
        at = kept.index(_LISTENER)
        del kept[at : at + 2]
    os.set_inheritable(listener, True)
    os.execv(sys.executable, [sys.executable, *kept, _LISTENER, str(listener)])


async def _serve(settings: TaskServerSettings) -> int | None:
    counts, clock = Counts(), SystemClock()
    metrics = TaskMetrics(counts)
    async with open_task_runner(settings.worker, clock, observe=partial(_done, metrics), counts=counts) as runner:
        with _listening(settings) as listener:
            app = TaskApp(runner, metrics, settings, clock, listener)
            await serve_app(app, app, listener, drain_s=settings.drain_s, announce=_announce, started=app.started)
            return app.kept


def _done(metrics: TaskMetrics, task: Task, reply: Reply) -> None:
    """Count and log a task that ran."""
    metrics.done(task, reply)
    error = None if reply.error is None else reply.error.get("error")
    told = {"kind": task.kind, "attempt": task.attempt, "outcome": error or "succeeded", "error": error}
    usage = {name: round(value, 1) for name, value in reply.usage.items() if name in _LOGGED}
    _log.info("task", extra={**told, **usage})


@contextmanager
def _listening(settings: TaskServerSettings) -> Iterator[socket.socket]:
    if settings.listener is None:
        with bound(settings.host, settings.port) as listener:
            yield listener
        return
    try:
        with socket.socket(fileno=settings.listener) as listener:
            yield listener
    except OSError as error:
        raise InvalidError(f"this is no listening socket: {error.strerror}", listener=settings.listener) from None


class TaskApp:
    """An ASGI app over a `TaskRunner`, served on ``listener``.

    worn : whether the engine is in doubt; no more tasks are taken
    kept : then, and once none runs, a number of the listening socket that stays open when the server closes it
    """

    def __init__(
        self, runner: TaskRunner, metrics: TaskMetrics, settings: TaskServerSettings, clock: Clock,
        listener: socket.socket,
    ) -> None:  # fmt: skip
        self.worn = False
        self.kept: int | None = None
        self._listener = listener
        self._runner, self._metrics = runner, metrics
        self._concurrency, self._body_bytes_max = settings.concurrency, settings.body_bytes_max
        self._secret, self._clock = settings.worker.secret, clock
        self._unadmitted = Unadmitted(TASK_MAGIC)
        self._running: set[asyncio.Task[bytes]] = set()
        self._n_slots = 0
        self._server: uvicorn.Server | None = None
        metrics.watch(lambda: self._n_slots, settings.concurrency)

    def started(self, server: uvicorn.Server) -> None:
        """Be told of the server that serves this app."""
        self._server = server

    def stop_all(self) -> None:
        """See `service.http_server.Stops`."""
        for task in self._running:
            task.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        try:
            await self._answer(scope, receive, send)
        except FirnlineError as error:
            self._metrics.refused(error)
            await _refuse(send, error)
        except Exception:  # noqa: BLE001 - whoever asked must hear something
            _log.exception("a request failed", extra={"path": scope["path"]})
            await _refuse(send, InternalError("an internal error; the log has the details"))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        if path == TASK_PATH and method == "POST":
            await self._task(scope, receive, send)
        elif path == "/healthz":
            await send_json(send, {"status": "ok"})
        elif path == "/readyz":
            self._check_fit()
            await send_json(send, {"status": "ready", "running": self._n_slots, "concurrency": self._concurrency})
        elif path == "/metrics":
            await _send_bytes(send, self._metrics.exposition(), METRICS_TYPE)
        else:
            raise NotFoundError(
                f"no such path; a worker has POST {TASK_PATH}, /healthz, /readyz, /metrics", path=path[:200]
            )

    async def _task(self, scope: Scope, receive: Receive, send: Send) -> None:
        declared = header(scope, b"content-length")
        n_bytes = int(declared) if declared.isdigit() else -1
        if is_admitted(header(scope, FIELD.encode()), n_bytes, self._clock.now_ms(), self._secret):
            async with self._slot():
                message = await read_body(scope, receive, self._body_bytes_max)
                reply = await self._run(asyncio.create_task(self._runner.run(message)), receive)
        else:
            # No place is held for it before it is known whose it is.
            self._check_room()
            async with AsyncExitStack() as room:
                message = await room.enter_async_context(self._unadmitted.body(scope, receive))
                async with self._slot():
                    running = asyncio.create_task(self._runner.run(message))
                    await asyncio.sleep(0)  # its first step sees whether the message is signed
                    await room.aclose()
                    reply = await self._run(running, receive)
        await _send_bytes(send, reply, "application/octet-stream")

    async def _run(self, running: asyncio.Task[bytes], receive: Receive) -> bytes:
        """Return a task's reply. Raises what it raises, and `CancelledError` once nobody waits for it."""
        self._running.add(running)
        listening = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait({running, listening}, return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                raise CancelledError("whoever asked for the task is gone")
            if running.cancelled():
                raise UnavailableError("the worker is shutting down; send the task again", retry_after_s=0)
            return running.result()
        finally:
            listening.cancel()
            running.cancel()
            await asyncio.gather(running, listening, return_exceptions=True)
            self._running.discard(running)

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        """Hold one of the places for tasks. Raises `OverloadedError` if all are taken."""
        self._check_room()
        self._n_slots += 1
        try:
            yield
        finally:
            await self._look()
            self._n_slots -= 1
            if self.worn and not self._n_slots and self._server is not None and not self._server.should_exit:
                _log.warning("the engine did not stop a task; the worker starts anew")
                self.kept = os.dup(self._listener.fileno())
                self._server.should_exit = True

    async def _look(self) -> None:
        """See whether the engine is fit for more."""
        runner = self._runner
        if runner.doubtful and self._n_slots == 1 and not runner.broken:
            self.worn = self.worn or not await runner.rested()
        self.worn = self.worn or runner.broken

    def _check_room(self) -> None:
        self._check_fit()
        if self._n_slots >= self._concurrency:
            raise OverloadedError(
                "this worker runs as many tasks as it may; send it again, or to another",
                concurrency=self._concurrency, retry_after_s=_RETRY_S,
            )  # fmt: skip

    def _check_fit(self) -> None:
        if self.worn:
            raise UnavailableError("this worker is about to start anew; send the task again", retry_after_s=_RETRY_S)


async def _gone(receive: Receive) -> None:
    """Return when the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send_bytes(send: Send, body: bytes, content_type: str) -> None:
    headers = [(b"content-type", content_type.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _refuse(send: Send, error: FirnlineError) -> None:
    """Answer with a problem document that `storage.errors.from_wire` reads too."""
    document = problem_of(error) | error.to_wire()
    headers = {"Retry-After": str(error.facts["retry_after_s"])} if "retry_after_s" in error.facts else {}
    await send_json(send, document, status=document["status"], headers=headers, content_type=PROBLEM_TYPE)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message: Message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return


def _announce(url: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(f"listening on {url}", flush=True)
