"""Statements in this process: the same promises as worker processes, as far as cancelling carries."""

import asyncio

import pyarrow as pa
import pytest

from service.executor import InlineExecutor, describe_crash, interrupted_error, timeout_error
from service.statement import Limits, Statement
from storage.clock import SystemClock
from storage.errors import (
    CancelledError,
    FirnlineError,
    IndeterminateError,
    InternalError,
    LimitError,
    NotFoundError,
    SqlError,
    StatementTimeoutError,
    UnavailableError,
)
from tests.support.patient_runner import PATIENT, PatientRunner

pytestmark = pytest.mark.anyio


@pytest.fixture
def executor() -> InlineExecutor:
    return InlineExecutor(PatientRunner(), SystemClock())


def statement(sql: str, **limits: int) -> Statement:
    return Statement(sql, "s1", limits=Limits(**limits))


async def test_a_result_streams_and_its_receipt_fills(executor: InlineExecutor) -> None:
    result = await executor.run(statement("SELECT value FROM range(20000)"))
    assert executor.load().running == 1
    assert sum([batch.num_rows async for batch in result.batches]) == result.receipt.rows == 20_000
    assert executor.load().running == 0


async def test_encoding_happens_here(executor: InlineExecutor) -> None:
    result = await executor.run_encoded(statement("SELECT 1 AS a"), "arrow")
    body = b"".join([bytes(chunk) async for chunk in result.chunks])
    assert pa.ipc.open_stream(body).read_all().to_pylist() == [{"a": 1}]


async def test_time_is_up_in_mid_stream_too(executor: InlineExecutor) -> None:
    result = await executor.run(statement(PATIENT, timeout_ms=100))
    assert (await anext(result.batches)).num_rows == 1
    with pytest.raises(StatementTimeoutError, match="timeout_ms=100"):
        await anext(result.batches)
    assert executor.load().running == 0


async def test_cancel_reaches_a_stream_that_waits(executor: InlineExecutor) -> None:
    result = await executor.run(statement(PATIENT))
    await anext(result.batches)
    waiting = asyncio.ensure_future(anext(result.batches))
    await asyncio.sleep(0.01)
    assert executor.cancel("s1")
    with pytest.raises(CancelledError):
        await waiting
    assert not executor.cancel("s1")


async def test_rows_and_bytes_are_limited(executor: InlineExecutor) -> None:
    result = await executor.run_encoded(statement("SELECT value FROM range(9)", result_rows_max=8), "csv")
    with pytest.raises(LimitError, match="result_rows_max=8"):
        await anext(result.chunks)
    result = await executor.run_encoded(statement("SELECT value FROM range(99)", result_bytes_max=50), "csv")
    with pytest.raises(LimitError, match="result_bytes_max=50"):
        await anext(result.chunks)
    assert executor.load().running == 0


async def test_errors_keep_their_class_and_panics_become_ours(executor: InlineExecutor) -> None:
    with pytest.raises(SqlError):
        await executor.run(statement("SELEC"))
    with pytest.raises(InternalError, match="engine failed"):
        await executor.run(statement("CALL panic"))
    assert executor.load().running == 0


async def test_closing_early_frees_the_statement(executor: InlineExecutor) -> None:
    result = await executor.run_encoded(statement("SELECT value FROM range(1000000)"), "csv")
    await anext(result.chunks)
    await result.chunks.aclose()
    assert executor.load().running == 0


def test_a_crash_is_described_without_its_message() -> None:
    assert "secret" not in str(describe_crash(ValueError("secret")))
    assert "memory" in str(describe_crash(MemoryError()))
    ours = NotFoundError("x")
    assert describe_crash(ours) is ours


@pytest.mark.parametrize(
    ("sql", "key", "kind"),
    [
        ("SELECT 1", None, UnavailableError),
        ("UPDATE t SET n = n + 1", None, IndeterminateError),
        ("INSERT INTO t VALUES (1)", None, IndeterminateError),
        ("CREATE EXTERNAL TABLE t STORED AS parquet LOCATION 'x'", None, IndeterminateError),
        ("UPDATE t SET n = n + 1", "key", UnavailableError),
    ],
)
def test_a_write_that_the_servers_end_stopped_is_not_said_to_have_failed(
    sql: str, key: str | None, kind: type[FirnlineError]
) -> None:
    # A client sends again what is unavailable, and an update would be made twice.
    assert type(interrupted_error(Statement(sql, "s", idempotency_key=key))) is kind


def test_the_time_limit_of_a_write_says_that_it_may_have_written() -> None:
    assert "may have written" in timeout_error(statement("DELETE FROM t"), "running").message
    assert "may have written" not in timeout_error(statement("DELETE FROM t"), "waiting for a free worker").message
    assert "may have written" not in timeout_error(statement("SELECT 1"), "running").message
