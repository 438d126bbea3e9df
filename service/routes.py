"""The HTTP interface: one small handler per route. Errors are raised and become problem documents in `service.app`.

Plain ASGI, because a statement's answer is a stream that has to notice its client going away, and because building
requests and responses from models costs more than ``SELECT 1`` does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import parse_qs

import pyarrow as pa
from starlette.types import Receive, Scope, Send

from catalog.kv import KV
from functions import tracing
from service.answer import answer
from service.auth import Auth, Caller
from service.encode import CONTENT_TYPES, FORMATS, Chunk, encode
from service.executor import Executor
from service.job_runner import JobRunner
from service.jobs import Job, JobStore
from service.journal import Journal
from service.metrics import METRICS_TYPE, Metrics
from service.problems import send_json
from service.progress import progress_of
from service.requests import accepted_format, idempotency_header, parse_lookup_request, parse_sql_request, read_body
from service.statement import Format, KeyLookup, Limits, Receipt, Result, Statement
from storage.clock import Clock
from storage.errors import (
    CancelledError,
    ConflictError,
    FirnlineError,
    InvalidError,
    NotFoundError,
    UnavailableError,
    UnsupportedError,
    from_wire,
)

__all__ = ["Call", "CatalogView", "Handler", "Service", "routes"]


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request: what it says, and the way to answer it."""

    scope: Scope
    receive: Receive
    send: Send


Handler = Callable[[Call], Awaitable[None]]


class CatalogView(Protocol):
    """What the catalog routes show; JSON-ready dictionaries."""

    async def list_tables(self) -> list[dict[str, Any]]:
        """Return namespace, name, format and location of every table."""
        ...

    async def describe_table(self, namespace: str, name: str) -> dict[str, Any]:
        """Return a table's schema, format, location, snapshot and files. Raises `NotFoundError`."""
        ...


@dataclass(frozen=True)
class Service:
    """What the routes work with. ``jobs`` is None where nothing runs between requests (functions)."""

    executor: Executor
    catalog: CatalogView
    kv: KV
    clock: Clock
    auth: Auth
    metrics: Metrics
    journal: Journal
    store: JobStore
    jobs: JobRunner | None
    body_bytes_max: int
    limits: Limits = field(default_factory=Limits)
    log_sql: bool = False


def routes(service: Service) -> list[tuple[str, str, Handler]]:
    """Return (method, path, handler) of every route."""
    bound = _Routes(service)
    return [
        ("POST", "/v1/sql", bound.sql),
        ("POST", "/v1/lookup/{name}", bound.lookup),
        ("GET", "/v1/statements/{id}", bound.statement),
        ("GET", "/v1/statements/{id}/result", bound.result),
        ("DELETE", "/v1/statements/{id}", bound.cancel),
        ("GET", "/v1/tables", bound.tables),
        ("GET", "/v1/tables/{name}", bound.table),
        ("GET", "/healthz", bound.healthz),
        ("GET", "/readyz", bound.readyz),
        ("GET", "/metrics", bound.metrics),
    ]


