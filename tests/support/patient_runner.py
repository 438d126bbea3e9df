"""`SqlRunner` with one statement more, which waits for ever and can be cancelled at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import pyarrow as pa

from service.statement import Receipt, Result, Statement
from tests.support.runner import SqlRunner

PATIENT = "SELECT patience"
_SCHEMA = pa.schema([("n", pa.int64())])


class PatientRunner(SqlRunner):
    """As `SqlRunner`; `PATIENT` gives one batch and then nothing, for ever."""

    async def run(self, statement: Statement) -> Result:
        if statement.sql != PATIENT:
            return await super().run(statement)
        return Result(_SCHEMA, _patience(), Receipt(statement_id=statement.statement_id))


async def _patience() -> AsyncGenerator[pa.RecordBatch, None]:
    yield pa.record_batch([pa.array([1])], _SCHEMA)
    await asyncio.Event().wait()


@asynccontextmanager
async def open_patient_runner() -> AsyncIterator[PatientRunner]:
    runner = PatientRunner()
    yield runner
    await runner.close()
