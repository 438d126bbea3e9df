"""``POST /v1/tables/{name}/rows``, in the server's own process: no worker stands between a row and the log.

Bodies that are being worked on are bounded together; past it a request is told to come again.
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import Receive, Scope, Send

from service.auth import Auth
from service.executor import Executor
from service.ingest.decode import decompress
from service.ingest.ingest import IngestContext, Ingested, decoded_rows, ingest_body, managed_table
from service.ingest.metrics import IngestMetrics
from service.ingest.request import RowsRequest, parse_rows_request
from service.problems import send_json
from service.requests import header, read_body
from service.statement import Limits, Statement
from storage.clock import Clock
from storage.errors import FirnlineError, ForbiddenError, OverloadedError, TooLargeError

__all__ = ["BODY_BYTES_MAX", "RowsRoute"]

BODY_BYTES_MAX = 64 << 20
_BODIES_MAX = 4
_RETRY_AFTER_S = 1
_UNDECLARED_BYTES = 1 << 20
_THREAD_BYTES = 1 << 20


class RowsRoute:
    """Takes rows. See ``docs/ingest.md``.

    Parameters
    ----------
    context : None where this process cannot append
    body_bytes_max : of one body, as sent and decompressed; four times that for all that are under way
    """

    def __init__(
        self,
        context: IngestContext,
        executor: Executor,
        auth: Auth,
        metrics: IngestMetrics,
        clock: Clock,
        limits: Limits,
        body_bytes_max: int = BODY_BYTES_MAX,
    ) -> None:
        self._context, self._executor, self._auth = context, executor, auth
        self._metrics, self._clock, self._limits = metrics, clock, limits
        self._body_bytes_max = body_bytes_max
        self._bytes_held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Store the rows of one request and say so."""
        started_s = self._clock.monotonic_s()
        n_bytes = 0
        try:
            caller = await self._auth.caller(scope)
            if caller.role == "reader":
                raise ForbiddenError("a reader may not write; use a writer's or an admin's token", role=caller.role)
            asked = parse_rows_request(scope)
            held = self._hold(scope)
            try:
                body = await self._body(scope, receive)
                n_bytes = len(body)
                told = await self._store(asked, body)
            finally:
                self._bytes_held -= held
        except FirnlineError as error:
            self._metrics.request(type(error).__name__, self._clock.monotonic_s() - started_s, rows=0, n_bytes=n_bytes)
            raise
        seconds = self._clock.monotonic_s() - started_s
        self._metrics.request("succeeded", seconds, rows=told.rows, n_bytes=n_bytes)
        await send_json(send, _answer(told, seconds, n_bytes))

    def _hold(self, scope: Scope) -> int:
        """Account for the body that is to come."""
        declared = header(scope, b"content-length")
        n_bytes = int(declared) if declared.isdigit() and len(declared) < 20 else _UNDECLARED_BYTES
        n_bytes = min(n_bytes, self._body_bytes_max)
        if self._bytes_held + n_bytes > _BODIES_MAX * self._body_bytes_max:
            raise OverloadedError("too many rows are being taken in; retry", retry_after_s=_RETRY_AFTER_S)
        self._bytes_held += n_bytes
        return n_bytes

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        try:
            return await read_body(scope, receive, self._body_bytes_max)
        except TooLargeError:
            raise TooLargeError(
                "the request body is too large; send the rows in parts, or use firn import, which does",
                bytes_max=self._body_bytes_max,
            ) from None

    async def _store(self, asked: RowsRequest, body: bytes) -> Ingested:
        if asked.encoding:
            if len(body) < _THREAD_BYTES:
                body = decompress(body, asked.encoding, self._body_bytes_max)
            else:
                body = await asyncio.to_thread(decompress, body, asked.encoding, self._body_bytes_max)
        if asked.asked.on_conflict in (None, "update"):
            return await ingest_body(self._context, asked.namespace, asked.name, body, asked.form, asked.asked)
        # Imported here: most rows never come this way.
        from service.ingest.staged import insert_staged

        context = self._context
        entry = await managed_table(context, asked.namespace, asked.name)
        rows = await asyncio.to_thread(decoded_rows, body, asked.form, entry, asked.asked)
        statement = Statement("", self._clock.new_id(), role="writer", limits=self._limits)
        return await insert_staged(
            self._executor, context.stores, self._clock, context.lake, entry, rows, asked.asked, statement
        )


def _answer(told: Ingested, seconds: float, n_bytes: int) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "table": told.table,
        "rows": told.rows,
        "ack": told.ack.value if told.ack else None,
        "position": told.position,
    }
    if told.replay:
        answer["idempotent_replay"] = True
    answer["receipt"] = {"wall_ms": round(seconds * 1000, 3), "rows": told.rows, "bytes": n_bytes, "ack": answer["ack"]}
    return answer
