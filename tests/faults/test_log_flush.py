"""A flush by a process that does not own the log, after its owners were killed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from catalog.kv.sqlite import SqliteKV
from catalog.logs import LogCatalog
from storage.clock import SystemClock
from tests.support.lake_logs import answering, opened, row, texts

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]

KILLED = """
import asyncio, os, sys
from pathlib import Path
from storage.log.settings import LogSettings
from tests.support.lake_logs import opened, row

async def main():
    async with opened(Path(sys.argv[1]), writer=LogSettings(flush_interval_ms=60_000)) as logs:
        log = await logs.log(0)
        await log.append([row("a")])
        await log.append([row("b")])
        os.kill(os.getpid(), 9)

asyncio.run(main())
"""


async def _killed(lake: Path) -> None:
    """Let a process append two rows, which are in its journal alone when it is killed."""
    command = [sys.executable, "-c", KILLED, str(lake)]
    done = await asyncio.to_thread(subprocess.run, command, cwd=ROOT, check=False)
    assert done.returncode == -9


async def test_a_flush_uploads_a_journal_though_the_catalog_granted_later_epochs(tmp_path: Path) -> None:
    # The owner is killed; the next one is granted an epoch by the catalog and is killed before it seals anything.
    lake = tmp_path / "lake"
    await _killed(lake)
    kv = SqliteKV(lake / "catalog.db", SystemClock())
    catalog = LogCatalog(kv, SystemClock())
    state = (await catalog.load()).of(0)
    assert state.owner is not None
    dead = replace(state.owner, instance="killed before it sealed")
    lease = await catalog.claim(0, dead, "", 0.1)
    assert lease is not None
    await lease.release()
    await kv.close()
    async with opened(lake) as logs:
        assert await (await logs.log(0)).flush() == 2
        assert texts(await (await logs.stored(0)).read(0)) == ["a", "b"]


async def test_a_worker_has_its_server_upload_the_journal_of_the_server_that_was_killed(tmp_path: Path) -> None:
    await _killed(tmp_path)
    async with answering(tmp_path) as (server, url):
        secret = server._directory.settings.secret
        async with opened(tmp_path, may_own=False, via_url=url, via_secret=secret) as worker:
            assert await (await worker.log(0)).flush() == 2
            assert texts(await (await worker.stored(0)).read(0)) == ["a", "b"]


async def test_a_flush_ends_though_others_append_without_a_pause(tmp_path: Path) -> None:
    async with opened(tmp_path) as logs:
        log = await logs.log(0)
        limit = 0

        async def append_always() -> None:
            nonlocal limit
            while True:
                receipt = await log.append([row("x" * 1000)])
                limit = max(limit, receipt.position.sequence + 1)

        tasks = [asyncio.create_task(append_always()) for _ in range(16)]
        try:
            await asyncio.sleep(0.1)
            acknowledged = limit
            async with asyncio.timeout(2):
                flushed = await log.flush()
            assert flushed >= acknowledged
            assert await (await logs.stored(0)).flush() >= flushed
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
