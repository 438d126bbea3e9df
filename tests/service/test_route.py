"""Which keys a statement's predicates pin, and which statements need no planner."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from datafusion import SessionContext

from functions.lookup import KeyRange, Pinned
from functions.predicate import scans
from functions.session import stub
from service.parse import parse
from service.point import PointQuery, point_query
from service.route import asked_of

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64()),
        pa.field("small", pa.int32(), nullable=False),
        pa.field("name", pa.string()),
        pa.field("price", pa.decimal128(12, 2)),
        pa.field("at", pa.timestamp("us")),
        pa.field("zoned", pa.timestamp("us", "UTC")),
        pa.field("day", pa.date32()),
        pa.field("real", pa.float64()),
        pa.field("raw", pa.binary()),
        pa.field("sure", pa.float64(), nullable=False),
    ]
)


def asked(where: str, *columns: str, ranges: bool = True) -> Pinned | KeyRange | str:
    """Return what a statement's predicates pin of an index on ``columns``."""
    context = SessionContext()
    context.register_table("t", stub(SCHEMA))
    plan = context.sql(f"SELECT * FROM t WHERE {where}").optimized_logical_plan()
    predicates = [each.predicate for each in scans(plan)]
    return asked_of(predicates, [SCHEMA.field(name) for name in columns or ("id",)], ranges=ranges)


def keys(found: Pinned | KeyRange | str) -> list[tuple[Any, ...]]:
    assert isinstance(found, Pinned), found
    return sorted(zip(*found.keys.to_pydict().values(), strict=True))


@pytest.mark.parametrize(
    ("where", "columns", "expected"),
    [
        ("id = 7", ("id",), [(7,)]),
        ("7 = id", ("id",), [(7,)]),
        ("id = 7 AND name = 'x' AND abs(real) > 1", ("id",), [(7,)]),
        ("id IN (1, 2)", ("id",), [(1,), (2,)]),
        ("id IN (1, 2, 3, 4, 5, 5)", ("id",), [(1,), (2,), (3,), (4,), (5,)]),
        ("id = 1 OR id = 2 OR id = 9", ("id",), [(1,), (2,), (9,)]),
        ("small = 7", ("small",), [(7,)]),
        ("name = 'x'", ("name",), [("x",)]),
        ("price = 1.50", ("price",), [(Decimal("1.50"),)]),
        ("at = TIMESTAMP '2026-01-01 00:00:00'", ("at",), [(dt.datetime(2026, 1, 1),)]),
        ("day = DATE '2026-01-01'", ("day",), [(dt.date(2026, 1, 1),)]),
        ("real = 1.5", ("real",), [(1.5,)]),
        ("raw = X'00ff'", ("raw",), [(b"\x00\xff",)]),
        ("id = 1 AND small = 2", ("id", "small"), [(1, 2)]),
        ("id IN (1, 2) AND small IN (3, 4)", ("small", "id"), [(3, 1), (3, 2), (4, 1), (4, 2)]),
        ("(id = 1 AND small = 2) OR (id = 3 AND small = 4)", ("id", "small"), [(1, 2), (1, 4), (3, 2), (3, 4)]),
        ("id = -9223372036854775808", ("id",), [(-(2**63),)]),
    ],
)  # fmt: skip
def test_equalities_on_every_column_of_an_index_pin_its_keys(
    where: str, columns: tuple[str, ...], expected: list[tuple[Any, ...]]
) -> None:
    assert keys(asked(where, *columns)) == expected


@pytest.mark.parametrize(
    ("where", "columns"),
    [
        ("name = 'x'", ("id",)),
        ("id = 1 OR name = 'x'", ("id",)),
        ("id <> 7", ("id",)),
        ("id IS NULL", ("id",)),
        ("id = NULL OR id = 1 + real", ("id",)),
        ("id + 1 = 7", ("id",)),
        ("upper(name) = 'X'", ("name",)),
        ("real = 0.0", ("real",)),
        ("real = -0.0", ("real",)),
        ("real = 'NaN'", ("real",)),
        ("real > 1.5", ("real",)),
        ("real IN (0.0, 1.0, 2.0, 3.0, 4.0)", ("real",)),
        ("small = 1", ("id", "small")),
        ("NOT id = 7", ("id",)),
        ("id NOT IN (1, 2, 3, 4, 5)", ("id",)),
    ],
)
def test_what_is_not_exactly_a_key_pins_nothing(where: str, columns: tuple[str, ...]) -> None:
    assert isinstance(asked(where, *columns), str)


