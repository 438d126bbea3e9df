"""Statements as tasks over an object store that is slow, loses what it says, or fails: right, or a clear error."""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.components import open_engine
from service.engine import Engine
from service.executor import InlineExecutor
from service.settings import EngineSettings, FunctionAccess
from service.statement import Limits, Statement
from storage.errors import FirnlineError, IndeterminateError, StatementTimeoutError, UnavailableError
from tests.support.moto import create_bucket, moto_endpoint, moto_options
from tests.support.tcp_proxy import ReplyLosingProxy, proxy_to

__all__ = ["moto_endpoint"]
pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

BUCKET, N_FILES, N_ROWS = "tasks-faults", 4, 50_000
SQL = (
    "SELECT a.k % 50 AS m, count(*) AS n, sum(a.v + b.w) AS s FROM parquet('s3://tasks-faults/t/*.parquet') a "
    "JOIN parquet('s3://tasks-faults/u/*.parquet') b ON a.k = b.k GROUP BY m ORDER BY m"
)


@asynccontextmanager
async def opened(endpoint: str, proxy: ReplyLosingProxy) -> AsyncIterator[Engine]:
    """Open an engine whose workers, and itself, reach the store through the proxy."""
    settings = EngineSettings(
        lake=f"s3://{BUCKET}/lake", catalog="memory:", s3=moto_options(f"http://{proxy.endpoint}"),
        functions=FunctionAccess(place="processes:2", broadcast_bytes=0),
    )  # fmt: skip
    create_bucket(endpoint, BUCKET)
    async with open_engine(settings) as engine:
        chance = np.random.default_rng(1)
        for number in range(N_FILES):
            keys = np.arange(number * N_ROWS, (number + 1) * N_ROWS)
            for name, column, own in (("t", "v", keys), ("u", "w", keys[::-1])):
                sink = io.BytesIO()
                pq.write_table(pa.table({"k": own, column: chance.integers(0, 1 << 40, N_ROWS)}), sink)
                blobs, key = engine.stores.resolve(f"s3://{BUCKET}/{name}/{number}.parquet")
                await blobs.put(key, sink.getvalue())
        yield engine


async def ask(engine: Engine, functions: Any = "fan-out", timeout_ms: int = 90_000) -> list[Any]:
    statement = Statement(SQL, engine.clock.new_id(), limits=Limits(timeout_ms=timeout_ms), functions=functions)
    result = await InlineExecutor(engine, engine.clock).run(statement)
    batches = [batch async for batch in result.batches]
    return pa.Table.from_batches(batches, result.schema).to_pylist()


async def pages(engine: Engine) -> list[str]:
    blobs, key = engine.stores.resolve(f"s3://{BUCKET}/lake/_firnline/results")
    return [meta.key async for meta in blobs.list(key + "/")]


async def test_connections_that_are_cut_and_answers_that_are_lost_cost_time_only(moto_endpoint: str) -> None:
    chance = random.Random(7)
    async with proxy_to(urlsplit(moto_endpoint).port or 0) as proxy, opened(moto_endpoint, proxy) as engine:
        right = await ask(engine, "inline")
        assert len(right) == 50

        async def disturb() -> None:
            while True:
                await asyncio.sleep(chance.uniform(0.1, 0.4))
                proxy.mute()
                await asyncio.sleep(0.05)
                proxy.unmute()

        disturbing = asyncio.create_task(disturb())
        n_right = 0
        try:
            for _ in range(3):
                try:
                    assert await ask(engine) == right
                    n_right += 1
                except FirnlineError as error:
                    assert isinstance(error, (UnavailableError, IndeterminateError, StatementTimeoutError)), error
        finally:
            disturbing.cancel()
        assert n_right
        assert await ask(engine) == right


async def test_a_store_that_is_gone_is_a_clear_error_and_the_next_statement_works(moto_endpoint: str) -> None:
    async with proxy_to(urlsplit(moto_endpoint).port or 0) as proxy, opened(moto_endpoint, proxy) as engine:
        right = await ask(engine)
        asking = asyncio.create_task(ask(engine, timeout_ms=6000))
        await asyncio.sleep(0.05)
        proxy.mute()
        with pytest.raises((UnavailableError, IndeterminateError, StatementTimeoutError)):
            await asking
        proxy.unmute()
        assert await ask(engine) == right
