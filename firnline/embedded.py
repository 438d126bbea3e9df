"""Statements run by an engine in this process, on a background event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from firnline.loop import BackgroundLoop, wait
from firnline.transport import Answer, Params, split_name
from service.executor import InlineExecutor
from service.progress import Progress, progress_of
from service.statement import KeyLookup, Limits, Receipt, Result, Route, Runner, Statement
from service.streams import close_stream
from storage.clock import Clock
from storage.errors import UnsupportedError

if TYPE_CHECKING:
    from catalog.kv import KV
    from service.engine import Engine
    from service.ingest.ingest import Asked, Ingested

__all__ = ["EmbeddedTransport", "OpenRunner"]

OpenRunner = Callable[[], AbstractAsyncContextManager[Runner]]
OpenKV = Callable[[], AbstractAsyncContextManager["KV"]]


class EmbeddedTransport:
    """A runner of this process behind plain calls.

    Parameters
    ----------
    open_runner : opens the runner, on the background loop
    limits : of a statement that asks for none itself; by default it may take as long as it takes
    open_writer : opens the engine that appends rows, where the runner is none; at the first append
    open_kv : opens the lake's catalog, for `progress`
    """

    def __init__(
        self,
        open_runner: OpenRunner,
        *,
        clock: Clock,
        limits: Limits | None = None,
        open_writer: OpenRunner | None = None,
        open_kv: OpenKV | None = None,
    ) -> None:
        self._clock = clock
        self._limits = limits or Limits(timeout_ms=0)
        self._open_writer = open_writer
        self._writer: tuple[asyncio.Event, Runner, asyncio.Task[None]] | None = None
        self._writer_opens = threading.Lock()
        self._open_kv = open_kv
        self._newest = ""
        self._answers: weakref.WeakSet[_EmbeddedAnswer] = weakref.WeakSet()
        self._loop = BackgroundLoop()
        try:
            self._stop, runner, self._held = self._loop.run(_open(open_runner))
            self._opened = runner
            self._runner = InlineExecutor(runner, clock)
        except BaseException:
            self._loop.close()
            raise

    def run(
        self, sql: str, params: Params, *, timeout_ms: int | None, max_rows: int | None, route: Route = "auto"
    ) -> Answer:
        """Start a statement. Raises its error if it does not parse or plan."""
        limits = self._limits
        if timeout_ms is not None:
            limits = replace(limits, timeout_ms=timeout_ms)
        if max_rows is not None:
            limits = replace(limits, result_rows_max=max_rows)
        return self._start(Statement(sql, self._clock.new_id(), params, limits=limits, route=route))

    def lookup(
        self, table: str, keys: Sequence[Any], *, by: Sequence[str], columns: Sequence[str] | None, route: Route,
        timeout_ms: int | None,
    ) -> Answer:  # fmt: skip
        """Start to look up keys. Raises its error if the table or a key is wrong."""
        limits = self._limits if timeout_ms is None else replace(self._limits, timeout_ms=timeout_ms)
        asked = KeyLookup(split_name(table), keys, tuple(by), None if columns is None else tuple(columns))
        return self._start(Statement("", self._clock.new_id(), limits=limits, route=route, lookup=asked))

    def progress(self) -> Progress | None:
        """Return how far the newest statement is, if it tells."""
        if self._open_kv is None or not self._newest:
            return None
        return self._loop.run(self._progress(self._open_kv, self._newest))

    async def _progress(self, open_kv: OpenKV, statement_id: str) -> Progress | None:
        async with open_kv() as kv:
            return await progress_of(kv, statement_id)

    def _start(self, statement: Statement) -> Answer:
        self._newest = statement.statement_id
        answer = _EmbeddedAnswer(self._loop, self._loop.run(self._runner.run(statement)))
        self._answers.add(answer)
        return answer

    def append(self, table: str, rows: pa.Table, asked: Asked) -> Ingested:
        """Store the rows, all or none, and return once they are durable."""
        return self._loop.run(self._append(self._engine(), *split_name(table), rows, asked))

    async def _append(self, engine: Engine, namespace: str, name: str, rows: pa.Table, asked: Asked) -> Ingested:
        from service.ingest.ingest import ingest_table

        statement = Statement("", self._clock.new_id(), role="writer", limits=self._limits)
        return await ingest_table(engine, namespace, name, rows, asked, self._runner, statement)

    def _engine(self) -> Engine:
        """Return the engine that appends."""
        from service.engine import Engine

        if isinstance(self._opened, Engine):
            return self._opened
        with self._writer_opens:
            if self._writer is None:
                if self._open_writer is None:
                    raise UnsupportedError("this connection runs statements only; rows cannot be appended to it")
                self._writer = self._loop.run(_open(self._open_writer))
            engine = self._writer[1]
        assert isinstance(engine, Engine)
        return engine

    def close(self) -> None:
        """Cancel every statement, close the runner and end the thread."""
        # One by one: their streams lie in one another, and a loop that ends closes all at once, which they refuse.
        for answer in list(self._answers):
            answer.close()
        if self._writer is not None:
            with contextlib.suppress(Exception):
                self._loop.run(_end(self._writer[0], self._writer[2]))
        with contextlib.suppress(Exception):
            self._loop.run(_end(self._stop, self._held))
        self._loop.close()


async def _open(open_runner: OpenRunner) -> tuple[asyncio.Event, Runner, asyncio.Task[None]]:
    """Open the runner in a task of its own, which holds it until the event is set."""
    stop = asyncio.Event()
    opened: asyncio.Future[Runner] = asyncio.get_running_loop().create_future()
    held = asyncio.create_task(_hold(open_runner, opened, stop))
    try:
        return stop, await opened, held
    except BaseException:
        held.cancel()
        raise


async def _hold(open_runner: OpenRunner, opened: asyncio.Future[Runner], stop: asyncio.Event) -> None:
    try:
        async with open_runner() as runner:
            opened.set_result(runner)
            await stop.wait()
    except BaseException as error:
        if opened.done():
            raise
        opened.set_exception(error)


async def _end(stop: asyncio.Event, held: asyncio.Task[None]) -> None:
    stop.set()
    await held


class _EmbeddedAnswer:
    """A result of the background loop, read from another thread."""

    def __init__(self, loop: BackgroundLoop, result: Result) -> None:
        self._loop = loop
        self._result = result
        self._pending: Future[Any] | None = None
        self._closed = False

    @property
    def schema(self) -> pa.Schema:
        return self._result.schema

    def read(self) -> pa.RecordBatch | None:
        """Return the next batch, or None at the end."""
        return None if self._closed else self._wait(anext(self._result.batches, None))

    def read_all(self) -> list[pa.RecordBatch]:
        """Return all batches that are left, in one trip to the loop."""
        return [] if self._closed else self._wait(_collect(self._result))

    def receipt(self) -> Receipt:
        """Return the statement's receipt."""
        return self._result.receipt

    def close(self) -> None:
        """Cancel the read that waits, then end the statement."""
        if self._closed:
            return
        self._closed = True
        if self._pending is not None:
            self._pending.cancel()
        with contextlib.suppress(Exception):
            self._loop.run(_close(self._result))

    def _wait(self, work: Any) -> Any:
        async def step() -> Any:
            return await work

        self._pending = self._loop.submit(step())
        try:
            return wait(self._pending)
        except BaseException:
            self.close()
            raise
        finally:
            self._pending = None


async def _collect(result: Result) -> list[pa.RecordBatch]:
    return [batch async for batch in result.batches]


async def _close(result: Result) -> None:
    await close_stream(result.batches)
