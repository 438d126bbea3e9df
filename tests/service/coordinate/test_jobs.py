"""Files merged and segments built by workers: what they give, and that workers and callers may die at any time."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from catalog.indexes import Indexes
from functions.tasks import Task, decode_task
from service.compaction import Compaction, CompactionSettings, compact_lake, compact_tables, flush
from service.compactor import open_compaction
from service.settings import EngineSettings, FunctionAccess
from storage.errors import InternalError, OverloadedError, UnavailableError
from tests.support.faulty_invoker import FaultyInvoker
from tests.support.lakes import Lake, open_lake
from tests.support.processes import children, until

pytestmark = pytest.mark.anyio
N_FILES, N_ROWS = 6, 400
PLACE = FunctionAccess(place="processes:2")
Before = Callable[[int, bytes], Awaitable[bytes]]


async def filled(folder: Path, format_: str = "delta", n_rows: int = N_ROWS) -> None:
    """Make a lake with a table of six files, none of which is merged, and an index by another column."""
    async with open_lake(folder) as lake:
        await lake.table(f"CREATE TABLE t (k BIGINT NOT NULL, v VARCHAR, PRIMARY KEY (k)) USING {format_}")
        engine = lake.engine
        parts = Compaction(engine.stores, engine.logs, engine.tables, engine.clock, str(folder))
        for start in range(N_FILES):
            rows = f"SELECT value * {N_FILES} + {start}, 'v' || value FROM generate_series(0, {n_rows - 1})"
            await lake.table(f"INSERT INTO t {rows}")
            await flush(parts)
            await compact_lake(parts, CompactionSettings(merge_files_min=1000))
        assert await n_files(lake) == N_FILES


def leftovers(folder: Path) -> list[Path]:
    return list(folder.glob("_firnline/results/*/*.arrow"))


async def n_files(lake: Lake) -> int:
    found = await lake.engine.describe_table("default", "t")
    return len(found.snapshot.files)


async def right(lake: Lake, n_rows: int = N_ROWS) -> None:
    """Every row is there once, whichever way it is asked for."""
    n = n_rows * N_FILES
    assert await lake.rows("SELECT count(*), count(DISTINCT k), sum(k) FROM t") == [(n, n, n * (n - 1) // 2)]
    assert await lake.rows("SELECT v FROM t WHERE k = 607") == [("v101",)]


@pytest.fixture(params=["delta", "iceberg"])
async def lake(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Lake]:
    await filled(tmp_path, request.param)
    async with open_lake(tmp_path, functions=PLACE) as opened:
        yield opened
        assert leftovers(tmp_path) == []


async def watched(lake: Lake, before: Before | None = None) -> list[Task]:
    """Return the tasks that the lake's engine sends from now on."""
    coordinator, seen = lake.engine._fan_out, []
    assert coordinator is not None
    secret = coordinator._options.secret

    async def see(number: int, message: bytes) -> bytes:
        seen.append(decode_task(message, secret, 0))
        return await before(number, message) if before is not None else message

    coordinator._invoker = FaultyInvoker(await coordinator.invoker(), see)
    return seen


async def test_optimize_merges_and_indexes_on_workers_and_commits_here(lake: Lake) -> None:
    seen = await watched(lake)
    await lake.table("OPTIMIZE t")
    assert [task.kind for task in seen] == ["compact", "fit"]
    assert await n_files(lake) == 1
    await right(lake)
    assert all(index.n_files == 1 for index in await _segments(lake))


async def test_jobs_run_on_workers_where_settings_limit_no_tasks_time(tmp_path: Path) -> None:
    await filled(tmp_path)
    async with open_lake(tmp_path, functions=FunctionAccess(place="processes:1", timeout_ms=0)) as lake:
        seen = await watched(lake)
        await lake.table("OPTIMIZE t")
        assert [task.kind for task in seen] == ["compact", "fit"]
        await right(lake)


async def _segments(lake: Lake) -> list[Any]:
    entry = await lake.engine.tables.get("default", "t")
    return [ref for index in await Indexes(lake.engine.kv, lake.engine.clock).of(entry.id) for ref in index.segments]


async def test_an_index_is_built_by_workers(lake: Lake) -> None:
    seen = await watched(lake)
    await lake.table("CREATE INDEX by_v ON t (v)")
    assert {task.kind for task in seen} == {"fit"}
    assert await lake.value("SELECT count(*) FROM t WHERE v = 'v7'") == N_FILES
    # Small segments are kept in the catalog: no blob of theirs is left.
    assert all(ref.inline for ref in await _segments(lake))
    assert not list(lake.folder.glob("_firnline/index/*/*"))


async def test_the_compactor_sends_its_jobs_to_workers(tmp_path: Path) -> None:
    await filled(tmp_path)
    before = set(children())
    async with open_compaction(EngineSettings(lake=str(tmp_path), functions=PLACE)) as compaction:
        assert compaction.jobs is not None
        entry = await compaction.tables.get("default", "t")
        report = await compact_tables(compaction, [entry])
        assert not report.errors
        assert report.merged["default.t"].n_files_removed == N_FILES
        assert set(children()) - before, "no worker was started"
    assert not set(children()) - before
    async with open_lake(tmp_path) as lake:
        assert await n_files(lake) == 1
        await right(lake)


async def test_lost_and_throttled_jobs_are_sent_again(lake: Lake) -> None:
    async def before(number: int, message: bytes) -> bytes:
        if number == 0:
            raise UnavailableError("a worker is gone")
        if number == 1:
            raise OverloadedError("slower", retry_after_s=0.05)
        return message

    seen = await watched(lake, before)
    await lake.table("OPTIMIZE t")
    assert [(task.kind, task.attempt) for task in seen] == [("compact", 1), ("compact", 2), ("compact", 3), ("fit", 1)]
    await right(lake)


async def test_what_no_worker_does_is_done_here(lake: Lake) -> None:
    async def before(_number: int, _message: bytes) -> bytes:
        raise InternalError("a worker without what it takes")

    await watched(lake, before)
    await lake.table("OPTIMIZE t")
    assert await n_files(lake) == 1
    await right(lake)


async def test_workers_that_are_killed_mid_job_lose_nothing_and_write_nothing_twice(tmp_path: Path) -> None:
    n_rows = 60_000
    await filled(tmp_path, n_rows=n_rows)
    async with open_lake(tmp_path, functions=PLACE) as lake:
        seen = await watched(lake)
        before = set(children())
        optimizing = asyncio.create_task(lake.table("OPTIMIZE t"))
        killed = 0
        for _ in range(2):
            n_seen = len(seen)
            await until(lambda n=n_seen: len(seen) > n or optimizing.done(), 30)  # type: ignore[misc]
            await until(lambda: bool(set(children()) - before) or optimizing.done(), 30)
            await asyncio.sleep(0.05)
            for pid in set(children()) - before:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
        await optimizing
        assert killed
        assert any(task.attempt > 1 for task in seen)
        await right(lake, n_rows)


async def test_a_caller_that_is_killed_mid_job_leaves_a_table_that_is_right(tmp_path: Path) -> None:
    n_rows = 60_000
    await filled(tmp_path, n_rows=n_rows)
    for pause_s in (0.4, 1.0):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.support.optimize_process", str(tmp_path), stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        await process.stdout.readline()
        await asyncio.sleep(pause_s)
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    async with open_lake(tmp_path, functions=PLACE) as lake:
        await right(lake, n_rows)
        await lake.table("OPTIMIZE t")
        assert await n_files(lake) == 1
        await right(lake, n_rows)
