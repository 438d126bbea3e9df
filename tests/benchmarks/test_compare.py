"""Answers of two engines are the same, or how they are not is said."""

from datetime import date
from decimal import Decimal

import pyarrow as pa
import pytest

from benchmarks.compare import difference, order_keys

SQL = "SELECT name, total FROM t ORDER BY total DESC, name LIMIT 10;"
OURS = pa.table({"name": ["a", "b", "c"], "total": [Decimal("3.00"), Decimal("2.00"), Decimal("2.00")]})


def test_decimals_equal_floats_within_the_tolerance() -> None:
    theirs = pa.table({"name": ["a", "b", "c"], "total": [3.0000001, 2.0, 2.0]})
    assert difference(OURS, theirs, SQL) is None


def test_dates_equal_midnights() -> None:
    midnight = pa.array([date(2024, 5, 1)]).cast(pa.timestamp("ms"))
    assert difference(pa.table({"d": [date(2024, 5, 1)]}), pa.table({"d": midnight}), "SELECT d FROM t") is None


@pytest.mark.parametrize(
    ("names", "totals", "said"),
    [
        (["a", "b", "d"], [3.0, 2.0, 2.0], "row"),
        (["a", "b", "c"], [3.0, 2.0, 2.1], "row"),
        (["a", "b"], [3.0, 2.0], "3 rows, not 2"),
        (["b", "a", "c"], [2.0, 3.0, 2.0], "out of order"),
        (["a", "c", "b"], [3.0, 2.0, 2.0], "out of order"),
    ],
)
def test_a_wrong_value_a_missing_row_and_a_wrong_order_are_said(
    names: list[str], totals: list[float], said: str
) -> None:
    found = difference(OURS, pa.table({"name": names, "total": totals}), SQL)
    assert found is not None
    assert said in found


def test_rows_that_tie_may_come_in_any_order() -> None:
    theirs = pa.table({"name": ["a", "c", "b"], "total": [3.0, 2.0, 2.0]})
    assert difference(OURS, theirs, "SELECT name, total FROM t ORDER BY total DESC") is None


def test_null_is_not_zero() -> None:
    assert difference(pa.table({"x": pa.array([None], pa.float64())}), pa.table({"x": [0.0]}), "SELECT x FROM t")


def test_order_keys_are_those_of_the_outermost_order_by() -> None:
    inner = "SELECT a FROM (SELECT a FROM t ORDER BY b) ORDER BY a LIMIT 3"
    assert order_keys(inner, ["a", "b"]) == ["a"]
    assert order_keys("SELECT a FROM (SELECT a FROM t ORDER BY b)", ["a", "b"]) == []
