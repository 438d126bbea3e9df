"""The HTTP interface on a real server: formats, errors as problem documents, ids, metrics, tables, description."""

import io
import json
from collections.abc import AsyncIterator

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.app import AppSettings
from storage.errors import STATUS
from tests.support.http_server import Serving, serving
from tests.support.runner import ENDLESS

pytestmark = pytest.mark.anyio
BODY_BYTES_MAX = 1 << 20


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Serving]:
    async with serving(settings=AppSettings(body_bytes_max=BODY_BYTES_MAX)) as server:
        yield server


async def test_json_is_the_default_and_ids_are_in_the_answer(server: Serving) -> None:
    response = await server.sql("SELECT 1 AS a, 'x' AS b")
    found = response.json()
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert found["rows"] == [[1, "x"]]
    assert found["statement_id"] == response.headers["x-statement-id"] == found["receipt"]["statement_id"]


async def test_a_request_id_is_given_back_and_made_up_when_it_is_missing_or_odd(server: Serving) -> None:
    for given, kept in (("abc-123", True), ("x" * 500, False), ('"a b"', False)):
        response = await server.client.get("/healthz", headers={"X-Request-Id": given})
        assert (response.headers["x-request-id"] == given) is kept
    assert len((await server.client.get("/nope")).headers["x-request-id"]) == 32


async def test_every_format_by_member_and_by_accept(server: Serving) -> None:
    sql = "SELECT value AS n FROM range(3)"
    for kind, accept in (
        ("ndjson", "application/x-ndjson"),
        ("csv", "text/csv"),
        ("arrow", "application/vnd.apache.arrow.stream"),
        ("parquet", "application/vnd.apache.parquet"),
    ):
        by_member = await server.sql(sql, format=kind)
        by_accept = await server.client.post(
            "/v1/sql", json={"sql": sql}, headers={"Accept": f"text/html, {accept};q=0.9"}
        )
        assert by_member.content == by_accept.content
        assert by_member.headers["content-type"].startswith(accept)
        rows = [{"n": 0}, {"n": 1}, {"n": 2}]
        if kind == "ndjson":
            assert [json.loads(line) for line in by_member.text.splitlines()] == rows
        if kind == "csv":
            assert by_member.text == "n\r\n0\r\n1\r\n2\r\n"
        if kind == "arrow":
            assert pa.ipc.open_stream(by_member.content).read_all().to_pylist() == rows
        if kind == "parquet":
            assert pq.read_table(io.BytesIO(by_member.content)).to_pylist() == rows


