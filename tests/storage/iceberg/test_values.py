"""Bounds, partition values and transforms, against pyiceberg's own encoders and transforms."""

import datetime as dt
import decimal
import math
import uuid
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyiceberg import conversions
from pyiceberg import transforms as theirs
from pyiceberg import types as ice

from storage.tables.iceberg.schema import arrow_schema
from storage.tables.iceberg.transforms import source_range
from storage.tables.iceberg.values import bounds_array, partition_array

DECIMAL = decimal.Context(prec=40)


def arrow_type(name: str) -> pa.DataType:
    return arrow_schema({"fields": [{"id": 1, "name": "c", "type": name, "required": False}]}).field(0).type


VALUES = [
    (ice.BooleanType(), st.booleans()),
    (ice.IntegerType(), st.integers(-(2**31), 2**31 - 1)),
    (ice.LongType(), st.integers(-(2**63), 2**63 - 1)),
    (ice.FloatType(), st.floats(width=32, allow_nan=False)),
    (ice.DoubleType(), st.floats(allow_nan=False)),
    (ice.DateType(), st.dates()),
    (ice.TimeType(), st.times()),
    (ice.TimestampType(), st.datetimes()),
    (ice.TimestamptzType(), st.datetimes(timezones=st.just(dt.UTC))),
    (ice.StringType(), st.text()),
    (ice.BinaryType(), st.binary()),
    (ice.FixedType(3), st.binary(min_size=3, max_size=3)),
    (ice.DecimalType(9, 2), st.decimals(-9999999, 9999999, places=2)),
    (ice.DecimalType(38, 5), st.decimals(-(10**30), 10**30, places=5)),
]


@pytest.mark.parametrize(("type_", "values"), VALUES, ids=[str(type_) for type_, _ in VALUES])
def test_bounds_decode_to_the_values_that_were_encoded(
    type_: ice.PrimitiveType, values: st.SearchStrategy[Any]
) -> None:
    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.none() | values, min_size=1, max_size=8))
    def check(wanted: list[Any]) -> None:
        encoded = [None if v is None else conversions.to_bytes(type_, v) for v in wanted]
        decoded = bounds_array(pa.array(encoded, pa.binary()), arrow_type(str(type_)))
        expected = pa.array([v.replace(tzinfo=None) if isinstance(v, dt.datetime) else v for v in wanted])
        assert decoded.to_pylist() == expected.cast(decoded.type).to_pylist()

    check()


@pytest.mark.parametrize(
    ("written", "now", "value"),
    [
        (ice.IntegerType(), "long", -5),
        (ice.FloatType(), "double", 0.5),
        (ice.DecimalType(9, 2), "decimal(18, 2)", decimal.Decimal("-1.25")),
        (ice.DateType(), "timestamp", dt.date(1969, 12, 30)),
        (ice.DateType(), "timestamp_ns", dt.date(1969, 12, 30)),
    ],
)
def test_bounds_of_a_promoted_column_keep_their_value(written: ice.PrimitiveType, now: str, value: Any) -> None:
    mixed = pa.array([conversions.to_bytes(written, value), None], pa.binary())
    decoded = bounds_array(mixed, arrow_type(now))
    assert decoded.to_pylist() == [pa.scalar(value).cast(decoded.type).as_py(), None]


def test_widths_may_differ_between_files() -> None:
    encoded = [conversions.to_bytes(ice.IntegerType(), 7), b"odd", conversions.to_bytes(ice.LongType(), 8)]
    assert bounds_array(pa.array(encoded), pa.int64()).to_pylist() == [7, None, 8]


def test_bounds_that_cannot_be_trusted_are_null() -> None:
    nan = pa.array([conversions.to_bytes(ice.DoubleType(), math.nan)])
    assert bounds_array(nan, pa.float64()).to_pylist() == [None]
    assert bounds_array(pa.array([b"ok", b"\xc3"]), pa.string()).to_pylist() == ["ok", None]
    assert bounds_array(pa.array([uuid.UUID(int=1).bytes]), pa.binary(16), is_uuid=True).to_pylist() == [None]
    assert bounds_array(pa.array([b"\x01\x02"]), pa.binary(3)).to_pylist() == [None]
    assert bounds_array(pa.array([b"\x7f" * 16]), pa.decimal128(9, 2)).to_pylist() == [None]
    assert bounds_array(pa.array([b""], pa.binary()), pa.int32()).to_pylist() == [None]
    assert bounds_array(pa.array([b"1234"]), pa.time64("us")).to_pylist() == [None]


