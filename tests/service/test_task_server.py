"""`firn worker`: tasks over HTTP, as many as it has room for, until it is told to stop."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from functions.exchange import decode_page
from functions.tasks import Reply, Task, decode_reply, encode_task
from service.executor import InlineExecutor
from service.settings import FunctionAccess
from service.statement import Limits, Statement
from storage.clock import SystemClock
from tests.support.firn import environment, firn, program
from tests.support.lakes import open_lake
from tests.support.task_plans import ENDLESS, STUBBORN, stages_of, task_of

SECRET = "only the deployment knows what it is"
Answer = tuple[int, dict[str, str], bytes]


@contextmanager
def working(folder: Path, *options: str, **variables: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    command = [program(), "worker", "--lake", str(folder), *options]
    env = environment(FIRN_TASK_SECRET=SECRET, **variables)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("listening on "), line
        yield line.removeprefix("listening on ").strip(), process
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def call(url: str, method: str, path: str, body: bytes = b"") -> Answer:
    connection = HTTPConnection(urlsplit(url).netloc, timeout=60)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


def post(url: str, task: Task, secret: str = SECRET) -> Answer:
    return call(url, "POST", "/v1/task", encode_task(task, secret.encode()))


def reply(url: str, task: Task) -> Reply:
    status, _headers, body = post(url, task)
    assert status == 200, body
    return decode_reply(body, SECRET.encode(), task)


def rows(found: Reply) -> list[dict[str, Any]]:
    assert found.error is None, found.error
    return [row for page in found.pages for batch in decode_page(page, page.data or b"") for row in batch.to_pylist()]


def until(condition: Any, within_s: float = 10.0) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def running(url: str) -> int:
    number: int = json.loads(call(url, "GET", "/readyz")[2])["running"]
    return number


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("lake")
    pq.write_table(pa.table({"k": range(3000)}), found / "t.parquet")
    return found


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with working(folder, "--port", "0", "--concurrency", "2") as (found, _process):
        yield found


def count(folder: Path) -> Task:
    return task_of(folder, payload=stages_of(folder, "SELECT count(*) AS n FROM t", 1).stages[0].plan)


def endless(folder: Path, **changes: Any) -> Task:
    return task_of(folder, payload=stages_of(folder, ENDLESS, 1).stages[0].plan, **changes)


def test_a_task_is_answered_with_its_reply(url: str, folder: Path) -> None:
    found = reply(url, count(folder))
    assert rows(found) == [{"n": 3000}]
    assert found.usage["cpu_ms"] > 0


def test_what_is_no_task_of_this_deployment_is_refused(url: str, folder: Path) -> None:
    status, headers, body = post(url, count(folder), "another secret")
    assert (status, headers["content-type"]) == (403, "application/problem+json")
    assert json.loads(body)["error"] == "ForbiddenError"
    late = task_of(folder, deadline_ms=SystemClock().now_ms() - 1)
    assert post(url, late)[0] == 403
    assert call(url, "POST", "/v1/task", b"hello")[0] == 400
    assert call(url, "GET", "/v1/task")[0] == 404
    assert call(url, "GET", "/elsewhere")[0] == 404


def test_it_is_healthy_ready_and_measured(url: str, folder: Path) -> None:
    reply(url, count(folder))
    assert call(url, "GET", "/healthz")[0] == 200
    assert call(url, "GET", "/readyz")[0] == 200
    text = call(url, "GET", "/metrics")[2].decode()
    assert 'firnline_worker_tasks_total{kind="query",outcome="succeeded"}' in text
    assert "firnline_worker_concurrency 2.0" in text


def test_more_tasks_than_it_runs_at_once_are_told_to_come_again_and_who_leaves_frees_a_place(
    url: str, folder: Path
) -> None:
    leaving = []
    for _ in range(2):
        connection = HTTPConnection(urlsplit(url).netloc, timeout=60)
        connection.request("POST", "/v1/task", encode_task(endless(folder), SECRET.encode()))
        leaving.append(connection)
    until(lambda: running(url) == 2)
    status, headers, body = post(url, count(folder))
    assert (status, headers["retry-after"], json.loads(body)["error"]) == (429, "1", "OverloadedError")
    for connection in leaving:
        connection.close()
    until(lambda: running(url) == 0)
    assert rows(reply(url, count(folder))) == [{"n": 3000}]


def test_a_task_that_runs_when_it_is_told_to_stop_ends_first(folder: Path) -> None:
    with working(folder, PORT="0") as (url, process):
        # A second and a half of work.
        sql = "SELECT count(*) AS n FROM generate_series(1, 300000000) WHERE value % 7 = 1"
        task = task_of(folder, payload=stages_of(folder, sql, 1).stages[0].plan)
        found: list[Reply] = []
        asking = threading.Thread(target=lambda: found.append(reply(url, task)))
        asking.start()
        until(lambda: running(url) == 1)
        process.send_signal(signal.SIGTERM)
        asking.join(60)
        assert rows(found[0]) == [{"n": 42857143}]
        assert process.wait(10) == 0


def test_a_worker_whose_engine_does_not_stop_starts_anew_where_it_listens(folder: Path) -> None:
    with working(folder, "--port", "0") as (url, process):
        stuck = stages_of(folder, STUBBORN, 1).stages
        task = task_of(folder, payload=stuck[0].plan, deadline_ms=SystemClock().now_ms() + 3000)
        error = reply(url, task).error
        assert error is not None
        assert error["error"] == "StatementTimeoutError"
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], 30)[0]
        assert process.stdout.readline().strip() == f"listening on {url}"
        assert process.poll() is None
        found = reply(url, count(folder))
        assert rows(found) == [{"n": 3000}]
        assert found.usage["cold"] == 1.0


def test_it_does_not_start_without_a_secret(folder: Path) -> None:
    done = firn("worker", "--lake", str(folder), "--host", "0.0.0.0", "--port", "0")
    assert done.returncode == 1
    assert b"FIRN_TASK_SECRET" in done.stderr


def test_it_does_not_start_with_a_secret_that_is_short(folder: Path) -> None:
    done = firn("worker", "--lake", str(folder), "--port", "0", FIRN_TASK_SECRET="too-short")
    assert done.returncode == 2
    assert b"openssl rand -hex 32" in done.stderr
    assert b"too-short" not in done.stderr


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_a_platforms_port_that_is_none_is_named_before_anything_starts(folder: Path, command: str) -> None:
    done = firn(command, "--lake", str(folder), FIRN_TASK_SECRET=SECRET, PORT="eighty")
    assert done.returncode == 2
    assert b"PORT does not read" in done.stderr
    assert b"value='eighty'" in done.stderr
    assert b"FIRN_PORT" not in done.stderr


def test_a_platforms_port_that_is_none_does_not_matter_where_the_option_is_given(folder: Path) -> None:
    with working(folder, "--port", "0", PORT="eighty") as (url, _process):
        assert call(url, "GET", "/healthz")[0] == 200


def test_it_says_which_port_it_cannot_have(folder: Path, url: str) -> None:
    taken = str(urlsplit(url).port)
    done = firn("worker", "--lake", str(folder), "--port", taken, FIRN_TASK_SECRET=SECRET)
    assert done.returncode == 1
    assert taken.encode() in done.stderr


def test_it_ends_at_once_when_it_is_idle(folder: Path) -> None:
    with working(folder, "--port", "0") as (_url, process):
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(10) == 0


@pytest.mark.anyio
async def test_a_statement_is_fanned_out_over_workers_behind_a_url(tmp_path: Path) -> None:
    with working(tmp_path, "--port", "0", "--concurrency", "3") as (url, _process):
        async with open_lake(tmp_path, functions=FunctionAccess(place=url, secret=SECRET)) as lake:
            for part in range(4):
                lake.write(f"t/{part}.parquet", pa.table({"k": range(part * 1000, (part + 1) * 1000)}))
            sql = f"SELECT k % 7 AS g, count(*) AS n FROM parquet('{tmp_path}/t/*.parquet') GROUP BY 1 ORDER BY 1"
            statement = Statement(sql, "s1", limits=Limits(timeout_ms=60_000), functions="fan-out")
            result = await InlineExecutor(lake.engine, lake.engine.clock).run(statement)
            found = pa.Table.from_batches([batch async for batch in result.batches], result.schema)
    assert found.to_pylist() == [{"g": g, "n": 572 if g < 3 else 571} for g in range(7)]
    assert result.receipt.tasks > 1
    assert not list((tmp_path / "_firnline" / "results").glob("*/*"))
