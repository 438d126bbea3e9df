"""Look-ups over HTTP from an S3 API, with a delay in front of it: their requests, and many at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.s3_facade import S3Facade
from benchmarks.s3_facade import serve as serve_s3
from service.server import ServeSettings
from service.settings import EngineSettings
from storage.blobs.s3_options import S3Options
from storage.clock import SystemClock
from tests.support.serving import serving

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow]

N_ROWS = 30_000
DELAY_MS = 20


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def store(folder: Path, delay_ms: float) -> AsyncIterator[tuple[S3Facade, str]]:
    (folder / "bucket").mkdir(exist_ok=True)
    facade = S3Facade(folder, SystemClock())
    async with serve_s3(facade, delay_ms=delay_ms) as url:
        yield facade, url


@contextmanager
def server(folder: Path, endpoint: str) -> Iterator[str]:
    s3 = S3Options(endpoint=endpoint, region="us-east-1", access_key_id="x", secret_access_key="x")
    engine = EngineSettings(lake="s3://bucket/lake", catalog=f"sqlite://{folder}/catalog.db", s3=s3)
    with serving(ServeSettings(engine=engine, port=0, fold_interval_s=None)) as url:
        yield url


async def sql(client: httpx.AsyncClient, text: str) -> dict[str, Any]:
    answer = await client.post("/v1/sql", json={"sql": text})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def found(client: httpx.AsyncClient, keys: list[int]) -> dict[str, Any]:
    answer = await client.post("/v1/lookup/t", json={"keys": keys})
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


@pytest.mark.parametrize("form", ["delta", "iceberg"])
async def test_a_hit_is_one_read_of_data_a_miss_none_and_many_wait_together(tmp_path: Path, form: str) -> None:
    async with store(tmp_path, DELAY_MS) as (facade, endpoint):
        # The server's start blocks, and the store is served by this loop.
        context = server(tmp_path, endpoint)
        url = await asyncio.to_thread(context.__enter__)
        try:
            async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as client:
                await prepare(client, form)
                await warm(client)
                facade.counts.clear()
                hit = await found(client, [4_000])
                assert (hit["rows"][0][:2], hit["found"]) == ([4_000, 2_000], [True])
                assert facade.counts["data"] == 1
                facade.counts.clear()
                for key in range(4_001, 4_021, 2):
                    assert (await found(client, [key]))["missing"] == [key]
                assert facade.counts["data"] <= 1  # one in 256 looks like a key that is there
                started = asyncio.get_running_loop().time()
                answers = await asyncio.gather(*(found(client, [2 * key]) for key in range(0, 6_400, 100)))
                assert [answer["rows"][0][1] for answer in answers] == list(range(0, 6_400, 100))
                # One after another, 64 look-ups would wait longer than this.
                assert asyncio.get_running_loop().time() - started < 64 * DELAY_MS / 1000 * 2
        finally:
            await asyncio.to_thread(context.__exit__, None, None, None)


async def prepare(client: httpx.AsyncClient, form: str) -> None:
    await sql(client, f"CREATE TABLE t (id BIGINT, n BIGINT, s VARCHAR, PRIMARY KEY (id)) USING {form}")
    await sql(client, f"INSERT INTO t SELECT value * 2, value, 's' || value FROM range({N_ROWS})")
    await sql(client, "OPTIMIZE t")


async def warm(client: httpx.AsyncClient) -> None:
    """Look up until the process of look-ups is there."""
    for _ in range(20):
        await found(client, [0])
        await asyncio.sleep(0.15)
