"""HTTP fronts before worker processes, for tests: workers behind a URL, and AWS Lambda's Invoke as boto3 speaks it.

The processes are those of `ProcessInvoker`, so that a worker that dies or hangs is a real one.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress

from aiohttp import web

from functions.invoke.lambda_event import answer_of, message_of
from functions.invoke.processes import ProcessInvoker, process_settings
from functions.invoke.worker import OpenTasks
from storage.clock import SystemClock
from storage.errors import STATUS, FirnlineError, LimitError, OverloadedError, UnavailableError
from storage.stores import Stores
from tests.support.task_workers import open_doer

__all__ = ["LAMBDA_BYTES_MAX", "http_front", "lambda_front", "serve"]

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
BODY_BYTES_MAX = 64 << 20
LAMBDA_BYTES_MAX = 6 << 20


@asynccontextmanager
async def serve(routes: Mapping[tuple[str, str], Handler], tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Serve routes (method and path) on a free port of the loopback and yield the URL."""
    app = web.Application(client_max_size=BODY_BYTES_MAX)
    for (method, path), handler in routes.items():
        app.router.add_route(method, path, handler)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    port = runner.addresses[0][1]
    try:
        yield f"{'https' if tls else 'http'}://{'localhost' if tls else '127.0.0.1'}:{port}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def http_front(
    n_workers: int, open_tasks: OpenTasks | None = None, *, tls: ssl.SSLContext | None = None, path: str = "",
    plain: bool = False,
) -> AsyncIterator[str]:  # fmt: skip
    """Run workers behind a URL; one that dies cuts its connection, as a container's death does.

    plain : errors are bare statuses, as gateways give them
    """
    workers = ProcessInvoker(open_tasks or open_doer(), SystemClock(), process_settings(n_workers))

    async def handle(request: web.Request) -> web.StreamResponse:
        message = await request.read()
        try:
            reply = await workers.invoke(message, timeout_ms=0)
        except OverloadedError as error:
            return _refusal(error, plain, {"Retry-After": "3"})
        except UnavailableError as error:
            if "how" in error.facts:
                assert request.transport is not None
                request.transport.abort()
            return _refusal(error, plain, {})
        except FirnlineError as error:
            return _refusal(error, plain, {})
        return await _answer(request, reply)

    try:
        async with serve({("POST", f"{path}/v1/task"): handle}, tls) as url:
            yield url + path
    finally:
        with suppress(asyncio.CancelledError):
            await workers.close()


@asynccontextmanager
async def lambda_front(
    n_workers: int, stores: Stores, open_tasks: OpenTasks | None = None, *, reserved: int = 0
) -> AsyncIterator[str]:
    """Run workers behind Lambda's Invoke, as function ``worker``: it throttles past ``n_workers`` at once, refuses
    events past 6 MiB and answers larger than that, and goes on when its caller is gone."""
    workers = ProcessInvoker(open_tasks or open_doer(), SystemClock(), process_settings(n_workers))
    busy = 0

    async def invoke(request: web.Request) -> web.StreamResponse:
        nonlocal busy
        body = await request.read()
        if request.match_info["name"] != "worker":
            return _lambda_error(404, "ResourceNotFoundException", "Function not found")
        if len(body) > LAMBDA_BYTES_MAX:
            return _lambda_error(413, "RequestTooLargeException", "Request must be smaller than 6291456 bytes")
        if busy == n_workers:
            return _lambda_error(429, "TooManyRequestsException", "Rate Exceeded.", {"Retry-After": "2"})
        busy += 1
        running = asyncio.create_task(_invoked(workers, json.loads(body), stores))
        running.add_done_callback(lambda _done: ended())
        payload, failed = await asyncio.shield(running)
        headers = {"X-Amz-Function-Error": "Unhandled"} if failed else {}
        return web.Response(body=payload, headers={**headers, "X-Amz-Executed-Version": "$LATEST"})

    def ended() -> None:
        nonlocal busy
        busy -= 1

    async def account(_request: web.Request) -> web.StreamResponse:
        return web.json_response({"AccountLimit": {"UnreservedConcurrentExecutions": 900}})

    async def function(_request: web.Request) -> web.StreamResponse:
        return web.json_response({"ReservedConcurrentExecutions": reserved} if reserved else {})

    async def configuration(_request: web.Request) -> web.StreamResponse:
        return web.json_response({"MemorySize": 512})

    routes: dict[tuple[str, str], Handler] = {
        ("POST", "/2015-03-31/functions/{name}/invocations"): invoke,
        ("GET", "/2015-03-31/functions/{name}/configuration"): configuration,
        ("GET", "/2016-08-19/account-settings"): account,
        ("GET", "/2019-09-30/functions/{name}/concurrency"): function,
    }
    try:
        async with serve(routes) as url:
            yield url
    finally:
        await workers.close()


async def _invoked(workers: ProcessInvoker, event: dict[str, str], stores: Stores) -> tuple[bytes, bool]:
    """Return a function's answer, and whether it failed."""
    try:
        reply = await workers.invoke(await message_of(event, stores), timeout_ms=0)
    except UnavailableError as error:
        how = error.facts.get("how")
        if how is None:
            return _function_error(type(error).__name__, error.message), True
        return _function_error("Runtime.ExitError", f"RequestId: 0 Error: Runtime exited: {how}"), True
    except FirnlineError as error:
        return _function_error(type(error).__name__, error.message), True
    payload = json.dumps(answer_of(reply)).encode()
    if len(payload) > LAMBDA_BYTES_MAX:
        said = f"Response payload size ({len(payload)} bytes) exceeded maximum allowed payload size (6291556 bytes)."
        return _function_error("Function.ResponseSizeTooLarge", said), True
    return payload, False


def _function_error(kind: str, said: str) -> bytes:
    return json.dumps({"errorType": kind, "errorMessage": said, "stackTrace": []}).encode()


def _lambda_error(status: int, code: str, said: str, headers: Mapping[str, str] | None = None) -> web.Response:
    body = {"Type": "User", "message": said}
    return web.json_response(body, status=status, headers={"x-amzn-ErrorType": code, **(headers or {})})


async def _answer(request: web.Request, reply: bytes) -> web.StreamResponse:
    if len(reply) % 2:  # as well in chunks, as gateways do
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        for start in range(0, len(reply), 100_000):
            await response.write(reply[start : start + 100_000])
        await response.write_eof()
        return response
    return web.Response(body=reply)


def _refusal(error: FirnlineError, plain: bool, headers: dict[str, str]) -> web.Response:
    status = STATUS[type(error)]
    if plain:
        status = 413 if isinstance(error, LimitError) else status
        return web.Response(status=status, text="a gateway's words", headers=headers)
    wire = error.to_wire()
    problem = {"title": wire["error"], "detail": str(error), "status": status}
    return web.json_response(problem, status=status, headers=headers, content_type="application/problem+json")
