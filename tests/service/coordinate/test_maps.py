"""Maps and half-precision numbers in statements that run as tasks: what the plan was made for, and what pages hold."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.executor import InlineExecutor
from service.settings import FunctionAccess
from service.statement import Functions, Statement
from tests.support.delta_build import add, column, inline_vector, metadata, protocol
from tests.support.lakes import Lake, open_lake

pytestmark = pytest.mark.anyio
N_ROWS = 300
STATEMENTS = (
    "SELECT x.id, x.m, y.m AS n FROM {0} x JOIN outside y ON x.id = y.id AND cardinality(x.m) > y.k",
    "SELECT x.id, x.s FROM {0} x JOIN outside y ON x.id = y.id AND cardinality(x.s['by']) > y.k",
    "SELECT x.id, y.s FROM {0} x LEFT JOIN outside y ON x.k = y.k AND map_extract(y.m, 'a')[1] > x.id",
    "SELECT m FROM {0} UNION ALL SELECT x.m FROM {0} x JOIN outside y ON x.id = y.id",
    "SELECT x.id, max(cardinality(x.m)) OVER (PARTITION BY x.k) AS c, x.m FROM {0} x",
    "SELECT x.k, first_value(x.m ORDER BY x.id DESC) AS m FROM {0} x GROUP BY x.k",
)
_MAP = pa.map_(pa.string(), pa.int64())


@pytest.fixture
async def lake(tmp_path: Path) -> AsyncIterator[Lake]:
    numbers = range(N_ROWS)
    maps = [None if n % 7 == 0 else [("a", n % 5), ("b", None)][: n % 3] for n in numbers]
    nested = [{"by": each, "l": [each]} for each in maps]
    columns = {
        "id": pa.array(numbers),
        "k": pa.array([n % 4 for n in numbers]),
        "m": pa.array(maps, _MAP),
        "s": pa.array(nested, pa.struct([("by", _MAP), ("l", pa.list_(_MAP))])),
    }
    async with open_lake(tmp_path, functions=FunctionAccess(place="processes:2", broadcast_bytes=0)) as opened:
        for number in range(2):
            opened.write(f"files/{number}.parquet", pa.table(columns).slice(number * N_ROWS // 2, N_ROWS // 2))
        files = f"{tmp_path}/files"
        await opened.table(f"CREATE EXTERNAL TABLE outside STORED AS parquet LOCATION '{files}'")
        for format_ in ("delta", "iceberg"):
            await opened.table(
                f"CREATE TABLE in_{format_} USING {format_} AS SELECT * FROM parquet('{files}/0.parquet')"
            )
            await opened.table(f"INSERT INTO in_{format_} SELECT * FROM parquet('{files}/1.parquet')")
        yield opened


def write_with_deletions(folder: Path) -> str:
    """Write a Delta table of two files, one of which has deleted rows, and return its location."""
    (folder / "_delta_log").mkdir(parents=True)
    numbers = range(100)
    maps = pa.array([None if n % 7 == 0 else [("a", n % 5)] for n in numbers], _MAP)
    nested = pa.array([{"by": each} for each in maps.to_pylist()], pa.struct([("by", _MAP)]))
    lists = pa.array([[each] for each in maps.to_pylist()], pa.list_(_MAP))
    rows = pa.table(
        {"id": pa.array(numbers), "k": pa.array([n % 4 for n in numbers]), "m": maps, "s": nested, "l": lists}
    )
    map_ = {"type": "map", "keyType": "string", "valueType": "long", "valueContainsNull": True}
    struct = {"type": "struct", "fields": [column("by", map_)]}
    array = {"type": "array", "elementType": map_, "containsNull": True}
    columns = [column("id"), column("k"), column("m", map_), column("s", struct), column("l", array)]
    actions = [protocol(3, 7, ["deletionVectors"]), metadata(*columns)]
    for number in range(2):
        pq.write_table(rows.slice(number * 50, 50), folder / f"{number}.parquet")
        action = add(f"{number}.parquet", vector=inline_vector([1, 2, 30]) if number else None)
        action["add"]["size"] = (folder / f"{number}.parquet").stat().st_size
        actions.append(action)
    (folder / "_delta_log" / f"{0:020}.json").write_text("\n".join(map(json.dumps, actions)) + "\n")
    return str(folder)


async def ask(lake: Lake, sql: str, functions: Functions) -> list[Any]:
    result = await InlineExecutor(lake.engine, lake.engine.clock).run(Statement(sql, "s1", functions=functions))
    rows = pa.Table.from_batches([batch async for batch in result.batches], result.schema).to_pylist()
    lake.receipt = result.receipt
    return sorted(rows, key=repr)


@pytest.mark.parametrize("table", ["outside", "in_delta", "in_iceberg"])
async def test_tasks_give_the_maps_of_one_process(lake: Lake, table: str) -> None:
    for sql in STATEMENTS:
        there = await asyncio.wait_for(ask(lake, sql.format(table), "fan-out"), 60)
        assert lake.receipt.tasks > 1
        assert there == await ask(lake, sql.format(table), "inline"), sql
        assert there


async def test_tasks_give_the_maps_of_files_with_deleted_rows(lake: Lake) -> None:
    table = f"delta('{write_with_deletions(lake.folder / 'deleted')}')"
    lists = "SELECT x.id, x.l FROM {0} x JOIN outside y ON x.id = y.id AND x.l[1] IS NOT NULL"
    for sql in (*STATEMENTS, "SELECT m, s, l FROM {0}", lists):
        there = await asyncio.wait_for(ask(lake, sql.format(table), "fan-out"), 60)
        assert lake.receipt.tasks > 1
        assert there == await ask(lake, sql.format(table), "inline"), sql
        assert there


async def test_tasks_give_the_half_precision_numbers_of_one_process(lake: Lake) -> None:
    halves = pa.array([0.5, -0.0, float("nan"), None, float("inf"), 65504.0, 6e-8], pa.float64()).cast(pa.float16())
    for number in range(2):
        lake.write(f"halves/{number}.parquet", pa.table({"h": halves, "id": range(number * 7, number * 7 + 7)}))
    table = f"parquet('{lake.folder}/halves/*.parquet')"
    for sql in (f"SELECT h, count(*) AS n FROM {table} GROUP BY h", f"SELECT id, h FROM {table} WHERE h > 0.25"):
        there = await asyncio.wait_for(ask(lake, sql, "fan-out"), 60)
        assert lake.receipt.tasks > 1
        assert repr(there) == repr(await ask(lake, sql, "inline"))  # NaN is not equal to itself
    found = await ask(lake, f"SELECT h FROM {table} WHERE id < 7 AND h <= 0.5", "inline")
    assert [str(row["h"]) for row in found] == ["-0.0", "0.5", str(float(np.float16(6e-8)))]
