"""The OpenAPI description of the HTTP interface, examples included. A test holds it to the routes."""

from __future__ import annotations

from typing import Any

from service.encode import CONTENT_TYPES, FORMATS
from service.ingest.decode import MEDIA_TYPES
from service.openapi_schemas import ref, schemas
from service.problems import PROBLEM_TYPE

__all__ = ["describe"]

_ID = "5f2b6c0e9d3a4b7f8c1d2e3f4a5b6c7d"
_RECEIPT = {
    "statement_id": _ID,
    "wall_ms": 3.1,
    "cpu_ms": 2.9,
    "rows": 1,
    "files_total": 12,
    "files_pruned": 11,
    "files_scanned": 1,
    "bytes_scanned": 48213,
}
_ANSWER = {
    "statement_id": _ID,
    "columns": [{"name": "city", "type": "string"}, {"name": "n", "type": "int64"}],
    "rows": [["Bern", 42]],
    "row_count": 1,
    "receipt": _RECEIPT,
}
_FOUND = {
    "statement_id": _ID,
    "columns": [{"name": "id", "type": "int64"}, {"name": "city", "type": "string"}],
    "rows": [[42, "Bern"], [7, "Basel"]],
    "row_count": 2,
    "found": [True, True, False],
    "missing": [99],
    "receipt": _RECEIPT,
}
_PROBLEM = {
    "type": "https://firnline.dev/errors/SqlError",
    "title": "SqlError",
    "status": 400,
    "detail": "no such column line=1 column=8 nearest=city",
    "statement_id": _ID,
    "line": 1,
    "column": 8,
}
_STATE = {
    "statement_id": _ID,
    "state": "running",
    "mode": "async",
    "created_ms": 1767225600000,
    "expires_ms": 1767229200000,
    "links": {"self": f"/v1/statements/{_ID}", "result": f"/v1/statements/{_ID}/result"},
}


_STORED = {
    "table": "default.trips",
    "rows": 1,
    "ack": "fsync",
    "position": 41,
    "receipt": {"wall_ms": 0.9, "rows": 1, "bytes": 61, "ack": "fsync"},
}


