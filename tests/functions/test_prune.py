"""Pruning never drops a file that holds a row the engine's own WHERE returns."""

from __future__ import annotations

import datetime as dt
import decimal
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from datafusion import SessionContext
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.predicate import And, Compare, In, IsNull, Or, StartsWith, Unknown, scans
from functions.prune import may_match
from functions.session import stub
from storage.tables.snapshot import ColumnStats, FileSet, Snapshot

SCHEMA = pa.schema(
    [("i", pa.int64()), ("s", pa.string()), ("f", pa.float64()), ("d", pa.date32()), ("b", pa.bool_()),
     ("m", pa.decimal128(6, 2)), ("ts", pa.timestamp("us", "UTC")), ("p", pa.string()), ("q", pa.float64())]
)  # fmt: skip
PARTITIONS = ("p", "q")
WORDS = st.text(alphabet="abAB%_\\\U0010ffff é", max_size=3)
FLOATS = st.sampled_from([math.nan, -0.0, 0.0, 1.0, -1.5, math.inf, -math.inf])
DAYS = st.integers(0, 5).map(lambda day: dt.date(2024, 1, 1) + dt.timedelta(days=day))
MOMENTS = DAYS.map(lambda day: dt.datetime(day.year, day.month, day.day, 12, 0, 0, 123456, tzinfo=dt.UTC))
MONEY = st.integers(-200, 200).map(lambda cents: decimal.Decimal(cents) / 100)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "i": st.integers(-3, 3), "s": WORDS, "f": FLOATS, "d": DAYS, "b": st.booleans(), "m": MONEY, "ts": MOMENTS,
    "p": WORDS, "q": FLOATS,
}  # fmt: skip


def literal(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case float():
            return f"CAST('{value!r}' AS DOUBLE)"
        case str():
            return "'" + value.replace("'", "''") + "'"
        case dt.datetime():
            return f"TIMESTAMP '{value.isoformat()}'"
        case dt.date():
            return f"DATE '{value.isoformat()}'"
        case _:
            return f"({value})"


@st.composite
def comparison(draw: st.DrawFn) -> str:
    column = draw(st.sampled_from(SCHEMA.names))
    values = VALUES[column].map(literal)
    text = column in ("s", "p")
    kind = draw(
        st.sampled_from(["op", "flip", "in", "between", "null", *(["like", "ilike", "prefix"] if text else [])])
    )
    op = draw(st.sampled_from(["=", "<>", "<", "<=", ">", ">=", "IS DISTINCT FROM", "IS NOT DISTINCT FROM"]))
    no = draw(st.sampled_from(["", "NOT "]))
    match kind:
        case "op":
            return f"{column} {op} {draw(values)}"
        case "flip":
            return f"{draw(values)} {op} {column}"
        case "in":
            return f"{column} {no}IN ({', '.join(draw(st.lists(values, min_size=1, max_size=5)))})"
        case "between":
            return f"{column} {no}BETWEEN {draw(values)} AND {draw(values)}"
        case "null":
            return f"{column} IS {no}NULL"
        case "prefix":
            return f"starts_with({column}, {draw(values)})"
        case _:
            return f"{column} {no}{kind.upper()} {draw(values)}"


PREDICATES = st.recursive(
    comparison().map("({})".format)
    | st.sampled_from(["b", "NOT b", "b IS TRUE", "b IS NOT FALSE", "CAST(i AS DOUBLE) > 0.5", "i + 1 > 2"]),
    lambda inner: (
        st.builds("({} AND {})".format, inner, inner)
        | st.builds("({} OR {})".format, inner, inner)
        | st.builds("(NOT {})".format, inner)
    ),
    max_leaves=5,
)


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), values)


@st.composite
def file_rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    shared = {name: draw(maybe(VALUES[name])) for name in PARTITIONS}
    own = st.fixed_dictionaries({name: maybe(VALUES[name]) for name in SCHEMA.names if name not in PARTITIONS})
    return [{**row, **shared} for row in draw(st.lists(own, min_size=1, max_size=4))]


def bounds(values: list[Any], known: bool) -> tuple[Any, Any, int | None]:
    """Statistics as a writer leaves them: NaN left out, zeros of either sign bounding both."""
    present = [value for value in values if value is not None]
    comparable = [value for value in present if not (isinstance(value, float) and math.isnan(value))]
    if not known:
        return None, None, None
    if not comparable:
        return None, None, values.count(None)
    low, high = min(comparable), max(comparable)
    return low, high, values.count(None)


def snapshot_of(files: list[list[dict[str, Any]]], known: list[bool]) -> Snapshot:
    def stats(name: str) -> ColumnStats | None:
        index = SCHEMA.get_field_index(name)
        if index < 0:
            return None
        rows = [
            bounds([row[name] for row in rows], known[(index + position) % len(known)])
            for position, rows in enumerate(files)
        ]
        type_ = SCHEMA.field(index).type
        return ColumnStats(
            pa.array([row[0] for row in rows], type_),
            pa.array([row[1] for row in rows], type_),
            pa.array([row[2] for row in rows], pa.int64()),
            np.array([all(row[name] is None or row[name] == row[name] for row in rows) for rows in files]),
        )

    sets = FileSet(
        paths=[f"file:///{position}" for position in range(len(files))],
        sizes=np.ones(len(files), np.int64),
        n_rows=np.array([len(rows) if known[position % len(known)] else -1 for position, rows in enumerate(files)]),
        partitions={name: pa.array([rows[0][name] for rows in files], SCHEMA.field(name).type) for name in PARTITIONS},
        stats=stats,
    )
    return Snapshot("delta", "file:///", 0, 0, SCHEMA, sets)