class _Routes:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def sql(self, call: Call) -> None:
        """Run a statement."""
        service = self._service
        statement_id = service.clock.new_id()
        call.scope["firnline.statement_id"] = statement_id
        caller = await service.auth.caller(call.scope)
        asked = parse_sql_request(call.scope, await read_body(call.scope, call.receive, service.body_bytes_max))
        form: Format = asked.format or "json"
        statement = Statement(
            sql=asked.sql,
            statement_id=statement_id,
            params=asked.params,
            role=caller.role,
            limits=asked.limits(service.limits),
            idempotency_key=asked.idempotency_key or idempotency_header(call.scope),
            route=asked.route,
            functions=asked.functions,
            max_tasks=asked.max_tasks or 0,
            traceparent=tracing.current().traceparent,
        )
        request_id = call.scope["firnline.request_id"]
        if asked.mode == "async" and service.jobs is None:
            raise UnsupportedError('mode "async" needs a server; this is a function, send mode "sync"')
        entry = service.journal.begin(statement_id, request_id, caller.owner, mode=asked.mode, form=form)
        entry.sql = statement.sql if service.log_sql else None
        if asked.mode == "async" and service.jobs is not None:
            try:
                job = await service.jobs.submit(statement, entry, form)
            except FirnlineError as error:
                service.journal.end(entry, error)
                raise
            location = f"/v1/statements/{statement_id}"
            headers = {"Location": location, "X-Statement-Id": statement_id}
            await send_json(call.send, job.to_dict() | _links(job), status=202, headers=headers)
            return
        await answer(service.executor, service.journal, entry, statement, form, call.scope, call.receive, call.send)

    async def lookup(self, call: Call) -> None:
        """Find rows by their keys."""
        service = self._service
        statement_id = service.clock.new_id()
        call.scope["firnline.statement_id"] = statement_id
        caller = await service.auth.caller(call.scope)
        body = await read_body(call.scope, call.receive, service.body_bytes_max)
        asked = parse_lookup_request(call.scope, body)
        form: Format = asked.format or "json"
        statement = Statement(
            sql="",
            statement_id=statement_id,
            role=caller.role,
            limits=asked.limits(service.limits),
            route=asked.route,
            lookup=KeyLookup(_table_name(call.scope), asked.keys, asked.by, asked.columns),
            traceparent=tracing.current().traceparent,
        )
        entry = service.journal.begin(
            statement_id, call.scope["firnline.request_id"], caller.owner, mode="sync", form=form
        )
        await answer(service.executor, service.journal, entry, statement, form, call.scope, call.receive, call.send)

    async def statement(self, call: Call) -> None:
        """Show a statement's state."""
        caller = await self._service.auth.caller(call.scope)
        statement_id = _statement_id(call.scope)
        entry = self._service.journal.find(statement_id)
        if entry is not None and entry.mode == "sync":
            caller.check_owner(entry.owner)
            progress = await progress_of(self._service.kv, statement_id) if entry.finished_ms is None else None
            await send_json(call.send, entry.to_dict(progress))
            return
        job = await self._job(statement_id, caller)
        await send_json(call.send, job.to_dict() | _links(job) | await self._pages(job))

    async def result(self, call: Call) -> None:
        """Send one page of an asynchronous statement's result."""
        caller = await self._service.auth.caller(call.scope)
        job = await self._job(_statement_id(call.scope), caller)
        if job.error is not None:
            problem = job.error
            facts = {key: problem[key] for key in ("line", "column") if key in problem}
            raise from_wire({"error": problem["title"], "message": problem["detail"], "facts": facts})
        if job.state != "succeeded":
            raise ConflictError("the statement has no result yet; ask for its state first", state=job.state)
        query = parse_qs(call.scope["query_string"].decode("latin-1"))
        number = _page_number(query, len(job.pages))
        form = _format(query, call.scope) or _stored_format(job)
        table = await self._service.store.get_page(job.pages[number])
        extra = {"page": number, "pages": len(job.pages), "total_rows": job.row_count, "next": _next(job, number)}
        body = await asyncio.to_thread(_encoded, table, form, job, extra)
        headers = [
            (b"content-type", CONTENT_TYPES[form].encode()),
            (b"content-length", str(len(body)).encode()),
            (b"x-statement-id", job.statement_id.encode()),
        ]
        following = _next(job, number)
        if following is not None:
            headers.append((b"link", f'<{following}>; rel="next"'.encode()))
        await call.send({"type": "http.response.start", "status": 200, "headers": headers})
        await call.send({"type": "http.response.body", "body": body})

    async def cancel(self, call: Call) -> None:
        """Cancel a statement. One that has ended stays as it is, and its state says so."""
        caller = await self._service.auth.caller(call.scope)
        statement_id = _statement_id(call.scope)
        entry = self._service.journal.find(statement_id)
        if entry is not None and entry.mode == "sync":
            caller.check_owner(entry.owner)
            if entry.finished_ms is None:
                self._service.executor.cancel(statement_id)
                await send_json(call.send, entry.to_dict() | {"state": "cancelling"}, status=202)
                return
            await send_json(call.send, entry.to_dict())
            return
        await self._job(statement_id, caller)
        if self._service.jobs is None:
            raise UnsupportedError("asynchronous statements need a server")
        job = await self._service.jobs.cancel(statement_id)
        await send_json(call.send, job.to_dict() | _links(job))

    async def tables(self, call: Call) -> None:
        """List the tables."""
        await self._service.auth.caller(call.scope)
        await send_json(call.send, {"tables": await self._service.catalog.list_tables()})

    async def table(self, call: Call) -> None:
        """Describe one table."""
        await self._service.auth.caller(call.scope)
        await send_json(call.send, await self._service.catalog.describe_table(*_table_name(call.scope)))

    async def healthz(self, call: Call) -> None:
        """Say that the process answers."""
        await send_json(call.send, {"status": "ok"})

    async def readyz(self, call: Call) -> None:
        """Say whether a statement would run: the catalog answers and there is a worker."""
        await self._service.kv.get("ns/default")
        if not await self._service.executor.ready():
            raise UnavailableError("no worker is ready yet", retry_after_s=1)
        await send_json(call.send, {"status": "ready"})

    async def metrics(self, call: Call) -> None:
        """Show the metrics."""
        await self._service.auth.caller(call.scope)
        body = self._service.metrics.exposition()
        headers = [(b"content-type", METRICS_TYPE.encode()), (b"content-length", str(len(body)).encode())]
        await call.send({"type": "http.response.start", "status": 200, "headers": headers})
        await call.send({"type": "http.response.body", "body": body})

    async def _job(self, statement_id: str, caller: Caller) -> Job:
        service = self._service
        if service.jobs is not None:
            job = await service.jobs.state(statement_id)
        else:
            job = await service.store.get(statement_id)
        caller.check_owner(job.owner)
        return await service.store.with_progress(job)

    async def _pages(self, job: Job) -> dict[str, Any]:
        """Return where each page of a result is: a presigned URL of its Arrow stream, where there is one."""
        if job.state != "succeeded":
            return {}
        left_s = max(1, (job.expires_ms - self._service.clock.now_ms()) // 1000)
        found = []
        for number, page in enumerate(job.pages):
            url = await self._service.store.link(page, left_s)
            own = _page_url(job, number)
            found.append({"page": number, "rows": page.rows, "bytes": page.bytes, "href": own, "arrow_url": url})
        return {"result": found}


def _table_name(scope: Scope) -> tuple[str, str]:
    namespace, dot, name = scope["path_params"]["name"].partition(".")
    return (namespace, name) if dot else ("default", namespace)


def _statement_id(scope: Scope) -> str:
    statement_id: str = scope["path_params"]["id"]
    if len(statement_id) > 64 or not statement_id.isalnum() or not statement_id.isascii():
        raise NotFoundError("no such statement", statement_id=statement_id[:80])
    scope["firnline.statement_id"] = statement_id
    return statement_id


def _links(job: Job) -> dict[str, Any]:
    own = f"/v1/statements/{job.statement_id}"
    return {"links": {"self": own, "result": f"{own}/result"}}


def _page_url(job: Job, number: int) -> str:
    return f"/v1/statements/{job.statement_id}/result?page={number}"


def _next(job: Job, number: int) -> str | None:
    return _page_url(job, number + 1) if number + 1 < len(job.pages) else None


def _page_number(query: dict[str, list[str]], n_pages: int) -> int:
    text = query.get("page", ["0"])[0]
    if not (text.isascii() and text.isdigit()):
        raise InvalidError('"page" must be a whole number from 0', page=text[:80])
    if len(text) > 9 or int(text) >= n_pages:
        raise NotFoundError("the result has no such page", page=text[:80], pages=n_pages)
    return int(text)


def _format(query: dict[str, list[str]], scope: Scope) -> Format | None:
    asked = query.get("format", [None])[0]
    if asked is None:
        return accepted_format(scope)
    for form in FORMATS:
        if form == asked:
            return form
    raise InvalidError(f'"format" must be one of {", ".join(FORMATS)}', format=asked[:80])


def _stored_format(job: Job) -> Format:
    return next((form for form in FORMATS if form == job.format), "json")


def _encoded(table: pa.Table, form: Format, job: Job, extra: dict[str, Any]) -> bytes:
    """Encode one page, in a thread: no coroutine in here ever waits."""

    async def batches() -> AsyncIterator[pa.RecordBatch]:
        for batch in table.to_batches():
            yield batch

    async def collect() -> list[Chunk]:
        result = Result(table.schema, batches(), Receipt(**(job.receipt or {})))
        return [chunk async for chunk in encode(form, result, statement_id=job.statement_id, extra=lambda: extra)]

    work = collect()
    try:
        work.send(None)
    except StopIteration as done:
        chunks: list[Chunk] = done.value
        return b"".join(chunks)
    work.close()
    raise CancelledError("the page was not encoded")
