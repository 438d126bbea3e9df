"""The app object: `create_app` puts the routes, the error answers and the OpenAPI description together.

uvicorn serves it, and `service.lambda_handler` adapts the same object to API Gateway.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from catalog.kv import KV
from functions import tracing
from functions.log_context import logged_as
from service.auth import Auth, VerifyToken
from service.executor import Executor
from service.iceberg_rest.catalog import IcebergCatalog
from service.iceberg_rest.routes import iceberg_routes
from service.ingest.entries import SharedContext
from service.ingest.ingest import IngestContext
from service.ingest.metrics import IngestMetrics
from service.ingest.route import BODY_BYTES_MAX, RowsRoute
from service.job_runner import JobRunner, JobSettings
from service.jobs import JobStore
from service.journal import Journal
from service.log.metrics import LogMetrics
from service.log.open import LakeLogs
from service.metrics import Metrics
from service.openapi import describe
from service.problems import PROBLEM_TYPE, problem_of, send_json, send_problem
from service.request_span import answered, request_span
from service.requests import header
from service.routes import Call, CatalogView, Handler, Service, routes
from service.statement import Limits
from storage.blobs import Blobs
from storage.clock import Clock
from storage.counts import Counts
from storage.errors import FirnlineError, InternalError, InvalidError, NotFoundError, UnsupportedError

__all__ = ["AppComponents", "AppSettings", "create_app"]

_log = logging.getLogger("firnline.http")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


@dataclass(frozen=True, slots=True)
class AppSettings:
    """What an app allows.

    body_bytes_max : of a request's body, statement and parameters included
    rows_bytes_max : of a body with rows
    limits : of every statement; a request may lower its time and rows, never raise them
    token_cache_s : how long a token that was right is not looked up again
    log_sql : whether a statement's line in the log holds its text
    background : whether anything runs between requests; without, there are no asynchronous statements
    """

    body_bytes_max: int = 8 << 20
    rows_bytes_max: int = BODY_BYTES_MAX
    limits: Limits = field(default_factory=Limits)
    token_cache_s: float = 5.0
    background: bool = True
    log_sql: bool = False
    jobs: JobSettings = field(default_factory=JobSettings)


@dataclass(frozen=True)
class AppComponents:
    """The live objects an app works with; whoever opened them closes them.

    blobs : where results of asynchronous statements lie, under ``<results_prefix>statements/``
    verify : looks an API token up; None lets everybody in
    ingest : what appends rows; None where this process takes none
    logs : those that ``/metrics`` shows; None where this process owns none
    counts : of this process and its workers, for ``/metrics``
    iceberg : served as an Iceberg REST catalog, where given
    """

    executor: Executor
    catalog: CatalogView
    kv: KV
    blobs: Blobs
    clock: Clock
    verify: VerifyToken | None = None
    results_prefix: str = ""
    ingest: IngestContext | None = None
    logs: LakeLogs | None = None
    iceberg: IcebergCatalog | None = None
    counts: Counts | None = None


def create_app(components: AppComponents, settings: AppSettings | None = None) -> FastAPI:
    """Return the HTTP service over the components."""
    settings = settings or AppSettings()
    service = _service(components, settings)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        if service.jobs is not None:
            await service.jobs.open()
        yield
        if service.jobs is not None:
            await service.jobs.close()

    app = FastAPI(title="Firnline", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)

    async def openapi(call: Call) -> None:
        await send_json(call.send, app.openapi())

    rows = _rows(components, service, settings)
    for method, path, handler in [*rows, *routes(service), ("GET", "/openapi.json", openapi)]:
        app.router.routes.append(Route(path, _Endpoint(handler), methods=[method]))
    if components.iceberg is not None:
        for method, path, route in iceberg_routes(components.iceberg, service.auth):
            app.router.routes.append(Route(path, route, methods=[method]))
    app.openapi = describe  # type: ignore[method-assign]
    app.add_exception_handler(HTTPException, _no_route)
    app.add_middleware(_Edge, clock=components.clock)
    return app


def _service(components: AppComponents, settings: AppSettings) -> Service:
    clock = components.clock
    metrics = Metrics(components.executor.load, components.counts)
    if components.logs is not None:
        of_logs = LogMetrics(metrics.registry)
        components.logs.observe(of_logs)
        of_logs.watch(components.logs)
    journal = Journal(metrics, clock)
    store = JobStore(components.kv, components.blobs, clock, components.results_prefix)
    jobs = JobRunner(components.executor, store, journal, clock, settings.jobs) if settings.background else None
    return Service(
        executor=components.executor,
        catalog=components.catalog,
        kv=components.kv,
        clock=clock,
        auth=Auth(components.verify, clock, settings.token_cache_s),
        metrics=metrics,
        journal=journal,
        store=store,
        jobs=jobs,
        body_bytes_max=settings.body_bytes_max,
        limits=settings.limits,
        log_sql=settings.log_sql,
    )


def _rows(components: AppComponents, service: Service, settings: AppSettings) -> list[tuple[str, str, Handler]]:
    """Return the route that takes rows."""

    async def refused(_call: Call) -> None:
        raise UnsupportedError("this process takes no rows; send them to a server of the lake")

    handler: Handler = refused
    if components.ingest is not None:
        metrics = IngestMetrics(service.metrics.registry)
        context = SharedContext(components.ingest)
        route = RowsRoute(
            context, components.executor, service.auth, metrics, service.clock, settings.limits,
            settings.rows_bytes_max,
        )  # fmt: skip

        async def rows(call: Call) -> None:
            await route(call.scope, call.receive, call.send)

        handler = rows
    return [("POST", "/v1/tables/{name}/rows", handler)]


class _Endpoint:
    """A handler as an ASGI app of its own, which the router calls without wrapping it."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._handler(Call(scope, receive, send))


