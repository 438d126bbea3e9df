"""`serve` as a process: what it binds to, what it refuses, and how it ends."""

import asyncio
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catalog.tokens import create_token
from service.components import open_catalog
from service.local_names import is_local_name
from service.server import ServeSettings, is_loopback
from service.settings import EngineSettings
from storage.clock import SystemClock
from tests.support.processes import alive, until

PROGRAM = "import pickle, sys; from service.server import serve; serve(pickle.loads(bytes.fromhex(sys.argv[1])))"


def start(settings: ServeSettings) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, pickle.dumps(settings).hex()]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def url_of(server: subprocess.Popen[str]) -> str:
    assert server.stdout is not None
    line = server.stdout.readline()
    assert line.startswith("listening on http://"), line
    return line.split()[-1]


def end(server: subprocess.Popen[str]) -> tuple[int, str]:
    """Tell the server to stop; return its exit code and its log."""
    server.send_signal(signal.SIGTERM)
    _out, log = server.communicate(timeout=30)
    return server.returncode, log


def workers_of(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_until_gone(pids: list[int]) -> None:
    asyncio.run(until(lambda: not any(map(alive, pids))))


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    folder = tmp_path / "lake"
    folder.mkdir()
    pq.write_table(pa.table({"n": range(1000)}), folder / "numbers.parquet")
    return folder


def test_a_server_answers_over_the_engine_logs_json_and_ends_cleanly(lake: Path) -> None:
    server = start(ServeSettings(EngineSettings(str(lake), allow=()), port=0))
    url = url_of(server)
    with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
        sql = f"SELECT sum(n) AS total, 'private' AS p FROM parquet('{lake}/numbers.parquet')"
        answer = client.post("/v1/sql", json={"sql": sql}, headers={"X-Request-Id": "req-1"})
        assert answer.json()["rows"] == [[499500, "private"]]
        assert client.post("/v1/sql", json={"sql": "SELECT * FROM parquet('/etc/hosts')"}).status_code == 403
        create = f"CREATE EXTERNAL TABLE numbers STORED AS PARQUET LOCATION '{lake}/numbers.parquet'"
        assert client.post("/v1/sql", json={"sql": create}).status_code == 200
        assert client.get("/v1/tables").json()["tables"][0]["name"] == "numbers"
        table = client.get("/v1/tables/default.numbers").json()
        assert table["columns"] == [{"name": "n", "type": "int64", "nullable": True}]
        assert table["files"]["rows_before_deletes"] == 1000
        accepted = client.post("/v1/sql", json={"sql": "SELECT 7 AS n FROM numbers LIMIT 1", "mode": "async"}).json()
        for _ in range(100):
            state = client.get(accepted["links"]["self"]).json()
            if state["state"] == "succeeded":
                break
            time.sleep(0.05)
        assert client.get(accepted["links"]["result"]).json()["rows"] == [[7]]
        assert client.post("/v1/sql", json={"sql": "CREATE TABLE written (n BIGINT)"}).status_code == 200
        assert client.post("/v1/tables/default.written/rows", json=[{"n": 1}]).json()["ack"] == "fsync"
        shown = client.get("/metrics").text
        assert 'firnline_log_appends_total{outcome="acknowledged",shard="0"} 1.0' in shown
        assert 'firnline_log_lag_records{shard="0"} 1.0' in shown
    workers = workers_of(server.pid)
    code, log = end(server)
    assert code == 0
    assert workers
    wait_until_gone(workers)
    lines = [json.loads(line) for line in log.splitlines()]
    statements = [line for line in lines if line["message"] == "statement"]
    assert {line["outcome"] for line in statements} >= {"succeeded", "ForbiddenError"}
    first = statements[0]
    assert (first["request_id"], first["statement_id"]) == ("req-1", answer.json()["statement_id"])
    assert first["rows"] == 1
    assert "private" not in log


def test_statements_that_run_at_sigterm_get_a_grace_and_then_an_error(lake: Path) -> None:
    server = start(ServeSettings(EngineSettings(str(lake), allow=()), port=0, drain_s=1.0))
    url = url_of(server)
    endless = "SELECT count(*) FROM range(10000000) a CROSS JOIN range(10000000) b WHERE a.value + b.value < 0"

    async def ask() -> tuple[httpx.Response, tuple[int, str]]:
        async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as client:
            asked = asyncio.create_task(client.post("/v1/sql", json={"sql": endless}))
            while "firnline_statements_running 1.0" not in (await client.get("/metrics")).text:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            ended = await asyncio.to_thread(end, server)
            return await asked, ended

    answer, (code, _log) = asyncio.run(ask())
    assert answer.status_code == 503
    assert "shutting down" in answer.json()["detail"]
    assert code == 0


def test_a_killed_server_leaves_no_worker(lake: Path) -> None:
    server = start(ServeSettings(EngineSettings(str(lake), allow=()), port=0))
    url_of(server)
    workers = workers_of(server.pid)
    assert workers
    os.kill(server.pid, signal.SIGKILL)
    server.communicate()
    wait_until_gone(workers)


def test_an_address_that_others_reach_needs_tokens_and_then_a_token(lake: Path) -> None:
    settings = ServeSettings(EngineSettings(str(lake), allow=()), host="0.0.0.0", port=0)
    server = start(settings)
    _out, log = server.communicate(timeout=30)
    assert server.returncode != 0
    assert "firn token create --role admin" in log

    async def make_token() -> str:
        kv = await open_catalog(settings.engine, SystemClock())
        try:
            return (await create_token(kv, SystemClock(), "reader", "test"))[1]
        finally:
            await kv.close()

    token = asyncio.run(make_token())
    server = start(settings)
    url = url_of(server).replace("0.0.0.0", "127.0.0.1")
    with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
        assert client.post("/v1/sql", json={"sql": "SELECT 1"}).status_code == 401
        headers = {"Authorization": f"Bearer {token}"}
        assert client.post("/v1/sql", json={"sql": "SELECT 1"}, headers=headers).status_code == 200
        create = {"sql": "CREATE SCHEMA s"}
        assert client.post("/v1/sql", json=create, headers=headers).status_code == 403
    code, log = end(server)
    assert code == 0
    assert token not in log


def test_an_address_in_use_is_a_clear_error(lake: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = start(ServeSettings(EngineSettings(str(lake), allow=()), port=taken.getsockname()[1]))
        _out, log = server.communicate(timeout=30)
    assert server.returncode != 0
    assert "choose another --port" in log


def test_a_web_page_under_another_name_does_not_reach_a_server_without_tokens(lake: Path) -> None:
    server = start(ServeSettings(port=0, engine=EngineSettings(lake=str(lake))))
    try:
        url = url_of(server)
        answer = httpx.post(f"{url}/v1/sql", json={"sql": "SELECT 1"}, headers={"Host": "evil.example:8080"})
        assert (answer.status_code, answer.json()["title"]) == (403, "ForbiddenError")
        assert "evil.example" in answer.json()["detail"]
        named = httpx.post(f"{url}/v1/sql", json={"sql": "SELECT 1"}, headers={"Host": "localhost:8080"})
        assert named.status_code == 200
    finally:
        end(server)


@pytest.mark.parametrize(
    "host", ["", "localhost", "LOCALHOST:80", "a.localhost", "127.0.0.1:8080", "[::1]:8080", "[::1]"]
)
def test_names_that_cannot_be_rebound_are_local(host: str) -> None:
    assert is_local_name(host)


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:80", "127.0.0.1.nip.io", "xlocalhost"])
def test_other_names_are_not_local(host: str) -> None:
    assert not is_local_name(host)


def test_only_this_machine_is_loopback() -> None:
    assert all(map(is_loopback, ["127.0.0.1", "localhost", "::1", "[::1]", "127.8.8.8"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "10.0.0.1", "example.com", ""]))
