"""Answers past what a platform carries leave as links; all others leave as they are."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.large_answers import PAYLOAD_BYTES_MAX, LargeAnswers, payload_bytes
from storage.blobs.open import open_blobs
from storage.blobs.s3_options import S3Options
from storage.clock import SystemClock
from storage.stores import AccessPolicy, Stores


def gives(body: bytes, content_type: str = "application/json", status: int = 200) -> ASGIApp:
    """Return an app that answers with a body, in two parts."""

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        headers = [(b"content-type", content_type.encode()), (b"x-statement-id", b"s1")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body[:5], "more_body": True})
        await send({"type": "http.response.body", "body": memoryview(body)[5:]})

    return app


def asked(app: ASGIApp, folder: Path, payload_bytes_max: int = 1000) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body of an answer."""
    clock = SystemClock()
    stores = Stores(partial(open_blobs, s3=S3Options(), clock=clock), AccessPolicy())
    sent: list[Message] = []

    async def run() -> None:
        async def send(message: Message) -> None:
            sent.append(message)

        async def receive() -> Message:
            return {"type": "http.disconnect"}

        await LargeAnswers(app, stores, str(folder), clock, payload_bytes_max)({"type": "http"}, receive, send)
        await stores.close()

    asyncio.run(run())
    headers = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, b"".join(each.get("body", b"") for each in sent[1:])


def test_a_small_answer_is_not_touched(tmp_path: Path) -> None:
    status, headers, body = asked(gives(b'{"a": 1}'), tmp_path)
    assert (status, body) == (200, b'{"a": 1}')
    assert headers == {"content-type": "application/json", "x-statement-id": "s1"}
    assert list(tmp_path.iterdir()) == []


def test_where_there_are_no_links_a_large_answer_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    for content_type in ("application/json", "application/vnd.apache.arrow.stream"):
        status, headers, body = asked(gives(b"x" * 2000, content_type), tmp_path)
        problem = json.loads(body)
        assert (status, problem["title"]) == (problem["status"], "LimitError")
        assert "larger than a function may give" in problem["detail"]
        assert headers["x-statement-id"] == "s1"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@given(st.text(max_size=50), st.sampled_from([1, 30_000, 70_000]))
def test_what_a_body_takes_in_the_functions_answer_is_not_underestimated(part: str, times: int) -> None:
    body = (part * times).encode()
    fits = len(json.dumps(body.decode(), ensure_ascii=False).encode()) <= PAYLOAD_BYTES_MAX
    assert (payload_bytes(body, "text/csv; charset=utf-8") <= PAYLOAD_BYTES_MAX) == fits
    assert payload_bytes(body, "application/vnd.apache.parquet") == len(b64encode(body))


@pytest.mark.parametrize("kind", ["websocket", "lifespan"])
def test_what_is_no_request_passes(kind: str, tmp_path: Path) -> None:
    seen: list[Any] = []

    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        seen.append(scope["type"])

    stores = Stores(partial(open_blobs, s3=S3Options(), clock=SystemClock()), AccessPolicy())

    async def nothing(*_message: Any) -> Any:
        return None

    asyncio.run(LargeAnswers(app, stores, str(tmp_path), SystemClock())({"type": kind}, nothing, nothing))
    assert seen == [kind]
