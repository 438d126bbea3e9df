"""The reads that a receipt counts, held to the log of the store that the lake lies in."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.s3_facade import S3Facade, serve
from service.components import open_engine
from service.engine import Engine
from service.settings import EngineSettings
from service.statement import Receipt, Statement
from storage.blobs.s3_options import S3Options
from storage.clock import SystemClock

pytestmark = pytest.mark.anyio


async def ran(engine: Engine, sql: str) -> Receipt:
    result = await engine.run(Statement(sql, "s", functions="inline"))
    async for _batch in result.batches:
        pass
    return result.receipt


@pytest.mark.parametrize("format_", ["delta", "iceberg"])
async def test_a_statement_on_a_table_of_ours_counts_its_reads_of_the_catalog_and_the_log_too(
    tmp_path: Path, format_: str
) -> None:
    for bucket in ("lake", "data"):
        (tmp_path / bucket).mkdir()
    pq.write_table(pa.table({"k": [1, 2, 3], "v": ["a", "b", "c"]}), tmp_path / "data" / "t.parquet")
    facade = S3Facade(tmp_path, SystemClock())
    async with serve(facade) as url:
        s3 = S3Options(url, "us-east-1", access_key_id="k", secret_access_key="s")
        async with open_engine(EngineSettings(lake="s3://lake/x", s3=s3)) as engine:
            await ran(engine, f"CREATE TABLE t USING {format_} AS SELECT * FROM parquet('s3://data/t.parquet')")
            for _ in range(2):
                await ran(engine, "SELECT sum(k) FROM t")
            facade.counts.clear()
            receipt = await ran(engine, "SELECT sum(k) FROM t")
            assert receipt.gets == facade.counts["GET"] + facade.counts["HEAD"]
