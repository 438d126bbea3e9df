"""A process that runs one statement as tasks of a process pool, for tests that kill it: ``LAKE SQL``."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from service.executor import InlineExecutor
from service.settings import FunctionAccess
from service.statement import Limits, Statement
from tests.support.lakes import open_lake


async def main(folder: str, sql: str) -> None:
    async with open_lake(Path(folder), functions=FunctionAccess(place="processes:2", broadcast_bytes=0)) as lake:
        limits = Limits(timeout_ms=60_000)
        result = await InlineExecutor(lake.engine, lake.engine.clock).run(
            Statement(sql, "killed", limits=limits, functions="fan-out")
        )
        print("started", flush=True)
        async for _batch in result.batches:
            await asyncio.sleep(60)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
