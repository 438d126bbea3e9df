"""`functions.worker_pool` over processes of the task workers."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from functions.worker_pool import WorkerPool, WorkerSettings
from storage.clock import SystemClock
from tests.support.processes import until
from tests.support.task_workers import open_doer

pytestmark = pytest.mark.anyio


async def test_a_worker_that_is_taken_while_another_large_one_ends_is_left_alone() -> None:
    settings = WorkerSettings(workers_min=2, workers_max=2, idle_s=1.0)
    pool = WorkerPool(open_doer(), SystemClock(), settings, "functions.invoke.process_worker")
    await pool.open()
    try:
        await until(lambda: pool.n_workers == 2, 60)
        pool.settings = replace(settings, recycle_rss_bytes=1)
        async with asyncio.timeout(30):
            while not pool.restarts:  # noqa: ASYNC110 - the very moment counts
                await asyncio.sleep(0)
        taken = pool.take_idle()
        assert taken is not None
        await asyncio.sleep(1)
        assert not taken.dead.is_set()
        pool.offer(taken)
    finally:
        await pool.close()
