"""Comparisons with zero find both zeros, whichever way they are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from service.lexer import tokenize
from service.zeros import may_compare_zero, with_both_zeros
from tests.support.lakes import Lake, open_lake
from tests.support.managed import append, make_table

pytestmark = pytest.mark.anyio

ROWS = pa.table(
    {
        "k": [1, 2, 3, 4, 5], "f": [-0.0, 0.0, 1.0, None, 5.0],
        "g": pa.array([0.0, -0.0, 1.0, None, 5.0], pa.float32()),
        "s": [{"y": -0.0}, {"y": 0.0}, {"y": 1.0}, {"y": None}, {"y": 5.0}],
        "i": pa.array([0, 1, 2, None, (1 << 53) + 1], pa.int64()), "j": pa.array([0, 1, 2, None, 5], pa.int32()),
        "x": ["0", "1", "2", "3", "4"],
    }
)  # fmt: skip


def table(lake: Lake) -> str:
    lake.write("t.parquet", ROWS)
    return f"parquet('{lake.folder}/t.parquet')"


@pytest.mark.parametrize("listed", [
    "f IN (0, 6, 7, 8)", "f IN (0.0, 6, 7, 8)", "f IN (-0.0, 6, 7, 8)", "f IN (8, 7, 6, 6.5, -0)",
    "f IN (k - 9, 0, 6, 7)", "f IN (CAST(0 AS DOUBLE), 6, 7, 8)", "f IN (6, 7, 8, CAST('-0' AS DOUBLE))",
    "f IN (0::double, 6, 7, 8)", "f IN ((0), 6, 7, 8)", "f IN (0, 'Infinity'::double, 1e300, 7.5)",
    "g IN (0, 6, 7, 8)", "g IN (0.0, 6, 7, 0.1)", "g IN (CAST(-0.0 AS REAL), 6, 7, CAST(0.1 AS REAL))",
    "s['y'] IN (-9, 0)", "s['y'] IN (-9, -0.0)", "abs(f) IN (-0.0, 8)", "f IN (6, 7, 8, $1)", "f IN (6, 7, 8, - $1)",
    "NOT (f NOT IN (0, 6, 7, 8))", "f IN (0, 6, 7, 8) AND x IN ('0', '1', '2', '3', '5')", "f IN (9, 8, 7, 0, 0, 0.0)",
])  # fmt: skip
async def test_a_list_with_either_zero_holds_both(tmp_path: Path, listed: str) -> None:
    async with open_lake(tmp_path) as lake:
        params = [0] if "$1" in listed else None
        asked = f"SELECT k FROM {table(lake)} WHERE {listed} ORDER BY k"
        assert await lake.rows(asked, params) == [(1,), (2,)]


@pytest.mark.parametrize(("sql", "expected"), [
    ("SELECT k FROM {t} WHERE f NOT IN (0, 6, 7, 8) ORDER BY k", [(3,), (5,)]),
    ("SELECT k FROM {t} WHERE f IN (1, 6, 7, 8) AND f > 0.0", [(3,)]),
    ("SELECT k FROM {t} WHERE f NOT IN (5, 6) AND f NOT IN (0, 7) ORDER BY k", [(3,)]),
    ("SELECT k FROM {t} WHERE f IN (0, 1, 6, 7, 8) AND f IN (0, 1, 6, 7, 9) ORDER BY k", [(1,), (2,), (3,)]),
    ("SELECT k FROM {t} WHERE i IN (0, 1, 6, 7) ORDER BY k", [(1,), (2,)]),
    ("SELECT count(*) FROM {t} WHERE i IN (9, 0, 6, 9007199254740992) OR f IN (0, 8, 7, 6)", [(2,)]),
    ("SELECT CASE f WHEN 0 THEN 'z' WHEN 1 THEN 'o' ELSE 'e' END FROM {t} ORDER BY k", [*"zzoee"]),
    ("SELECT CASE f WHEN 5 THEN 'f' WHEN -0.0 THEN 'z' END FROM {t} ORDER BY k", ["z", "z", None, None, "f"]),
    ("SELECT CASE f + 0 WHEN 0 THEN CASE g WHEN 0 THEN 1 ELSE 2 END ELSE 3 END FROM {t} ORDER BY k", [1, 1, 3, 3, 3]),
    ("SELECT CASE WHEN f = 0 THEN CASE s['y'] WHEN 0.0 THEN 1 END END FROM {t} ORDER BY k", [1, 1, None, None, None]),
    ("SELECT CASE x WHEN '0' THEN 0.0 ELSE 1.0 END FROM {t} ORDER BY k", [0.0, 1.0, 1.0, 1.0, 1.0]),
    ("SELECT nullif(f, 0) FROM {t} ORDER BY k", [None, None, 1.0, None, 5.0]),
    ("SELECT nullif(g, 0.0), nullif(j, 0) FROM {t} ORDER BY k LIMIT 2", [(None, None), (None, 1)]),
    ("SELECT 10 / nullif(s['y'], 0) AS q FROM {t} WHERE k < 4 ORDER BY k", [None, None, 10.0]),
    ("SELECT nullif(0.0, f) FROM {t} ORDER BY k", [None, None, 0.0, 0.0, 0.0]),
    ("SELECT sum(a) FROM (SELECT 1 / nullif(nullif(f, 0), 5) AS a FROM {t}) AS u", [1.0]),
    ("SELECT nullif(f, 0), count(*) FROM {t} GROUP BY nullif(f, 0) ORDER BY 1", [(1.0, 1), (5.0, 1), (None, 3)]),
    ("SELECT CASE f WHEN 0 THEN 1 END, count(*) FROM {t} GROUP BY ROLLUP (CASE f WHEN 0 THEN 1 END) ORDER BY 2",
     [(1, 2), (None, 3), (None, 5)]),
])  # fmt: skip
async def test_other_comparisons(tmp_path: Path, sql: str, expected: list[Any]) -> None:
    async with open_lake(tmp_path) as lake:
        rows = await lake.rows(sql.format(t=table(lake)))
        assert rows == [each if isinstance(each, tuple) else (each,) for each in expected]


@pytest.mark.parametrize("chosen", [
    "nullif(f, 0)", "CASE f WHEN 0 THEN 'z' END", "f IN (0, 5, 6, 7)", "nullif(j, 0), nullif(f, 0)", "nullif(i, 0.0)",
])  # fmt: skip
async def test_columns_have_the_names_and_types_that_they_had(tmp_path: Path, chosen: str) -> None:
    async with open_lake(tmp_path) as lake:
        zero, other = [
            (await lake.table(f"SELECT {each} FROM {table(lake)} AS t")).schema
            for each in (chosen, chosen.replace("0.0", "0").replace("0", "3.0" if "0.0" in chosen else "3"))
        ]
        assert [name.replace("(0", "(3") for name in zero.names] == other.names
        assert zero.types == other.types


async def test_a_name_that_the_engine_gave_is_still_one(tmp_path: Path) -> None:
    async with open_lake(tmp_path) as lake:
        named = f'SELECT "nullif(t.f,Int64(0))" FROM (SELECT nullif(f, 0) FROM {table(lake)} AS t WHERE k = 3) AS u'
        assert await lake.rows(named) == [(1.0,)]


async def test_an_explained_statement_shows_both_and_its_columns(tmp_path: Path) -> None:
    async with open_lake(tmp_path) as lake:
        shown = await lake.table(f"EXPLAIN SELECT nullif(f, 0) FROM {table(lake)} WHERE f IN (0, 6, 7, 8)")
        assert shown.column_names == ["plan_type", "plan"]
        assert "-0" in str(shown["plan"].to_pylist())


async def test_rows_are_deleted_and_updated_by_lists(tmp_path: Path) -> None:
    async with open_lake(tmp_path) as lake:
        entry = await make_table(lake, "t", ROWS.schema, "delta")
        await append(lake, entry, ROWS)
        await lake.table("UPDATE t SET i = CASE f WHEN 0 THEN 7 ELSE 8 END WHERE f IN (0, 1, 6, 7)")
        assert await lake.rows("SELECT k, i FROM t WHERE i IN (7, 8) ORDER BY k") == [(1, 7), (2, 7), (3, 8)]
        await lake.table("DELETE FROM t WHERE f IN (0, 6, 7, 8)")
        assert await lake.rows("SELECT k FROM t ORDER BY k") == [(3,), (4,), (5,)]


@pytest.mark.parametrize("text", [
    "SELECT CASE WHEN a > 0 THEN 0 END FROM t WHERE a IN ('x', 'y') AND b > 0", "SELECT a FROM t WHERE a IN (1, 2)",
    "SELECT a FROM t WHERE a IN (SELECT b FROM u) LIMIT 0", "SELECT a FROM t WHERE a > 0", "SELECT nullif(a, 1) FROM t",
])  # fmt: skip
def test_most_statements_are_not_looked_into(text: str) -> None:
    assert not may_compare_zero(tokenize(text), {})


@pytest.mark.parametrize("text", [
    "f IN (", "f IN (0", "f IN ()", "CASE f WHEN 0", "CASE", "nullif(f, 0", "nullif(", "nullif()", "nullif(0)", "IN",
    "f IN (0,)", "CASE f WHEN 0 THEN", "f IN (0,, 1)", "END END f IN (0, 1)", ")) f IN (1, 0) ((", "CASE END",
])  # fmt: skip
def test_text_that_is_no_sql_is_left_to_the_engine(text: str) -> None:
    plan = "nullif(a, Float64(0)) CASE a WHEN Float64(0) THEN b END a IN ([Float64(0), Float64(1)])"
    assert isinstance(with_both_zeros(text, {}, plan), str)
