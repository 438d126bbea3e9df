"""The log's HTTP interface for other processes: ``/v1/log/<shard>/append``, ``read``, ``find`` and ``flush``.

Who asks shows the secret of the owner's record in the catalog, so whoever may read the catalog may append. The bytes
are described in `service.log.wire`.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Receive, Scope, Send

from functions import tracing
from service.log.open import LakeLogs
from service.log.wire import decode_append, encode_range, encode_receipt, pack
from service.problems import PROBLEM_TYPE, problem_of, send_json
from service.requests import header, read_body
from storage.errors import (
    FencedError,
    FirnlineError,
    InternalError,
    InvalidError,
    NotFoundError,
    UnauthenticatedError,
)
from storage.log.records import decode_header

__all__ = ["LOG_PATH", "LogMount", "LogRoutes"]

_log = logging.getLogger("firnline.log")
LOG_PATH = "/v1/log/"
_BODY_BYTES_MAX = 256 << 20
_RANGE_BYTES_MAX = 64 << 20
_DECODE_HERE_BYTES = 256 << 10

Answer = Awaitable[bytes]


class LogMount:
    """Wraps an app: the log's paths go to the log, which knows its askers by their secret, the others to the app."""

    def __init__(self, app: ASGIApp, routes: ASGIApp) -> None:
        self._app = app
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(LOG_PATH):
            await self._routes(scope, receive, send)
        else:
            await self._app(scope, receive, send)


class LogRoutes:
    """An ASGI app over the logs that this process owns, or comes to own when it is asked to append."""

    def __init__(self, logs: LakeLogs, secret: str) -> None:
        self._logs = logs
        self._secret = secret.encode()
        self._calls: dict[tuple[str, str], Callable[[int, Scope, Receive], Answer]] = {
            ("POST", "append"): self._append,
            ("GET", "read"): self._read,
            ("GET", "find"): self._find,
            ("POST", "flush"): self._flush,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await self._answer(scope, receive)
        except FirnlineError as error:
            await _refuse(send, error)
        except Exception:  # noqa: BLE001 — whoever asked must hear something
            _log.exception("a request to the log failed", extra={"path": scope["path"]})
            await _refuse(send, InternalError("an internal error; the log has the details"))
        else:
            headers = [
                (b"content-type", b"application/octet-stream"),
                (b"content-length", str(len(body)).encode()),
            ]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive) -> bytes:
        scheme, _, presented = header(scope, b"authorization").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(presented.strip().encode(), self._secret):
            raise UnauthenticatedError("the log is asked with the secret of its owner's record in the catalog")
        number, _, what = scope["path"].removeprefix(LOG_PATH).partition("/")
        call = self._calls.get((scope["method"], what))
        if call is None or not number.isdecimal() or len(number) > 4:
            raise NotFoundError("no such path of the log", path=scope["path"][:200])
        # Readers follow a log many times a second; only those of a trace are told apart.
        parent = header(scope, b"traceparent")
        if not parent:
            return await call(int(number), scope, receive)
        with tracing.span(f"serve log {what}", {"firnline.shard": int(number)}, parent=parent, kind="server"):
            return await call(int(number), scope, receive)

    async def _append(self, shard: int, scope: Scope, receive: Receive) -> bytes:
        body = await read_body(scope, receive, _BODY_BYTES_MAX)
        decode = asyncio.to_thread(decode_append, body) if len(body) > _DECODE_HERE_BYTES else None
        encoded, ack, touched = await decode if decode is not None else decode_append(body)
        records = [decode_header(data, "the request") for data in encoded]
        if not records:
            raise InvalidError("an append has at least one record")
        owned = await self._logs.shard(shard).own()
        return encode_receipt(await owned.append_encoded(records, encoded, ack=ack, touched=touched))

    async def _read(self, shard: int, scope: Scope, _receive: Receive) -> bytes:
        query = parse_qs(scope["query_string"].decode("latin-1"))
        start, asked = _number(query, "start"), _number(query, "bytes_max")
        owned = self._logs.shard(shard).owned
        if owned is None:
            raise FencedError("this process does not own the log", shard=shard)
        found = await owned.read_entries(start, bytes_max=min(asked or _RANGE_BYTES_MAX, _RANGE_BYTES_MAX))
        return encode_range(found)

    async def _find(self, shard: int, scope: Scope, _receive: Receive) -> bytes:
        query = parse_qs(scope["query_string"].decode("latin-1"))
        table, key = query.get("table", [""])[0], query.get("key", [""])[0]
        owned = await self._logs.shard(shard).own()
        return encode_receipt(await owned.find(table, key))

    async def _flush(self, shard: int, _scope: Scope, _receive: Receive) -> bytes:
        # Claimed if need be: only an owner can store what is in the journal of one that died.
        owned = await self._logs.shard(shard).own()
        return pack({"limit": await owned.flush()})


def _number(query: dict[str, list[str]], name: str) -> int:
    text = query.get(name, ["0"])[0]
    if not (text.isascii() and text.isdecimal()) or len(text) > 18:
        raise InvalidError("not a whole number", parameter=name, value=text[:40])
    return int(text)


async def _refuse(send: Send, error: FirnlineError) -> None:
    """Answer with a problem document that `storage.errors.from_wire` reads too."""
    document = problem_of(error) | error.to_wire()
    headers = {}
    if "retry_after_s" in error.facts:
        headers["Retry-After"] = str(max(1, round(float(error.facts["retry_after_s"]))))
    await send_json(send, document, status=document["status"], headers=headers, content_type=PROBLEM_TYPE)
