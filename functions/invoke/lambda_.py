"""`LambdaInvoker`: a task is one synchronous invocation of an AWS Lambda function.

1. Messages past `PAYLOAD_BYTES_MAX` are put as blobs and referred to; they are deleted when the task ends, and swept by
   their lifetime (`functions.exchange.sweep_results`) when we do not come to it. A reply stays below it by itself: a
   worker writes what is larger as pages.
2. Nothing is retried here, the client's own retries are off. A connection may be silent for as long as a function may
   run (15 minutes).
3. Lambda cannot stop an invocation: a cancelled task runs to its end, and is paid for.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from io import BytesIO
from typing import Any

from functions.exchange import results_prefix
from functions.invoke import InvokerLimits
from functions.invoke.lambda_event import PAYLOAD_BYTES_MAX, event_at, event_json, reply_of
from functions.invoke.outcome import check_message, check_reply, closed, seconds, timed_out
from functions.signed import MESSAGE_BYTES_MAX
from storage.clock import Clock
from storage.errors import FirnlineError, InvalidError, UnavailableError
from storage.stores import Stores, join

__all__ = ["LambdaInvoker", "open_lambda"]

TIMEOUT_MS_MAX = 900_000
CONCURRENCY = 50
"""Tasks at once where the account does not say what it allows."""
_READ_TIMEOUT_S = TIMEOUT_MS_MAX / 1000 + 15
_CONNECT_TIMEOUT_S = 5
_LIFETIME_MS = 3_600_000
_POOL_MAX = 1000


class LambdaInvoker:
    """An `functions.invoke.Invoker` of a Lambda function; `open_lambda` makes one.

    Parameters
    ----------
    stack : holds ``client``, aiobotocore's of Lambda
    stores, lake : where messages lie that are too large for an event; None: they are refused with `LimitError`
    """

    name = "lambda"

    def __init__(
        self, function: str, client: Any, stack: AsyncExitStack, clock: Clock, limits: InvokerLimits, *,
        stores: Stores | None = None, lake: str | None = None,
    ) -> None:  # fmt: skip
        self.limits = limits
        self._function, self._client, self._stack, self._clock = function, client, stack, clock
        self._stores, self._lake = stores, lake
        self._places = asyncio.Semaphore(max(1, limits.concurrency))
        self._running: set[asyncio.Task[bytes]] = set()
        self._deletes: set[asyncio.Task[None]] = set()
        self._closed = False

    async def invoke(self, message: bytes, *, timeout_ms: int) -> bytes:
        if self._closed:
            raise closed(self.name)
        check_message(message, self.limits)
        timeout_s = seconds(timeout_ms, self.limits)
        work = asyncio.create_task(self._run(message))
        self._running.add(work)
        work.add_done_callback(self._running.discard)
        try:
            async with asyncio.timeout(timeout_s):
                return check_reply(await work, self.limits)
        except TimeoutError:
            raise timed_out(timeout_s) from None
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
            raise closed(self.name) from None

    async def close(self) -> None:
        self._closed = True
        for work in self._running:
            work.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await asyncio.gather(*self._deletes, return_exceptions=True)
        await self._stack.aclose()

    async def _run(self, message: bytes) -> bytes:
        async with self._places:
            if len(message) <= PAYLOAD_BYTES_MAX:
                return await self._call(event_json(message))
            location = await self._put(message)
            try:
                return await self._call(json.dumps(event_at(location)).encode())
            finally:
                delete = asyncio.create_task(self._delete(location))
                self._deletes.add(delete)
                delete.add_done_callback(self._deletes.discard)

    async def _call(self, event: bytes) -> bytes:
        from functions.invoke.lambda_errors import of_client, of_function

        try:
            response = await self._client.invoke(
                FunctionName=self._function, InvocationType="RequestResponse",
                Payload=BytesIO(event),  # aiohttp takes a large body in pieces only
            )  # fmt: skip
            async with response["Payload"] as stream:
                payload = await stream.read()
        except FirnlineError:
            raise
        except Exception as error:
            raise of_client(error, self._function) from error
        try:
            answer = json.loads(payload)
        except ValueError:
            answer = None
        if response.get("FunctionError"):
            raise of_function(answer, self._function)
        try:
            return reply_of(answer if isinstance(answer, dict) else {})
        except InvalidError as error:
            raise UnavailableError(
                "the function answered something else than a reply; is it a worker of ours?",
                function=self._function, reason=error.message,
            ) from None  # fmt: skip

    async def _put(self, message: bytes) -> str:
        assert self._stores is not None
        assert self._lake is not None
        expires_ms = self._clock.now_ms() + TIMEOUT_MS_MAX + _LIFETIME_MS
        location = join(results_prefix(self._lake, f"message-{self._clock.new_id()}", expires_ms), "task.bin")
        blobs, key = self._stores.resolve(location)
        await blobs.put(key, message, if_absent=True)
        return location

    async def _delete(self, location: str) -> None:
        assert self._stores is not None
        blobs, key = self._stores.resolve(location)
        try:
            await blobs.delete(key)
        except FirnlineError:
            return  # the sweep finds it


async def open_lambda(
    function: str, clock: Clock, *, stores: Stores | None = None, lake: str | None = None,
    endpoint: str | None = None, region: str | None = None, concurrency: int = 0,
    limits: InvokerLimits | None = None,
) -> LambdaInvoker:  # fmt: skip
    """Return the invoker of a function, by name, name:alias or ARN. Credentials come from the standard chain.

    Parameters
    ----------
    concurrency : tasks at once; 0: what the account and the function allow, if we may ask

    Raises
    ------
    InvalidError : aioboto3 is not installed, or no region is known
    """
    try:
        import aioboto3
        from aiobotocore.config import AioConfig  # type: ignore[import-untyped]
    except ImportError:
        raise InvalidError("functions on AWS Lambda need aioboto3; install firnline[functions]") from None
    from functions.invoke.lambda_errors import of_client

    pool = min(concurrency or _POOL_MAX, _POOL_MAX)
    config = AioConfig(
        connect_timeout=_CONNECT_TIMEOUT_S, read_timeout=_READ_TIMEOUT_S, max_pool_connections=pool,
        retries={"total_max_attempts": 1, "mode": "standard"}, tcp_keepalive=True,
    )  # fmt: skip
    stack = AsyncExitStack()
    try:
        opening = aioboto3.Session().client("lambda", region_name=region, endpoint_url=endpoint, config=config)
        client = await stack.enter_async_context(opening)
    except Exception as error:
        await stack.aclose()
        raise of_client(error, function) from error
    place = stores is not None and lake is not None
    found = limits or InvokerLimits(
        message_bytes=MESSAGE_BYTES_MAX if place else PAYLOAD_BYTES_MAX, reply_bytes=PAYLOAD_BYTES_MAX,
        timeout_ms=TIMEOUT_MS_MAX, concurrency=concurrency or await _allowed(client, function), stops=False,
        memory_bytes=await _memory_bytes(client, function),
    )  # fmt: skip
    return LambdaInvoker(function, client, stack, clock, found, stores=stores, lake=lake)


async def _allowed(client: Any, function: str) -> int:
    """Return how many invocations at once the function's reserve, or the account, allows."""
    for ask in (_reserved, _account):
        try:
            found = await ask(client, function)
        except Exception:  # noqa: BLE001 - we may be allowed to invoke, and nothing else
            found = 0
        if found:
            return found
    return CONCURRENCY


async def _memory_bytes(client: Any, function: str) -> int:
    """Return the function's memory; 0 if we may not ask."""
    try:
        answer = await client.get_function_configuration(FunctionName=function)
        return int(answer["MemorySize"]) << 20
    except Exception:  # noqa: BLE001 - as above
        return 0


async def _reserved(client: Any, function: str) -> int:
    answer = await client.get_function_concurrency(FunctionName=function)
    return int(answer.get("ReservedConcurrentExecutions") or 0)


async def _account(client: Any, _function: str) -> int:
    answer = await client.get_account_settings()
    return int(answer["AccountLimit"].get("UnreservedConcurrentExecutions") or 0)