PROBLEMS = [
    ("GET", "/nope", {}, 404, "NotFoundError", "no such path"),
    ("GET", "/v1/sql", {}, 405, "InvalidError", "does not take that method"),
    ("PUT", "/v1/statements/abc/result", {}, 405, "InvalidError", "does not take that method"),
    ("POST", "/v1/sql", {"content": b"{"}, 400, "InvalidError", "not JSON"),
    ("POST", "/v1/sql", {"content": b""}, 400, "InvalidError", "not JSON"),
    ("POST", "/v1/sql", {"content": b"\xff\xfe"}, 400, "InvalidError", "UTF-8"),
    ("POST", "/v1/sql", {"content": b"[" * 500_000}, 400, "InvalidError", "nested too deeply"),
    ("POST", "/v1/sql", {"content": b'{"a":' * 100_000}, 400, "InvalidError", "nested too deeply"),
    ("POST", "/v1/sql", {"content": b'{"a":' + b"1" * 5_000 + b"}"}, 400, "InvalidError", "thousands of digits"),
    ("POST", "/v1/lookup/default.t", {"content": b'{"keys":[NaN]}'}, 400, "InvalidError", "NaN is no JSON value"),
    ("POST", "/v1/sql", {"content": b'{"sql":"SELECT $1","params":[NaN]}'}, 400, "InvalidError", "NaN"),
    ("POST", "/v1/sql", {"content": b'{"sql":"\\ud800"}'}, 400, "InvalidError", "surrogate"),
    ("POST", "/v1/sql", {"content": b"9" * 100_000}, 400, "InvalidError", "not JSON"),
    ("POST", "/v1/sql", {"json": [1]}, 400, "InvalidError", "JSON object"),
    ("POST", "/v1/sql", {"json": {}}, 400, "InvalidError", '"sql"'),
    ("POST", "/v1/sql", {"json": {"sql": 1}}, 400, "InvalidError", '"sql"'),
    ("POST", "/v1/sql", {"json": {"sql": "  "}}, 400, "InvalidError", "empty"),
    ("POST", "/v1/sql", {"json": {"sql": "SELECT 1", "formt": "csv"}}, 400, "InvalidError", 'did you mean "format"?'),
    ("POST", "/v1/sql", {"json": {"sql": "SELECT 1", "format": "xml"}}, 400, "InvalidError", "must be one of"),
    ("POST", "/v1/sql", {"json": {"sql": "SELECT 1", "timeout_ms": 0}}, 400, "InvalidError", "timeout_ms"),
    ("POST", "/v1/sql", {"json": {"sql": "SELECT 1", "max_rows": True}}, 400, "InvalidError", "max_rows"),
    ("POST", "/v1/sql", {"json": {"sql": "SELECT 1", "params": 5}}, 400, "InvalidError", "params"),
    ("POST", "/v1/sql", {"json": {"sql": "SELECT 1", "idempotency_key": ""}}, 400, "InvalidError", "idempotency_key"),
    ("POST", "/v1/sql", {"content": b"SELECT 1", "headers": {"Content-Type": "text/csv"}}, 415, "InvalidError", "json"),
    ("POST", "/v1/sql", {"json": {"sql": "SELEC"}}, 400, "SqlError", "SELEC"),
    ("POST", "/v1/sql", {"json": {"sql": "SELECT value FROM range(9)", "max_rows": 3}}, 422, "LimitError", "max_rows"),
    ("POST", "/v1/sql", {"json": {"sql": ENDLESS, "timeout_ms": 200}}, 408, "StatementTimeoutError", "timeout_ms=200"),
    ("POST", "/v1/sql", {"json": {"sql": "CALL bug"}}, 500, "InternalError", "the log has the details"),
    ("POST", "/v1/sql", {"json": {"sql": "CALL panic"}}, 500, "InternalError", "the log has the details"),
    ("GET", "/v1/statements/unknown", {}, 404, "NotFoundError", "no such statement"),
    ("GET", "/v1/statements/..%2F..%2Fx", {}, 404, "NotFoundError", "no such"),
    ("DELETE", "/v1/statements/unknown", {}, 404, "NotFoundError", "no such statement"),
    ("GET", "/v1/tables/default.nope", {}, 404, "NotFoundError", "default.nope"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "title", "detail"),
    PROBLEMS,
    ids=[f"{case[0]} {case[3]} {case[5]}" for case in PROBLEMS],
)
async def test_an_error_is_a_problem_document_without_a_trace(
    server: Serving, method: str, path: str, options: dict[str, object], status: int, title: str, detail: str
) -> None:
    response = await server.client.request(method, path, **options)  # type: ignore[arg-type]
    problem = response.json()
    assert response.status_code == problem["status"] == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["title"] == title
    assert problem["type"].endswith(title)
    assert detail in problem["detail"]
    assert "Traceback" not in response.text
    assert "/secret" not in response.text
    assert "x-request-id" in response.headers


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", ""])
async def test_a_body_of_no_stated_type_is_taken_from_clients_but_not_from_web_pages(
    server: Serving, kind: str
) -> None:
    body, headers = b'{"sql": "SELECT 1 AS one"}', {"Content-Type": kind}
    taken = await server.client.post("/v1/sql", content=body, headers=headers)
    assert taken.json()["rows"] == [[1]]
    refused = await server.client.post("/v1/sql", content=body, headers=headers | {"Origin": "https://example.org"})
    assert refused.status_code == 415


