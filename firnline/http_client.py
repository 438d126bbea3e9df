"""Statements run by a Firnline server: SQL up as JSON, Arrow IPC streams down.

Only what certainly did not happen is tried again: a connection that could not be made, and answers that say so
(`OverloadedError`, `UnavailableError`), up to `_ATTEMPTS_MAX` times with jittered pauses. A connection that breaks in
mid-answer is `IndeterminateError`. Problem documents (RFC 9457) become the exceptions that the server raised.
"""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlsplit

import httpx
import pyarrow as pa

from firnline.problem import error_of
from firnline.settings import is_loopback
from firnline.transport import Answer, Params, split_name
from firnline.wire_params import to_wire
from service.ingest.ingest import Ingested
from service.statement import Receipt, Route
from storage.clock import Clock
from storage.errors import (
    CancelledError,
    CorruptError,
    FirnlineError,
    IndeterminateError,
    InvalidError,
    UnavailableError,
)
from storage.log import AckMode

if TYPE_CHECKING:
    from service.ingest.ingest import Asked

__all__ = ["HttpTransport"]

T = TypeVar("T")

_ATTEMPTS_MAX = 4
_PAUSE_MS, _PAUSE_MS_MAX = 100, 5_000
_CONNECT_TIMEOUT_S = 10.0
_ARROW = "application/vnd.apache.arrow.stream"