@pytest.mark.parametrize(
    ("where", "low", "high"),
    [
        ("id BETWEEN 3 AND 9", 3, 9),
        ("id >= 3 AND id < 9", 3, 9),
        ("id > 3", 3, None),
        ("id <= 9 AND id <= 12", None, 9),
        ("id > 3 AND id > 5 AND name = 'x'", 5, None),
        ("id = 4", 4, 4),
    ],
)
def test_bounds_on_the_first_column_of_a_learned_index_are_a_range(where: str, low: Any, high: Any) -> None:
    assert asked(where, "id", "small") == KeyRange("id", low, high)
    assert isinstance(asked(where, "id", "small", ranges=False), str)


@pytest.mark.parametrize("column", ["name", "sure"])
def test_a_range_finds_no_rows_whose_other_columns_are_null_or_nan(column: str) -> None:
    assert "NULL or NaN" in str(asked("id > 3", "id", "small", column))


def test_of_two_scans_the_keys_of_both_are_asked_for() -> None:
    context = SessionContext()
    context.register_table("t", stub(SCHEMA))
    plan = context.sql("SELECT * FROM t WHERE id = 1 UNION ALL SELECT * FROM t WHERE id IN (1, 5)")
    predicates = [each.predicate for each in scans(plan.optimized_logical_plan())]
    assert keys(asked_of(predicates, [SCHEMA.field("id")], ranges=True)) == [(1,), (5,)]


@pytest.mark.parametrize(
    ("sql", "params", "expected"),
    [
        ("SELECT * FROM t WHERE id = 7", None, (None, {"id": (7,)}, None)),
        ("select a, B from t where id = -7 limit 2;", None, (("a", "b"), {"id": (-7,)}, 2)),
        ('SELECT "A" FROM t WHERE "Id" = $1', [7], (("A",), {"Id": (7,)}, None)),
        ("SELECT a FROM t WHERE id = :id AND b IN ('x', 'y''z')", {"id": 3},
         (("a",), {"id": (3,), "b": ("x", "y'z")}, None)),
    ],
)  # fmt: skip
def test_a_plain_statement_by_key_needs_no_planner(sql: str, params: Any, expected: tuple[Any, ...]) -> None:
    columns, values, limit = expected
    assert point_query(parse(sql, params)) == PointQuery(("default", "t"), columns, values, limit)


@pytest.mark.parametrize(
    ("sql", "params"),
    [
        ("SELECT count(*) FROM t WHERE id = 7", None),
        ("SELECT a AS b FROM t WHERE id = 7", None),
        ("SELECT a b FROM t WHERE id = 7", None),
        ("SELECT a, a FROM t WHERE id = 7", None),
        ("SELECT DISTINCT a FROM t WHERE id = 7", None),
        ("SELECT current_date FROM t WHERE id = 7", None),
        ("SELECT true FROM t WHERE id = 7", None),
        ("SELECT t.a FROM t WHERE id = 7", None),
        ("SELECT * FROM t AS u WHERE id = 7", None),
        ("SELECT * FROM t, u WHERE id = 7", None),
        ("SELECT * FROM t WHERE id = 7 OR id = 8", None),
        ("SELECT * FROM t WHERE id = 7 ORDER BY a", None),
        ("SELECT * FROM t WHERE id = 7 LIMIT 1 OFFSET 1", None),
        ("SELECT * FROM t WHERE id = 7.0", None),
        ("SELECT * FROM t WHERE id = 7e1", None),
        ("SELECT * FROM t WHERE id = \u0667", None),
        ("SELECT * FROM t WHERE id = X'00'", None),
        ("SELECT * FROM t WHERE id = 7 AND id = 8", None),
        ("SELECT * FROM t WHERE id = $1", [None]),
        ("SELECT * FROM t WHERE id = $1", [7.0]),
        ("SELECT * FROM t WHERE id = $1", [True]),
        ("SELECT * FROM t WHERE id = 99999999999999999999", None),
        ("SELECT * FROM t FOR VERSION AS OF 3 WHERE id = 7", None),
        ("EXPLAIN SELECT * FROM t WHERE id = 7", None),
        ("SELECT * FROM t WHERE id = 7 UNION ALL SELECT 1", None),
        ("SELECT * FROM t WHERE id > 7", None),
        ("SELECT *, a FROM t WHERE id = 7", None),
    ],
)
def test_any_other_statement_goes_to_the_planner(sql: str, params: Any) -> None:
    assert point_query(parse(sql, params)) is None
