"""Whole statements in process: every kind, on tables of all three formats."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import deltalake
import pyarrow as pa
import pytest
from datafusion import SessionContext

from service.statement import Limits
from storage.errors import LimitError, NotFoundError, StatementTimeoutError
from tests.support.lakes import Lake, open_lake

pytestmark = pytest.mark.anyio


@pytest.fixture
async def lake(tmp_path: Path) -> AsyncIterator[Lake]:
    async with open_lake(tmp_path / "lake") as opened:
        yield opened


async def external(lake: Lake, name: str, location: str, kind: str = "parquet") -> None:
    await lake.rows(f"CREATE EXTERNAL TABLE {name} STORED AS {kind} LOCATION '{location}'")


async def test_the_catalog_listing_joins_with_tables_that_hold_rows(lake: Lake) -> None:
    await external(lake, "t", lake.write("t.parquet", {"x": [1, 2, 3]}))
    assert await lake.value("SELECT count(*) FROM information_schema.columns JOIN t ON true") == 3


async def test_a_column_may_be_called_information_schema(lake: Lake) -> None:
    await external(lake, "t", lake.write("t.parquet", {"x": [1, 2, 3]}))
    assert await lake.rows("SELECT x AS information_schema FROM t ORDER BY 1") == [(1,), (2,), (3,)]


async def test_many_statements_that_load_tables_while_they_plan_end(lake: Lake) -> None:
    for number in range(4):
        await external(lake, f"t{number}", lake.write(f"t{number}.parquet", {"x": [1]}))
    async with asyncio.timeout(30):
        answers = await asyncio.gather(
            *[lake.value("SELECT count(*) FROM information_schema.columns") for _ in range(16)]
        )
    assert answers == [4] * 16


async def test_explain_names_versions_and_pruning_before_the_plan(lake: Lake) -> None:
    for part in range(4):
        lake.write(f"t/part{part}.parquet", {"x": [part * 10, part * 10 + 9]})
    await external(lake, "t", str(lake.folder / "t"))
    rows = await lake.rows("EXPLAIN SELECT * FROM t WHERE x > 25")
    assert rows[0][0] == "tables"
    assert "files=2 of 4 (2 pruned)" in rows[0][1]
    assert {row[0] for row in rows} >= {"tables", "logical_plan", "physical_plan"}


async def test_a_long_explain_analyze_does_not_hold_up_other_statements(lake: Lake) -> None:
    long = asyncio.create_task(lake.rows("EXPLAIN ANALYZE SELECT sum(value) FROM range(100000000000)"))
    await asyncio.sleep(0.2)
    async with asyncio.timeout(10):
        assert await lake.value("SELECT 1") == 1
    assert not long.done()
    long.cancel()
    await asyncio.gather(long, return_exceptions=True)


async def test_a_scalar_subquery_prunes_nothing_away_from_its_own_scan(lake: Lake) -> None:
    """Its scan has filters of its own, of which the outer scan's pruning must not rob it."""
    for part in range(4):
        lake.write(f"t/part{part}.parquet", {"x": [part * 10, part * 10 + 1]})
    for space in ("s", "my schema", "it's", "Ü.ä"):
        await lake.rows(f'CREATE SCHEMA "{space}"')
        for table in ("t", "My Table", "a\nb", "t x"):
            name = f'"{space}"."{table}"'
            await external(lake, name, str(lake.folder / "t"))
            assert await lake.rows(
                f"SELECT x FROM {name} WHERE x < (SELECT max(x) FROM {name} WHERE x > 25) AND x < 2 ORDER BY 1"
            ) == [(0,), (1,)]
            assert await lake.value(f"SELECT (SELECT min(x) FROM {name} WHERE x > 25) FROM {name} WHERE x = 0") == 30


