"""The look-up worker: a process that answers many look-ups at once, since they wait more than they compute.

Started as ``python -m service.lookup_process FD PARENT_PID SCRATCH``. A statement that takes more than a few ranged
reads, or has a large answer, it leaves to the other workers. Frames are those of `functions.frames`; all but the first
two have the number of their statement, eight bytes, before the rest.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pickle
import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from functions import tracing
from functions.child import serve_parent
from functions.cpu_time import charging, metered
from functions.frames import Frames, Kind
from functions.log_context import logged_as
from service.encode import Chunk, encode
from service.executor import describe_crash
from service.found import members
from service.limits import limit_bytes, limit_rows
from service.statement import Format, Result, Statement
from service.streams import close_stream
from service.worker import OpenRunner, told_by
from storage.errors import CancelledError, FirnlineError

__all__ = ["ANSWER", "ANSWER_BYTES_MAX", "NUMBER", "main"]

ANSWER_BYTES_MAX = 4 << 20
"""A larger answer would hold up those behind it."""
NUMBER = struct.Struct("<Q")
ANSWER = struct.Struct("<II")
"""Lengths of an answer's schema and receipt, which come before its bytes."""

_log = logging.getLogger("firnline.workers")
_FLUSH_S = 0.5

Point = Callable[[Statement], Awaitable[Result | None]]


class _LookupWorker:
    """The loop of the worker: each statement is a task of its own."""

    def __init__(self, frames: Frames, point: Point | None, told: Callable[[], dict[str, Any]]) -> None:
        self._frames, self._point, self._told = frames, point, told
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def serve(self) -> None:
        """Answer statements until the server is gone."""
        while (frame := await self._frames.receive()) is not None:
            kind, payload = frame
            number = NUMBER.unpack_from(payload)[0]
            if kind is Kind.RUN:
                statement, form = pickle.loads(payload[NUMBER.size :])
                self._tasks[number] = asyncio.create_task(self._answer(number, statement, form))
            elif kind is Kind.CANCEL and (task := self._tasks.get(number)) is not None:
                task.cancel()

    async def _answer(self, number: int, statement: Statement, form: Format) -> None:
        head = NUMBER.pack(number)
        try:
            with logged_as(statement_id=statement.statement_id), tracing.within(tracing.named(statement.traceparent)):
                parts = await metered(self._run(statement, form))
            kind, payload = (Kind.CHUNK, b"".join((head, *parts))) if parts else (Kind.ELSEWHERE, head)
        except BaseException as error:  # a panic of the engine is a BaseException
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            stopped = isinstance(error, asyncio.CancelledError)
            wire = _wire(statement, CancelledError("the statement was cancelled") if stopped else error)
            kind, payload = Kind.ERROR, head + wire
        finally:
            self._tasks.pop(number, None)
        await self._frames.send(kind, payload)

    async def _run(self, statement: Statement, form: Format) -> list[Chunk] | None:
        """Return schema, receipt and bytes of the answer; None if others should give it."""
        result = None if self._point is None else await self._point(statement)
        if result is None:
            return None
        limited = Result(result.schema, limit_rows(result.batches, statement.limits), result.receipt)
        extra = partial(members, statement, result.schema)
        chunks = limit_bytes(encode(form, limited, statement_id=statement.statement_id, extra=extra), statement.limits)
        body: list[Chunk] = []
        n_bytes = 0
        async for chunk in chunks:
            body.append(chunk)
            n_bytes += len(chunk)
            if n_bytes > ANSWER_BYTES_MAX:
                await close_stream(chunks)
                return None
        schema = memoryview(result.schema.serialize())
        receipt = json.dumps(result.receipt.to_dict() | self._told(), default=str).encode()
        return [ANSWER.pack(len(schema), len(receipt)), schema, receipt, *body]


def _wire(statement: Statement, error: BaseException) -> bytes:
    """Return the error for the server; one that is not ours means that this process should not be used again."""
    if not isinstance(error, FirnlineError):
        _log.error(
            "a statement failed internally", extra={"statement_id": statement.statement_id},
            exc_info=(type(error), error, error.__traceback__),
        )  # fmt: skip
    broken = isinstance(error, MemoryError) or not isinstance(error, Exception)
    return json.dumps(describe_crash(error).to_wire() | {"broken": broken}, default=str).encode()


async def _main(end: socket.socket) -> None:
    frames = Frames(end)
    first = await frames.receive()
    if first is None:
        return
    open_runner: OpenRunner = pickle.loads(first[1])
    try:
        async with open_runner() as runner:
            asyncio.get_running_loop().set_task_factory(charging)
            await frames.send(Kind.READY)
            await _LookupWorker(frames, getattr(runner, "point", None), partial(told_by, runner)).serve()
            tracing.flush(_FLUSH_S)
            os._exit(0)  # the server is gone or wants us gone
    except FirnlineError as error:
        await frames.send(Kind.ERROR, json.dumps(error.to_wire(), default=str).encode())


def main(arguments: list[str]) -> None:
    """Serve the socket ``arguments[0]`` until it ends."""
    serve_parent(arguments, _main)


if __name__ == "__main__":
    main(sys.argv[1:])
