"""Answers past what a platform carries: the body becomes a blob, and the answer says where it is.

AWS Lambda answers with at most 6 MB. A larger body is put among the pages of results, which expire, and the answer is
303 with a presigned URL in ``Location``, so that a client that follows redirects notices nothing; the JSON body names
the same URL. A lake whose blobs have no such URLs answers `LimitError`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from functions.exchange import results_prefix
from service.problems import send_json, send_problem
from storage.clock import Clock
from storage.errors import FirnlineError, LimitError
from storage.stores import Stores, join

__all__ = ["PAYLOAD_BYTES_MAX", "TEXT_TYPES", "LargeAnswers", "payload_bytes"]

PAYLOAD_BYTES_MAX = 6_200_000
"""Of a body in the function's answer, which is JSON of 6 MiB at most, headers included."""
TEXT_TYPES = ("text/", "application/json", "application/problem+json", "application/x-ndjson")
"""Content types of bodies that travel as text; others travel as base64."""
_LINK_S = 3600
_SURELY_SMALL = 6
"""Times a body's length: the longest text that JSON makes of a character is ``\\u0000``."""
_KEPT = (b"x-request-id", b"x-statement-id", b"x-firnline-missing")


class LargeAnswers:
    """An ASGI app that gives the answers of another, large ones as links.

    Parameters
    ----------
    lake : location of the lake, under which the bodies lie for an hour
    """

    def __init__(
        self, app: ASGIApp, stores: Stores, lake: str, clock: Clock, payload_bytes_max: int = PAYLOAD_BYTES_MAX
    ) -> None:
        self._app, self._stores, self._lake, self._clock = app, stores, lake, clock
        self._payload_bytes_max = payload_bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start: Message = {}
        parts: list[bytes | memoryview] = []

        async def collect(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            else:
                parts.append(message.get("body", b""))

        await self._app(scope, receive, collect)
        body = b"".join(parts)
        headers = list(start["headers"])
        content_type = _value(headers, b"content-type")
        if payload_bytes(body, content_type) <= self._payload_bytes_max:
            await send(start)
            await send({"type": "http.response.body", "body": body})
            return
        kept = {name.decode(): value.decode("latin-1") for name, value in headers if name.lower() in _KEPT}
        try:
            await self._link(send, body, content_type, kept)
        except FirnlineError as error:
            await send_problem(send, error, statement_id=kept.get("x-statement-id"))

    async def _link(self, send: Send, body: bytes, content_type: str, kept: dict[str, str]) -> None:
        expires_ms = self._clock.now_ms() + _LINK_S * 1000
        location = join(results_prefix(self._lake, f"answer-{self._clock.new_id()}", expires_ms), "body")
        blobs, key = self._stores.resolve(location)
        await blobs.put(key, body, if_absent=True)
        url = await blobs.presign(key, expires_s=_LINK_S)
        if url is None:
            await blobs.delete(key)
            raise LimitError(
                "the answer is larger than a function may give, and this lake's store has no links to it; "
                "ask for less at once, or use a server",
                limit="result_bytes", n_bytes=len(body),
            )  # fmt: skip
        document = {
            "statement_id": kept.get("x-statement-id"),
            "state": "succeeded",
            "result": [{"href": url, "content_type": content_type, "bytes": len(body)}],
            "expires_ms": expires_ms,
        }
        found = {name: value for name, value in document.items() if value is not None}
        await send_json(send, found, status=303, headers={**kept, "Location": url})


def payload_bytes(body: bytes, content_type: str) -> int:
    """Return how long a body is in the function's JSON answer, at least where that may matter."""
    if not content_type.startswith(TEXT_TYPES):
        return -(-len(body) // 3) * 4
    if _SURELY_SMALL * len(body) <= PAYLOAD_BYTES_MAX or len(body) > PAYLOAD_BYTES_MAX:
        return len(body)
    return len(json.dumps(body.decode("utf-8", "replace"), ensure_ascii=False).encode())


def _value(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in headers if key.lower() == name), "")
