"""Errors as RFC 9457 problem documents: every error answer of the HTTP service, whatever raised it."""

from __future__ import annotations

import http
import json
from collections.abc import Mapping
from typing import Any

from starlette.types import Send

from storage.errors import STATUS, FirnlineError

__all__ = ["PROBLEM_TYPE", "problem_of", "send_json", "send_problem", "status_of"]

PROBLEM_TYPE = "application/problem+json"
_TYPE_PREFIX = "https://firnline.dev/errors/"


def status_of(error: FirnlineError) -> int:
    """Return the HTTP status of an error's class."""
    own: int | None = getattr(error, "http_status", None)
    return own or next(STATUS[cls] for cls in type(error).__mro__ if cls in STATUS)


def problem_of(error: FirnlineError, statement_id: str | None = None, status: int | None = None) -> dict[str, Any]:
    """Return the problem document of an error; ``row``, ``key``, ``line``, ``column`` are there if it has them."""
    name = next(cls.__name__ for cls in type(error).__mro__ if cls in STATUS)
    found: dict[str, Any] = {
        "type": _TYPE_PREFIX + name,
        "title": name,
        "status": status or status_of(error),
        "detail": str(error),
        "statement_id": statement_id or error.facts.get("statement_id"),
        "row": error.facts.get("row"),
        "key": error.facts.get("key"),
        "line": error.facts.get("line"),
        "column": error.facts.get("column"),
    }
    return {key: value for key, value in found.items() if value is not None}


async def send_problem(
    send: Send,
    error: FirnlineError,
    *,
    statement_id: str | None = None,
    status: int | None = None,
    headers: Mapping[str, str] | None = None,
) -> None:
    """Answer a request with an error."""
    problem = problem_of(error, statement_id, status)
    extra = dict(headers or {})
    if "retry_after_s" in error.facts:
        extra["Retry-After"] = str(error.facts["retry_after_s"])
    if problem["status"] == http.HTTPStatus.UNAUTHORIZED:
        extra["WWW-Authenticate"] = 'Bearer realm="firnline"'
    if statement_id is not None:
        extra["X-Statement-Id"] = statement_id
    await send_json(send, problem, status=problem["status"], headers=extra, content_type=PROBLEM_TYPE)


async def send_json(
    send: Send,
    value: Any,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    content_type: str = "application/json",
) -> None:
    """Answer a request with one JSON value."""
    body = json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=str).encode("utf-8", "replace")
    fields = {"Content-Type": content_type, "Content-Length": str(len(body)), **(headers or {})}
    raw = [(key.lower().encode("latin-1"), item.encode("latin-1", "replace")) for key, item in fields.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