QUERIES = [
    "SELECT a.k, b.v FROM t a JOIN t b ON a.k + 20 = b.k WHERE a.k < 15 AND b.v IS NOT NULL ORDER BY 1, 2",
    "SELECT count(*) FROM t WHERE k < 10 UNION ALL SELECT count(*) FROM t WHERE k > 30",
    "SELECT count(*) FROM (SELECT k FROM t WHERE k < 10 UNION SELECT k FROM t WHERE k > 30)",
    "SELECT count(*) FROM t WHERE k > (SELECT avg(k) FROM t WHERE v = 'v1')",
    "SELECT k FROM t a WHERE EXISTS (SELECT 1 FROM t b WHERE b.k = a.k + 10 AND b.v = 'v3') AND k < 30 ORDER BY k",
    "SELECT k FROM t WHERE k NOT IN (SELECT k FROM t WHERE v <> 'v1') ORDER BY k",
    "SELECT k FROM t a WHERE k = (SELECT max(k) FROM t b WHERE b.v = a.v) ORDER BY k",
    "WITH t AS (SELECT 5 AS k, 'x' AS v) SELECT * FROM t",
    "WITH u AS (SELECT * FROM t WHERE k < 10) "
    "SELECT (SELECT count(*) FROM u) AS a, (SELECT count(*) FROM t) AS b, count(*) FROM u WHERE k > 3",
    "SELECT v, count(*) FROM (SELECT * FROM t WHERE k > 5) WHERE k < 25 GROUP BY v ORDER BY v NULLS LAST",
    "SELECT k AS v, v AS k FROM t WHERE v = 'v2' ORDER BY 1",
    "SELECT * FROM (SELECT k AS v, v AS k FROM t) WHERE v = 12",
    "SELECT * FROM (SELECT k + 10 AS k FROM t) WHERE k = 12",
    "SELECT * FROM (SELECT -k AS k FROM t) WHERE k = -12",
    "SELECT * FROM (SELECT k, row_number() OVER (ORDER BY k DESC) AS r FROM t) WHERE k < 5 ORDER BY k",
    "SELECT max(k) FROM t HAVING max(k) < 50",
    "SELECT v, max(k) AS k FROM t GROUP BY v HAVING max(k) > 35 ORDER BY v",
    "SELECT * FROM (SELECT k, v FROM t ORDER BY k DESC LIMIT 3) WHERE k < 100 ORDER BY k",
    "SELECT * FROM (SELECT k FROM t ORDER BY k LIMIT 3) WHERE k > 1",
    "SELECT a.k FROM t a LEFT JOIN t b ON a.k = b.k AND b.k < 5 WHERE b.k IS NULL AND a.k < 12 ORDER BY 1",
    "SELECT a.k, b.k FROM t a FULL JOIN (SELECT * FROM t WHERE k > 38) b ON a.k = b.k AND a.k > 37 "
    "WHERE b.k IS NOT NULL ORDER BY 2",
    "SELECT count(*) FROM t a, t b WHERE a.k = 1 AND b.k = 39",
    "SELECT k FROM t WHERE CASE WHEN k < 5 THEN v = 'v1' ELSE v = 'v2' END ORDER BY k",
    "SELECT count(*) FROM t WHERE v ILIKE 'V1%'",
    "SELECT count(*) FROM t WHERE v IS NULL OR k = 39",
    "SELECT count(*) FROM t WHERE part = 'b' AND k < 15",
    "SELECT part, count(*), min(k) FROM t GROUP BY part ORDER BY part",
    "SELECT count(*) FROM t WHERE part IS NULL",
    "SELECT (SELECT count(*) FROM t b WHERE b.v = a.v AND b.part = 'a') FROM t a WHERE a.part = 'd' AND a.k = 39",
    "WITH RECURSIVE r AS (SELECT 0 AS k UNION ALL SELECT r.k + 10 FROM r JOIN t ON t.k = r.k + 10) "
    "SELECT k FROM r ORDER BY k",
    "SELECT count(*) FROM t a WHERE a.k IN (SELECT b.k FROM t b WHERE b.v IN (SELECT c.v FROM t c WHERE c.k = 7))",
    "SELECT u.k FROM t u, LATERAL (SELECT max(b.k) AS m FROM t b WHERE b.v = u.v) l WHERE l.m = u.k ORDER BY 1",
    "SELECT k FROM t EXCEPT SELECT k FROM t WHERE k > 3 ORDER BY k",
    "SELECT k FROM t WHERE k < 8 INTERSECT SELECT k FROM t WHERE k > 5 ORDER BY k",
]  # fmt: skip


