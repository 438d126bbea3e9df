"""Endpoint, worker and compactor as Lambda functions, under AWS's own runtime and emulator, over a real S3 API."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from catalog.tokens import create_token
from firnline.connection import connect
from firnline.settings import Settings
from service.components import open_engine
from service.settings import EngineSettings, LogAccess
from service.statement import Statement
from storage.errors import UnauthenticatedError
from storage.log import AckMode
from tests.support.events import event_of
from tests.support.lambda_local import LocalLambda, local_lambda
from tests.support.moto import create_bucket, free_port, moto_options, start_moto
from tests.support.tcp_proxy import ReplyLosingProxy, proxy_to

pytestmark = pytest.mark.e2e

_BIG = "SELECT value AS n, md5(CAST(value AS VARCHAR)) AS h FROM range(150000)"
_SLOW = "SELECT sum(value) AS s FROM generate_series(1, 100000000000000)"
_WORK = (
    "SELECT a.k % 7 AS g, count(*) AS n, sum(b.v) AS s FROM big a JOIN big b ON a.k % 500 = b.k % 500 "
    "GROUP BY 1 ORDER BY 1"
)


@dataclass(frozen=True)
class Deployed:
    """Functions over a lake."""

    functions: LocalLambda
    s3: str
    lake: str
    token: str

    def sql(self, sql: str, function: str = "endpoint", **members: Any) -> httpx.Response:
        """Send a statement to a function's URL."""
        url = self.functions.urls[function] + "/v1/sql"
        return httpx.post(url, json={"sql": sql, **members}, timeout=60, trust_env=False)

    def rows(self, sql: str, **members: Any) -> list[list[Any]]:
        """Return a statement's rows."""
        found = self.sql(sql, **members)
        assert found.status_code == 200, found.text
        rows: list[list[Any]] = found.json()["rows"]
        return rows


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    folder, port = tmp_path_factory.mktemp("lambda"), free_port()
    with start_moto() as s3:
        create_bucket(s3, "lake")
        token = asyncio.run(_made(s3))
        shared = {
            "FIRN_LAKE": "s3://lake/l",
            "FIRN_TASK_SECRET": "a secret of thirty-two characters",
            "FIRN_SPILL_DIR": "/tmp",
            "AWS_ENDPOINT_URL_S3": s3,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }
        queries = shared | {
            "FIRN_LOG_ACK": "object",
            "FIRN_COMPACT": "0",
            "FIRN_FUNCTIONS": "lambda:worker",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        }
        endpoint = {"handler": "service.aws.endpoint", "environment": queries, "timeout_s": 30}
        compactor = {"handler": "service.aws.compactor", "environment": shared | {"FIRN_LOG_ACK": "object"}}
        functions = {
            "endpoint": {**endpoint, "concurrency": 2},
            "brief": {**endpoint, "timeout_s": 6, "concurrency": 1},
            "closed": {**endpoint, "environment": queries | {"FIRN_REQUIRE_TOKENS": "1"}, "concurrency": 1},
            "nowhere": {**endpoint, "environment": {}, "concurrency": 1},
            "astray": {**endpoint, "environment": queries | {"FIRN_LAKE": "s3://nothing/here"}, "concurrency": 1},
            "worker": {"handler": "functions.aws.worker", "environment": shared, "concurrency": 2, "timeout_s": 60},
            "compactor": {**compactor, "concurrency": 1, "timeout_s": 60},
        }
        with local_lambda(folder, functions, port=port) as here:
            yield Deployed(here, s3, "s3://lake/l", token)


async def _made(s3: str) -> str:
    """Make the lake with a table in it, and return a token."""
    settings = EngineSettings(lake="s3://lake/l", s3=moto_options(s3), log=LogAccess(ack=AckMode.OBJECT))
    async with open_engine(settings) as engine:
        sql = "CREATE TABLE big AS SELECT value AS k, value * 2 AS v FROM range(200000)"
        result = await engine.run(Statement(sql=sql, statement_id="s1"))
        async for _batch in result.batches:
            pass
        return (await create_token(engine.kv, engine.clock, name="test", role="reader"))[1]


def test_a_function_url_answers_statements_and_probes(deployed: Deployed) -> None:
    assert deployed.rows("SELECT count(*), sum(k) FROM big") == [[200_000, 19_999_900_000]]
    url = deployed.functions.urls["endpoint"]
    assert httpx.get(url + "/healthz", trust_env=False).json() == {"status": "ok"}
    assert httpx.get(url + "/readyz", trust_env=False).json() == {"status": "ready"}
    csv = deployed.sql("SELECT 1 AS a, 'é' AS b", format="csv")
    assert csv.text == "a,b\r\n1,é\r\n"
    refused = deployed.sql("SELEC 1")
    assert (refused.status_code, refused.json()["title"]) == (400, "SqlError")
    assert deployed.sql("SELECT 1", mode="async").status_code == 400