async def test_an_error_in_sql_has_its_line_and_column(server: Serving) -> None:
    problem = (await server.sql("SELEC")).json()
    assert (problem["line"], problem["column"]) == (1, 1)
    assert len(problem["statement_id"]) == 32


async def test_a_result_that_fails_in_mid_stream_is_cut_off_and_says_why(server: Serving) -> None:
    import httpx

    body = b""
    with pytest.raises(httpx.RemoteProtocolError):
        async with server.client.stream("POST", "/v1/sql", json={"sql": "CALL late 5"}) as response:
            async for chunk in response.aiter_raw():
                body += chunk
    found = json.loads(body)
    assert found["error"]["title"] == "SqlError"
    assert "receipt" not in found
    state = await server.client.get(f"/v1/statements/{found['error']['statement_id']}")
    assert state.json()["state"] == "failed"


async def test_a_finished_statement_shows_its_receipt_for_clients_whose_format_has_no_room_for_it(
    server: Serving,
) -> None:
    answer = await server.sql("SELECT value FROM range(7)", format="arrow")
    state = (await server.client.get(f"/v1/statements/{answer.headers['x-statement-id']}")).json()
    assert state["state"] == "succeeded"
    assert state["receipt"]["rows"] == 7


async def test_a_body_past_its_limit_is_refused_and_the_connection_lives(server: Serving) -> None:
    response = await server.sql("SELECT '" + "x" * 2_000_000 + "'")
    assert response.status_code == 413
    assert response.json()["title"] == "TooLargeError"
    assert (await server.sql("SELECT 1")).status_code == 200


async def test_a_body_of_unknown_length_is_refused_while_it_comes(server: Serving) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b" " * 65536

    response = await server.client.post("/v1/sql", content=endless())
    assert response.status_code == 413


async def test_tables_are_listed_and_described(server: Serving) -> None:
    assert [table["name"] for table in (await server.client.get("/v1/tables")).json()["tables"]] == ["trips"]
    assert (await server.client.get("/v1/tables/default.trips")).json()["format"] == "parquet"
    assert (await server.client.get("/v1/tables/trips")).json()["namespace"] == "default"


async def test_health_readiness_and_metrics(server: Serving) -> None:
    await server.sql("SELECT value FROM range(5)")
    await server.sql("SELEC")
    assert (await server.client.get("/healthz")).json() == {"status": "ok"}
    assert (await server.client.get("/readyz")).json() == {"status": "ready"}
    response = await server.client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    values = dict(line.rsplit(" ", 1) for line in response.text.splitlines() if not line.startswith("#"))
    assert float(values['firnline_statements_total{outcome="succeeded"}']) >= 1
    assert float(values['firnline_statements_total{outcome="SqlError"}']) >= 1
    assert float(values["firnline_result_rows_total"]) >= 5
    assert float(values["firnline_result_bytes_total"]) > 100
    assert float(values["firnline_statement_seconds_count"]) >= 2
    assert float(values["firnline_workers"]) >= 1
    assert {"firnline_statements_running", "firnline_statements_queued", "firnline_worker_restarts_total"} <= set(
        values
    )


async def test_the_description_names_every_route_and_every_error(server: Serving) -> None:
    found = (await server.client.get("/openapi.json")).json()
    assert found["openapi"].startswith("3.1")
    described = {(method.upper(), path) for path, item in found["paths"].items() for method in item}
    for method, path in described:
        shown = path.replace("{id}", "unknown").replace("{name}", "nope.nope")
        response = await server.client.request(method, shown, content=b"{}" if method == "POST" else None)
        assert response.status_code in (200, 400, 404)
        assert "no such path" not in response.text
    assert set(found["components"]["schemas"]["Problem"]["properties"]["title"]["enum"]) == {
        cls.__name__ for cls in STATUS
    }
    example = found["paths"]["/v1/sql"]["post"]["requestBody"]["content"]["application/json"]["examples"]
    assert (await server.client.post("/v1/sql", json=example["plain"]["value"])).status_code == 400
