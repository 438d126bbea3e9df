"""The Lambda adapter serves the same app: its answers equal uvicorn's, request by request."""

import asyncio
import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from service.app import AppSettings
from service.lambda_handler import lambda_handler
from service.statement import Limits
from tests.support.events import event_of
from tests.support.http_app import app_over, serving
from tests.support.runner import SqlRunner

SQL = "SELECT value AS n, 'é' AS s, 1.5 AS f FROM range(3)"
REQUESTS: list[tuple[str, str, Any]] = [
    ("POST", "/v1/sql", {"sql": SQL}),
    *[("POST", "/v1/sql", {"sql": SQL, "format": kind}) for kind in ("ndjson", "csv", "arrow", "parquet")],
    ("POST", "/v1/sql", {"sql": "SELECT value FROM range(200000)", "format": "arrow"}),
    ("POST", "/v1/sql", {"sql": "SELEC"}),
    ("POST", "/v1/sql", {"sql": "CALL bug"}),
    ("POST", "/v1/sql", {"sql": "SELECT value FROM range(9)", "max_rows": 2}),
    ("POST", "/v1/sql", {"sql": "SELECT 1", "mode": "async"}),
    ("POST", "/v1/sql", b"{"),
    ("POST", "/v1/sql", b"x" * (9 << 20)),
    ("GET", "/v1/tables", None),
    ("GET", "/v1/statements/unknown", None),
    ("GET", "/v1/statements/unknown/result?page=1&format=csv", None),
    ("DELETE", "/v1/statements/unknown", None),
    ("GET", "/nope", None),
    ("DELETE", "/v1/sql", None),
    ("GET", "/healthz", None),
    ("GET", "/readyz", None),
    ("GET", "/openapi.json", None),
]


@pytest.fixture(scope="module")
def app() -> FastAPI:
    return app_over(SqlRunner(), settings=AppSettings(background=False, limits=Limits(timeout_ms=20_000)))


@pytest.fixture(scope="module")
def url(app: FastAPI) -> Iterator[str]:
    with serving(app) as url:
        yield url


def body_of(asked: Any) -> bytes:
    return asked if isinstance(asked, bytes) else b"" if asked is None else json.dumps(asked).encode()


def normal(status: int, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], Any]:
    """Return an answer without what differs between any two requests: statement ids, and how the body is framed."""
    kept = {
        name: value
        for name, value in headers.items()
        if name not in ("date", "server", "content-length", "transfer-encoding")
    }
    statement_id = kept.pop("x-statement-id", None)
    if statement_id is not None:
        body = body.replace(statement_id.encode(), b"ID")
    found: Any = body
    if "json" in kept["content-type"] and "ndjson" not in kept["content-type"]:
        found = json.loads(body)
        if "statement_id" in found:
            found["statement_id"] = "ID"
    return status, kept, found


@pytest.mark.parametrize(("method", "path", "asked"), REQUESTS, ids=[f"{m} {p} {str(a)[:40]}" for m, p, a in REQUESTS])
def test_an_answer_equals_the_servers(app: FastAPI, url: str, method: str, path: str, asked: Any) -> None:
    body = body_of(asked)
    headers = {"content-type": "application/json", "x-request-id": "same"}
    served = httpx.request(method, url + path, content=body, headers=headers, trust_env=False)
    asyncio.set_event_loop(asyncio.new_event_loop())
    try:
        invoked = lambda_handler(app)(event_of(method, path, body), None)
    finally:
        asyncio.get_event_loop().close()
        asyncio.set_event_loop(None)
    answer = base64.b64decode(invoked["body"]) if invoked["isBase64Encoded"] else invoked["body"].encode()
    assert normal(invoked["statusCode"], invoked["headers"], answer) == normal(
        served.status_code, dict(served.headers), served.content
    )


def test_a_late_error_is_a_whole_problem_document_where_answers_are_buffered(app: FastAPI) -> None:
    asyncio.set_event_loop(asyncio.new_event_loop())
    try:
        invoked = lambda_handler(app)(event_of("POST", "/v1/sql", body_of({"sql": "CALL late 3"})), None)
    finally:
        asyncio.get_event_loop().close()
        asyncio.set_event_loop(None)
    assert invoked["statusCode"] == 400
    assert json.loads(invoked["body"])["title"] == "SqlError"


def answered(app: FastAPI, event: dict[str, Any]) -> int:
    """Return the status of the answer to an event."""
    try:
        answer = lambda_handler(app)(event, None)
    finally:
        asyncio.get_event_loop().close()
        asyncio.set_event_loop(None)
    return int(answer["statusCode"])


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize(
    ("stage", "path", "status"),
    [
        ("prod", "/prod/v1/tables", 200),
        ("v1", "/v1/v1/tables", 200),
        ("prod", "/v1/tables", 200),  # a domain of one's own has no stage in its paths
        ("pro", "/prod/v1/tables", 404),
        ("prod", "/prod/prod/v1/tables", 404),
        ("prod", "/prod", 404),
        ("$default", "/v1/tables", 200),
        ("$default", "/$default/v1/tables", 404),
    ],
)
def test_the_stage_of_an_http_api_is_no_part_of_a_path(
    app: FastAPI, version: str, stage: str, path: str, status: int
) -> None:
    event = event_of("GET", path, b"")
    event["requestContext"]["stage"] = stage
    if version == "1.0":
        del event["rawPath"], event["requestContext"]["http"]
        event |= {"version": "1.0", "resource": "$default", "path": path, "httpMethod": "GET"}
    before = json.dumps(event)
    assert answered(app, event) == status
    assert json.dumps(event) == before


def test_a_rest_apis_paths_have_no_stage_and_stay_as_they_are(app: FastAPI) -> None:
    event = {
        "resource": "/{proxy+}", "path": "/v1/tables", "httpMethod": "GET", "headers": {"host": "x"}, "body": None,
        "requestContext": {"stage": "v1", "path": "/v1/v1/tables", "identity": {"sourceIp": "127.0.0.1"}},
        "isBase64Encoded": False,
    }  # fmt: skip
    assert answered(app, event) == 200