class _Edge:
    """The outermost layer: request ids in and out, and a problem document for whatever went wrong inside."""

    def __init__(self, app: ASGIApp, clock: Clock) -> None:
        self._app = app
        self._prefix = clock.new_id()[:20]
        self._count = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = header(scope, b"x-request-id")
        self._count += 1
        request_id = given if given and _REQUEST_ID.fullmatch(given) else f"{self._prefix}{self._count:012x}"
        scope["firnline.request_id"] = request_id
        with logged_as(request_id=request_id), request_span(scope) as span:
            await self._run(scope, receive, send, span)

    async def _run(self, scope: Scope, receive: Receive, send: Send, span: tracing.Span) -> None:
        request_id = scope["firnline.request_id"]
        started = False

        async def labelled(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = [*message["headers"], (b"x-request-id", request_id.encode())]
                message["headers"] = headers + answered(scope, span, message["status"])
            await send(message)

        try:
            await self._app(scope, receive, labelled)
        except Exception as error:
            if started:
                raise
            await self._refuse(scope, labelled, error)

    async def _refuse(self, scope: Scope, send: Send, error: Exception) -> None:
        request_id, statement_id = scope["firnline.request_id"], scope.get("firnline.statement_id")
        ours = (
            error if isinstance(error, FirnlineError) else InternalError("an internal error; the log has the details")
        )
        extra = {"request_id": request_id, "statement_id": statement_id, "path": scope["path"]}
        if ours is not error or isinstance(ours, InternalError):
            _log.error("request failed", extra=extra, exc_info=error)
        else:
            _log.info("request refused", extra=extra | {"error": type(ours).__name__})
        await send_problem(send, ours, statement_id=statement_id)


async def _no_route(request: Request, error: Exception) -> Response:
    """Turn the router's own refusals into ours."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    ours: FirnlineError = InvalidError(str(error.detail).lower())
    if error.status_code == 404:
        ours = NotFoundError("no such path; /openapi.json lists them", path=request.url.path[:200])
    if error.status_code == 405:
        ours = InvalidError("this path does not take that method", method=request.method, **headers)
    body = problem_of(ours, status=error.status_code)
    return JSONResponse(body, error.status_code, headers, media_type=PROBLEM_TYPE)
