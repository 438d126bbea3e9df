"""Every TPC-H query as tasks of worker processes gives the rows of one process."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from benchmarks.tpch_data import TABLES, tpch_queries, tpch_tables
from service.settings import FunctionAccess
from service.statement import Functions, Limits, Receipt, Statement
from tests.support.lakes import Lake, open_lake
from tests.support.stage_run import assert_same

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def _ask(lake: Lake, sql: str, functions: Functions) -> tuple[pa.Table, Receipt]:
    limits = Limits(timeout_ms=120_000)
    result = await lake.engine.run(Statement(sql, lake.engine.clock.new_id(), limits=limits, functions=functions))
    batches = [batch async for batch in result.batches]
    return pa.Table.from_batches(batches, result.schema), result.receipt


def _location(file: object) -> Path:
    return Path(str(file)).resolve()


def _pages(folder: Path) -> list[Path]:
    return list(folder.glob("_firnline/results/*/*"))


async def test_every_query_gives_the_rows_of_one_process(tmp_path: Path) -> None:
    try:
        files, queries = tpch_tables("0.1"), tpch_queries()
    except (FileNotFoundError, ImportError) as error:
        pytest.skip(f"TPC-H cannot be generated: {error}")
    async with open_lake(tmp_path, functions=FunctionAccess(place="processes:2")) as lake:
        for name in TABLES:
            await lake.table(f"CREATE EXTERNAL TABLE {name} STORED AS parquet LOCATION '{_location(files[name])}'")
        for number, sql in queries.items():
            wanted, _ = await _ask(lake, sql, "inline")
            got, receipt = await _ask(lake, sql, "fan-out")
            assert_same(got, wanted)
            assert receipt.tasks >= 2, number
    assert not _pages(tmp_path)
