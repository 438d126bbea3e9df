"""``time_bucket`` and distances of vectors in statements: types, names and places stay those of what was written."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from functions.gap_fill import width_from
from functions.sql_functions import bucket_starts
from service.own_functions import with_types
from storage.errors import SqlError, TooLargeError
from tests.support.lakes import Lake, open_lake

pytestmark = pytest.mark.anyio
TIMES = [
    pa.timestamp("s"), pa.timestamp("ms"), pa.timestamp("us"), pa.timestamp("ns"), pa.timestamp("us", "UTC"),
    pa.timestamp("us", "Europe/Berlin"), pa.timestamp("ms", "-03:00"), pa.date32(),
]  # fmt: skip


@pytest.fixture
async def lake(tmp_path: Path) -> AsyncIterator[Lake]:
    async with open_lake(tmp_path / "lake") as opened:
        yield opened


@pytest.mark.parametrize("kind", TIMES, ids=str)
@pytest.mark.parametrize("width", ["15 minutes", "36 hours", "1 month", "2 years", "$1"])
async def test_a_bucket_has_the_type_of_the_time(lake: Lake, kind: pa.DataType, width: str) -> None:
    rng = np.random.default_rng(7)
    numbers = rng.integers(-(10**15), 2 * 10**15, 50) // 86_400_000_000 * 86_400_000_000
    times = pa.array([None, *numbers.tolist()], pa.int64()).cast(pa.timestamp("us"))
    times = times.cast(pa.date32()) if kind == pa.date32() else times.cast(pa.timestamp("us", "UTC")).cast(kind)
    path = lake.write("t.parquet", pa.table({"n": range(51), "t": times}))
    literal = "$1" if width == "$1" else f"INTERVAL '{width}'"
    params = ["5 hours"] if width == "$1" else None
    found = await lake.table(f"SELECT time_bucket({literal}, t) AS b FROM parquet('{path}') ORDER BY n", params)
    starts = bucket_starts(numbers, *width_from("5 hours" if width == "$1" else width))
    expected = pa.array([None, *starts.tolist()], pa.int64()).cast(pa.timestamp("us", "UTC"))
    assert pa.types.is_date(found.schema.field(0).type) == pa.types.is_date(kind)
    if pa.types.is_date(kind):
        days = [None if each is None else each.date() for each in expected.to_pylist()]
        assert found.column(0).to_pylist() == days
    else:
        assert found.column(0).cast(pa.timestamp("us", "UTC")).combine_chunks().equals(expected)


async def test_times_far_from_now_have_buckets(lake: Lake) -> None:
    path = lake.write("far.parquet", pa.table({"t": pa.array([253_402_300_799_000_000], pa.timestamp("us"))}))
    sql = f"SELECT time_bucket('1 day', t), time_bucket('1 month', t) FROM parquet('{path}')"
    assert await lake.rows(sql) == [(dt.datetime(9999, 12, 31), dt.datetime(9999, 12, 1))]


async def test_a_column_without_a_name_is_called_as_it_was_written(lake: Lake) -> None:
    await lake.rows("CREATE TABLE t (a TIMESTAMP)")
    for call in ("time_bucket('1 hour', a)", "time_bucket('1 month', a)", "time_bucket('1 hour', a, NULL)"):
        [name] = (await lake.table(f"SELECT {call} FROM t")).column_names
        assert name.startswith("time_bucket(Utf8(") and name.endswith(")")
        assert "CASE" not in name


async def test_widths_of_a_column_are_taken_row_by_row(lake: Lake) -> None:
    rows = "(VALUES (INTERVAL '1 hour', 1), (INTERVAL '1 day', 2), (INTERVAL '1 month', 3), (NULL, 4)) AS v (w, n)"
    found = await lake.rows(f"SELECT time_bucket(w, TIMESTAMP '2024-03-05 10:20:30') AS b FROM {rows} ORDER BY n")
    starts = [dt.datetime(2024, 3, 5, 10), dt.datetime(2024, 3, 5), dt.datetime(2024, 3, 1), None]
    assert [row[0] for row in found] == starts


async def test_what_is_no_time_or_no_vector_is_refused(lake: Lake) -> None:
    for call in (
        "time_bucket('1 hour', 1.5)", "time_bucket('1 hour', 7)", "time_bucket('1 month', true)",
        "time_bucket('1 hour')", "l2_distance(1, 2)", "l2_distance([1.0])", "time_bucket('1 hour', now(), 1.5)",
    ):  # fmt: skip
        with pytest.raises(SqlError):
            await lake.rows(f"SELECT {call}")


def test_names_that_are_no_calls_are_left_alone() -> None:
    for text in (
        "WITH time_bucket(a, b) AS (SELECT 1, 2) SELECT * FROM time_bucket",
        "SELECT 'time_bucket(a, b)', \"time_bucket\"(a, b) FROM t AS time_bucket(a, b)",
        "SELECT time_bucket(a), time_bucket(a, b, c, d), time_bucket(, ) -- time_bucket(a, b)",
    ):
        assert with_types(text) == text
    with pytest.raises(TooLargeError, match="nested too deeply"):
        with_types("SELECT " + "time_bucket('1 day', " * 40 + "t" + ")" * 40)


def test_a_process_that_calls_no_function_of_ours_loads_no_kernel(tmp_path: Path) -> None:
    code = """
import asyncio, pathlib, sys
from tests.support.lakes import open_lake

async def main():
    async with open_lake(pathlib.Path(sys.argv[1])) as lake:
        await lake.rows("SELECT time_bucket('1 hour', now()), cosine_distance([1.0], [2.0]), 1 AS l2_distance")
        assert "numba" not in sys.modules
        await lake.rows("SELECT l2_distance([1.0], [2.0])")
        assert "numba" in sys.modules

asyncio.run(main())
"""
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "lake")], cwd=root, check=True, timeout=120)