class HttpTransport:
    """A server behind plain calls. Raises `InvalidError` for a token that would cross the network in the clear."""

    def __init__(self, url: str, *, token: str | None, clock: Clock, allow_http: bool = False) -> None:
        parts = urlsplit(url)
        if not parts.hostname:
            raise InvalidError("the URL names no server; write http://host:port", url=url)
        if token and parts.scheme == "http" and not (allow_http or is_loopback(parts.hostname)):
            raise InvalidError(
                "the token would cross the network in the clear; use https, or set FIRN_ALLOW_HTTP=1", url=url
            )
        self._clock = clock
        self._near = is_loopback(parts.hostname)
        self._url = url.rstrip("/")
        self._pause = threading.Event()
        self._client = httpx.Client(
            base_url=self._url,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=httpx.Timeout(None, connect=_CONNECT_TIMEOUT_S),
            trust_env=not is_loopback(parts.hostname),  # proxies and certificates, for hosts that need them
        )

    def run(
        self, sql: str, params: Params, *, timeout_ms: int | None, max_rows: int | None, route: Route = "auto"
    ) -> Answer:
        """Start a statement and return once its schema has come. Raises the error that the server names."""
        body: dict[str, Any] = {"sql": sql, "format": "arrow"}
        body |= {"timeout_ms": timeout_ms} if timeout_ms else {}
        body |= {"max_rows": max_rows} if max_rows else {}
        body |= {"route": route} if route != "auto" else {}
        if params is not None:
            body["params"] = to_wire(params)
        return self._start("/v1/sql", body)

    def lookup(
        self, table: str, keys: Sequence[Any], *, by: Sequence[str], columns: Sequence[str] | None, route: Route,
        timeout_ms: int | None,
    ) -> Answer:  # fmt: skip
        """Start to look up keys and return once the schema has come, which says which were found."""
        body: dict[str, Any] = {"keys": keys, "format": "arrow"}
        body |= {"by": list(by)} if by else {}
        body |= {"columns": list(columns)} if columns is not None else {}
        body |= {"timeout_ms": timeout_ms} if timeout_ms else {}
        body |= {"route": route} if route != "auto" else {}
        return self._start(f"/v1/lookup/{quote('.'.join(split_name(table)), safe='')}", body)

    def _start(self, path: str, body: dict[str, Any]) -> Answer:
        return _HttpAnswer(self, self._retried(path, json.dumps(body, allow_nan=False).encode()))

    def append(self, table: str, rows: pa.Table, asked: Asked) -> Ingested:
        """Store the rows, all or none, and return once they are durable.

        Each append has an idempotency key, so that it can be sent again when nobody knows what became of it.
        """
        options = {"on_conflict": asked.on_conflict, "ack": asked.ack.value if asked.ack else None}
        headers = {"Content-Type": _ARROW, "Idempotency-Key": asked.idempotency_key or self._clock.new_id()}
        request = {
            "url": f"/v1/tables/{quote('.'.join(split_name(table)), safe='')}/rows",
            "params": {name: value for name, value in options.items() if value is not None},
            "content": _ipc(rows, compressed=not self._near),
            "headers": headers,
        }
        told = self._again(lambda: self._posted(request), (UnavailableError, IndeterminateError))
        return Ingested(
            told["table"],
            told["rows"],
            AckMode(told["ack"]) if told.get("ack") else None,
            told.get("position"),
            bool(told.get("idempotent_replay")),
        )

    def get_json(self, path: str) -> Any:
        """Return the JSON document at a path of the server."""
        try:
            response = self._client.get(path)
        except httpx.HTTPError as error:
            raise self._unreached(error) from None
        if response.is_error:
            raise _error(response)
        return response.json()

    def progress(self) -> None:
        """Return None: what a server runs for a caller that waits has no name before it is answered."""

    def close(self) -> None:
        """Close every connection; the server cancels what ran on them."""
        self._pause.set()
        self._client.close()

    def _retried(self, path: str, body: bytes) -> httpx.Response:
        return self._again(lambda: self._sent(path, body), (UnavailableError,))

    def _again(self, send: Callable[[], T], retryable: tuple[type[FirnlineError], ...]) -> T:
        for attempt in range(1, _ATTEMPTS_MAX):
            try:
                return send()
            except retryable as error:
                if self._pause.wait(self._pause_s(error, attempt)):
                    raise
        return send()

    def _posted(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            response = self._client.post(**request)
        except httpx.HTTPError as error:
            raise self._unreached(error) from None
        except RuntimeError as error:
            raise InvalidError("the connection is closed", url=self._url) from error
        if response.is_error:
            raise _error(response)
        told: dict[str, Any] = response.json()
        return told

    def _pause_s(self, error: FirnlineError, attempt: int) -> float:
        asked = float(error.facts.get("retry_after_s") or 0) * 1000
        longest = min(_PAUSE_MS_MAX, _PAUSE_MS * 2**attempt)
        return min(_PAUSE_MS_MAX, max(asked, self._clock.uniform(longest / 2, longest))) / 1000

    def _sent(self, path: str, body: bytes) -> httpx.Response:
        headers = {"Content-Type": "application/json", "Accept": _ARROW}
        request = self._client.build_request("POST", path, content=body, headers=headers)
        try:
            response = self._client.send(request, stream=True)
        except httpx.HTTPError as error:
            raise self._unreached(error) from None
        except RuntimeError as error:
            raise InvalidError("the connection is closed", url=self._url) from error
        if response.is_error:
            with closing(response):
                raise _error(response)
        return response if response.status_code != httpx.codes.SEE_OTHER else self._linked(response)

    def _linked(self, response: httpx.Response) -> httpx.Response:
        """Return the answer of a function, which is elsewhere: it was too large for the platform."""
        with closing(response):
            place = response.headers.get("Location", "")
        if not place.startswith(("http://", "https://")):
            raise CorruptError("the server says that its answer is elsewhere, and not where", location=place[:200])
        # Not built by the client: the store that it leads to must not see the token.
        request = httpx.Request("GET", place)
        try:
            found = self._client.send(request, stream=True)
        except httpx.HTTPError as error:
            raise UnavailableError(f"the server's store, which has the answer, cannot be read: {error}") from None
        if found.is_error:
            with closing(found):
                raise UnavailableError("the server's store does not give the answer", status=found.status_code)
        found.headers["X-Statement-Id"] = response.headers.get("X-Statement-Id", "")
        return found

    def _unreached(self, error: httpx.HTTPError) -> FirnlineError:
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout):
            return UnavailableError(f"cannot reach the server: {error}; is it running?", url=self._url)
        if isinstance(error, httpx.UnsupportedProtocol):
            return InvalidError("the URL is none that can be called; write http://host:port", url=self._url)
        return IndeterminateError(f"the connection broke before the answer came: {error}", url=self._url)


