"""One synchronous statement's answer: result bytes from the executor to the client, and what ends them early.

* An error before the first byte is a problem document with its own status. An encoder holds back 64 KiB, so that is
  every error of a small result.
* A later error ends the body with `service.encode.error_tail` and cuts the connection: the body is chunked, and its
  last chunk never comes.
* A client that goes away cancels its statement. One that reads slowly slows the statement down, until its time is up.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress

from starlette.types import Receive, Scope, Send

from service.encode import CONTENT_TYPES, Chunk, error_tail
from service.executor import Executor, describe_crash, timeout_error
from service.found import missing_of
from service.journal import Entry, Journal
from service.problems import problem_of, send_problem
from service.statement import Format, Statement
from service.streams import Stream
from storage.errors import CancelledError, FirnlineError

__all__ = ["answer"]

_SMALL_BYTES = 64 << 10
_LATE_S = 2.0


async def answer(
    executor: Executor,
    journal: Journal,
    entry: Entry,
    statement: Statement,
    form: Format,
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    """Run the statement and send its result, or its error, to the client."""
    reply = _Reply(executor, journal, entry, statement, form, send, whole="aws.event" in scope)
    work = asyncio.create_task(reply.send_all())
    gone = asyncio.create_task(_disconnected(receive))
    timeout_ms = statement.limits.timeout_ms
    try:
        await asyncio.wait(
            {work, gone},
            timeout=timeout_ms / 1000 + _LATE_S if timeout_ms else None,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if not work.done() and not reply.complete:
            left = gone.done()
            error = CancelledError("the client went away") if left else timeout_error(statement, "being read")
            journal.end(entry, error)
            work.cancel()
        with suppress(asyncio.CancelledError):
            await work
    finally:
        for task in (gone, work):
            task.cancel()
        journal.end(entry, CancelledError("the server stopped"))


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class _Reply:
    """Sends one result. ``whole`` waits for all of it first, for platforms that send nothing earlier anyway."""

    def __init__(
        self,
        executor: Executor,
        journal: Journal,
        entry: Entry,
        statement: Statement,
        form: Format,
        send: Send,
        *,
        whole: bool,
    ) -> None:
        self.complete = False
        self._executor = executor
        self._journal = journal
        self._entry = entry
        self._statement = statement
        self._form = form
        self._send = send
        self._whole = whole
        self._started = False
        self._missing: int | None = None

    async def send_all(self) -> None:
        """Send the result, or the error, or as much of either as can still be sent."""
        try:
            await self._send_result()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit)):
                raise
            await self._send_error(describe_crash(error))

    async def _send_result(self) -> None:
        result = await self._executor.run_encoded(self._statement, self._form)
        self._journal.streaming(self._entry, result)
        self._missing = missing_of(result.schema)
        async with aclosing(result.chunks) as chunks:
            held = await self._held(chunks)
            if held is not None:
                await self._send_at_once(held)
                return
            while (chunk := await anext(chunks, None)) is not None:
                await self._send_chunk(chunk)
        self.complete = True
        self._journal.end(self._entry)
        await self._send({"type": "http.response.body", "body": b""})

    async def _held(self, chunks: Stream[Chunk]) -> bytes | None:
        """Return the whole result if it is small (or wanted whole), else send its first chunk and return None."""
        first = await anext(chunks, b"")
        if len(first) >= _SMALL_BYTES and not self._whole:
            await self._send_chunk(first)
            return None
        parts = [first]
        while (chunk := await anext(chunks, None)) is not None:
            parts.append(chunk)
        return b"".join(parts)

    async def _send_at_once(self, body: bytes) -> None:
        self._entry.bytes_out = len(body)
        self.complete = True
        self._journal.end(self._entry)
        await self._start([(b"content-length", str(len(body)).encode())])
        await self._send({"type": "http.response.body", "body": body})

    async def _send_chunk(self, chunk: Chunk) -> None:
        if not self._started:
            await self._start([])
        self._entry.bytes_out += len(chunk)
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def _start(self, headers: list[tuple[bytes, bytes]]) -> None:
        self._started = True
        headers += [
            (b"content-type", CONTENT_TYPES[self._form].encode()),
            (b"x-statement-id", self._statement.statement_id.encode()),
        ]
        if self._missing is not None:
            headers.append((b"x-firnline-missing", str(self._missing).encode()))
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _send_error(self, error: FirnlineError) -> None:
        self._journal.end(self._entry, error)
        if not self._started:
            self.complete = True
            await send_problem(self._send, error, statement_id=self._statement.statement_id)
            return
        tail = error_tail(self._form, problem_of(error, self._statement.statement_id))
        if tail:
            await self._send({"type": "http.response.body", "body": tail, "more_body": True})
        self.complete = True  # as far as it will ever be: the server cuts the connection after us
