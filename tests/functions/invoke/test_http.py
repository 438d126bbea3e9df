"""`functions.invoke.http`: what differs from the other backends: connections, TLS, gateways."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from functions.admission import FIELD, is_admitted
from functions.invoke.http import HttpInvoker
from storage.clock import SystemClock
from storage.errors import (
    FirnlineError,
    ForbiddenError,
    InvalidError,
    LimitError,
    OverloadedError,
    StatementTimeoutError,
    UnavailableError,
)
from tests.support.moto import free_port
from tests.support.task_fronts import http_front, serve

pytestmark = pytest.mark.anyio

TIMEOUT_MS = 20_000


@asynccontextmanager
async def answering(answer: Callable[[web.Request], web.Response]) -> AsyncIterator[HttpInvoker]:
    async def handle(request: web.Request) -> web.StreamResponse:
        await request.read()
        return answer(request)

    async with serve({("POST", "/v1/task"): handle}) as url:
        invoker = HttpInvoker(url, SystemClock())
        yield invoker
        await invoker.close()


@pytest.mark.parametrize(
    ("status", "headers", "seen"),
    [
        (429, {}, OverloadedError),
        (429, {"Retry-After": "7"}, OverloadedError),
        (503, {"Retry-After": "7"}, OverloadedError),
        (503, {}, UnavailableError),
        (500, {}, UnavailableError),
        (502, {}, UnavailableError),
        (504, {}, UnavailableError),
        (401, {}, ForbiddenError),
        (403, {}, ForbiddenError),
        (413, {}, LimitError),
        (408, {}, StatementTimeoutError),
        (404, {}, InvalidError),
        (301, {"Location": "https://elsewhere/"}, InvalidError),
        (204, {}, UnavailableError),
    ],
)
async def test_what_a_gateway_answers_is_one_of_the_contracts_errors(
    status: int, headers: dict[str, str], seen: type[FirnlineError]
) -> None:
    async with answering(lambda _request: web.Response(status=status, headers=headers)) as invoker:
        with pytest.raises(FirnlineError) as caught:
            await invoker.invoke(b"task", timeout_ms=TIMEOUT_MS)
    assert type(caught.value) is seen
    assert caught.value.facts["status"] == status
    if seen is OverloadedError:
        assert caught.value.facts["retry_after_s"] == (7 if headers else 1)


async def test_tasks_one_after_another_use_one_connection() -> None:
    ports = set()

    def answer(request: web.Request) -> web.Response:
        assert request.transport is not None
        ports.add(request.transport.get_extra_info("peername")[1])
        return web.Response(body=b"reply")

    async with answering(answer) as invoker:
        for _ in range(5):
            assert await invoker.invoke(b"task", timeout_ms=TIMEOUT_MS) == b"reply"
    assert len(ports) == 1


async def test_a_kept_connection_that_the_server_closed_meanwhile_costs_no_task() -> None:
    n_connections = 0

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal n_connections
        n_connections += 1
        await reader.readuntil(b"task")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")  # and does not say that it closes
        await reader.read(1)
        writer.close()

    server = await asyncio.start_server(once, "127.0.0.1", 0)
    invoker = HttpInvoker(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", SystemClock())
    for _ in range(3):
        assert await invoker.invoke(b"task", timeout_ms=TIMEOUT_MS) == b"ok"
    await invoker.close()
    server.close()
    await server.wait_closed()
    assert n_connections == 3


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalfX",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"\x00" * 100_000,
    ],
)
async def test_half_an_answer_is_an_error_and_never_a_reply(answer: bytes) -> None:
    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"task")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(cut, "127.0.0.1", 0)
    invoker = HttpInvoker(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", SystemClock())
    with pytest.raises(UnavailableError, match="did not answer"):
        await invoker.invoke(b"task", timeout_ms=TIMEOUT_MS)
    await invoker.close()
    server.close()
    await server.wait_closed()


async def test_an_interim_answer_is_passed_over() -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"task")
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await reader.read(1)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    invoker = HttpInvoker(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", SystemClock())
    assert await invoker.invoke(b"task", timeout_ms=TIMEOUT_MS) == b"ok"
    await invoker.close()
    server.close()
    await server.wait_closed()


async def test_workers_that_cannot_be_reached_are_unavailable() -> None:
    invoker = HttpInvoker(f"http://127.0.0.1:{free_port()}", SystemClock())
    with pytest.raises(UnavailableError, match="cannot be reached"):
        await invoker.invoke(b"task", timeout_ms=TIMEOUT_MS)
    await invoker.close()


@pytest.mark.parametrize("url", ["http://", "https:///v1", "http://:80"])
async def test_a_url_without_a_host_is_refused(url: str) -> None:
    with pytest.raises(InvalidError, match="no host"):
        HttpInvoker(url, SystemClock())


async def test_workers_below_a_path_and_behind_plain_statuses() -> None:
    async with http_front(1, path="/below", plain=True) as url:
        invoker = HttpInvoker(url + "/", SystemClock())
        assert await invoker.invoke(b"echo:x", timeout_ms=TIMEOUT_MS) == b"x"
        with pytest.raises(ForbiddenError):
            await invoker.invoke(b"raise:ForbiddenError", timeout_ms=TIMEOUT_MS)
        with pytest.raises(OverloadedError) as caught:
            await invoker.invoke(b"raise:OverloadedError", timeout_ms=TIMEOUT_MS)
        assert caught.value.facts["retry_after_s"] == 3
        await invoker.close()


async def test_a_certificate_is_checked(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = subprocess.run(  # noqa: ASYNC221
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", cert],
        capture_output=True,
    )  # fmt: skip
    if made.returncode:
        pytest.skip("there is no openssl to make a certificate with")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(cert, key)
    async with http_front(1, tls=tls) as url:
        invoker = HttpInvoker(url, SystemClock(), ca_file=str(cert))
        for n in (10, 1_000_001):
            assert await invoker.invoke(b"echo:" + b"x" * n, timeout_ms=TIMEOUT_MS) == b"x" * n
        await invoker.close()
        stranger = HttpInvoker(url, SystemClock())
        with pytest.raises(UnavailableError, match=r"(?i)certificate"):
            await stranger.invoke(b"echo:x", timeout_ms=TIMEOUT_MS)
        await stranger.close()


async def test_a_message_is_announced_to_workers_that_share_the_secret() -> None:
    seen: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        seen.append(request.headers.get(FIELD, ""))
        return web.Response(body=b"reply")

    async with serve({("POST", "/v1/task"): answer}) as url:
        for secret in (b"new,old", b""):
            invoker = HttpInvoker(url, SystemClock(), secret=secret)
            assert await invoker.invoke(b"a task", timeout_ms=TIMEOUT_MS) == b"reply"
            await invoker.close()
    assert is_admitted(seen[0], len(b"a task"), SystemClock().now_ms(), b"new")
    assert seen[1] == ""
