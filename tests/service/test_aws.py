"""The endpoint and the compactor in one environment of a function, in this process: time, memory, what is missing."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from firnline.opening import engine_settings, serve_settings
from firnline.settings import read
from service.lambda_compactor import LambdaCompactor
from service.lambda_endpoint import LambdaEndpoint, left_ms
from storage.errors import InvalidError, NotFoundError, UnavailableError
from tests.support.events import event_of
from tests.support.firn import environment

_ENDLESS = "SELECT sum(value) FROM generate_series(1, 100000000000000)"


class Context:
    """What Lambda gives a handler."""

    memory_limit_in_mb = "1024"

    def __init__(self, remaining_ms: int = 60_000) -> None:
        self.remaining_ms = remaining_ms

    def get_remaining_time_in_millis(self) -> int:
        return self.remaining_ms


@pytest.fixture
def function(tmp_path: Path) -> Iterator[LambdaEndpoint]:
    found = LambdaEndpoint(serve_settings(read({"FIRN_LAKE": str(tmp_path / "lake")})))
    yield found
    found.close()
    asyncio.set_event_loop(None)


def ask(function: LambdaEndpoint, sql: str, context: Context | None = None, **members: Any) -> tuple[int, Any]:
    event = event_of("POST", "/v1/sql", json.dumps({"sql": sql, **members}).encode())
    found = function.handle(event, context or Context())
    return found["statusCode"], json.loads(found["body"])


def test_one_environment_answers_event_after_event(function: LambdaEndpoint) -> None:
    assert ask(function, "CREATE TABLE t (k BIGINT, PRIMARY KEY (k)) USING delta")[0] == 200
    for k in range(3):
        assert ask(function, f"INSERT INTO t VALUES ({k})")[0] == 200
    assert ask(function, "SELECT count(*) AS n FROM t")[1]["rows"] == [[3]]
    assert function._engine is not None
    logs = function._engine.logs.all()  # type: ignore[attr-defined]
    assert logs
    assert all(log.owned is None for log in logs.values())


def test_a_statement_gets_the_time_that_is_left_and_no_more(function: LambdaEndpoint) -> None:
    status, problem = ask(function, _ENDLESS, Context(1000))
    assert (status, problem["title"]) == (408, "StatementTimeoutError")
    assert "timeout_ms=" in problem["detail"]
    assert ask(function, "SELECT 1")[0] == 200


def test_some_time_is_kept_for_the_answer() -> None:
    assert [left_ms(Context(each)) for each in (1000, 10_000, 900_000)] == [800, 8000, 898_000]
    assert left_ms(Context(-5)) >= 0


def test_a_plan_that_does_not_stop_is_answered_in_time_too(function: LambdaEndpoint) -> None:
    started = time.monotonic()
    crossed = "FROM range(3000) a, range(3000) b, range(3000) c WHERE a.value + b.value > c.value"
    assert ask(function, f"SELECT count(*) {crossed}", Context(1000))[0] == 408
    assert time.monotonic() - started < 15


@pytest.mark.parametrize("kind", ["rest", "balancer"])
def test_events_of_a_rest_api_and_of_a_load_balancer_are_answered(function: LambdaEndpoint, kind: str) -> None:
    context: dict[str, Any] = {"identity": {"sourceIp": "127.0.0.1"}, "http": {}}
    if kind == "balancer":
        context = {"elb": {"targetGroupArn": "arn:aws:elasticloadbalancing:us-east-1:1:targetgroup/x/1"}}
    event = {
        "httpMethod": "POST", "path": "/v1/sql", "resource": "/{proxy+}", "requestContext": context,
        "headers": {"content-type": "application/json", "host": "x"}, "queryStringParameters": {},
        "body": '{"sql": "SELECT 1 AS one"}', "isBase64Encoded": False,
    }  # fmt: skip
    found = function.handle(event, Context())
    assert found["statusCode"] == 200
    assert json.loads(found["body"])["rows"] == [[1]]


def test_an_event_that_is_no_request_is_refused(function: LambdaEndpoint) -> None:
    opened = {"routeKey": "$connect", "eventType": "CONNECT", "connectionId": "x"}
    half: list[dict[str, Any]] = [{"requestContext": each} for each in (None, {}, opened)]
    half.append({"version": "2.0", "requestContext": {}})
    for event in ({"task": "AA=="}, {}, [], {"source": "aws.events"}, {"Records": [{"eventSource": "aws:sqs"}]}, *half):
        with pytest.raises(InvalidError, match="answers HTTP events"):
            function.handle(event, Context())  # type: ignore[arg-type]


def test_a_lake_that_does_not_open_is_a_problem_document_and_tried_again(tmp_path: Path) -> None:
    settings = serve_settings(read({"FIRN_LAKE": str(tmp_path / "lake")}))
    function = LambdaEndpoint(replace(settings, engine=replace(settings.engine, create=False)))
    status, problem = ask(function, "SELECT 1")
    assert (status, problem["title"]) == (503, "NotFoundError")
    (tmp_path / "lake").mkdir()
    assert ask(function, "SELECT 1")[0] == 200
    function.close()
    asyncio.set_event_loop(None)


def test_a_pass_folds_what_was_written_and_one_that_is_cut_off_does_no_harm(
    function: LambdaEndpoint, tmp_path: Path
) -> None:
    ask(function, "CREATE TABLE t (k BIGINT) USING delta")
    ask(function, "INSERT INTO t VALUES (1), (2)")
    asyncio.set_event_loop(None)
    settings = engine_settings(str(tmp_path / "lake"), read({}))
    compactor = LambdaCompactor(settings)
    cut = compactor.handle({}, Context(1))
    assert (cut["complete"], cut["folded"]["rows"]) == (False, 0)
    done = compactor.handle({"source": "aws.events"}, Context())
    assert (done["complete"], done["folded"]["rows"], done["errors"]) == (True, 2, {})
    assert compactor.handle({}, Context())["folded"].get("rows", 0) == 0
    assert ask(function, "SELECT count(*) FROM t")[1]["rows"] == [[2]]
    with pytest.raises(NotFoundError):
        LambdaCompactor(replace(settings, lake=str(tmp_path / "nothing"))).handle({}, Context())


def test_a_table_that_cannot_be_compacted_is_named_and_stops_no_other(function: LambdaEndpoint, tmp_path: Path) -> None:
    for name in ("good", "bad"):
        ask(function, f"CREATE TABLE {name} (k BIGINT) USING delta")
        ask(function, f"INSERT INTO {name} VALUES (1), (2)")
    asyncio.set_event_loop(None)
    [commit] = [
        path for path in (tmp_path / "lake").rglob("*.json") if "bad" in str(path) and "_delta_log" in str(path)
    ]
    commit.write_text("{")
    compactor = LambdaCompactor(engine_settings(str(tmp_path / "lake"), read({})))
    with pytest.raises(UnavailableError, match=r"default\.bad") as caught:
        compactor.handle({}, Context())
    assert "default.good" not in str(caught.value)
    assert ask(function, "SHOW HISTORY FROM good")[1]["row_count"] >= 2


_PROGRAM = """
import sys
class Context:
    memory_limit_in_mb = 1024
    def get_remaining_time_in_millis(self): return 60000
from functions.aws import worker
from service.aws import compactor, endpoint
print("imported", flush=True)
for handler in (endpoint, compactor, worker):
    for _ in range(2):
        try:
            handler({"requestContext": {}}, Context())
        except Exception as error:
            print(type(error).__name__, error)
"""


@pytest.mark.parametrize("variables", [{}, {"FIRN_LAKE": "https://example.org"}])
def test_a_function_without_a_lake_is_imported_and_says_so_at_each_event(variables: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True,
        env=environment(**variables) | {"PYTHONPATH": str(Path.cwd())}, check=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines[0] == "imported"
    assert len(lines) == 7
    for line in lines[1:]:
        assert line == "InvalidError a function needs the location of its lake: set FIRN_LAKE to s3://bucket/prefix"
