"""Plans run by settings of their own, whatever is planned meanwhile."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from functions.execute import stream
from functions.stages import DISTRIBUTED_OPTIONS
from tests.support.lakes import open_lake

pytestmark = pytest.mark.anyio

DYNAMIC = "datafusion.optimizer.enable_join_dynamic_filter_pushdown"


async def test_a_plan_that_runs_sees_nothing_of_how_another_is_made_to_be_cut(tmp_path: Path) -> None:
    """Half of a join's partitions would wait for the others to say which keys they have."""
    assert DISTRIBUTED_OPTIONS["datafusion.optimizer.enable_dynamic_filter_pushdown"] == "false"
    async with open_lake(tmp_path, memory_bytes=1 << 20) as lake:
        session = lake.engine._session
        asked = f"SELECT value FROM information_schema.df_settings WHERE name = '{DYNAMIC}'"
        session._set_cut(3, None)
        plan = session.context.sql(asked).execution_plan()
        for context, value in ((session.context, "false"), (session.running, "true")):
            batches = [batch async for batch in stream(context, plan)]
            assert pa.Table.from_batches(batches).to_pylist() == [{"value": value}]
        session._set_cut(0, None)


async def test_a_condition_of_an_aggregate_that_stands_twice_is_no_error_of_the_engine(tmp_path: Path) -> None:
    async with open_lake(tmp_path) as lake:
        lake.write("t.parquet", {"b": [True, False, None], "x": [1, 3, 5], "y": [2, 4, 6]})
        table = f"parquet('{tmp_path}/t.parquet')"
        chosen = "CASE WHEN b IS NOT TRUE THEN x ELSE y END"
        assert await lake.rows(f"SELECT max({chosen}) FILTER (WHERE b IS NOT TRUE) FROM {table}") == [(5,)]
        summed = f"SELECT {chosen} AS c, sum({chosen}) FROM {table} GROUP BY {chosen} ORDER BY c"
        assert await lake.rows(summed) == [(2, 2), (3, 3), (5, 5)]


async def test_a_field_of_a_struct_beside_a_column_that_is_computed_of_its_namesake(tmp_path: Path) -> None:
    async with open_lake(tmp_path) as lake:
        maps = pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int64()))
        rows = {"a": [1, 2], "b": [10, 20], "s": [{"x": "p"}, {"x": "q"}], "m": maps, "f": [1.5, float("nan")]}
        lake.write("t/1.parquet", rows)
        lake.write("t/2.parquet", {**rows, "b": pa.array([30, 40], pa.int32())})
        table = f"parquet('{tmp_path}/t/*.parquet')"
        wanted = [(-1, "p"), (-1, "p"), (-2, "q"), (-2, "q")]
        for limited in ("WHERE a > 0", "LIMIT 10"):
            negative = f"SELECT a, s['x'] FROM (SELECT -a AS a, s FROM {table} {limited}) ORDER BY a DESC"
            assert await lake.rows(negative) == wanted
        swapped = f"SELECT b, a, s['x'] FROM (SELECT a AS b, b AS a, s FROM {table}) WHERE a > 15 ORDER BY a"
        assert await lake.rows(swapped) == [(2, 20, "q"), (1, 30, "p"), (2, 40, "q")]
        grouped = f"SELECT a, max(s['x']) FROM {table} WHERE f > 1 GROUP BY a ORDER BY a"
        assert await lake.rows(grouped) == [(1, "p"), (2, "q")]
