"""HTTP fronts before worker processes, for tests: workers behind a URL, and AWS Lambda's Invoke as boto3 speaks it.

The processes are those of `ProcessInvoker`, so that a worker that dies or hangs is a real one.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from aiohttp import web

from functions.invoke.processes import ProcessInvoker, process_settings
from storage.clock import SystemClock
from storage.errors import STATUS, FirnlineError, LimitError, OverloadedError, UnavailableError
from tests.support.task_workers import open_doer

__all__ = ["http_front", "serve"]

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
BODY_BYTES_MAX = 64 << 20


@asynccontextmanager
async def serve(
    method_path: tuple[str, str], handler: Handler, tls: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    """Serve one route on a free port of the loopback and yield the URL."""
    app = web.Application(client_max_size=BODY_BYTES_MAX)
    app.router.add_route(*method_path, handler)
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
    n_workers: int, *, tls: ssl.SSLContext | None = None, path: str = "", plain: bool = False
) -> AsyncIterator[str]:
    """Run workers behind a URL; one that dies cuts its connection, as a container's death does.

    plain : errors are bare statuses, as gateways give them
    """
    workers = ProcessInvoker(open_doer(), SystemClock(), process_settings(n_workers))

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
        async with serve(("POST", f"{path}/v1/task"), handle, tls) as url:
            yield url + path
    finally:
        with suppress(asyncio.CancelledError):
            await workers.close()


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
