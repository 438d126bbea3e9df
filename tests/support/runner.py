"""A small runner over DataFusion for tests of executors and of the HTTP service: no lake, a few table functions.

Besides ordinary SQL it knows a few statements that misbehave on purpose.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import pyarrow as pa
from datafusion import SessionContext

from service.statement import Receipt, Result, Statement
from storage.errors import InternalError, SqlError

ENDLESS = "SELECT count(*) AS n FROM range(10000000) a CROSS JOIN range(10000000) b WHERE a.value + b.value < 0"


class PanicException(BaseException):
    """Named and derived as the engine's own."""


class SqlRunner:
    """Runs SQL on one DataFusion session, and the ``CALL`` statements of `_misbehave`."""

    def __init__(self) -> None:
        self._context = SessionContext()
        self._hoard: list[bytearray] = []

    async def run(self, statement: Statement) -> Result:
        if statement.sql.startswith("CALL "):
            return await self._misbehave(statement, *statement.sql.split()[1:])
        receipt = Receipt(statement_id=statement.statement_id)
        try:
            frame = await asyncio.to_thread(self._context.sql, statement.sql)
            stream = frame.execute_stream()
        except Exception as error:
            raise SqlError(str(error), line=1, column=1) from None
        schema = frame.schema()
        return Result(schema, self._batches(stream, receipt), receipt)

    async def _batches(self, stream: object, receipt: Receipt) -> AsyncIterator[pa.RecordBatch]:
        try:
            async for found in stream:
                batch = found.to_pyarrow()
                receipt.rows += batch.num_rows
                yield batch
        except Exception as error:
            raise InternalError(str(error)) from None

    async def _misbehave(self, statement: Statement, how: str, *arguments: str) -> Result:
        if how == "panic":
            raise PanicException("a panic with /secret/path")
        if how == "bug":
            raise ValueError("a defect with /secret/path")
        if how == "exit":
            os._exit(3)
        if how == "abort":
            os.kill(os.getpid(), signal.SIGABRT)
        if how == "block":  # deaf to every cancellation
            time.sleep(float(arguments[0]))  # noqa: ASYNC251
        if how == "hoard":  # MB, taken in steps
            for _ in range(int(arguments[0])):
                self._hoard.append(bytearray(b"x" * (1 << 20)))
                await asyncio.sleep(0.001)
        receipt = Receipt(statement_id=statement.statement_id)
        schema = pa.schema([("pid", pa.int64())])
        if how == "late":  # n good batches of 100,000 rows, then an error
            return Result(schema, _failing(schema, int(arguments[0])), receipt)
        return Result(schema, _one(pa.record_batch([[os.getpid()]], schema)), receipt)

    async def close(self) -> None:
        self._hoard.clear()


async def _one(batch: pa.RecordBatch) -> AsyncGenerator[pa.RecordBatch, None]:
    yield batch


async def _failing(schema: pa.Schema, n_batches: int) -> AsyncGenerator[pa.RecordBatch, None]:
    for _ in range(n_batches):
        yield pa.record_batch([pa.array(range(100_000), pa.int64())], schema)
    raise SqlError("a late error", line=1)


@asynccontextmanager
async def open_sql_runner() -> AsyncIterator[SqlRunner]:
    runner = SqlRunner()
    yield runner
    await runner.close()


@asynccontextmanager
async def open_nothing() -> AsyncIterator[SqlRunner]:
    """A runner whose lake is not there."""
    raise SqlError("the lake is not there")
    yield
