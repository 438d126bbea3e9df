"""Plans run while the engine's threads wait for the event loop."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator

import pyarrow as pa
from datafusion import SessionConfig, SessionContext, Table

from functions.execute import stream
from functions.merge_scan import MergeScan

SCHEMA = pa.schema([("x", pa.int64())])


async def _run(n_statements: int) -> list[int]:
    """Run statements at once whose every engine thread waits for bytes that the event loop fetches."""
    loop = asyncio.get_running_loop()
    n_streams = 2 * (os.cpu_count() or 1) + 2

    async def fetched(index: int) -> int:
        await asyncio.sleep(0.01)
        return index

    def read(index: int, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        value = asyncio.run_coroutine_threadsafe(fetched(index), loop).result()
        yield pa.record_batch([pa.array([value])], schema=schema)

    context = SessionContext(SessionConfig().with_target_partitions(4))
    context.register_table("m", Table(MergeScan(SCHEMA, range(n_streams), read, n_streams)))
    context.from_arrow(pa.table({"x": [-1]}), "plain")
    query = "SELECT x FROM (SELECT x FROM m LIMIT 1000000) UNION ALL SELECT x FROM plain"

    async def rows() -> int:
        plan = context.sql(query).execution_plan()
        assert plan.partition_count > 1
        found = [value async for batch in stream(context, plan) for value in batch.column(0).to_pylist()]
        assert sorted(found) == [-1, *range(n_streams)]
        return len(found)

    return await asyncio.gather(*[rows() for _ in range(n_statements)])


def _within_a_minute(n_statements: int) -> list[int]:
    answers: list[list[int]] = []
    # A loop that hangs cannot time itself out.
    thread = threading.Thread(target=lambda: answers.append(asyncio.run(_run(n_statements))), daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive(), "the event loop waits for the engine, which waits for the event loop"
    return answers[0]


def test_the_later_partitions_of_a_plan_start_while_the_first_wait_for_bytes() -> None:
    assert len(_within_a_minute(1)) == 1


def test_a_statement_starts_while_another_waits_for_bytes() -> None:
    assert len(_within_a_minute(8)) == 8