def test_an_event_of_api_gateway_is_answered(deployed: Deployed) -> None:
    body = json.dumps({"sql": "SELECT max(k) AS k FROM big"}).encode()
    answer, failed = deployed.functions.invoke("endpoint", event_of("POST", "/v1/sql", body))
    assert failed is None
    assert (answer["statusCode"], answer["isBase64Encoded"]) == (200, False)
    assert json.loads(answer["body"])["rows"] == [[199_999]]
    answer, failed = deployed.functions.invoke("endpoint", {"source": "aws.events"})
    assert (failed, answer["errorType"]) == ("Unhandled", "InvalidError")


def test_an_answer_past_six_megabytes_is_a_link(deployed: Deployed) -> None:
    found = deployed.sql(_BIG)
    assert found.status_code == 303
    link = found.json()["result"][0]
    assert found.headers["location"] == link["href"]
    whole = httpx.get(link["href"], trust_env=False)
    assert len(whole.content) == link["bytes"] > 6_000_000
    assert whole.json()["row_count"] == 150_000
    followed = httpx.post(
        deployed.functions.urls["endpoint"] + "/v1/sql", json={"sql": _BIG}, follow_redirects=True, trust_env=False
    )
    assert len(followed.json()["rows"]) == 150_000
    with connect(deployed.functions.urls["endpoint"], settings=Settings()) as lake:
        answer = lake.sql(_BIG)
        assert answer.num_rows == 150_000
        assert answer.receipt.rows == 150_000


def test_tokens_are_asked_for_where_the_url_is_open(deployed: Deployed) -> None:
    assert deployed.sql("SELECT 1", function="closed").status_code == 401
    url = deployed.functions.urls["closed"]
    with connect(url, settings=Settings(), token=deployed.token) as lake:
        assert lake.sql("SELECT count(*) AS n FROM big").to_pylist() == [{"n": 200_000}]
        assert lake.sql(_BIG).num_rows == 150_000  # the store refuses requests that bring a token of ours
    with connect(url, settings=Settings(), token="wrong") as lake, pytest.raises(UnauthenticatedError):
        lake.sql("SELECT 1")


def test_rows_that_one_environment_wrote_are_there_for_the_next_and_nobody_waits_for_its_log(
    deployed: Deployed,
) -> None:
    deployed.rows("CREATE TABLE notes (k BIGINT, v VARCHAR, PRIMARY KEY (k)) USING delta")
    deployed.rows("INSERT INTO notes VALUES (1, 'a')")
    slow = threading.Thread(target=lambda: deployed.sql(_SLOW, timeout_ms=3000))
    slow.start()  # one environment is busy, so that the other is asked
    time.sleep(0.5)
    started = time.monotonic()
    deployed.rows("INSERT INTO notes VALUES (2, 'b')")
    assert deployed.rows("SELECT k FROM notes ORDER BY k") == [[1], [2]]
    slow.join()
    time.sleep(0.1)
    deployed.rows("INSERT INTO notes VALUES (3, 'c')")
    assert deployed.rows("SELECT k FROM notes ORDER BY k") == [[1], [2], [3]]
    n_ran = sum(each["invocations"] > 0 for each in deployed.functions.environments("endpoint"))
    assert n_ran == 2
    assert time.monotonic() - started < 15


@contextmanager
def cutting_proxy(url: str) -> Iterator[tuple[str, Callable[[], None]]]:
    """Run a proxy before a server, in a thread; yields its URL and what closes its connections."""
    loop, stop, ready = asyncio.new_event_loop(), asyncio.Event(), threading.Event()
    found: list[ReplyLosingProxy] = []

    async def run() -> None:
        async with proxy_to(urlsplit(url).port or 80) as proxy:
            found.append(proxy)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    assert ready.wait(10)
    try:
        yield f"http://{found[0].endpoint}", lambda: loop.call_soon_threadsafe(found[0].cut) and None
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