def _error(response: httpx.Response) -> FirnlineError:
    """Return the exception that an error answer stands for."""
    problem: Any = None
    with suppress(httpx.HTTPError, ValueError):
        response.read()
        problem = response.json()
    return error_of(problem, status=response.status_code, headers=response.headers)


def _ipc(rows: pa.Table, *, compressed: bool) -> bytes:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd" if compressed else None)
    with pa.ipc.new_stream(sink, rows.schema, options=options) as writer:
        writer.write_table(rows)
    body: bytes = sink.getvalue().to_pybytes()
    return body


class _Body(io.RawIOBase):
    """The body of an answer as a file that Arrow reads; `reads` from it raise the tree's errors."""

    def __init__(self, response: httpx.Response) -> None:
        super().__init__()
        self._chunks: Iterator[bytes] = response.iter_bytes()
        self._held = memoryview(b"")

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """Return ``size`` bytes, fewer only at the end."""
        parts: list[memoryview] = []
        missing = size if size >= 0 else 1 << 62
        while missing:
            if not self._held and not self._next():
                break
            part, self._held = self._held[:missing], self._held[missing:]
            missing -= len(part)
            parts.append(part)
        return b"".join(parts)

    def _next(self) -> bool:
        try:
            self._held = memoryview(next(self._chunks, b""))
        except httpx.HTTPError as error:
            raise IndeterminateError(f"the answer broke off: {error}") from None
        except httpx.StreamError as error:
            raise IndeterminateError("the answer was closed") from error
        return bool(self._held)


class _HttpAnswer:
    """An Arrow stream that is being received."""

    def __init__(self, transport: HttpTransport, response: httpx.Response) -> None:
        self._transport = transport
        self._response = response
        self._body = _Body(response)
        self._statement_id = response.headers.get("X-Statement-Id", "")
        self._rows = 0
        self._receipt: Receipt | None = None
        self._done = False
        self._reader = self._guarded(lambda: pa.ipc.open_stream(self._body))

    @property
    def schema(self) -> pa.Schema:
        return self._reader.schema

    def read(self) -> pa.RecordBatch | None:
        """Return the next batch, or None at the end."""
        if self._done:
            return None
        batch: pa.RecordBatch | None = self._guarded(lambda: next(self._reader, None))
        if batch is None:
            self._guarded(self._body.read)
            self.close()
        else:
            self._rows += batch.num_rows
        return batch

    def read_all(self) -> list[pa.RecordBatch]:
        """Return all batches that are left."""
        return list(iter(self.read, None))

    def receipt(self) -> Receipt:
        """Return the server's receipt; it is asked for once, after the last batch."""
        if self._receipt is not None:
            return self._receipt
        found = Receipt(statement_id=self._statement_id, rows=self._rows)
        if self._done:
            self._receipt = found = _receipt(self._state().get("receipt")) or found
        return found

    def close(self) -> None:
        """Close the connection if the answer is not complete, which cancels the statement."""
        self._done = True
        with suppress(httpx.HTTPError, RuntimeError):
            self._response.close()

    def _state(self) -> dict[str, Any]:
        """Return what the server knows of the statement; nothing if it does not say."""
        with suppress(FirnlineError, ValueError):
            state = self._transport.get_json(f"/v1/statements/{self._statement_id}")
            return state if isinstance(state, dict) else {}
        return {}

    def _guarded(self, work: Any) -> Any:
        try:
            return work()
        except (pa.ArrowException, OSError) as error:
            self.close()
            raise CorruptError(f"the answer is no Arrow stream: {error}") from None
        except IndeterminateError as error:
            if self._done:
                raise CancelledError("the statement was cancelled") from None
            self.close()
            known = self._state().get("error")
            raise (error_of(known) if known else error) from None
        except BaseException:
            self.close()
            raise


def _receipt(values: Any) -> Receipt | None:
    if not isinstance(values, dict):
        return None
    known = {each.name for each in fields(Receipt)}
    return Receipt(**{name: value for name, value in values.items() if name in known})
