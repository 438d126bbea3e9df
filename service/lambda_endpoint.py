"""The HTTP service in one environment of an AWS Lambda function.

What is opened by the first event serves the next ones. The platform runs one event at a time, freezes the process
between two, and ends it without notice, so that nothing may be under way when an answer leaves: there are no
asynchronous statements, statements run in this process, and logs that it appended to are let go, so that nobody waits
for an owner that does not run. A statement ends a little before the function's own time does.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, Protocol

from functions import tracing
from service.components import open_engine
from service.engine import Engine
from service.executor import EncodedResult, Executor, InlineExecutor, Load
from service.log.open import LakeLogs
from service.problems import PROBLEM_TYPE, problem_of
from service.server import ServeSettings
from service.statement import Format, Result, Statement
from storage.clock import Clock, SystemClock
from storage.errors import FirnlineError, InvalidError
from storage.stores import join, normalize

__all__ = ["Context", "LambdaEndpoint", "left_ms"]

_log = logging.getLogger("firnline.lambda")
_MARGIN_MS, _MARGIN_SHARE = 2_000, 0.2
_MEMORY_SHARE, _INDEX_SHARE, _RESULT_SHARE = 0.5, 0.15, 0.125
"""Of the function's memory: the engine's pool, indexes' models, and an answer, which is held more than once."""
_RESULTS_FOLDER = "_firnline"

Event = Mapping[str, Any]


class Context(Protocol):
    """What Lambda says of an invocation."""

    @property
    def memory_limit_in_mb(self) -> int | str:
        """Return the function's memory in MiB."""
        ...

    def get_remaining_time_in_millis(self) -> int:
        """Return how long the function may still run."""
        ...


def left_ms(context: Context) -> int:
    """Return how long work may go on, so that its answer leaves before the function's time is up."""
    remaining_ms = max(context.get_remaining_time_in_millis(), 1)
    return int(remaining_ms - min(_MARGIN_MS, remaining_ms * _MARGIN_SHARE))


class LambdaEndpoint:
    """Answers HTTP events: of a Function URL, API Gateway's HTTP and REST APIs, and load balancers.

    Parameters
    ----------
    settings : memory limits that are 0 become shares of the function's
    """

    def __init__(self, settings: ServeSettings, clock: Clock | None = None) -> None:
        self._settings, self._clock = settings, clock or SystemClock()
        self._loop = asyncio.new_event_loop()
        self._stack = AsyncExitStack()
        self._engine: Engine | None = None
        self._executor: _Timed | None = None
        self._adapter: Callable[[dict[str, Any], Any], dict[str, Any]] | None = None

    def handle(self, event: Event, context: Context) -> dict[str, Any]:
        """Return the answer to an event. Raises `InvalidError` for one that is no HTTP request."""
        if not isinstance(event, Mapping) or "requestContext" not in event:
            raise InvalidError("this function answers HTTP events, of a Function URL or API Gateway, and nothing else")
        asyncio.set_event_loop(self._loop)  # Mangum's too
        until_s = self._clock.monotonic_s() + left_ms(context) / 1000
        try:
            if self._adapter is None:
                self._loop.run_until_complete(self._open(int(context.memory_limit_in_mb)))
        except FirnlineError as error:
            _log.error("the lake could not be opened", extra={"error": type(error).__name__, "reason": str(error)})
            return _unopened(error)
        assert self._adapter is not None
        assert self._executor is not None
        self._executor.until_s = until_s
        try:
            return self._adapter(dict(event), context)
        finally:
            self._loop.run_until_complete(self._rest())

    def close(self) -> None:
        """Close what is open."""
        self._loop.run_until_complete(self._stack.aclose())
        self._loop.close()

    async def _open(self, memory_mb: int) -> None:
        # Imported here: a compactor does without.
        from service.app import AppComponents, create_app
        from service.catalog_view import EngineCatalog
        from service.iceberg_rest.open import iceberg_catalog
        from service.lambda_handler import lambda_handler
        from service.large_answers import LargeAnswers

        settings = _sized(self._settings, memory_mb << 20)
        if settings.engine.traces:
            tracing.start("endpoint")
        async with AsyncExitStack() as stack:
            engine = await stack.enter_async_context(open_engine(settings.engine, self._clock))
            executor = _Timed(InlineExecutor(engine, self._clock), self._clock)
            blobs, prefix = engine.stores.resolve(join(normalize(settings.engine.lake), _RESULTS_FOLDER))
            components = AppComponents(
                executor=executor,
                catalog=EngineCatalog(engine),
                kv=engine.kv,
                blobs=blobs,
                clock=self._clock,
                verify=_verifier(settings, engine, self._clock),
                results_prefix=prefix + "/",
                ingest=engine,
                iceberg=iceberg_catalog(engine, settings.engine, vend_credentials=settings.iceberg_credentials),
            )
            app = create_app(components, settings.app)
            self._adapter = lambda_handler(LargeAnswers(app, engine.stores, settings.engine.lake, self._clock))
            self._engine, self._executor = engine, executor
            await self._stack.enter_async_context(stack.pop_all())

    async def _rest(self) -> None:
        """Leave nothing under way before the process is frozen."""
        assert self._engine is not None
        logs = self._engine.logs
        assert isinstance(logs, LakeLogs)
        for log in logs.all().values():
            if log.owned is None:
                continue
            try:
                await log.release()
            except FirnlineError as error:
                _log.warning("a log was not let go: %s", error)
        if self._settings.engine.traces:
            await asyncio.to_thread(tracing.flush)


