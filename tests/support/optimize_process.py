"""A process that merges the files of table ``t`` as tasks of a process pool, for tests that kill it: ``LAKE``."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from service.settings import FunctionAccess
from tests.support.lakes import open_lake


async def main(folder: str) -> None:
    async with open_lake(Path(folder), functions=FunctionAccess(place="processes:2")) as lake:
        print("started", flush=True)
        await lake.table("OPTIMIZE t")
        await lake.table("CREATE INDEX IF NOT EXISTS by_v ON t (v)")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