def test_connections_that_broke_while_it_was_frozen_are_made_anew(tmp_path: Path) -> None:
    with start_moto() as s3, cutting_proxy(s3) as (through, cut):
        create_bucket(s3, "lake")
        environment = {
            "FIRN_LAKE": "s3://lake/l", "FIRN_LOG_ACK": "object", "AWS_ENDPOINT_URL_S3": through,
            "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        }  # fmt: skip
        function = {"handler": "service.aws.endpoint", "environment": environment, "concurrency": 1, "timeout_s": 30}
        with local_lambda(tmp_path, {"endpoint": function}) as here:
            deployed = Deployed(here, s3, "s3://lake/l", "")
            deployed.rows("CREATE TABLE t (k BIGINT) USING delta")
            for k in range(3):
                deployed.rows(f"INSERT INTO t VALUES ({k})")
                cut()
                assert deployed.rows("SELECT count(*) FROM t") == [[k + 1]]
                cut()


def test_a_statement_ends_before_its_function_does(deployed: Deployed) -> None:
    for _ in range(10):  # on a busy machine it may take all of its time to start
        if deployed.sql("SELECT 1", function="brief").status_code == 200:
            break
    found = deployed.sql(_SLOW, function="brief")
    assert (found.status_code, found.json()["title"]) == (408, "StatementTimeoutError")
    assert deployed.sql("SELECT 1", function="brief").status_code == 200


def test_an_endpoint_that_is_killed_is_a_bad_gateway_and_the_next_request_works(deployed: Deployed) -> None:
    deployed.rows("SELECT 1")
    answers: list[int] = []
    asking = threading.Thread(target=lambda: answers.append(deployed.sql(_SLOW).status_code))
    asking.start()
    time.sleep(0.7)
    for each in deployed.functions.environments("endpoint"):
        if each["busy"]:
            os.kill(each["runtime_pids"][0], signal.SIGKILL)
    asking.join()
    assert answers == [502]
    assert deployed.rows("SELECT count(*) FROM big") == [[200_000]]


def test_a_function_without_a_lake_says_which_setting_is_missing(deployed: Deployed) -> None:
    body = b'{"sql": "SELECT 1"}'
    for _ in range(2):
        answer, failed = deployed.functions.invoke("nowhere", event_of("POST", "/v1/sql", body))
        assert failed == "Unhandled"
        assert (
            answer["errorMessage"] == "a function needs the location of its lake: set FIRN_LAKE to s3://bucket/prefix"
        )


def test_a_store_that_is_not_there_is_an_error_of_each_request(deployed: Deployed) -> None:
    found = deployed.sql("SELECT count(*) FROM t", function="astray")
    assert found.status_code >= 400
    assert "detail" in found.json()


def test_a_statement_runs_as_tasks_of_worker_functions(deployed: Deployed) -> None:
    alone = deployed.sql(_WORK, functions="inline").json()
    fanned = deployed.sql(_WORK, functions="fan-out").json()
    assert fanned["rows"] == alone["rows"]
    assert alone["receipt"]["task_gb_s"] == 0 < fanned["receipt"]["task_gb_s"]
    assert fanned["receipt"]["tasks"] >= 2
    assert sum(each["invocations"] for each in deployed.functions.environments("worker")) >= 2


def test_a_worker_that_is_killed_is_asked_again(deployed: Deployed) -> None:
    wanted = deployed.rows(_WORK, functions="inline")
    killed = threading.Event()

    def kill() -> None:
        ends_s = time.monotonic() + 20
        while time.monotonic() < ends_s:
            for each in deployed.functions.environments("worker"):
                if each["busy"] and each["runtime_pids"]:
                    os.kill(each["runtime_pids"][0], signal.SIGKILL)
                    killed.set()
                    return

    killing = threading.Thread(target=kill)
    killing.start()
    found = deployed.sql(_WORK, functions="fan-out").json()
    assert found["rows"] == wanted
    assert found["receipt"]["retries"] >= 1
    killing.join()
    assert killed.is_set()


def test_a_pass_of_the_compactor_folds_the_log_and_says_what_it_did(deployed: Deployed) -> None:
    deployed.rows("CREATE TABLE events (k BIGINT, v VARCHAR) USING delta")
    deployed.rows("INSERT INTO events VALUES (1, 'a'), (2, 'b')")
    done, failed = deployed.functions.invoke("compactor", {"source": "aws.events", "detail-type": "Scheduled Event"})
    assert failed is None, done
    assert done["complete"] is True
    assert done["errors"] == {}
    assert deployed.rows("SELECT count(*) FROM events") == [[2]]
    location = httpx.get(deployed.functions.urls["endpoint"] + "/v1/tables/default.events", trust_env=False).json()[
        "location"
    ]
    assert deployed.rows(f"SELECT count(*) FROM delta('{location}')") == [[2]]
    again, _ = deployed.functions.invoke("compactor", {})
    assert again["folded"].get("rows", 0) == 0
