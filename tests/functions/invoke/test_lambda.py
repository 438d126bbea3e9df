"""`functions.invoke.lambda_`: what differs from the other backends: throttling, sizes, what Lambda says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from functions.exchange import results_prefix, sweep_results
from functions.invoke.lambda_ import LambdaInvoker, open_lambda
from functions.invoke.lambda_errors import of_function
from functions.invoke.lambda_event import (
    PAYLOAD_BYTES_MAX,
    answer_of,
    event_at,
    event_json,
    event_of,
    message_of,
    reply_of,
)
from functions.tasks import Task, decode_task, encode_task
from storage.blobs.open import open_blobs
from storage.blobs.s3_options import S3Options
from storage.clock import SystemClock
from storage.errors import (
    FirnlineError,
    ForbiddenError,
    InvalidError,
    LimitError,
    NotFoundError,
    OverloadedError,
    StatementTimeoutError,
    UnavailableError,
)
from storage.stores import AccessPolicy, Stores
from tests.support.moto import free_port
from tests.support.task_fronts import LAMBDA_BYTES_MAX, lambda_front

pytestmark = pytest.mark.anyio

TIMEOUT_MS = 30_000


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "test", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)


def stores_of(policy: AccessPolicy | None = None) -> Stores:
    return Stores(partial(open_blobs, s3=S3Options(), clock=SystemClock()), policy or AccessPolicy())


@asynccontextmanager
async def opened(
    n_workers: int, lake: str | None, function: str = "worker", *, concurrency: int = 4, reserved: int = 0
) -> AsyncIterator[LambdaInvoker]:
    stores = stores_of()
    async with lambda_front(n_workers, stores, reserved=reserved) as url:
        place = stores if lake else None
        invoker = await open_lambda(
            function, SystemClock(), stores=place, lake=lake, endpoint=url, concurrency=concurrency
        )
        try:
            yield invoker
        finally:
            await invoker.close()


async def test_more_tasks_than_the_account_allows_are_throttled() -> None:
    async with opened(1, None) as invoker:
        await invoker.invoke(b"echo:warm", timeout_ms=TIMEOUT_MS)
        found = await asyncio.gather(
            *(invoker.invoke(b"sleep:0.5", timeout_ms=TIMEOUT_MS) for _ in range(3)), return_exceptions=True
        )
    throttled = [each for each in found if isinstance(each, OverloadedError)]
    assert len(throttled) == 2
    assert throttled[0].facts["retry_after_s"] == 2
    assert throttled[0].facts["code"] == "TooManyRequestsException"


async def test_a_message_past_the_events_limit_goes_through_a_blob_that_is_deleted(tmp_path: Path) -> None:
    async with opened(1, f"file://{tmp_path}") as invoker:
        message = b"big:10" + b" " * (2 * LAMBDA_BYTES_MAX)
        assert await invoker.invoke(message, timeout_ms=TIMEOUT_MS) == b"x" * 10
        with pytest.raises(UnavailableError):
            await invoker.invoke(b"exit:" + b" " * LAMBDA_BYTES_MAX, timeout_ms=TIMEOUT_MS)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []  # noqa: ASYNC240


async def test_without_a_place_for_blobs_a_large_message_is_refused() -> None:
    async with opened(1, None) as invoker:
        assert invoker.limits.message_bytes == PAYLOAD_BYTES_MAX
        with pytest.raises(LimitError, match="message_bytes"):
            await invoker.invoke(b"echo:" + b"x" * PAYLOAD_BYTES_MAX, timeout_ms=TIMEOUT_MS)


async def test_the_largest_message_and_reply_fit_and_more_is_an_error() -> None:
    async with opened(1, None) as invoker:
        message = (b"big:%d" % PAYLOAD_BYTES_MAX).ljust(PAYLOAD_BYTES_MAX)
        assert len(await invoker.invoke(message, timeout_ms=TIMEOUT_MS)) == PAYLOAD_BYTES_MAX
        with pytest.raises(LimitError, match="reply is larger than Lambda gives"):
            await invoker.invoke(b"big:%d" % LAMBDA_BYTES_MAX, timeout_ms=TIMEOUT_MS)


async def test_tasks_at_once_are_what_the_function_or_the_account_allows() -> None:
    async with opened(1, None, concurrency=0) as invoker:
        assert invoker.limits.concurrency == 900
        assert not invoker.limits.stops
        assert invoker.limits.timeout_ms == 900_000
        assert invoker.limits.memory_bytes == 512 << 20
    async with opened(1, None, concurrency=0, reserved=7) as invoker:
        assert invoker.limits.concurrency == 7


async def test_a_function_that_is_not_there_is_invalid_and_an_endpoint_that_is_not_is_unavailable() -> None:
    async with opened(1, None, "another") as invoker:
        with pytest.raises(InvalidError, match="ResourceNotFoundException"):
            await invoker.invoke(b"echo:x", timeout_ms=TIMEOUT_MS)
    nowhere = await open_lambda("worker", SystemClock(), endpoint=f"http://127.0.0.1:{free_port()}", concurrency=1)
    with pytest.raises(UnavailableError):
        await nowhere.invoke(b"echo:x", timeout_ms=TIMEOUT_MS)
    await nowhere.close()


@pytest.mark.parametrize(
    ("kind", "said", "seen"),
    [
        ("ForbiddenError", "not signed", ForbiddenError),
        ("CorruptError", "a page is not what was written", UnavailableError),
        ("Sandbox.Timedout", "RequestId: 1 Error: Task timed out after 3.00 seconds", StatementTimeoutError),
        ("", "2026-01-01 Task timed out after 3.00 seconds", StatementTimeoutError),
        ("Runtime.OutOfMemory", "signal: killed", LimitError),
        ("Function.ResponseSizeTooLarge", "Response payload size exceeded", LimitError),
        ("Runtime.ExitError", "RequestId: 1 Error: Runtime exited with error: signal: killed", LimitError),
        ("Runtime.ExitError", "RequestId: 1 Error: Runtime exited with error: exit status 3", UnavailableError),
        ("Runtime.ImportModuleError", "no module", UnavailableError),
        ("KeyError", "'x'", UnavailableError),
    ],
)
async def test_what_a_function_failed_with_is_one_of_the_contracts_errors(
    kind: str, said: str, seen: type[FirnlineError]
) -> None:
    error = of_function({"errorType": kind, "errorMessage": said}, "worker")
    assert type(error) is seen
    assert error.facts["function"] == "worker"
    assert type(of_function(None, "worker")) is UnavailableError


def test_a_function_of_another_release_is_known_by_what_it_says() -> None:
    task = encode_task(Task("scan", "s", "0.0", {}), b"k")
    for message, differs in ((task[:4] + b"\xff\xff" + task[6:], "version"), (task, None)):
        with pytest.raises(FirnlineError) as caught:
            decode_task(message, b"another secret", 0)
        answer = {"errorType": type(caught.value).__name__, "errorMessage": str(caught.value)}
        assert of_function(answer, "worker").facts.get("differs") == differs
    assert "differs" not in of_function({"errorType": "InvalidError", "errorMessage": "x differs=hue"}, "w").facts


async def test_messages_and_replies_travel_in_json(tmp_path: Path) -> None:
    stores = stores_of(AccessPolicy((f"file://{tmp_path}",)))
    assert await message_of(json.loads(json.dumps(event_of(b"\x00task"))), stores) == b"\x00task"
    assert json.loads(event_json(b"\x00task")) == event_of(b"\x00task")
    assert reply_of(json.loads(json.dumps(answer_of(b"\xffreply")))) == b"\xffreply"
    place = results_prefix(f"file://{tmp_path}", "message-1", 1) + "task.bin"
    blobs, key = stores.resolve(place)
    await blobs.put(key, b"large")
    assert await message_of(event_at(place), stores) == b"large"
    await sweep_results(stores, f"file://{tmp_path}", SystemClock())
    with pytest.raises(NotFoundError, match="gone"):
        await message_of(event_at(place), stores)


@pytest.mark.parametrize(
    "event", [{}, {"task": "%%%"}, {"task": 7}, {"task_at": 7}, {"task_at": "file:///etc/passwd"}, {"task": None}]
)
async def test_an_event_that_carries_no_task_is_refused(event: dict[str, object]) -> None:
    with pytest.raises(InvalidError):
        await message_of(event, stores_of())


async def test_a_message_outside_of_what_the_worker_may_reach_is_refused(tmp_path: Path) -> None:
    place = results_prefix("file:///elsewhere", "message-1", 1) + "task.bin"
    with pytest.raises(ForbiddenError):
        await message_of(event_at(place), stores_of(AccessPolicy((f"file://{tmp_path}",))))
