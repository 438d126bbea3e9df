"""Runs a physical plan: its partitions at once, its batches as they come, its metrics at the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import datafusion
import pyarrow as pa
from datafusion import ExecutionPlan, RecordBatchStream, SessionContext

__all__ = ["ENGINE", "PlanMetrics", "metrics_of", "start", "stream"]

ENGINE = f"datafusion {datafusion.__version__.partition('.')[0]}"
"""Plans of other engines mean other things, or nothing."""
BUFFERED_BATCHES = 4
"""Batches a partition may be ahead of the reader."""


async def start(context: SessionContext, plan: ExecutionPlan) -> list[RecordBatchStream]:
    """Start the plan and return the stream of each of its partitions.

    In a thread: to start a partition the engine waits for one of its own threads. Those may all be in merge-on-read
    scans, of this plan's first partitions or of another statement, and these wait for the event loop to fetch bytes.
    """
    return await asyncio.to_thread(
        lambda: [context.execute(plan, partition) for partition in range(plan.partition_count)]
    )


async def stream(context: SessionContext, plan: ExecutionPlan) -> AsyncGenerator[pa.RecordBatch, None]:
    """Yield the plan's batches. Partitions run concurrently, as a partitioned join needs (drained one after another
    they deadlock); a plan of one partition keeps its order. Closing the iterator stops them.
    """
    streams = await start(context, plan)
    if len(streams) == 1:
        async for batch in streams[0]:
            yield batch.to_pyarrow()
    if len(streams) <= 1:
        return
    queue: asyncio.Queue[pa.RecordBatch | BaseException | None] = asyncio.Queue(BUFFERED_BATCHES * len(streams))

    async def drain(batches: RecordBatchStream) -> None:
        try:
            async for batch in batches:
                await queue.put(batch.to_pyarrow())
            await queue.put(None)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - the engine's panics are BaseExceptions; the reader raises it
            await queue.put(error)

    tasks = [asyncio.create_task(drain(batches)) for batches in streams]
    try:
        running = len(tasks)
        while running:
            item = await queue.get()
            if item is None:
                running -= 1
            elif isinstance(item, BaseException):
                raise item
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class PlanMetrics:
    """What the engine counted: bytes read from data files, and bytes spilled to disk."""

    bytes_scanned: int = 0
    spilled_bytes: int = 0


def metrics_of(plan: ExecutionPlan, besides: str = "") -> PlanMetrics:
    """Return the metrics of a plan that has run; scans whose text has ``besides`` are not counted."""
    scanned = spilled = 0
    for name, metrics in plan.collect_metrics():
        if name.startswith("DataSourceExec") and not (besides and besides in name):
            scanned += metrics.sum_by_name("bytes_scanned") or 0
        spilled += metrics.spilled_bytes or 0
    return PlanMetrics(scanned, spilled)
