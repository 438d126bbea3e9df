"""Decimal literals in comparisons are exact, whatever a double makes of them."""

from __future__ import annotations

import decimal
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import firnline
from service.exact import bind, exact_literals, with_noise
from service.lexer import tokenize
from storage.errors import InvalidError

NOISY = "1086.60"
"""Equals no DECIMAL(10, 2) when it is read as a double."""


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[firnline.Connection]:
    folder: Path = tmp_path_factory.mktemp("lake")
    amounts = [decimal.Decimal(text) for text in (NOISY, "-2173.20", "0.10", "19.99")]
    table = pa.table(
        {
            "d": pa.array(amounts, pa.decimal128(10, 2)), "f": [float(each) for each in amounts],
            "i": [1086, -2173, 0, 20], "s": ["a", "b", "c", "d"],
            "r": pa.array([float(each) for each in amounts], pa.float32()),
        }
    )  # fmt: skip
    pq.write_table(table, folder / "t.parquet")
    with firnline.connect(folder) as connection:
        connection.sql(f"CREATE EXTERNAL TABLE t STORED AS parquet LOCATION '{folder}/t.parquet'")
        yield connection


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        (f"d = {NOISY}", "a"),
        (f"{NOISY} = d", "a"),
        ("d = -2173.20", "b"),
        ("d <= -2173.2", "b"),
        (f"d >= {NOISY}", "a"),
        (f"d BETWEEN {NOISY} AND {NOISY}", "a"),
        ("d BETWEEN -2173.20 AND -2173.20", "b"),
        (f"d IN (5.5, {NOISY}, -2173.20)", "ab"),
        (f"d NOT IN ({NOISY}, 0.1)", "bd"),
        (f"NOT (d <> {NOISY}) AND s LIKE 'a'", "a"),
        (f"d > (SELECT max(d) FROM t WHERE d < {NOISY})", "a"),
        (f"f = {NOISY} OR f = 19.99", "ad"),
        (f"f > 19.5 AND f <> {NOISY} OR f = 1e300", "d"),
        ("i > 19.5 AND i < 20.5", "d"),
        ("r > 19.5 AND r < 20.5", "d"),
        (f"CASE WHEN d = {NOISY} THEN 1 ELSE 0 END = 1", "a"),
        ("d = 19.99 + 0.0", "d"),
        ("d = 1.999e1", "d"),
        (f"d IS NOT DISTINCT FROM {NOISY}", "a"),
        (".5 > d AND d > .05", "c"),
    ],
)
def test_a_literal_compares_exactly(lake: firnline.Connection, condition: str, found: str) -> None:
    assert "".join(lake.sql(f"SELECT s FROM t WHERE {condition} ORDER BY s")["s"].to_pylist()) == found


def test_exact_literals_stand_beside_parameters_in_joins_and_having(lake: firnline.Connection) -> None:
    joined = f"SELECT x.s FROM t x JOIN t y ON x.d = y.d AND y.d = {NOISY} WHERE x.s = $1"
    assert lake.sql(joined, ["a"])["s"].to_pylist() == ["a"]
    assert lake.sql(f"SELECT s FROM t WHERE d = {NOISY} AND s = :a", {"a": "a"})["s"].to_pylist() == ["a"]
    grouped = f"SELECT s FROM t GROUP BY s HAVING sum(d) = {NOISY}"
    assert lake.sql(grouped)["s"].to_pylist() == ["a"]
    assert "1086.60" in str(lake.sql(f"EXPLAIN SELECT s FROM t WHERE d = {NOISY}")["plan"].to_pylist())


def test_files_are_pruned_by_the_exact_value(lake: firnline.Connection, tmp_path: Path) -> None:
    for n, text in enumerate((NOISY, "19.99")):
        values = pa.array([decimal.Decimal(text)], pa.decimal128(10, 2))
        pq.write_table(pa.table({"d": values}), tmp_path / f"{n}.parquet")
    with firnline.connect(tmp_path) as several:
        found = several.sql(f"SELECT d FROM parquet('{tmp_path}/*.parquet') WHERE d = {NOISY}")
    assert found["d"].to_pylist() == [decimal.Decimal(NOISY)]
    assert found.receipt.files_scanned == 1


def test_output_columns_keep_their_types_and_names() -> None:
    text = "SELECT 1.5, i * 0.5, d > 1.5, count(*) FILTER (WHERE d > 1.5) OVER () FROM t"
    assert exact_literals(tokenize(text), ()) == []


def test_only_literals_that_the_plan_shows_with_noise_are_bound_and_places_stay_true() -> None:
    text = "SELECT * FROM t WHERE a = -10.25 AND b BETWEEN 0.5 AND\n  1.5 AND c IN (.5, 1086.60)"
    plan = (
        "a = Float64(-10.25) AND c = Decimal128(1086.600000000000023,30,15) OR c = Decimal128(0.500000000000000,30,15)"
    )
    bound, params = bind(text, with_noise(exact_literals(tokenize(text), ()), plan))
    assert [len(line) for line in bound.split("\n")] == [len(line) for line in text.split("\n")]
    assert list(params.values()) == [decimal.Decimal(NOISY)]


def test_names_fit_their_literals_and_are_not_taken() -> None:
    many = ", ".join(f"{n / 10:.1f}" for n in range(1000))
    literals = exact_literals(tokenize(f"SELECT 1 FROM t WHERE a IN ({many}) AND b = $a"), {"a"})
    assert len(literals) == 1000
    assert all(len(each.name) < each.limit - each.start and each.name != "a" for each in literals)


@pytest.mark.parametrize("literal", ["1.5e0", "1_0.5", "15", "1." + "5" * 38])
def test_other_numbers_are_left_alone(literal: str) -> None:
    assert exact_literals(tokenize(f"SELECT 1 FROM t WHERE a = {literal}"), ()) == []


def test_integer_parameters_past_64_bits_are_decimals(lake: firnline.Connection) -> None:
    assert lake.sql("SELECT $1 > i AS x FROM t LIMIT 1", [2**63])["x"].to_pylist() == [True]
    assert lake.sql("SELECT $1 AS x", [-(2**63)])["x"].to_pylist() == [-(2**63)]
    with pytest.raises(InvalidError, match="38 digits parameter=\\$1"):
        lake.sql("SELECT $1", [10**38])