def rows_of_t() -> pa.Table:
    numbers = list(range(40))
    return pa.table(
        {
            "k": numbers,
            "v": [None if n % 5 == 4 else f"v{n % 5}" for n in numbers],
            "part": [None if n >= 30 else "abc"[n // 10] for n in numbers],
        }
    )


def write_hive(lake: Lake) -> str:
    table = rows_of_t()
    for part in range(4):
        name = "__HIVE_DEFAULT_PARTITION__" if part == 3 else "abc"[part]
        for half in range(2):
            rows = table.slice(part * 10 + half * 5, 5).drop_columns("part")
            lake.write(f"t/part={name}/{half}.parquet", rows, row_group_size=2)
    return str(lake.folder / "t")


def write_delta(lake: Lake) -> str:
    location = str(lake.folder / "d")
    for start in range(0, 40, 5):
        deltalake.write_deltalake(location, rows_of_t().slice(start, 5), mode="append", partition_by=["part"])
    return location


def write_iceberg(lake: Lake) -> str:
    from pyiceberg.catalog.sql import SqlCatalog

    catalog = SqlCatalog("c", uri=f"sqlite:///{lake.folder}/cat.db", warehouse=f"file://{lake.folder}/w")
    catalog.create_namespace("n")
    schema = rows_of_t().schema
    table = catalog.create_table("n.t", schema)
    with table.update_spec() as update:
        update.add_identity("part")
    for start in range(0, 40, 5):
        table.append(rows_of_t().slice(start, 5))
    catalog.close()
    return str(table.location())


@pytest.mark.parametrize("kind", ["parquet", "delta", "iceberg"])
async def test_answers_equal_those_of_the_engine_over_plain_data(lake: Lake, kind: str) -> None:
    write = {"parquet": write_hive, "delta": write_delta, "iceberg": write_iceberg}[kind]
    await external(lake, "t", await asyncio.to_thread(write, lake), kind)
    context = SessionContext()
    context.register_record_batches("t", [rows_of_t().to_batches()])
    for sql in QUERIES:
        columns = context.sql(sql).to_arrow_table().columns
        expected = list(zip(*[column.to_pylist() for column in columns], strict=True))
        found = await lake.rows(sql)
        assert sorted(found, key=repr) == sorted(expected, key=repr), sql
    assert await lake.value("SELECT count(*) FROM t WHERE k = 7") == 1
    assert lake.receipt.files_pruned == lake.receipt.files_total - 1
    assert lake.receipt.files_total == 8


async def test_tables_of_all_formats_join(lake: Lake) -> None:
    for name, write in {"parquet": write_hive, "delta": write_delta, "iceberg": write_iceberg}.items():
        await external(lake, f"of_{name}", await asyncio.to_thread(write, lake), name)
    joined = "of_parquet p JOIN of_delta d ON p.k = d.k JOIN of_iceberg i ON i.k = p.k"
    sql = f"SELECT count(*), sum(p.k) FROM {joined} WHERE d.k > 9"
    assert await lake.rows(sql) == [(30, sum(range(10, 40)))]
    assert set(lake.receipt.snapshots) == {"default.of_parquet", "default.of_delta", "default.of_iceberg"}
    folder = lake.folder
    table_functions = f"""
        WITH d AS (SELECT * FROM delta('{folder}/d') WHERE k < 5)
        SELECT count(*) FROM d JOIN parquet('{folder}/t') p ON p.k = d.k
        WHERE d.k IN (SELECT k FROM iceberg('{folder}/w/n/t') WHERE k > 2)"""
    assert await lake.value(table_functions) == 2


async def test_time_travel_reads_the_version_that_was_asked_for(lake: Lake) -> None:
    await external(lake, "t", await asyncio.to_thread(write_delta, lake), "delta")
    assert await lake.value("SELECT count(*) FROM t FOR VERSION AS OF 0") == 5
    assert await lake.value("SELECT count(*) FROM t VERSION AS OF 3") == 20
    assert await lake.rows(
        "SELECT a.n, b.n FROM (SELECT count(*) n FROM t) a, (SELECT count(*) n FROM t FOR VERSION AS OF 1) b"
    ) == [(40, 10)]
    assert await lake.value("SELECT t.k FROM t FOR VERSION AS OF 1 WHERE t.k = 9") == 9
    assert await lake.value("SELECT count(*) FROM t FOR TIMESTAMP AS OF '2999-01-01'") == 40
    for wrong in ("VERSION AS OF 99", "TIMESTAMP AS OF '1999-01-01'", "VERSION AS OF 99999999999999999999999"):
        with pytest.raises(NotFoundError):
            await lake.rows(f"SELECT * FROM t FOR {wrong}")


async def test_parameters_filter_and_prune(lake: Lake) -> None:
    await external(lake, "t", await asyncio.to_thread(write_hive, lake))
    assert await lake.value("SELECT count(*) FROM t WHERE k = $1", [7]) == 1
    assert lake.receipt.files_scanned == 1
    assert await lake.value("SELECT count(*) FROM t WHERE v = :v AND k < :n", {"v": "v1'; --", "n": 9}) == 0
    assert await lake.value("SELECT count(*) FROM t WHERE v = :v AND k < :n", {"v": "v1", "n": 9}) == 2
    assert await lake.rows("SELECT $1, $2, $3, $4", [1, "é'\"", None, 1.5]) == [(1, "é'\"", None, 1.5)]


async def test_limits_stop_a_statement_and_say_which(lake: Lake) -> None:
    await external(lake, "t", await asyncio.to_thread(write_hive, lake))
    cases: list[tuple[str, Limits, type[Exception], str]] = [
        ("SELECT * FROM t", Limits(result_rows_max=10), LimitError, "rows"),
        ("SELECT repeat('x', 1000) FROM t", Limits(result_bytes_max=5_000), LimitError, "larger|bytes"),
        ("SELECT * FROM t", Limits(scan_bytes_max=10), LimitError, "scan"),
        ("SELECT sum(value) FROM range(100000000000)", Limits(timeout_ms=300), StatementTimeoutError, "time"),
        ("EXPLAIN ANALYZE SELECT sum(value) FROM range(100000000000)", Limits(timeout_ms=300), LimitError, "time"),
    ]  # fmt: skip
    for sql, limits, kind, words in cases:
        with pytest.raises(kind, match=words):
            await lake.table(sql, limits=limits)
        assert await lake.value("SELECT 1") == 1
    assert (await lake.table("SELECT k FROM t", limits=Limits(result_rows_max=40))).num_rows == 40


async def test_a_second_query_asks_the_store_one_thing_a_table(lake: Lake) -> None:
    for name, write in {"parquet": write_hive, "delta": write_delta}.items():
        await external(lake, f"of_{name}", await asyncio.to_thread(write, lake), name)
        await lake.rows(f"SELECT count(*) FROM of_{name}")
        await lake.rows(f"SELECT count(*) FROM of_{name} WHERE k > 3")
        assert lake.receipt.requests <= (2 if name == "parquet" else 1), name


async def test_a_file_that_is_replaced_is_read_anew(lake: Lake) -> None:
    path = lake.write("t.parquet", {"x": [1, 2, 3]})
    await external(lake, "t", path)
    for round_ in range(5):
        lake.write("t.parquet", {"x": [round_, 5, 6]})
        assert await lake.rows("SELECT x FROM t ORDER BY x") == [(round_,), (5,), (6,)]
        assert await lake.value("SELECT min(x) FROM t") == round_


async def test_receipts_add_up(lake: Lake) -> None:
    await external(lake, "t", await asyncio.to_thread(write_hive, lake))
    assert (await lake.table("SELECT * FROM t WHERE k < 12")).num_rows == 12
    receipt = lake.receipt
    assert receipt.rows == 12
    assert (receipt.files_total, receipt.files_scanned, receipt.files_pruned) == (8, 3, 5)
    assert receipt.bytes_scanned > 0
    assert receipt.wall_ms >= receipt.planning_ms > 0


async def test_describe_takes_tables_and_table_functions(lake: Lake) -> None:
    path = lake.write("t.parquet", {"x": [1], "s": ["a"]})
    await external(lake, "t", path)
    expected = [("x", "Int64", "YES"), ("s", "Utf8", "YES")]
    for sql in ("DESCRIBE t", "DESC t", f"DESCRIBE parquet('{path}')"):
        assert await lake.rows(sql) == expected


async def test_a_null_in_the_first_branch_of_a_union_takes_the_type_of_the_others(lake: Lake) -> None:
    assert await lake.rows("SELECT NULL AS a UNION ALL SELECT 'x' ORDER BY a") == [("x",), (None,)]


@pytest.mark.parametrize("kind", [pa.float64(), pa.float32()])
async def test_nan_beside_one_number_is_read_as_it_is(lake: Lake, kind: pa.DataType) -> None:
    nan = float("nan")
    for name, floats in (("a", [0.5, nan, 0.5]), ("b", [0.5, None, nan]), ("c", [0.5, 0.5, 0.5]), ("d", [nan] * 3)):
        ids = pa.array([f"{name}{number}" for number in range(3)])
        lake.write(f"n/{name}.parquet", pa.table({"id": ids, "f": pa.array(floats, kind)}), row_group_size=2)
    table = f"parquet('{lake.folder}/n/*.parquet')"
    nans = [("a1",), ("b2",), ("d0",), ("d1",), ("d2",)]
    for condition in ("isnan(f)", "f > 0.7", "f <> 0.5 AND f IS NOT NULL"):
        assert await lake.rows(f"SELECT id FROM {table} WHERE {condition} ORDER BY id") == nans, condition
    assert await lake.value(f"SELECT count(*) FROM {table} WHERE f <= 0.7") == 6
    found = await lake.rows(f"SELECT f FROM {table} WHERE id IN ('a1', 'b2', 'c1') ORDER BY id")
    assert str(found) == "[(nan,), (nan,), (0.5,)]"
    assert lake.receipt.slow_files == 2
    requests = lake.receipt.requests
    assert str(await lake.rows(f"SELECT f FROM {table} WHERE id = 'a1'")) == "[(nan,)]"
    assert lake.receipt.requests <= requests