@settings(deadline=None, max_examples=300)
@given(st.lists(file_rows(), min_size=1, max_size=4), PREDICATES, st.lists(st.booleans(), min_size=1, max_size=5))
def test_a_file_with_a_wanted_row_is_kept(files: list[list[dict[str, Any]]], where: str, known: list[bool]) -> None:
    rows = [{**row, "file": position} for position, rows in enumerate(files) for row in rows]
    context = SessionContext()
    context.register_table("stub", stub(SCHEMA))
    table = pa.Table.from_pylist(rows, pa.schema([*SCHEMA, pa.field("file", pa.int64())]))
    context.register_record_batches("data", [table.to_batches()])
    found = context.sql(f"SELECT DISTINCT file FROM data WHERE {where}").to_pydict()["file"]
    (scan,) = scans(context.sql(f"SELECT * FROM stub WHERE {where}").optimized_logical_plan()) or [None]
    if scan is None:
        assert not found
        return
    mask = may_match(snapshot_of(files, known), scan.predicate)
    assert all(mask[position] for position in found), (scan.predicate, found, mask)


def one_column(type_: pa.DataType, low: Any, high: Any, n_rows: int = 2) -> Snapshot:
    stats = ColumnStats(pa.array([low], type_), pa.array([high], type_), pa.array([0], pa.int64()))
    files = FileSet(
        ["file:///0"], np.ones(1, np.int64), np.array([n_rows]), stats=lambda name: stats if name == "x" else None
    )
    return Snapshot("delta", "file:///", 0, 0, pa.schema([("x", type_)]), files)


def keeps(snapshot: Snapshot, predicate: Any) -> bool:
    return bool(may_match(snapshot, predicate)[0])


def test_what_lies_outside_the_bounds_is_dropped() -> None:
    numbers = one_column(pa.int32(), 10, 20)
    for predicate, kept in [
        (Compare("x", "=", 9), False), (Compare("x", "=", 10), True), (Compare("x", "<", 10), False),
        (Compare("x", "<=", 10), True), (Compare("x", ">", 20), False), (Compare("x", ">=", 20), True),
        (Compare("x", "!=", 10), True), (In("x", (1, 2)), False), (In("x", (1, 15)), True),
        (In("x", tuple(range(1_000, 2_000))), False), (In("x", tuple(range(1_000))), True), (IsNull("x"), False),
        (IsNull("x", negated=True), True), (And((Compare("x", ">", 1), Compare("x", "<", 5))), False),
        (Or((Compare("x", ">", 1), Compare("x", "<", 5))), True), (Unknown(), True), (Compare("y", "=", 1), True),
        (Or(()), False), (And(()), True),
    ]:  # fmt: skip
        assert keeps(numbers, predicate) == kept, predicate
    same = one_column(pa.string(), "ab", "ab")
    assert not keeps(same, Compare("x", "!=", "ab"))
    assert keeps(same, StartsWith("x", "a"))
    assert not keeps(same, StartsWith("x", "b"))
    assert not keeps(same, StartsWith("x", "abc"))


def test_bounds_that_are_not_numbers_prove_nothing() -> None:
    for low, high in [(math.nan, math.nan), (math.nan, 5.0), (1.0, math.nan)]:
        for op in ("=", "<", "<=", ">", ">=", "!="):
            assert keeps(one_column(pa.float64(), low, high), Compare("x", op, 3.0)), (low, high, op)


def test_nan_among_many_values_is_wanted_of_every_file() -> None:
    far = tuple(float(value) for value in range(1_000, 2_000))
    for values, kept in [(far, False), ((*far, math.nan), True), ((math.nan, *far), True)]:
        assert keeps(one_column(pa.float64(), 1.0, 5.0), In("x", values)) == kept


def test_a_literal_that_the_column_cannot_hold_proves_nothing() -> None:
    for value in (2.5, "x", 2**40, None, dt.date(2024, 1, 1)):
        assert keeps(one_column(pa.int32(), 10, 20), Compare("x", "=", value))


@pytest.mark.parametrize(
    ("type_", "low", "high", "value"),
    [
        (pa.float16(), 1.0, 2.0, 3.0), (pa.float32(), 1.0, 2.0, 3.0), (pa.binary(), b"a", b"b", b"c"),
        (pa.binary(1), b"a", b"b", b"c"), (pa.large_string(), "a", "b", "c"), (pa.string_view(), "a", "b", "c"),
        (pa.decimal256(40, 2), decimal.Decimal("1"), decimal.Decimal("2"), decimal.Decimal("3.00")),
        (pa.time64("us"), dt.time(1), dt.time(2), dt.time(3)), (pa.time32("s"), dt.time(1), dt.time(2), dt.time(3)),
        (pa.duration("us"), dt.timedelta(1), dt.timedelta(2), dt.timedelta(3)), (pa.bool_(), False, False, True),
        (pa.timestamp("us"), dt.datetime(2024, 1, 1), dt.datetime(2024, 1, 2), dt.datetime(2024, 1, 3)),
        (pa.date64(), dt.date(2024, 1, 1), dt.date(2024, 1, 2), dt.date(2024, 1, 3)), (pa.uint64(), 1, 2, 2**63),
    ],
)  # fmt: skip
def test_every_type_is_compared_or_left_alone(type_: pa.DataType, low: Any, high: Any, value: Any) -> None:
    snapshot = one_column(type_, low, high)
    for op in ("=", "!=", "<", "<=", ">", ">="):
        kept = keeps(snapshot, Compare("x", op, value))
        assert kept or op in ("=", ">", ">=")
    assert keeps(snapshot, Compare("x", "<=", value))