def describe() -> dict[str, Any]:
    """Return the OpenAPI 3.1 document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Firnline",
            "version": "1",
            "description": "SQL over Parquet, Delta and Iceberg tables. Every error is an RFC 9457 problem document.",
        },
        "paths": _paths(),
        "components": {
            "schemas": schemas(),
            "responses": {"Problem": _body("An error.", "Problem", _PROBLEM, PROBLEM_TYPE)},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "firn_…"}},
        },
        "security": [{}, {"token": []}],
    }


def _paths() -> dict[str, Any]:
    return {
        "/v1/sql": {"post": _sql()},
        "/v1/lookup/{name}": {"post": _lookup()},
        "/v1/statements/{id}": {
            "get": _operation("statementState", "State of a statement", _id(), _state("Its state.")),
            "delete": _operation("cancelStatement", "Cancel a statement", _id(), _state("Its state now.")),
        },
        "/v1/statements/{id}/result": {
            "get": _operation("statementResult", "A page of an asynchronous statement's result", _page(), _results())
        },
        "/v1/tables": {"get": _operation("listTables", "All tables", [], _any("The tables.", {"tables": []}))},
        "/v1/tables/{name}/rows": {"post": _rows()},
        "/v1/tables/{name}": {
            "get": _operation(
                "describeTable",
                "One table: schema, format, location, snapshot, files",
                [_parameter("name", "path", "namespace.table", {"type": "string"}, "default.lineitem")],
                _any("The table.", {"namespace": "default", "name": "lineitem", "format": "delta"}),
            )
        },
        "/healthz": {"get": _open("healthz", "Whether the process answers", {"status": "ok"})},
        "/readyz": {"get": _open("readyz", "Whether a statement would run", {"status": "ready"})},
        "/metrics": {
            "get": _operation(
                "metrics",
                "Prometheus metrics",
                [],
                {"200": {"description": "Text format 0.0.4.", "content": {"text/plain": {}}}},
            )
        },
        "/openapi.json": {"get": _open("openapi", "This document", {})},
    }


def _sql() -> dict[str, Any]:
    examples = {
        "plain": {"value": {"sql": "SELECT city, count(*) AS n FROM trips GROUP BY city"}},
        "positional": {"value": {"sql": "SELECT * FROM trips WHERE id = $1", "params": [42], "max_rows": 10}},
        "named": {"value": {"sql": "SELECT * FROM trips WHERE city = :city", "params": {"city": "Bern"}}},
        "asynchronous": {"value": {"sql": "SELECT * FROM trips", "mode": "async", "format": "arrow"}},
    }
    body = {"application/json": {"schema": ref("SqlRequest"), "examples": examples}}
    responses = _results() | {"202": _body("Accepted (mode async).", "Statement", _STATE)}
    return _operation("runSql", "Run one statement", [], responses) | {
        "requestBody": {"required": True, "content": body}
    }


def _lookup() -> dict[str, Any]:
    examples = {
        "one column": {"value": {"keys": [42, 7, 99]}},
        "several columns": {"value": {"keys": [["2026-01-31", "Bern"]], "by": ["day", "city"], "columns": ["n"]}},
    }
    body = {"application/json": {"schema": ref("LookupRequest"), "examples": examples}}
    parameters = [_parameter("name", "path", "namespace.table", {"type": "string"}, "default.trips")]
    results = _results()
    results["200"]["content"]["application/json"] = {"schema": ref("Found"), "example": _FOUND}
    missing = {"schema": {"type": "integer"}, "description": "how many keys were not found"}
    results["200"]["headers"] = results["200"]["headers"] | {"X-Firnline-Missing": missing}
    return _operation("lookUp", "Find rows by their keys", parameters, results) | {
        "requestBody": {"required": True, "content": body}
    }


def _rows() -> dict[str, Any]:
    """Return the operation that brings rows in."""
    example = [{"id": 1, "city": "Bern", "at": "2026-01-31T12:00:00Z"}]
    bodies: dict[str, Any] = {kind: {} for kind in MEDIA_TYPES}
    bodies["application/json"] = {
        "schema": {"type": ["array", "object"], "items": {"type": "object"}},
        "example": example,
    }
    bodies["application/x-ndjson"] = {"example": '{"id":1,"city":"Bern"}\n{"id":2}\n'}
    bodies["text/csv"] = {"example": "id,city\r\n1,Bern\r\n2,\r\n"}
    parameters = [
        _parameter("name", "path", "namespace.table", {"type": "string"}, "default.trips"),
        _parameter("ack", "query", "where the rows are before the answer", {"enum": ["object", "fsync"]}, "fsync"),
        _parameter(
            "on_conflict",
            "query",
            "what becomes of a row whose primary key is there",
            {"enum": ["update", "nothing", "error"], "default": "update"},
            "update",
        ),
        _parameter("delimiter", "query", "of a CSV", {"type": "string", "default": ","}, ";"),
        _parameter("null", "query", "the CSV cell that is null", {"type": "string", "default": ""}, "NA"),
        _parameter(
            "Idempotency-Key",
            "header",
            "rows stored under it are not stored again",
            {"type": "string", "minLength": 1, "maxLength": 255},
            "7c1f",
        ),
        _parameter("Content-Encoding", "header", "of the body", {"enum": ["gzip", "zstd"]}, "zstd"),
    ]
    responses = {"200": _body("The rows are durable.", "Rows", _STORED)}
    return _operation("appendRows", "Bring rows into a table, all or none", parameters, responses) | {
        "requestBody": {"required": True, "content": bodies}
    }


def _operation(name: str, summary: str, parameters: list[Any], responses: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": name,
        "summary": summary,
        "responses": {**responses, "default": {"$ref": "#/components/responses/Problem"}},
    }
    return found | ({"parameters": parameters} if parameters else {})


def _open(name: str, summary: str, example: Any) -> dict[str, Any]:
    return _operation(name, summary, [], _any(summary + ".", example)) | {"security": []}


def _any(description: str, example: Any) -> dict[str, Any]:
    content = {"application/json": {"schema": {"type": "object"}, "example": example}}
    return {"200": {"description": description, "content": content}}


def _state(description: str) -> dict[str, Any]:
    return {"200": _body(description, "Statement", _STATE)}


def _results() -> dict[str, Any]:
    content: dict[str, Any] = {kind.partition(";")[0]: {} for kind in CONTENT_TYPES.values()}
    content["application/json"] = {"schema": ref("Result"), "example": _ANSWER}
    content["application/x-ndjson"] = {"example": '{"city":"Bern","n":42}\n'}
    content["text/csv"] = {"example": "city,n\r\nBern,42\r\n"}
    headers = {"X-Statement-Id": {"schema": {"type": "string"}}, "X-Request-Id": {"schema": {"type": "string"}}}
    return {"200": {"description": "The rows.", "headers": headers, "content": content}}


def _body(description: str, schema: str, example: Any, kind: str = "application/json") -> dict[str, Any]:
    return {"description": description, "content": {kind: {"schema": ref(schema), "example": example}}}


def _id() -> list[dict[str, Any]]:
    return [_parameter("id", "path", "the statement's id", {"type": "string"}, _ID)]


def _page() -> list[dict[str, Any]]:
    return [
        *_id(),
        _parameter("page", "query", "from 0", {"type": "integer", "minimum": 0, "default": 0}, 0),
        _parameter("format", "query", "else Accept, else as submitted", {"enum": list(FORMATS)}, "json"),
    ]


def _parameter(name: str, place: str, description: str, schema: Any, example: Any) -> dict[str, Any]:
    found = {"name": name, "in": place, "description": description, "schema": schema, "example": example}
    return found | ({"required": True} if place == "path" else {})