def test_partition_values_take_their_column_type() -> None:
    day = partition_array([19000, None], pa.date32())
    assert day.to_pylist() == [dt.date(2022, 1, 8), None]
    assert partition_array([b"\xff"], pa.decimal128(9, 2)).to_pylist() == [decimal.Decimal("-0.01")]
    assert partition_array([str(uuid.UUID(int=5))], pa.binary(16)).to_pylist() == [uuid.UUID(int=5).bytes]
    assert partition_array([1], pa.timestamp("us", "UTC")).type == pa.timestamp("us", "UTC")


TRANSFORMS = [
    ("identity", ice.LongType(), st.integers(-(2**63), 2**63 - 1)),
    ("year", ice.DateType(), st.dates()),
    ("month", ice.DateType(), st.dates()),
    ("day", ice.DateType(), st.dates()),
    ("year", ice.TimestampType(), st.datetimes()),
    ("month", ice.TimestamptzType(), st.datetimes(timezones=st.just(dt.UTC))),
    ("day", ice.TimestampType(), st.datetimes()),
    ("hour", ice.TimestampType(), st.datetimes()),
    ("truncate[7]", ice.IntegerType(), st.integers(-(2**31) + 7, 2**31 - 1)),
    ("truncate[10]", ice.LongType(), st.integers(-(2**63) + 10, 2**63 - 1)),
    ("truncate[3]", ice.StringType(), st.text()),
    ("truncate[3]", ice.BinaryType(), st.binary()),
    ("truncate[50]", ice.DecimalType(9, 2), st.decimals(-99999, 99999, places=2)),
]


def _comparable(scalar: pa.Scalar) -> Any:
    """The value, of times as stored: a bound may lie before the year 1, which Python's own times do not reach."""
    if pa.types.is_date(scalar.type) or pa.types.is_timestamp(scalar.type):
        return scalar.value if scalar.is_valid else None
    return scalar.as_py()


@pytest.mark.parametrize(("transform", "type_", "values"), TRANSFORMS, ids=[f"{t}-{i}" for t, i, _ in TRANSFORMS])
def test_a_range_from_a_partition_value_holds_the_source(
    transform: str, type_: ice.PrimitiveType, values: st.SearchStrategy[Any]
) -> None:
    apply = theirs.parse_transform(transform).transform(type_)

    @settings(max_examples=60, deadline=None)
    @given(values)
    def check(value: Any) -> None:
        internal = conversions.from_bytes(type_, conversions.to_bytes(type_, value))
        column = arrow_type(str(type_))
        span = source_range(transform, [_as_avro(apply(internal)), None], column)
        assert span is not None
        low, high = _comparable(span[0][0]), _comparable(span[1][0])
        plain = pa.array([value.replace(tzinfo=None) if isinstance(value, dt.datetime) else value])
        exact = _comparable(plain.cast(column)[0])
        assert low is None or low <= exact
        assert high is None or exact <= high
        assert (low is not None or high is not None) and span[0][1].as_py() is None

    check()


def _as_avro(value: Any) -> Any:
    if isinstance(value, decimal.Decimal):
        unscaled = int(value.scaleb(-int(value.as_tuple().exponent), DECIMAL))
        return unscaled.to_bytes(16, "big", signed=True)
    return value


def test_rows_before_1970_that_old_writers_rounded_up_stay_in_range() -> None:
    low, _high = source_range("day", [0], pa.timestamp("us")) or (None, None)
    assert low is not None
    assert low[0].as_py() <= dt.datetime(1969, 12, 31, 12)


@pytest.mark.parametrize("transform", ["bucket[4]", "void", "zorder", "truncate[x]"])
def test_transforms_that_say_nothing_give_no_range(transform: str) -> None:
    assert source_range(transform, [1], pa.int32()) is None


@pytest.mark.parametrize("ordinal", [2**31 - 1, -(2**31), 10**9])
def test_a_year_beyond_what_a_timestamp_holds_gives_no_range(ordinal: int) -> None:
    assert source_range("year", [ordinal], pa.timestamp("us")) is None
