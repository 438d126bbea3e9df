"""A worker process: opens a runner and runs one statement at a time for the server that started it.

Started as ``python -m service.worker FD PARENT_PID SCRATCH``; what the engine spills goes to the folder SCRATCH. The
worker ends when its socket does, and the kernel kills it when its parent dies, so none outlives its server. A statement
that panics or leaves the process in doubt is answered with ``"broken"``, and the server starts a fresh worker.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import logging
import os
import pickle
import socket
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from functools import partial
from io import BytesIO
from typing import Any

import pyarrow as pa

from functions import tracing
from functions.child import serve_parent
from functions.frames import Frames, Kind
from functions.log_context import logged_as
from functions.process_memory import rss_bytes
from service.encode import Chunk, encode
from service.executor import describe_crash
from service.found import members
from service.limits import limit_bytes, limit_rows
from service.statement import Format, Result, Runner, Statement
from service.streams import Stream, close_stream
from storage.errors import CancelledError, FirnlineError

__all__ = ["COUNTS", "OpenRunner", "main", "told_by"]

_log = logging.getLogger("firnline.workers")
OpenRunner = Callable[[], AbstractAsyncContextManager[Runner]]

COUNTS = "counts"
"""Beside a receipt's members: what the process counted since it told last."""
_TRIM_BYTES = 256 << 20
_TRIM_DELAY_S = 0.05
_PAGE_BYTES = 16 << 20
_FLUSH_S = 0.5


class _Worker:
    """The loop of one worker: a frame at a time, a statement at a time."""

    def __init__(self, frames: Frames, runner: Runner) -> None:
        self._frames = frames
        self._runner = runner
        self._task: asyncio.Task[None] | None = None
        self._statement_id = ""
        self._trim: asyncio.TimerHandle | None = None
        self._trimmed_bytes = rss_bytes(os.getpid())

    async def serve(self) -> None:
        """Run statements until the server is gone."""
        while True:
            frame = await self._frames.receive()
            if frame is None:
                return
            kind, payload = frame
            if kind is Kind.RUN:
                statement, form = pickle.loads(payload)
                self._statement_id = statement.statement_id
                self._task = asyncio.create_task(self._answer(statement, form))
            elif kind is Kind.CANCEL and self._task is not None and bytes(payload).decode() == self._statement_id:
                self._task.cancel()

    async def _answer(self, statement: Statement, form: Format | None) -> None:
        try:
            with logged_as(statement_id=statement.statement_id), tracing.within(tracing.named(statement.traceparent)):
                result = await self._runner.run(statement)
                receipt = await self._stream(statement, form, result)
        except asyncio.CancelledError:
            await self._fail(CancelledError("the statement was cancelled"), broken=False)
        except BaseException as error:  # a panic of the engine is a BaseException
            broken = isinstance(error, MemoryError) or not isinstance(error, Exception)
            await self._fail(error, broken=broken)
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
        else:
            await self._frames.send(Kind.END, json.dumps(receipt | told_by(self._runner), default=str).encode())
        self._trim_soon()

    def _trim_soon(self) -> None:
        """Give memory back once nothing runs, if a statement left much more of it than the last time."""
        if self._trim is not None:
            self._trim.cancel()
            self._trim = None
        if rss_bytes(os.getpid()) > self._trimmed_bytes + _TRIM_BYTES:
            self._trim = asyncio.get_running_loop().call_later(_TRIM_DELAY_S, self._trim_now)

    def _trim_now(self) -> None:
        if self._task is None or self._task.done():
            _trim()
            self._trimmed_bytes = rss_bytes(os.getpid())

    async def _stream(self, statement: Statement, form: Format | None, result: Result) -> dict[str, object]:
        await self._frames.send(Kind.SCHEMA, memoryview(result.schema.serialize()))
        limited = Result(result.schema, limit_rows(result.batches, statement.limits), result.receipt)
        extra = partial(members, statement, result.schema)
        id_ = statement.statement_id
        encoded = _pages(limited) if form is None else encode(form, limited, statement_id=id_, extra=extra)
        chunks = limit_bytes(encoded, statement.limits)
        n_bytes = 0
        with tracing.span("encode", {"firnline.format": form or "pages"}) as span:
            async with aclosing(chunks):
                async for chunk in chunks:
                    await self._frames.send(Kind.CHUNK, chunk)
                    n_bytes += len(chunk)
                    await asyncio.sleep(0)  # let a cancellation in
            span.set({"firnline.result_bytes": n_bytes})
        return result.receipt.to_dict()

    async def _fail(self, error: BaseException, *, broken: bool) -> None:
        if not isinstance(error, FirnlineError):
            _log.error(
                "a statement failed internally", extra={"statement_id": self._statement_id},
                exc_info=(type(error), error, error.__traceback__),
            )  # fmt: skip
        wire = describe_crash(error).to_wire() | {"broken": broken}
        await self._frames.send(Kind.ERROR, json.dumps(wire, default=str).encode())


def told_by(runner: Runner) -> dict[str, Any]:
    """Return what goes with a receipt to the server."""
    counts = getattr(runner, "counts", None)
    return {} if counts is None else {COUNTS: counts.take()}


def _pages(result: Result) -> Stream[Chunk]:
    """Return each batch, in pieces of around 16 MiB, as an Arrow IPC stream of its own, dictionaries included."""
    return Stream(_page_bytes(result), partial(close_stream, result.batches))


async def _page_bytes(result: Result) -> AsyncGenerator[Chunk, None]:
    async for batch in result.batches:
        step = max(1, _PAGE_BYTES * batch.num_rows // max(batch.nbytes, 1))
        for start in range(0, batch.num_rows, step):
            sink = BytesIO()
            with pa.ipc.new_stream(sink, batch.schema) as writer:
                writer.write_batch(batch.slice(start, step))
            yield sink.getbuffer()


def _trim() -> None:
    """Give memory that is free back to the system; takes tens of milliseconds."""
    gc.collect()
    pa.default_memory_pool().release_unused()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


async def _main(end: socket.socket) -> None:
    frames = Frames(end)
    first = await frames.receive()
    if first is None:
        return
    open_runner: OpenRunner = pickle.loads(first[1])
    try:
        async with open_runner() as runner:
            await frames.send(Kind.READY)
            await _Worker(frames, runner).serve()
            tracing.flush(_FLUSH_S)
            os._exit(0)  # the server is gone or wants us gone: a query that still runs must not keep us
    except FirnlineError as error:
        await frames.send(Kind.ERROR, json.dumps(error.to_wire(), default=str).encode())


def main(arguments: list[str]) -> None:
    """Serve the socket ``arguments[0]`` until it ends."""
    serve_parent(arguments, _main)


if __name__ == "__main__":
    main(sys.argv[1:])
