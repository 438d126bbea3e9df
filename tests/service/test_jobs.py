"""Asynchronous statements: state, pages, cancel, expiry, and servers that vanish."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pyarrow as pa
import pytest

from catalog.kv.memory import MemoryKV
from service.executor import InlineExecutor
from service.job_runner import JobRunner, JobSettings
from service.jobs import PAGE_ROWS, Job, JobStore, Page, paged
from service.journal import Journal
from service.metrics import Metrics
from service.statement import Statement
from storage.blobs.memory import MemoryBlobs
from storage.clock import SystemClock
from storage.errors import ConflictError, CorruptError, NotFoundError, OverloadedError
from tests.support.http_server import Serving, serving
from tests.support.patient_runner import PATIENT, PatientRunner
from tests.support.runner import ENDLESS

pytestmark = pytest.mark.anyio


class SetClock(SystemClock):
    """A clock whose date is set by hand."""

    now = 1_000_000

    def now_ms(self) -> int:
        return self.now


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Serving]:
    async with serving() as server:
        yield server


async def state_of(server: Serving, statement_id: str, *states: str) -> dict[str, Any]:
    async with asyncio.timeout(20):
        while True:
            found: dict[str, Any] = (await server.client.get(f"/v1/statements/{statement_id}")).json()
            if found["state"] in states:
                return found
            await asyncio.sleep(0.05)


async def test_a_result_is_fetched_page_by_page_in_any_format(server: Serving) -> None:
    accepted = await server.sql("SELECT value AS n FROM range(50000)", mode="async")
    assert accepted.status_code == 202
    statement_id = accepted.json()["statement_id"]
    assert accepted.headers["location"] == f"/v1/statements/{statement_id}"
    state = await state_of(server, statement_id, "succeeded")
    assert (state["row_count"], state["pages"]) == (50_000, 3)
    assert state["receipt"]["rows"] == 50_000
    assert state["columns"] == [{"name": "n", "type": "int64"}]
    rows: list[int] = []
    href: str | None = state["links"]["result"]
    while href is not None:
        page = (await server.client.get(href)).json()
        rows += [row[0] for row in page["rows"]]
        href = page["next"]
    assert rows == list(range(50_000))
    last = await server.client.get(f"/v1/statements/{statement_id}/result?page=2&format=arrow")
    assert pa.ipc.open_stream(last.content).read_all()["n"].to_pylist() == list(range(2 * PAGE_ROWS, 50_000))
    assert (await server.client.get(f"/v1/statements/{statement_id}/result?page=3")).status_code == 404
    assert (await server.client.get(f"/v1/statements/{statement_id}/result?page=x")).status_code == 400
    assert [part["rows"] for part in state["result"]] == [20_000, 20_000, 10_000]


async def test_a_result_without_rows_has_one_empty_page(server: Serving) -> None:
    statement_id = (await server.sql("SELECT 1 AS a WHERE false", mode="async", format="csv")).json()["statement_id"]
    await state_of(server, statement_id, "succeeded")
    assert (await server.client.get(f"/v1/statements/{statement_id}/result")).text == "a\r\n"


async def test_a_failed_statement_keeps_its_error_with_its_place(server: Serving) -> None:
    statement_id = (await server.sql("SELEC", mode="async")).json()["statement_id"]
    state = await state_of(server, statement_id, "failed")
    assert state["error"]["title"] == "SqlError"
    result = await server.client.get(f"/v1/statements/{statement_id}/result")
    assert result.status_code == 400
    assert (result.json()["title"], result.json()["line"]) == ("SqlError", 1)


async def test_a_running_statement_has_no_result_yet_and_is_cancelled(server: Serving) -> None:
    statement_id = (await server.sql(ENDLESS, mode="async")).json()["statement_id"]
    await state_of(server, statement_id, "running")
    assert (await server.client.get(f"/v1/statements/{statement_id}/result")).status_code == 409
    assert (await server.client.delete(f"/v1/statements/{statement_id}")).json()["state"] == "cancelled"
    assert (await server.client.delete(f"/v1/statements/{statement_id}")).json()["state"] == "cancelled"
    assert (await server.client.get(f"/v1/statements/{statement_id}/result")).status_code == 499
    assert (await server.sql("SELECT 1")).status_code == 200


class House:
    """A job runner over an inline executor, on stores that several share."""

    def __init__(self, kv: MemoryKV, blobs: MemoryBlobs, clock: SystemClock, jobs_max: int = 8) -> None:
        self.executor = InlineExecutor(PatientRunner(), clock)
        self.journal = Journal(Metrics(self.executor.load), clock)
        self.store = JobStore(kv, blobs, clock, "_firnline/")
        self.jobs = JobRunner(self.executor, self.store, self.journal, clock, JobSettings(60, jobs_max))

    async def submit(self, sql: str, statement_id: str) -> Job:
        entry = self.journal.begin(statement_id, "r", "", mode="async", form="json")
        return await self.jobs.submit(Statement(sql, statement_id), entry, "json")

    async def until(self, statement_id: str, state: str) -> Job:
        async with asyncio.timeout(10):
            while (job := await self.jobs.state(statement_id)).state != state:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return job


async def test_rows_that_are_stored_so_far_can_be_asked() -> None:
    clock = SystemClock()
    house = House(MemoryKV(clock), MemoryBlobs(clock), clock)
    await house.submit(PATIENT, "s1")
    async with asyncio.timeout(10):
        while (job := await house.store.with_progress(await house.jobs.state("s1"))).progress is None:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert (job.state, job.progress.what) == ("running", "rows of the result")
    assert job.progress.n_done > 0
    assert (await house.jobs.cancel("s1")).state == "cancelled"


async def test_expired_statements_and_their_pages_are_swept() -> None:
    clock = SetClock()
    kv, blobs = MemoryKV(clock), MemoryBlobs(clock)
    house = House(kv, blobs, clock)
    await house.submit("SELECT 1", "s1")
    await house.until("s1", "succeeded")
    assert [meta.key async for meta in blobs.list()] == ["_firnline/statements/s1/000000.arrow"]
    assert await house.store.sweep() == 0
    clock.now += 60_000
    with pytest.raises(NotFoundError):
        await house.jobs.state("s1")
    assert await house.store.sweep() == 1
    assert [meta.key async for meta in blobs.list()] == []
    await house.jobs.close()


async def test_a_statement_whose_server_is_gone_has_failed_and_says_so() -> None:
    clock = SystemClock()
    kv, blobs = MemoryKV(clock), MemoryBlobs(clock)
    first, second = House(kv, blobs, clock), House(kv, blobs, clock)
    await first.submit(PATIENT, "s1")
    assert (await second.until("s1", "running")).server != ""
    for entry in (await kv.range("servers/"))[0]:
        await kv.txn({}, [_delete(entry.key)])
    job = await second.jobs.state("s1")
    assert job.state == "failed"
    assert job.error is not None
    assert "is gone" in job.error["detail"]
    await first.jobs.close()


async def test_a_statement_is_cancelled_from_another_server() -> None:
    clock = SystemClock()
    kv, blobs = MemoryKV(clock), MemoryBlobs(clock)
    first, second = House(kv, blobs, clock), House(kv, blobs, clock)
    await first.jobs.open()
    await first.submit(PATIENT, "s1")
    await first.until("s1", "running")
    await second.jobs.cancel("s1")
    await second.until("s1", "cancelled")
    await first.jobs.close()


async def test_closing_a_server_ends_its_statements_as_failed() -> None:
    clock = SystemClock()
    kv, blobs = MemoryKV(clock), MemoryBlobs(clock)
    house = House(kv, blobs, clock)
    await house.submit(PATIENT, "s1")
    await house.until("s1", "running")
    await house.jobs.close()
    job = await house.store.get("s1")
    assert job.state == "failed"
    assert (await kv.range("servers/"))[0] == []


async def test_too_many_asynchronous_statements_are_refused() -> None:
    clock = SystemClock()
    house = House(MemoryKV(clock), MemoryBlobs(clock), clock, jobs_max=1)
    await house.submit(PATIENT, "s1")
    with pytest.raises(OverloadedError):
        await house.submit(PATIENT, "s2")
    await house.jobs.close()


async def test_one_id_is_one_statement_and_a_damaged_record_is_corrupt() -> None:
    clock = SystemClock()
    kv = MemoryKV(clock)
    store = JobStore(kv, MemoryBlobs(clock), clock)
    job = Job("s1", "succeeded", "", "x", "json", 0, 2**60, pages=[Page("k", 1, 2)])
    await store.create(job)
    assert await store.get("s1") == job
    with pytest.raises(ConflictError):
        await store.create(job)
    assert (await store.update("s1", state="failed")).state == "succeeded"
    await kv.txn({}, [_write("statements/s2", b'{"version":1}')])
    with pytest.raises(CorruptError, match="statements/s2"):
        await store.get("s2")


async def test_pages_are_cut_by_rows_and_by_bytes() -> None:
    async def batches() -> AsyncIterator[pa.RecordBatch]:
        yield pa.record_batch({"s": ["x" * 3_000_000] * 4})
        yield pa.record_batch({"s": ["y"] * 45_000})

    pages = [table async for table in paged(batches(), pa.schema([("s", pa.string())]))]
    assert sum(page.num_rows for page in pages) == 45_004
    assert max(page.num_rows for page in pages) <= PAGE_ROWS
    assert max(page.nbytes for page in pages) < 5 << 20


def _delete(key: str) -> Any:
    return _write(key, None)


def _write(key: str, value: bytes | None) -> Any:
    from catalog.kv import Put

    return Put(key, value)
