"""Files that are merged on read run as tasks of workers, and give the rows that they give in one process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from service.settings import FunctionAccess
from tests.service.coordinate.test_fan_out import ask
from tests.support.lakes import Lake, open_lake
from tests.support.merged_tables import some_rows, write_delta, write_iceberg, write_parquet
from tests.support.stage_run import assert_same

pytestmark = pytest.mark.anyio

STATEMENTS = [
    "SELECT * FROM t",
    "SELECT count(*) FROM t",
    "SELECT count(*), min(k), max(g), sum(d) FROM t",
    "SELECT g, count(*), sum(d), max(t) FROM t WHERE k > 2 GROUP BY g",
    "SELECT k, x FROM t WHERE x > 1 OR x IS NULL",
    "SELECT 1 AS one FROM t WHERE g = 'g1'",
    "SELECT a.k, b.d FROM t a JOIN t b ON a.k = b.k AND a.g = b.g WHERE a.d > 90 AND b.d > 90",
    "SELECT count(*) FROM t a LEFT JOIN u b ON a.k = b.k",
    "SELECT k FROM t WHERE g NOT IN (SELECT g FROM u WHERE g IS NOT NULL AND k < 2)",
    "SELECT k, d FROM t WHERE d > (SELECT avg(d) FROM u) ORDER BY d DESC, k LIMIT 7",
    "SELECT count(*) FROM (SELECT * FROM t LIMIT 5)",
    "SELECT g, d FROM t UNION ALL SELECT g, d FROM u",
    "SELECT * FROM (SELECT g, row_number() OVER (PARTITION BY g ORDER BY d, k, t) AS n FROM t) WHERE n <= 2",
]


def _deleted(chance: np.random.Generator, rows: pa.Table) -> list[int]:
    share = chance.choice([0.0, 0.1, 0.6, 1.0])
    return [int(each) for each in np.flatnonzero(chance.random(rows.num_rows) < share)]


async def _table(lake: Lake, name: str, form: str, chance: np.random.Generator, n_files: int) -> None:
    files = [some_rows(chance, int(chance.integers(1, 120))) for _ in range(n_files)]
    given = [(each, _deleted(chance, each)) for each in files]
    folder, format_ = lake.folder / name, form.partition("-")[0]
    if form == "delta":
        location = write_delta(folder, given)
    elif form == "delta-partitioned":
        location = write_delta(folder, given, partition="k")
    elif form == "parquet":
        location = write_parquet(folder, given)
    else:
        keys = some_rows(chance, 3)
        location = write_iceberg(folder, given, keys, version=int(form[-1]))
    await lake.table(f"CREATE EXTERNAL TABLE {name} STORED AS {format_} LOCATION '{location}'")


async def _tasks_of(lake: Lake, sql: str, n_tasks: int = 2) -> str:
    plan, _ = await ask(lake, f"EXPLAIN {sql}", max_tasks=n_tasks)
    return str(dict(zip(plan.column(0).to_pylist(), plan.column(1).to_pylist(), strict=True))["tasks"])


@pytest.fixture
async def lake(tmp_path: Path) -> AsyncIterator[Lake]:
    async with open_lake(tmp_path, functions=FunctionAccess(place="inline")) as opened:
        yield opened


@pytest.mark.parametrize("form", ["delta", "delta-partitioned", "iceberg-2", "iceberg-3", "parquet"])
@pytest.mark.parametrize("seed", range(3))
async def test_random_tables_give_the_rows_of_one_process(lake: Lake, form: str, seed: int) -> None:
    chance = np.random.default_rng(seed)
    await _table(lake, "t", form, chance, n_files=int(chance.integers(1, 7)))
    await _table(lake, "u", form, chance, n_files=2)
    for number, sql in enumerate(STATEMENTS):
        wanted, alone = await ask(lake, sql, functions="inline")
        assert alone.slow_files
        n_tasks = 1 + (number + seed) % 3
        got, receipt = await ask(lake, sql, max_tasks=n_tasks)
        assert_same(got, wanted, ordered="ORDER BY d DESC" in sql)
        assert receipt.bytes_scanned > 0, sql
        shown = await _tasks_of(lake, sql, n_tasks)
        assert "merges on read" in shown, shown
    assert not list(lake.folder.glob("_firnline/results/*/*"))