class _Timed:
    """An `Executor` whose statements end before the function does."""

    def __init__(self, executor: Executor, clock: Clock) -> None:
        self.until_s = 0.0
        self._executor, self._clock = executor, clock

    async def run(self, statement: Statement) -> Result:
        return await self._executor.run(self._limited(statement))

    async def run_encoded(self, statement: Statement, kind: Format) -> EncodedResult:
        return await self._executor.run_encoded(self._limited(statement), kind)

    def cancel(self, statement_id: str) -> bool:
        return self._executor.cancel(statement_id)

    def load(self) -> Load:
        return self._executor.load()

    async def ready(self) -> bool:
        return await self._executor.ready()

    async def close(self) -> None:
        await self._executor.close()

    def _limited(self, statement: Statement) -> Statement:
        left = max(int((self.until_s - self._clock.monotonic_s()) * 1000), 1)
        asked = statement.limits.timeout_ms
        return replace(statement, limits=replace(statement.limits, timeout_ms=min(asked or left, left)))


def _sized(settings: ServeSettings, memory_bytes: int) -> ServeSettings:
    """Return the settings with what they leave open taken from the function's memory, and nothing in the background."""
    engine, app = settings.engine, settings.app
    engine = replace(
        engine,
        memory_bytes=engine.memory_bytes or int(memory_bytes * _MEMORY_SHARE),
        index_memory_bytes=min(engine.index_memory_bytes, int(memory_bytes * _INDEX_SHARE)),
        compact=False,
        log=replace(engine.log, url=None),
    )
    result_bytes = app.limits.result_bytes_max or int(memory_bytes * _RESULT_SHARE)
    app = replace(app, background=False, limits=replace(app.limits, result_bytes_max=result_bytes))
    return replace(settings, engine=engine, app=app)


def _verifier(settings: ServeSettings, engine: Engine, clock: Clock) -> Any:
    """Return how tokens are checked; None where the platform lets in whom it may."""
    if not settings.require_tokens:
        return None
    from catalog.tokens import verify_token
    from service.auth import Caller

    async def verify(presented: str) -> Caller:
        token = await verify_token(engine.kv, clock, presented)
        return Caller(token.role, token.token_id)

    return verify


def _unopened(error: FirnlineError) -> dict[str, Any]:
    """Return the answer of a function that has no lake; the next event tries again."""
    problem = problem_of(error, status=503)
    return {
        "statusCode": 503,
        "headers": {"content-type": PROBLEM_TYPE, "retry-after": "1"},
        "body": json.dumps(problem),
        "isBase64Encoded": False,
    }
