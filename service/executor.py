"""The `Executor` contract, and the executor that runs statements in this very process.

An executor is a `Runner` that can also encode where it runs, enforces a statement's limits, and can be told to stop:

1. A statement past a limit raises an error that names the limit, and its work stops.
2. `cancel` makes the statement's stream raise `CancelledError`; closing the stream early stops the work too.
3. Whatever happens to one statement, the next one works.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from service.encode import Chunk, encode
from service.found import members
from service.limits import limit_batches, limit_bytes, limit_rows
from service.statement import Format, Limits, Receipt, Result, Runner, Statement
from service.streams import Stream, close_stream
from storage.clock import Clock
from storage.errors import (
    CancelledError,
    FirnlineError,
    IndeterminateError,
    InternalError,
    StatementTimeoutError,
    UnavailableError,
)

__all__ = [
    "EncodedResult",
    "Executor",
    "InlineExecutor",
    "Load",
    "describe_crash",
    "interrupted_error",
    "timeout_error",
    "writes",
]

T = TypeVar("T")


@dataclass
class EncodedResult:
    """A running statement as bytes: its schema at once, its chunks as they come, its receipt at the end.

    Closing ``chunks`` early cancels the statement.
    """

    schema: pa.Schema
    chunks: Stream[Chunk]
    receipt: Receipt


@dataclass(frozen=True, slots=True)
class Load:
    """How busy an executor is."""

    running: int
    queued: int
    workers: int = 0
    restarts: int = 0
    """Workers that died or were killed since the start."""
    resident_bytes: int = 0
    """Memory of the workers together."""


class Executor(Protocol):
    """Runs statements under their limits. Safe for concurrent use by tasks of one event loop."""

    async def run(self, statement: Statement) -> Result:
        """As `Runner.run`. Raises `OverloadedError` when too many statements wait already."""
        ...

    async def run_encoded(self, statement: Statement, kind: Format) -> EncodedResult:
        """Start the statement and encode its result where it runs. Raises as `run` does."""
        ...

    def cancel(self, statement_id: str) -> bool:
        """Stop a statement that waits or runs; False when there is no such statement."""
        ...

    def load(self) -> Load:
        """Return how many statements run and wait now."""
        ...

    async def ready(self) -> bool:
        """Whether a statement would find somewhere to run."""
        ...

    async def close(self) -> None:
        """Stop everything that runs."""
        ...


def timeout_error(statement: Statement, where: str) -> StatementTimeoutError:
    """Return the error of a statement whose time is up."""
    unknown = "; it may have written its rows" if where == "running" and writes(statement) else ""
    return StatementTimeoutError(
        f"the statement passed its time limit and was stopped while {where}; raise timeout_ms or ask for less{unknown}",
        timeout_ms=statement.limits.timeout_ms,
    )


def interrupted_error(statement: Statement) -> FirnlineError:
    """Return the error of a statement that ran when the server ended.

    One that reads, or has an idempotency key, may be sent again as if it had never been.
    """
    if statement.idempotency_key is None and writes(statement):
        return IndeterminateError(
            "the server is shutting down, and the statement may have taken effect; look before you send it again"
        )
    return UnavailableError("the server is shutting down; send the statement again")


def writes(statement: Statement) -> bool:
    """Tell whether the statement changes anything."""
    # Imported here: what only passes statements on never parses any.
    from service.parse import parse

    if statement.lookup is not None:
        return False
    try:
        return parse(statement.sql, statement.params).kind != "query"
    except FirnlineError:
        return False


def describe_crash(error: BaseException) -> FirnlineError:
    """Return our own error for whatever a runner raised. The details are for the log, not for the client."""
    if isinstance(error, FirnlineError):
        return error
    if isinstance(error, MemoryError):
        return InternalError("the process ran out of memory; set a memory limit or ask for less")
    if type(error).__name__ == "PanicException":
        return InternalError("the query engine failed internally on this statement; the log has the details")
    return InternalError("an internal error; the log has the details under the statement id", kind=type(error).__name__)


class _Running:
    """One statement in this process: a deadline and a way to stop it."""

    def __init__(self, statement: Statement, clock: Clock) -> None:
        self.statement = statement
        self.stop = asyncio.Event()
        self._clock = clock
        timeout_ms = statement.limits.timeout_ms
        self._deadline = clock.monotonic_s() + timeout_ms / 1000 if timeout_ms else None

    async def until(self, work: Any) -> Any:
        """Await ``work``; raise the error of the limit or the cancellation that comes first."""
        task = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self.stop.wait())
        try:
            left = None if self._deadline is None else max(0.0, self._deadline - self._clock.monotonic_s())
            await asyncio.wait({task, stop}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            if stop.done():
                raise CancelledError("the statement was cancelled")
            raise timeout_error(self.statement, "running")
        finally:
            stop.cancel()
            if not task.done():
                task.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await task


class InlineExecutor:
    """Runs statements in this process: for functions, which their platform kills, and for the embedded lake.

    Time is enforced by cancelling, which some plans ignore for seconds; use worker processes for a hard limit.
    """

    def __init__(self, runner: Runner, clock: Clock) -> None:
        self._runner = runner
        self._clock = clock
        self._running: dict[str, _Running] = {}

    async def run(self, statement: Statement) -> Result:
        return await self._start(statement, limit_batches)

    async def run_encoded(self, statement: Statement, kind: Format) -> EncodedResult:
        result = await self._start(statement, limit_rows)
        extra = partial(members, statement, result.schema)
        chunks = encode(kind, result, statement_id=statement.statement_id, extra=extra)
        return EncodedResult(result.schema, limit_bytes(chunks, statement.limits), result.receipt)

    async def _start(
        self, statement: Statement, limit: Callable[[AsyncIterator[pa.RecordBatch], Limits], Stream[pa.RecordBatch]]
    ) -> Result:
        running = self._running[statement.statement_id] = _Running(statement, self._clock)
        try:
            result = await running.until(self._runner.run(statement))
        except BaseException as error:
            self._running.pop(statement.statement_id, None)
            raise _ours(error) from error
        limited = limit(result.batches, statement.limits)

        async def forget() -> None:
            self._running.pop(statement.statement_id, None)
            await close_stream(limited)

        return Result(result.schema, Stream(_guarded(running, limited), forget), result.receipt)

    def cancel(self, statement_id: str) -> bool:
        running = self._running.get(statement_id)
        if running is not None:
            running.stop.set()
        return running is not None

    def load(self) -> Load:
        return Load(running=len(self._running), queued=0)

    async def ready(self) -> bool:
        return True

    async def close(self) -> None:
        for running in list(self._running.values()):
            running.stop.set()
        await self._runner.close()


async def _guarded(running: _Running, batches: AsyncIterator[pa.RecordBatch]) -> AsyncGenerator[pa.RecordBatch, None]:
    while True:
        try:
            batch = await running.until(anext(batches))
        except StopAsyncIteration:
            return
        except BaseException as error:
            raise _ours(error) from error
        yield batch


def _ours(error: BaseException) -> BaseException:
    if isinstance(error, (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit)):
        return error
    return describe_crash(error)
