"""What must not bring the server down: endless statements, kills, clients that leave, dawdle, or come in crowds."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator

import httpx
import pytest

from functions.process_memory import rss_bytes
from functions.worker_pool import WorkerSettings
from service.app import AppSettings
from service.statement import Limits
from tests.support.http_server import Serving, serving
from tests.support.processes import alive, children, until
from tests.support.runner import ENDLESS

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Serving]:
    async with serving(WorkerSettings(workers_min=1, workers_max=2, queue_max=64)) as server:
        yield server


async def pid_of(server: Serving) -> int:
    return int((await server.sql("CALL pid")).json()["rows"][0][0])


async def test_an_endless_statement_ends_at_its_timeout_with_its_worker_gone_or_idle(server: Serving) -> None:
    started = time.monotonic()
    response = await server.sql(ENDLESS, timeout_ms=500)
    assert response.status_code == 408
    assert time.monotonic() - started < 15
    await until(lambda: server.runner.load().running == 0)
    assert (await server.sql("SELECT 1")).status_code == 200


async def test_a_worker_killed_in_mid_statement_is_a_clear_error_and_the_next_statement_works(server: Serving) -> None:
    pid = await pid_of(server)
    running = asyncio.create_task(server.sql(ENDLESS))
    await until(lambda: server.runner.load().running == 1)
    await asyncio.sleep(0.3)
    os.kill(pid, signal.SIGKILL)
    response = await asyncio.wait_for(running, 30)
    assert response.status_code == 500
    assert "killed from outside" in response.json()["detail"]
    assert (await server.sql("SELECT 1")).status_code == 200


async def test_a_client_that_goes_away_cancels_its_statement(server: Serving) -> None:
    await pid_of(server)
    with pytest.raises(httpx.ReadTimeout):
        await server.client.post("/v1/sql", json={"sql": ENDLESS}, timeout=0.5)
    await until(lambda: server.runner.load().running == 0, 5)
    metrics = (await server.client.get("/metrics")).text
    assert 'firnline_statements_total{outcome="CancelledError"}' in metrics


async def test_a_client_that_goes_away_in_mid_result_cancels_its_statement(server: Serving) -> None:
    asked = {"sql": "SELECT value FROM range(1000000000)", "format": "csv"}
    async with server.client.stream("POST", "/v1/sql", json=asked) as response:
        assert response.status_code == 200
        async for _chunk in response.aiter_raw():
            break
    await until(lambda: server.runner.load().running == 0, 5)


async def test_delete_cancels_a_running_statement(server: Serving) -> None:
    asked = {"sql": "SELECT value FROM range(10000000000)", "format": "csv"}
    with pytest.raises(httpx.RemoteProtocolError):
        async with server.client.stream("POST", "/v1/sql", json=asked) as response:
            statement_id = response.headers["x-statement-id"]
            async with httpx.AsyncClient(base_url=server.client.base_url, trust_env=False) as other:
                assert (await other.get(f"/v1/statements/{statement_id}")).json()["state"] == "running"
                assert (await other.delete(f"/v1/statements/{statement_id}")).json()["state"] == "cancelling"
            async for _chunk in response.aiter_raw():
                pass
    state = (await server.client.get(f"/v1/statements/{statement_id}")).json()
    assert state["state"] == "cancelled"


async def test_a_slow_reader_holds_the_worker_back_and_memory_stays_flat(server: Serving) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1 << 16)
    body = b'{"sql":"SELECT value FROM range(10000000000)","format":"arrow"}'
    writer.write(b"POST /v1/sql HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
    await asyncio.sleep(0.5)
    before = max(map(rss_bytes, [*children(), os.getpid()]))
    await asyncio.sleep(1.0)
    assert max(map(rss_bytes, [*children(), os.getpid()])) - before < 20 << 20
    assert server.runner.load().running == 1
    writer.transport.abort()
    await until(lambda: server.runner.load().running == 0, 5)


async def test_a_reader_that_never_reads_is_cut_off_when_the_time_is_up(server: Serving) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1 << 16)
    body = b'{"sql":"SELECT value FROM range(10000000000)","format":"arrow","timeout_ms":700}'
    writer.write(b"POST /v1/sql HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
    await until(lambda: server.runner.load().running == 0, 5)
    rest = await asyncio.wait_for(reader.read(-1), 10)
    assert not rest.endswith(b"0\r\n\r\n")
    writer.close()


async def test_sixty_four_clients_at_once_all_get_their_own_answer(server: Serving) -> None:
    limits = httpx.Limits(max_connections=64)
    async with httpx.AsyncClient(base_url=server.client.base_url, limits=limits, timeout=60, trust_env=False) as client:
        answers = await asyncio.gather(*(client.post("/v1/sql", json={"sql": f"SELECT {n} AS n"}) for n in range(64)))
    assert [answer.json()["rows"] for answer in answers] == [[[n]] for n in range(64)]


async def test_a_statement_of_100_mb_is_refused_early_and_costs_no_memory(server: Serving) -> None:
    before = rss_bytes(os.getpid())
    statement = b'{"sql":"SELECT \'' + b"x" * (100 << 20) + b"'\"}"
    response = await server.client.post("/v1/sql", content=statement)
    assert response.status_code == 413
    assert response.json()["title"] == "TooLargeError"
    del statement, response
    assert rss_bytes(os.getpid()) - before < 150 << 20  # the client's own copies are in this process too
    assert (await server.sql("SELECT 1")).status_code == 200


async def test_too_many_statements_are_429_with_retry_after() -> None:
    settings = AppSettings(limits=Limits(timeout_ms=3000))
    async with serving(WorkerSettings(workers_min=1, workers_max=1, queue_max=2), settings) as server:
        answers = await asyncio.gather(*(server.sql(ENDLESS) for _ in range(6)))
        refused = [answer for answer in answers if answer.status_code == 429]
        assert len(refused) == 3
        assert refused[0].headers["retry-after"] == "1"
        assert refused[0].json()["title"] == "OverloadedError"
        assert {answer.status_code for answer in answers} == {429, 408}


async def test_a_server_told_to_stop_lets_statements_end_and_stops_the_rest() -> None:
    async with serving(drain_s=1.0) as server:
        pid = await pid_of(server)
        running = asyncio.create_task(server.sql(ENDLESS))
        await until(lambda: server.runner.load().running == 1)
        server.stop()
        response = await asyncio.wait_for(running, 30)
        assert response.status_code == 503
        assert "shutting down" in response.json()["detail"]
    await until(lambda: not alive(pid))
