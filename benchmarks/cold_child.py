"""The process whose start `benchmarks.cold` measures. Run by its path, in any environment with the product.

Imports what a worker imports, opens a Delta table, fetches its first row, and prints what that took as a line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import time


def cpu_s() -> float:
    """Return the CPU seconds of this process since it began, all threads, user and system."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def _first_row(table: str, lake: str) -> dict[str, float]:
    import service.worker  # noqa: F401 - what a worker process starts with
    from service.components import open_engine
    from service.settings import EngineSettings
    from service.statement import Statement

    imported = cpu_s()
    async with open_engine(EngineSettings(lake=lake)) as engine:
        opened = cpu_s()
        result = await engine.run(Statement(f"SELECT * FROM delta('{table}') LIMIT 1", "cold"))
        first = await anext(aiter(result.batches))
        if first.num_rows != 1:
            raise AssertionError(f"{first.num_rows} rows")
        return {"import_cpu_s": imported, "open_cpu_s": opened, "cpu_s": cpu_s(), "at": time.monotonic()}


if __name__ == "__main__":
    found = asyncio.run(_first_row(sys.argv[1], sys.argv[2]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(found | {"peak_rss_bytes": peak, "modules": len(sys.modules)}), flush=True)
    os._exit(0)
