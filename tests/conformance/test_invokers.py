"""The contract of `functions.invoke.Invoker`, held to by every backend. A new backend is one row of `INVOKERS`."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from functions.invoke import Invoker, InvokerLimits
from functions.invoke.http import HttpInvoker
from functions.invoke.inline import InlineInvoker
from functions.invoke.lambda_ import open_lambda
from functions.invoke.processes import ProcessInvoker, process_settings
from functions.invoke.ray_ import connect_ray, open_ray
from functions.tasks import Task, decode_reply, encode_task
from storage.blobs.open import open_blobs
from storage.blobs.s3_options import S3Options
from storage.clock import SystemClock
from storage.errors import (
    ForbiddenError,
    InvalidError,
    LimitError,
    OverloadedError,
    StatementTimeoutError,
    UnavailableError,
)
from storage.stores import Stores
from tests.support.lambda_local import local_lambda
from tests.support.processes import children, until
from tests.support.ray_here import ray_or_skip
from tests.support.task_fronts import http_front, lambda_front
from tests.support.task_workers import SECRET, open_doer

pytestmark = pytest.mark.anyio

N_AT_ONCE = 2
MESSAGE_BYTES_MAX = 2_000_000
REPLY_BYTES_MAX = 1_000_000
TIMEOUT_MS = 60_000
LIMITS = InvokerLimits(MESSAGE_BYTES_MAX, REPLY_BYTES_MAX, concurrency=N_AT_ONCE)

Open = Callable[[], AbstractAsyncContextManager[Invoker]]


@dataclass(frozen=True)
class Backend:
    """How to open an invoker of two workers, and what it cannot do, each with the reason; ``marks`` of its tests."""

    open: Open
    lacks: dict[str, str] = field(default_factory=dict)
    marks: tuple[pytest.MarkDecorator, ...] = ()


@asynccontextmanager
async def open_inline() -> AsyncIterator[Invoker]:
    invoker = InlineInvoker(open_doer(), LIMITS)
    yield invoker
    await invoker.close()


@asynccontextmanager
async def open_processes() -> AsyncIterator[Invoker]:
    invoker = ProcessInvoker(open_doer(), SystemClock(), process_settings(N_AT_ONCE), LIMITS)
    yield invoker
    await invoker.close()


@asynccontextmanager
async def open_http() -> AsyncIterator[Invoker]:
    async with http_front(N_AT_ONCE) as url:
        invoker = HttpInvoker(url, SystemClock(), limits=LIMITS)
        yield invoker
        await invoker.close()


@asynccontextmanager
async def open_lambda_front() -> AsyncIterator[Invoker]:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        stores = Stores(partial(open_blobs, s3=S3Options(), clock=SystemClock()))
        async with lambda_front(2 * N_AT_ONCE, stores) as url:
            invoker = await open_lambda(
                "worker", SystemClock(), stores=stores, lake=f"file://{folder}", endpoint=url, region="us-east-1",
                limits=replace(LIMITS, stops=False),
            )  # fmt: skip
            yield invoker
            await invoker.close()


@asynccontextmanager
async def open_emulators() -> AsyncIterator[Invoker]:
    function = {"handler": "tests.support.lambda_doer.handler", "concurrency": 2 * N_AT_ONCE, "timeout_s": 60}
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        stores = Stores(partial(open_blobs, s3=S3Options(), clock=SystemClock()))
        with local_lambda(Path(folder), {"worker": function}) as here:
            invoker = await open_lambda(
                "worker", SystemClock(), stores=stores, lake=f"file://{folder}", endpoint=here.url, region="us-east-1",
                limits=replace(LIMITS, stops=False),
            )  # fmt: skip
            yield invoker
            await invoker.close()


@asynccontextmanager
async def open_a_ray() -> AsyncIterator[Invoker]:
    invoker = await open_ray(open_doer(), limits=LIMITS)
    yield invoker
    await invoker.close()


_TO_ITS_END = "Lambda runs an invocation to its end"
_SAME_PROCESS = "its worker is this process"
_KILLED = "Lambda says of most functions that passed their memory no more than that they were killed"
INVOKERS = {
    "inline": Backend(open_inline, {"dies": _SAME_PROCESS, "stops": "a coroutine cannot stop what holds the thread"}),
    "processes": Backend(open_processes),
    "http": Backend(open_http),
    "ray": Backend(open_a_ray, marks=(pytest.mark.e2e, pytest.mark.slow)),
    "lambda": Backend(open_lambda_front, {"stops": _TO_ITS_END}),
    "lambda-emulators": Backend(
        open_emulators, {"stops": _TO_ITS_END, "tells kills": _KILLED}, marks=(pytest.mark.e2e, pytest.mark.slow)
    ),
}


@pytest.fixture(params=[pytest.param(name, marks=each.marks) for name, each in INVOKERS.items()])
def backend(request: pytest.FixtureRequest) -> Backend:
    if request.param == "ray":
        request.getfixturevalue("ray_here")
    return INVOKERS[request.param]


@pytest.fixture(scope="session")
def ray_here() -> Iterator[None]:
    """A Ray of this machine for the whole session: it takes seconds to start."""
    ray = ray_or_skip()
    connect_ray(ray, "", N_AT_ONCE)
    yield
    ray.shutdown()


@pytest.fixture
async def invoker(backend: Backend) -> AsyncIterator[Invoker]:
    async with backend.open() as opened:
        yield opened


def needs(backend: Backend, capability: str) -> None:
    if capability in backend.lacks:
        pytest.skip(backend.lacks[capability])


async def ask(invoker: Invoker, message: bytes, timeout_ms: int = TIMEOUT_MS) -> bytes:
    return await invoker.invoke(message, timeout_ms=timeout_ms)


async def test_a_task_gets_its_workers_reply(invoker: Invoker) -> None:
    assert await ask(invoker, b"echo:hello") == b"hello"
    assert await ask(invoker, b"echo:" + bytes(range(256))) == bytes(range(256))


async def test_a_signed_task_is_answered_and_another_signature_is_refused(invoker: Invoker) -> None:
    task = Task("scan", "s-1", "0.0", {})
    assert decode_reply(await ask(invoker, encode_task(task, SECRET)), SECRET, task).error is None
    with pytest.raises(ForbiddenError, match="not signed"):
        await ask(invoker, encode_task(task, b"another secret"))


async def test_many_tasks_at_once_get_their_own_replies(invoker: Invoker) -> None:
    replies = await asyncio.gather(*(ask(invoker, b"echo:%d" % n) for n in range(50)))
    assert replies == [b"%d" % n for n in range(50)]


async def test_as_many_tasks_run_at_once_as_are_allowed_and_no_more(invoker: Invoker, tmp_path: Path) -> None:
    assert invoker.limits.concurrency == N_AT_ONCE
    await asyncio.gather(*(ask(invoker, b"sleep:0.3") for _ in range(N_AT_ONCE)))
    paths = [tmp_path / str(n) for n in range(2 * N_AT_ONCE)]
    running: list[int] = []

    async def watch() -> None:
        while True:
            running.append(sum(path.exists() and path.read_text() == "start" for path in paths))
            await asyncio.sleep(0.02)

    watching = asyncio.create_task(watch())
    await asyncio.gather(*(ask(invoker, f"touch:{path}:0.3".encode()) for path in paths))
    watching.cancel()
    assert max(running) == N_AT_ONCE


async def test_a_worker_that_dies_costs_its_task_and_the_next_one_works(backend: Backend, invoker: Invoker) -> None:
    needs(backend, "dies")
    killed = LimitError if "tells kills" in backend.lacks else UnavailableError
    for verb, seen in ((b"die", killed), (b"exit", UnavailableError)):
        with pytest.raises(seen) as caught:
            await ask(invoker, verb)
        assert not isinstance(caught.value, OverloadedError)
        assert seen is UnavailableError or caught.value.facts["limit"] == "worker_memory"  # tried once more
        assert await ask(invoker, b"echo:again") == b"again"


async def test_a_task_past_its_time_is_stopped(invoker: Invoker) -> None:
    await ask(invoker, b"echo:warm")
    started = time.monotonic()
    with pytest.raises(StatementTimeoutError, match="time is up"):
        await ask(invoker, b"sleep:20", timeout_ms=500)
    assert time.monotonic() - started < 15
    assert await ask(invoker, b"echo:again") == b"again"


async def test_a_message_that_is_too_large_is_not_sent(backend: Backend, invoker: Invoker) -> None:
    assert len(await ask(invoker, b"big:900000" + b" " * (MESSAGE_BYTES_MAX // 2), TIMEOUT_MS)) == 900_000
    needs(backend, "message_bytes")
    with pytest.raises(LimitError, match="message_bytes"):
        await ask(invoker, b"echo:" + b"x" * MESSAGE_BYTES_MAX)
    assert await ask(invoker, b"echo:again") == b"again"


async def test_a_reply_that_is_too_large_is_an_error_and_never_half_a_reply(invoker: Invoker) -> None:
    with pytest.raises(LimitError, match="reply"):
        await ask(invoker, b"big:%d" % (invoker.limits.reply_bytes + 1))
    assert len(await ask(invoker, b"big:%d" % (invoker.limits.reply_bytes // 2))) == invoker.limits.reply_bytes // 2


@pytest.mark.parametrize(
    ("raised", "seen"),
    [
        ("ForbiddenError", ForbiddenError),
        ("InvalidError", InvalidError),
        ("TooLargeError", LimitError),
        ("LimitError", LimitError),
        ("UnavailableError", UnavailableError),
        ("OverloadedError", OverloadedError),
        ("NotFoundError", UnavailableError),
        ("InternalError", UnavailableError),
    ],
)
async def test_what_a_worker_refuses_with_is_one_of_the_contracts_errors(
    invoker: Invoker, raised: str, seen: type[Exception]
) -> None:
    with pytest.raises(seen) as caught:
        await ask(invoker, f"raise:{raised}".encode())
    assert type(caught.value) is seen
    if seen is OverloadedError:
        assert caught.value.facts["retry_after_s"] in (1, 3)  # type: ignore[attr-defined]


async def test_a_defect_of_a_worker_is_an_error_and_the_next_task_works(invoker: Invoker) -> None:
    with pytest.raises(UnavailableError):
        await ask(invoker, b"defect")
    assert await ask(invoker, b"echo:again") == b"again"


async def test_cancelling_frees_the_caller_at_once(invoker: Invoker) -> None:
    await ask(invoker, b"echo:warm")
    asking = asyncio.create_task(ask(invoker, b"sleep:10"))
    await asyncio.sleep(0.3)
    started = time.monotonic()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert time.monotonic() - started < 5
    assert await ask(invoker, b"echo:again") == b"again"


@pytest.mark.parametrize("stop", ["cancel", "timeout"])
@pytest.mark.parametrize("work", ["touch", "spin"])
async def test_a_cancelled_task_stops_working(
    backend: Backend, invoker: Invoker, tmp_path: Path, stop: str, work: str
) -> None:
    needs(backend, "stops")
    assert invoker.limits.stops
    await asyncio.gather(*(ask(invoker, b"sleep:0.2") for _ in range(N_AT_ONCE)))
    path = tmp_path / "file"
    message = f"touch:{path}:3".encode() if work == "touch" else b"spin:30"
    asking = [
        asyncio.create_task(ask(invoker, message, TIMEOUT_MS if stop == "cancel" else 700)) for _ in range(N_AT_ONCE)
    ]
    await asyncio.sleep(0.7 if stop == "cancel" else 1.0)
    for each in asking:
        each.cancel()
    found = await asyncio.gather(*asking, return_exceptions=True)
    assert all(isinstance(each, asyncio.CancelledError | StatementTimeoutError) for each in found)
    started = time.monotonic()
    assert await ask(invoker, b"echo:again") == b"again"
    assert time.monotonic() - started < 15
    if work == "touch":
        await asyncio.sleep(max(0.0, 3.0 - (time.monotonic() - started)))
        assert path.read_text() == "start"


async def test_close_leaves_no_process_no_socket_and_no_thread(backend: Backend) -> None:
    await _open_and_close(backend)
    before = _held()
    await _open_and_close(backend)
    await until(lambda: _held() <= before, 30)


async def test_close_fails_what_runs_and_what_comes_later(backend: Backend) -> None:
    async with backend.open() as invoker:
        await ask(invoker, b"echo:warm")
        asking = asyncio.create_task(ask(invoker, b"sleep:30"))
        await asyncio.sleep(0.3)
        started = time.monotonic()
        await invoker.close()
        with pytest.raises(UnavailableError):
            await asyncio.wait_for(asking, 5)
        assert time.monotonic() - started < 10
        with pytest.raises(UnavailableError):
            await ask(invoker, b"echo:late")


async def _open_and_close(backend: Backend) -> None:
    async with backend.open() as invoker:
        await asyncio.gather(*(ask(invoker, b"echo:x") for _ in range(10)))


def _held() -> tuple[int, int, int]:
    """Return the number of child processes, open files and threads of this process."""
    return len(children()), len(list(Path("/proc/self/fd").iterdir())), threading.active_count()
