"""CREATE INDEX over many files tells how far it is, can be cancelled, and goes on when it is run again."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import firnline
from catalog.kv.memory import MemoryKV
from firnline.cli.progress import Progress as Line
from service.jobs import Job, JobStore
from service.progress import Progress, progress_of, telling
from storage.blobs.memory import MemoryBlobs
from storage.clock import SystemClock
from storage.errors import ConflictError
from tests.support.kv_faults import WrappedKV
from tests.support.lakes import Lake, open_lake

pytestmark = pytest.mark.anyio
N_FILES = 1_500
CREATE = "CREATE INDEX i ON t (v) USING locator"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for number in range(N_FILES):
        start = number * 50
        pq.write_table(
            pa.table({"v": [(start + at) * 7919 % 100_003 for at in range(50)]}), folder / f"{number}.parquet"
        )
    return folder


@pytest.fixture
async def lake(tmp_path: Path, files: Path) -> AsyncIterator[Lake]:
    async with open_lake(tmp_path) as opened:
        await opened.table(f"CREATE EXTERNAL TABLE t STORED AS parquet LOCATION '{files}'")
        yield opened


async def first_told(lake: Lake, running: asyncio.Task[pa.Table], statement_id: str) -> Progress:
    while not running.done():
        found = await progress_of(lake.engine.kv, statement_id)
        if found is not None:
            return found
        await asyncio.sleep(0.05)
    raise AssertionError(f"it ended and told nothing: {await running}")


async def status(lake: Lake) -> str:
    (row,) = (await lake.table("SHOW INDEXES FROM t")).to_pylist()
    return str(row["status"])


async def test_how_far_it_is_can_be_asked_while_it_runs(lake: Lake) -> None:
    running = asyncio.create_task(lake.table(CREATE))
    told = await first_told(lake, running, "s2")
    assert (told.what, told.n_total) == ("files indexed", N_FILES)
    assert 0 < told.n_done <= N_FILES
    assert not running.done()
    await running
    assert await progress_of(lake.engine.kv, "s2") is None
    assert await status(lake) == "ready"


async def test_cancelled_it_does_no_harm_and_goes_on_when_it_is_run_again(lake: Lake) -> None:
    running = asyncio.create_task(lake.table(CREATE))
    await first_told(lake, running, "s2")
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert await progress_of(lake.engine.kv, "s2") is None
    assert await status(lake) == "building"
    expected = await lake.rows("SELECT count(*) FROM t WHERE v = 7919")
    with pytest.raises(ConflictError):
        await lake.table("CREATE INDEX i ON t (v) USING locator WITH (filter_bits = 4)")
    assert str((await lake.table(CREATE)).column("status")[0]).startswith("created locator index i on default.t")
    assert await status(lake) == "ready"
    assert await lake.rows("SELECT count(*) FROM t WHERE v = 7919") == expected
    with pytest.raises(ConflictError):
        await lake.table(CREATE)


async def test_the_state_of_an_asynchronous_statement_has_it() -> None:
    clock = SystemClock()
    kv = MemoryKV(clock)
    store = JobStore(kv, MemoryBlobs(clock), clock)
    job = Job("j", "running", "someone", "a server", "json", clock.now_ms(), clock.now_ms() + 60_000)
    await store.create(job)
    assert "progress" not in (await store.with_progress(job)).to_dict()
    async with telling(kv, clock, "j") as tell:
        tell(3, 10, "files indexed")
        for _ in range(100):
            if await progress_of(kv, "j") is not None:
                break
            await asyncio.sleep(0.05)
        shown = (await store.with_progress(await store.get("j"))).to_dict()["progress"]
        assert (shown["n_done"], shown["n_total"], shown["what"]) == (3, 10, "files indexed")
        assert shown["left_ms"] == shown["elapsed_ms"] * 7 // 3
        done = await store.update("j", state="succeeded")
        assert "progress" not in (await store.with_progress(done)).to_dict()
    assert await progress_of(kv, "j") is None


async def test_a_catalog_to_which_it_costs_requests_is_told_seldom() -> None:
    clock = SystemClock()
    kv = MemoryKV(clock)
    async with telling(kv, clock, "j", every_s=60.0) as tell:
        tell(3, 10, "tasks done")
        await asyncio.sleep(0.8)
        assert await progress_of(kv, "j") is None


class StuckKV(WrappedKV):
    """Answers nothing any more once it is ``stuck``."""

    stuck = False

    async def _before(self, call: str, key: str) -> None:
        if self.stuck:
            await asyncio.Event().wait()
        await super()._before(call, key)


@pytest.mark.parametrize("first", [True, False])
async def test_a_catalog_that_does_not_answer_hinders_no_statement(first: bool) -> None:
    clock = SystemClock()
    inner = MemoryKV(clock)
    kv = StuckKV(inner)
    kv.stuck = first
    async with asyncio.timeout(20):
        async with telling(kv, clock, "j") as tell:
            tell(3, 10, "files indexed")
            await asyncio.sleep(0.7)
            while not first and await progress_of(inner, "j") is None:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            kv.stuck = True
        assert (await progress_of(inner, "j") is None) == first  # the other goes with its lease


def test_a_terminal_shows_it() -> None:
    assert (
        str(Progress("files indexed", 1_000, 4_000, 2_000)) == "1,000 of 4,000 files indexed, 500.0 a second, 6 s left"
    )
    assert str(Progress("files indexed", 0, 4, 0)) == "0 of 4 files indexed"
    terminal = io.StringIO()
    with Line(terminal, SystemClock(), lambda: "3 of 10 files indexed") as line:
        while "files" not in terminal.getvalue():
            time.sleep(0.05)
        line.stop()
    assert "s, 3 of 10 files indexed, Ctrl-C cancels" in terminal.getvalue()


def test_a_connection_tells_of_its_newest_statement(tmp_path: Path) -> None:
    with firnline.connect(tmp_path) as connection:
        assert connection.progress() is None
        connection.sql("CREATE TABLE t (v BIGINT)")
        assert connection.progress() is None
        connection.sql("CREATE INDEX i ON t (v)")
        assert connection.progress() is None
