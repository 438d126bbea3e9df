"""ROLLUP, CUBE and GROUPING SETS over keys that are one value: the answers of DuckDB, in one process and as tasks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from service.executor import InlineExecutor
from service.grouping_sets import guarded
from service.settings import FunctionAccess
from service.statement import Functions, Limits, Statement
from storage.errors import SqlError
from tests.support.lakes import Lake, open_lake

pytestmark = pytest.mark.anyio
N_ROWS = 20_000
ROWS = pa.table(
    {
        "g": [("x", "y", "z")[n % 3] for n in range(N_ROWS)],
        "k": [n % 40 for n in range(N_ROWS)],
        "s": [f"s{n % 10_000}" for n in range(N_ROWS)],
        "v": list(range(N_ROWS)),
        "Odd One": [("p", "q")[n % 2] for n in range(N_ROWS)],
    }
)
X = "FROM t WHERE g = 'x'"
STATEMENTS = (
    f"SELECT g, k, sum(v) {X} GROUP BY ROLLUP (g, k) ORDER BY g, k",
    f"SELECT g, k, sum(v) {X} GROUP BY ROLLUP (g, k) ORDER BY 1, 2",
    f"SELECT g, k, sum(v) {X} GROUP BY CUBE (g, k) ORDER BY g NULLS FIRST, k DESC NULLS LAST LIMIT 7",
    f"SELECT g, k, sum(v) {X} GROUP BY GROUPING SETS ((g, k), (g), (k), ()) ORDER BY g, k LIMIT 50 OFFSET 30",
    f"SELECT g, k % 10 AS m, count(*) {X} GROUP BY CUBE (g, k % 10) ORDER BY g, m",
    f"SELECT g, k % 10, count(*) {X} GROUP BY CUBE (g, k % 10) ORDER BY g, k % 10",
    f"SELECT upper(g), k, count(*) {X} GROUP BY ROLLUP (upper(g), k) ORDER BY upper(g), k",
    f"SELECT upper(g) AS g, k, count(*) {X} GROUP BY CUBE (g, k) ORDER BY g, k",
    f"SELECT upper(g) AS h, k, count(*) {X} GROUP BY CUBE (h, k) ORDER BY h, k",
    f"SELECT g, upper(g) AS h, count(*) {X} GROUP BY ROLLUP (g, h) ORDER BY g, h",
    f"SELECT g AS h, k, count(*) {X} GROUP BY CUBE (g, k) ORDER BY g, k",
    f"SELECT g h, k, count(*) {X} GROUP BY CUBE (g, k) ORDER BY h, k",
    f"SELECT t.g, t.k, count(*) {X} GROUP BY CUBE (t.g, t.k) ORDER BY t.g, t.k",
    f"SELECT g, t.k, count(*) {X} GROUP BY CUBE (t.g, k) ORDER BY t.g, k",
    f"SELECT G, K, count(*) {X} GROUP BY cube (g, k) ORDER BY G, K",
    f"SELECT g, k, grouping(g) AS b, count(*) {X} GROUP BY CUBE (g, k) ORDER BY b DESC, g, k",
    f"SELECT g, k, count(*) {X} GROUP BY CUBE (g, k) ORDER BY grouping(g) DESC, grouping(k), g, k",
    f"SELECT g AS h, k, count(*) {X} GROUP BY CUBE (g, k) ORDER BY grouping(g) DESC, grouping(k), g, k",
    f"SELECT t.g, k, count(*) {X} GROUP BY CUBE (g, k) ORDER BY grouping(g) + grouping(k), t.g, k",
    f"SELECT g, k, sum(k) {X} GROUP BY CUBE (g, k) ORDER BY sum(k) DESC, g, k",
    f"SELECT g, k {X} GROUP BY CUBE (g, k) HAVING grouping(k) = 0 AND sum(k) > 10 ORDER BY g, k",
    f"SELECT g, k, rank() OVER (ORDER BY grouping(g), k) AS r {X} GROUP BY CUBE (g, k) ORDER BY r, g",
    f"SELECT g, k, sum(v) AS n {X} GROUP BY CUBE (g, k) QUALIFY rank() OVER (PARTITION BY g ORDER BY n) = 2 ORDER BY g",
    f"SELECT g, k {X} GROUP BY CUBE (g, k) ORDER BY coalesce(g, 'a'), CASE WHEN k IS NULL THEN 1 ELSE 0 END, k",
    "SELECT a.g, b.g, count(*) FROM t a JOIN (SELECT DISTINCT g FROM t) b ON a.g = b.g"
    " WHERE a.g = 'x' GROUP BY CUBE (a.g, b.g) ORDER BY a.g, b.g",
    f"SELECT g = 'x' AS h, k, count(*) {X} GROUP BY CUBE (g = 'x', k) ORDER BY h, k",
    f"SELECT g, k, count(*) {X} GROUP BY CUBE (g, k) ORDER BY GROUPING(g), g, k LIMIT 3",
    f"SELECT t.g, (SELECT count(*) FROM t WHERE g = 'y') AS n {X} GROUP BY GROUPING SETS ((g), ()) ORDER BY t.g",
    "SELECT g, k FROM t WHERE g IS NOT DISTINCT FROM 'x' GROUP BY CUBE (g, k) ORDER BY g, k",
    f"SELECT g IS DISTINCT FROM 'x' AS h, k {X} GROUP BY CUBE (g IS DISTINCT FROM 'x', k) ORDER BY h, k",
    f'SELECT g, k % 3 AS "from", max(s) {X} GROUP BY CUBE (g, "from") ORDER BY g, "from"',
    f"SELECT g, concat(g, '-', k), max(s) {X} GROUP BY GROUPING SETS ((g, k), concat(g, '-', k), ()) ORDER BY 1, 2, 3",
    f"SELECT k, count(*) {X} GROUP BY ROLLUP (k) ORDER BY k",
    f"SELECT s, array_agg(DISTINCT g ORDER BY g) {X} AND v < 100 GROUP BY ROLLUP (g, s) ORDER BY g, s",
    f"SELECT g, k, lag(k) OVER w {X} GROUP BY CUBE (g, k) WINDOW w AS (PARTITION BY g ORDER BY k) ORDER BY g, k",
    f"SELECT g -- GROUP BY\n, k /* c */ {X} GROUP BY /* , */ CUBE (g, -- x\n k) ORDER BY g, k;",
    f"SELECT coalesce(g, 'all') AS g, k, sum(v) {X} GROUP BY ROLLUP (g, k) ORDER BY g, k",
    f"SELECT CASE WHEN grouping(g) = 1 THEN 'all' ELSE g END AS g, k {X} GROUP BY CUBE (g, k) ORDER BY g, k",
    f"SELECT g, k, count(*) {X} GROUP BY CUBE (g, k) HAVING g IS NULL OR k < 3 ORDER BY g, k",
    f"SELECT g, k, sum(k), count(*) FILTER (WHERE g = 'x') {X} GROUP BY CUBE (g, k) ORDER BY g, k",
    f"SELECT k, g, CASE WHEN g IS NULL THEN 'all' ELSE g END AS l {X} GROUP BY CUBE (g, k) ORDER BY g, k",
    f"SELECT DISTINCT g, k {X} GROUP BY CUBE (g, k) ORDER BY g, k",
    f"SELECT g, k, rank() OVER (PARTITION BY g ORDER BY k) {X} GROUP BY CUBE (g, k) ORDER BY g, k",
    f"SELECT g, k, count(*) {X} GROUP BY g, ROLLUP (k) ORDER BY g, k",
    'SELECT "Odd One", k, count(*) FROM t WHERE "Odd One" = \'p\' GROUP BY CUBE ("Odd One", k) ORDER BY 1, 2',
    "SELECT \"Odd One\" || '!', k FROM t WHERE \"Odd One\" = 'p' GROUP BY CUBE (\"Odd One\" || '!', k) ORDER BY 1, 2",
    "SELECT c, s, count(*) FROM (SELECT 'x' AS c, s FROM t) GROUP BY CUBE (c, s) ORDER BY c, s",
    "SELECT c, s, count(*) AS n FROM (SELECT 'x' AS c, s FROM t) GROUP BY CUBE (c, s) HAVING count(*) > 2 ORDER BY c",
    "SELECT 'x' AS c, s, count(*) FROM t GROUP BY CUBE (c, s) ORDER BY c, s",
    f"WITH a AS (SELECT g, k, sum(v) AS n {X} GROUP BY ROLLUP (g, k)) SELECT g, k, n FROM a ORDER BY g, k",
    f"SELECT g, m, sum(n) FROM (SELECT g, k % 2 AS m, sum(v) AS n {X} GROUP BY CUBE (g, k % 2))"
    " WHERE g = 'x' GROUP BY CUBE (g, m) ORDER BY g, m, sum(n)",
    f"SELECT g, k FROM (SELECT g, k {X} GROUP BY CUBE (g, k) ORDER BY g, k LIMIT 45) ORDER BY k, g",
    f"SELECT g, k {X} GROUP BY CUBE (g, k) UNION ALL SELECT g, k {X} AND k = 1 ORDER BY g, k",
    f"SELECT g, k, (SELECT max(g) FROM t) AS most {X} GROUP BY CUBE (g, k) ORDER BY g, k",
    "SELECT a.g, b.k, count(*) FROM t a JOIN (SELECT DISTINCT g, k FROM t) b ON a.g = b.g"
    " WHERE a.g = 'x' GROUP BY CUBE (a.g, b.k) ORDER BY a.g, b.k",
    f"SELECT g, k {X} AND k IN (SELECT k FROM t GROUP BY k) GROUP BY CUBE (g, k) ORDER BY g, k",
)


@pytest.fixture
async def lake(tmp_path: Path) -> AsyncIterator[Lake]:
    async with open_lake(
        tmp_path, target_partitions=2, functions=FunctionAccess(place="processes:2", broadcast_bytes=0)
    ) as opened:
        for number in range(2):
            opened.write(f"files/{number}.parquet", ROWS.slice(number * N_ROWS // 2, N_ROWS // 2))
        await opened.table(f"CREATE EXTERNAL TABLE t STORED AS parquet LOCATION '{tmp_path}/files'")
        yield opened


async def ask(
    lake: Lake, sql: str, functions: Functions = "inline", params: Sequence[Any] | Mapping[str, Any] | None = None
) -> pa.Table:
    limits = Limits(timeout_ms=60_000)
    statement = Statement(sql, "s1", params, limits=limits, functions=functions, max_tasks=3)
    result = await InlineExecutor(lake.engine, lake.engine.clock).run(statement)
    table = pa.Table.from_batches([batch async for batch in result.batches], result.schema)
    lake.receipt = result.receipt
    return table


def rows_of(table: pa.Table) -> list[tuple[Any, ...]]:
    return list(zip(*[column.to_pylist() for column in table.columns], strict=True))


def theirs(sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect() as other:
        other.register("t", ROWS)
        return other.execute(sql).fetchall()


async def test_keys_that_are_one_value_are_null_in_other_groups(lake: Lake) -> None:
    wrong = []
    for sql in STATEMENTS:
        wanted = theirs(sql)
        if rows_of(await ask(lake, sql)) != wanted:
            wrong.append(sql)
        if rows_of(await asyncio.wait_for(ask(lake, sql, "fan-out"), 60)) != wanted:
            wrong.append(f"as tasks: {sql}")
        if lake.receipt.tasks < 2:
            wrong.append(f"not as tasks: {sql}")
    assert not wrong


async def test_what_the_engine_names_columns_stays(lake: Lake) -> None:
    plain = await ask(lake, "SELECT g, k % 10, sum(k), upper(t.g), 1 FROM t GROUP BY g, k % 10, upper(t.g)")
    for functions in ("inline", "fan-out"):
        sets = await ask(
            lake, "SELECT g, k % 10, sum(k), upper(t.g), 1 FROM t GROUP BY CUBE (g, k % 10, upper(t.g))", functions
        )
        assert sets.schema.names == plain.schema.names


async def test_parameters_and_times_stay_what_they_are(lake: Lake) -> None:
    sql = "SELECT g, k, count(*) FROM t WHERE g = :g GROUP BY CUBE (g, k) ORDER BY g, k"
    wanted = theirs(sql.replace(":g", "'x'"))
    for functions in ("inline", "fan-out"):
        assert rows_of(await ask(lake, sql, functions, {"g": "x"})) == wanted
        assert rows_of(await ask(lake, sql.replace(":g", "$1"), functions, ["x"])) == wanted
        bucket = "time_bucket('1 hour', to_timestamp(v))"
        timed = f"SELECT g, {bucket} AS h, count(*) {X} AND now() > to_timestamp(v) GROUP BY CUBE (g, {bucket})"
        theirs_ = theirs(f"SELECT g, v // 3600 AS h, count(*) {X} GROUP BY CUBE (g, v // 3600) ORDER BY g, h")
        found = await ask(lake, f"{timed} ORDER BY g, h", functions)
        assert [(g, h and int(h.timestamp()) // 3600, n) for g, h, n in rows_of(found)] == [
            (g, h, n) for g, h, n in theirs_
        ]


async def test_the_partition_that_is_left_is_null_in_other_groups(lake: Lake) -> None:
    for format_ in ("delta", "iceberg"):
        await ask(lake, f"CREATE TABLE p_{format_} (g VARCHAR, k BIGINT, v BIGINT) USING {format_} PARTITIONED BY (g)")
        await ask(lake, f"INSERT INTO p_{format_} SELECT g, k, v FROM t")
        await ask(lake, f"OPTIMIZE p_{format_}")
        sql = "SELECT g, k, sum(v) FROM t WHERE g = 'x' GROUP BY CUBE (g, k) ORDER BY g, k LIMIT 70"
        for functions in ("inline", "fan-out"):
            assert rows_of(await ask(lake, sql.replace(" t ", f" p_{format_} "), functions)) == theirs(sql)
            assert lake.receipt.files_pruned > 0


async def test_what_only_plans_as_it_was_written_runs_so(lake: Lake) -> None:
    for sql in (
        f"SELECT g, k, (SELECT count(*) FROM t u WHERE u.k = t.k) AS n {X} GROUP BY CUBE (g, k)",
        "SELECT g AS h, coalesce(g, 'n') AS g FROM t GROUP BY CUBE (g, coalesce(g, 'n')) ORDER BY coalesce(g, 'n'), h",
        "SELECT *, count(*) FROM (SELECT g, k FROM t WHERE g = 'x') GROUP BY CUBE (g, k)",
    ):
        for functions in ("inline", "fan-out"):
            assert sorted(rows_of(await ask(lake, sql, functions)), key=repr) == sorted(theirs(sql), key=repr)
        assert "physical_plan" in (await ask(lake, f"EXPLAIN {sql}"))["plan_type"].to_pylist()


async def test_tables_get_the_rows_and_the_names(lake: Lake) -> None:
    asked = "SELECT g, k, count(*) AS n FROM t WHERE g = 'x' GROUP BY CUBE (g, k) ORDER BY g, k LIMIT 45"
    await ask(lake, f"CREATE TABLE made AS {asked}")
    made = await ask(lake, "SELECT * FROM made ORDER BY g, k")
    assert made.schema.names == ["g", "k", "n"]
    assert rows_of(made) == theirs(asked)


async def test_an_explanation_has_the_whole_order(lake: Lake) -> None:
    sql = f"EXPLAIN SELECT g, k, count(*) {X} GROUP BY CUBE (g, k) ORDER BY g, k"
    found = await ask(lake, sql)
    assert found.schema.names == ["plan_type", "plan"]
    assert "SortExec: expr=[g@0 ASC NULLS LAST, k@1 ASC NULLS LAST]" in str(found["plan"].to_pylist())


async def test_errors_name_what_was_written(lake: Lake) -> None:
    for functions in ("inline", "fan-out"):
        with pytest.raises(SqlError, match="nothere") as raised:
            await ask(lake, f"SELECT g,\n nothere {X} GROUP BY CUBE (g, k)", functions)
        assert "random" not in str(raised.value)
        with pytest.raises(SqlError, match="GROUP BY") as raised:
            await ask(lake, f"SELECT g, s {X} GROUP BY ROLLUP (g, k)", functions)
        assert "random" not in str(raised.value)
        with pytest.raises(SqlError):
            await ask(lake, f"SELECT g, k, count(*) {X} GROUP BY CUBE (1, 2)", functions)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT g FROM t GROUP BY g",
        "SELECT rollup FROM t GROUP BY rollup",
        "SELECT grouping(g), rollup(1) FROM t GROUP BY g ORDER BY cube(2)",
        "SELECT cube FROM t GROUP BY (SELECT g FROM t)",
        "GROUP BY ROLLUP (g)",
        "SELECT (g GROUP BY ROLLUP (g",
    ],
)
def test_other_texts_are_no_grouping_sets(sql: str) -> None:
    found = guarded(sql)
    assert found is None or "ROLLUP" in sql


def test_a_text_is_changed_where_the_select_names_its_keys_and_nowhere_else() -> None:
    def g(name: str) -> str:
        return f"CASE WHEN random() >= 0 THEN {name} END"

    for sql, wanted in (
        (
            "SELECT g FROM t WHERE g=1 GROUP BY ROLLUP(g)",
            f'SELECT {g("g")} AS "g" FROM t WHERE g=1 GROUP BY ROLLUP({g("g")})',
        ),
        (
            "SELECT g[1], g(g) g FROM t GROUP BY CUBE(g)",
            f"SELECT ({g('g')})[1], g({g('g')}) g FROM t GROUP BY CUBE({g('g')})",
        ),
        (
            "SELECT (SELECT g), a.g x FROM a GROUP BY CUBE(g)",
            f"SELECT (SELECT g), {g('a.g')} x FROM a GROUP BY CUBE({g('g')})",
        ),
        (
            "SELECT sum(v) FILTER (WHERE g = 1) FROM t GROUP BY CUBE(g)",
            f"SELECT sum(v) FILTER (WHERE g = 1) FROM t GROUP BY CUBE({g('g')})",
        ),
    ):
        assert guarded(sql) == wanted


@pytest.mark.parametrize(
    "text",
    [
        " UNION ALL ".join(["SELECT g FROM t GROUP BY ROLLUP (g)"] * 5_000),
        "SELECT g " + "GROUP BY ROLLUP (g) " * 10_000,
        "SELECT g FROM t GROUP BY ROLLUP (" + "(" * 5_000 + "g" + ")" * 5_000 + ")",
        "SELECT " + "(" * 20_000 + " GROUP BY ROLLUP (g)",
        "SELECT "
        + "g, " * 20_000
        + "g FROM t GROUP BY CUBE ("
        + "g, " * 20_000
        + "g) ORDER BY "
        + "g, " * 20_000
        + "g",
    ],
)
def test_long_texts_are_read_once(text: str) -> None:
    started = time.process_time()
    guarded(text)
    assert time.process_time() - started < 5
