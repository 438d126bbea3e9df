"""Partition transforms, held to pyiceberg's."""

from __future__ import annotations

import datetime as dt
import decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.transforms import transform_column, transformed_type
from storage.errors import InvalidError


def iceberg(transform: str, type_: str, values: list[Any]) -> list[Any]:
    from pyiceberg.conversions import to_bytes  # noqa: F401
    from pyiceberg.schema import Schema
    from pyiceberg.transforms import parse_transform
    from pyiceberg.types import NestedField

    field = NestedField.model_validate({"id": 1, "name": "c", "required": False, "type": type_})
    source = Schema(field).fields[0].field_type
    function = parse_transform(transform).transform(source)
    return [function(value) for value in values]


def ours(transform: str, type_: pa.DataType, values: list[Any]) -> list[Any]:
    return transform_column(transform, pa.array(values, type_)).to_pylist()


INTS = st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), min_size=1)
TEXTS = st.lists(st.none() | st.text(), min_size=1)
BYTES = st.lists(st.none() | st.binary(max_size=40), min_size=1)
DECIMALS = st.lists(st.none() | st.decimals(-(10**20), 10**20, places=3), min_size=1)
MOMENTS = st.lists(st.none() | st.datetimes(dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31)), min_size=1)
EPOCH = dt.datetime(1970, 1, 1)


def micros(values: list[dt.datetime | None]) -> list[int | None]:
    return [None if value is None else (value - EPOCH) // dt.timedelta(microseconds=1) for value in values]


@settings(max_examples=30, deadline=None)
@given(INTS, TEXTS, BYTES, DECIMALS, MOMENTS)
def test_buckets_are_those_of_iceberg(
    ints: list[Any], texts: list[Any], binaries: list[Any], decimals: list[Any], moments: list[Any]
) -> None:
    assert ours("bucket[16]", pa.int64(), ints) == iceberg("bucket[16]", "long", ints)
    assert ours("bucket[7]", pa.string(), texts) == iceberg("bucket[7]", "string", texts)
    assert ours("bucket[1000]", pa.binary(), binaries) == iceberg("bucket[1000]", "binary", binaries)
    assert ours("bucket[5]", pa.decimal128(38, 3), decimals) == iceberg("bucket[5]", "decimal(38, 3)", decimals)
    assert ours("bucket[5]", pa.timestamp("us"), moments) == iceberg("bucket[5]", "timestamp", micros(moments))


@settings(max_examples=30, deadline=None)
@given(MOMENTS)
def test_years_months_days_and_hours_are_those_of_iceberg(moments: list[Any]) -> None:
    for unit in ("year", "month", "day", "hour"):
        assert ours(unit, pa.timestamp("us", "UTC"), moments) == iceberg(unit, "timestamptz", micros(moments))
    dates = [None if moment is None else moment.date() for moment in moments]
    days = [None if date is None else (date - EPOCH.date()).days for date in dates]
    for unit in ("year", "month", "day"):
        assert ours(unit, pa.date32(), dates) == iceberg(unit, "date", days)


@settings(max_examples=30, deadline=None)
@given(TEXTS, BYTES, DECIMALS, st.lists(st.none() | st.integers(-(2**40), 2**40), min_size=1))
def test_truncation_is_that_of_iceberg(
    texts: list[Any], binaries: list[Any], decimals: list[Any], ints: list[Any]
) -> None:
    assert ours("truncate[10]", pa.int64(), ints) == iceberg("truncate[10]", "long", ints)
    assert ours("truncate[3]", pa.string(), texts) == iceberg("truncate[3]", "string", texts)
    assert ours("truncate[3]", pa.binary(), binaries) == iceberg("truncate[3]", "binary", binaries)
    assert ours("truncate[50]", pa.decimal128(38, 3), decimals) == iceberg("truncate[50]", "decimal(38, 3)", decimals)


def test_the_values_of_the_specification_hash_as_it_says() -> None:
    # Iceberg spec, Appendix B: hash values, here modulo 2^31.
    def hashed(value: Any, type_: pa.DataType) -> int:
        return int(ours("bucket[999999999]", type_, [value])[0])

    assert hashed(34, pa.int32()) == (2017239379 & 0x7FFFFFFF) % 999999999
    assert hashed("iceberg", pa.string()) == (1210000089 & 0x7FFFFFFF) % 999999999
    assert hashed(decimal.Decimal("14.20"), pa.decimal128(9, 2)) == (-500754589 & 0x7FFFFFFF) % 999999999


@pytest.mark.parametrize(
    ("transform", "type_"),
    [
        ("bucket[4]", pa.float64()),
        ("bucket[0]", pa.int64()),
        ("truncate[4]", pa.date32()),
        ("hour", pa.date32()),
        ("day", pa.string()),
        ("identity", pa.list_(pa.int64())),
        ("zorder", pa.int64()),
    ],
)
def test_a_transform_that_does_not_take_the_type_is_refused_by_name(transform: str, type_: pa.DataType) -> None:
    with pytest.raises(InvalidError, match="transform"):
        transformed_type(transform, type_)


def test_a_sliced_column_is_transformed_from_its_own_start() -> None:
    column = pa.array(["aaaa", "bbbbb", None, "cc"])
    assert (
        transform_column("bucket[100]", column.slice(1)).to_pylist()
        == transform_column("bucket[100]", column).to_pylist()[1:]
    )
