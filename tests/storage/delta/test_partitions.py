"""Partition values and paths: strings of the log as what they mean."""

import datetime as dt
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import CorruptError, UnsupportedError
from storage.tables.delta.paths import file_location, file_locations
from storage.tables.delta.values import parse_strings, parse_strings_leniently
from tests.support.delta_build import TABLE, Lake, add, column, metadata, protocol

pytestmark = pytest.mark.anyio

UTC_US, NTZ = pa.timestamp("us", "UTC"), pa.timestamp("us")


def utc(*parts: int) -> dt.datetime:
    return dt.datetime(*parts, tzinfo=dt.UTC)


async def values_of(kind: Any, *values: str | None) -> list[Any]:
    lake = Lake()
    files = [add(f"f{number}", values={"p": value}) for number, value in enumerate(values)]
    await lake.commit(0, protocol(), metadata(column("id"), column("p", kind), partitions=["p"]), *files)
    found: list[Any] = (await lake.load()).files.partitions["p"].to_pylist()
    return found


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("string", "a/b=c %25é", "a/b=c %25é"),
        ("string", " ", " "),
        ("string", "", None),
        ("integer", "-17", -17),
        ("long", "9223372036854775807", 2**63 - 1),
        ("byte", "-128", -128),
        ("short", "+5", 5),
        ("integer", "", None),
        ("double", "1.5E-3", 0.0015),
        ("float", "Infinity", float("inf")),
        ("double", "-Infinity", float("-inf")),
        ("boolean", "true", True),
        ("boolean", "FALSE", False),
        ("date", "2024-02-29", dt.date(2024, 2, 29)),
        ("date", "0001-01-01", dt.date(1, 1, 1)),
        ("decimal(10,2)", "12.50", Decimal("12.50")),
        ("decimal(10,2)", "12.500", Decimal("12.50")),
        ("decimal(38,18)", "-1", Decimal("-1.000000000000000000")),
        ("decimal(10,0)", "1E+3", Decimal(1000)),
        ("timestamp", "2024-01-02 03:04:05", utc(2024, 1, 2, 3, 4, 5)),
        ("timestamp", "2024-01-02 03:04:05.123456", utc(2024, 1, 2, 3, 4, 5, 123456)),
        ("timestamp", "2024-01-02 03:04:05.123456789", utc(2024, 1, 2, 3, 4, 5, 123456)),
        ("timestamp", "2024-01-02T03:04:05.123456Z", utc(2024, 1, 2, 3, 4, 5, 123456)),
        ("timestamp", "2024-01-02T03:04:05+02:00", utc(2024, 1, 2, 1, 4, 5)),
        ("timestamp", "2024-01-02", utc(2024, 1, 2)),
        ("timestamp", "1969-12-31 23:59:59.5", utc(1969, 12, 31, 23, 59, 59, 500000)),
        ("timestamp_ntz", "2024-01-02 03:04:05.1", dt.datetime(2024, 1, 2, 3, 4, 5, 100000)),
        ("timestamp_ntz", "2024-01-02", dt.datetime(2024, 1, 2)),
        ("binary", "\u0001é", b"\x01\xc3\xa9"),
    ],
)
async def test_a_value_reads_as_its_type(kind: str, text: str, value: Any) -> None:
    assert await values_of(kind, text, None, text) == [value, None, value]


async def test_mixed_forms_of_timestamps_stand_side_by_side() -> None:
    found = await values_of(
        "timestamp", "2024-01-01 00:00:00", "2024-01-01T00:00:00Z", "2024-01-01T00:00:00.000001-01:00"
    )
    assert found == [utc(2024, 1, 1), utc(2024, 1, 1), utc(2024, 1, 1, 1, 0, 0, 1)]


async def test_years_past_9999_are_dates_too() -> None:
    days = parse_strings(pa.array(["12020-01-01", "+10000-01-01", "-0001-12-31"]), pa.date32()).cast(pa.int32())
    assert days.to_pylist() == [3_670_687, 2_932_897, -719_529]


async def test_not_a_number_is_a_float() -> None:
    (value,) = await values_of("double", "NaN")
    assert value != value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("integer", "x"),
        ("byte", "128"),
        ("long", "9" * 30),
        ("boolean", "maybe"),
        ("date", "2023-02-29"),
        ("timestamp", "yesterday"),
        ("timestamp", "999999-01-01 00:00:00"),
        ("decimal(4,2)", "1.234"),
        ("decimal(4,2)", "123.45"),
        ("decimal(4,2)", "NaN"),
        ("double", "1,5"),
    ],
)
async def test_a_value_of_another_type_is_corrupt(kind: str, text: str) -> None:
    with pytest.raises(CorruptError, match="column=p"):
        await values_of(kind, text)


async def test_a_missing_value_is_null() -> None:
    lake = Lake()
    await lake.commit(0, protocol(), metadata(column("p", "date"), partitions=["p"]), add("a"))
    assert (await lake.load()).files.partitions["p"].to_pylist() == [None]


async def test_a_partition_column_outside_the_schema_is_corrupt() -> None:
    lake = Lake()
    await lake.commit(0, protocol(), metadata(column("id"), partitions=["p"]), add("a"))
    with pytest.raises(CorruptError, match="column=p"):
        await lake.load()


async def test_statistics_of_a_partition_column_are_its_values() -> None:
    lake = Lake()
    files = [
        add("a", values={"p": "5"}, stats={"numRecords": 3}),
        add("b", values={"p": None}, stats={"numRecords": 4}),
    ]
    await lake.commit(0, protocol(), metadata(column("p", "integer"), partitions=["p"]), *files, add("c"))
    stats = (await lake.load()).files.stats("p")
    assert stats.minimum.to_pylist() == stats.maximum.to_pylist() == [5, None, None]
    assert stats.null_count.to_pylist() == [0, 4, None]


@given(st.lists(st.none() | st.datetimes(dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31))))
def test_timestamps_written_by_python_read_back(values: list[dt.datetime | None]) -> None:
    texts = pa.array([None if value is None else value.isoformat(" ") for value in values], pa.string())
    assert parse_strings(texts, NTZ).to_pylist() == values
    zoned = pa.array([None if value is None else value.isoformat() + "+00:00" for value in values], pa.string())
    assert parse_strings(zoned, UTC_US).to_pylist() == [value and value.replace(tzinfo=dt.UTC) for value in values]


@given(st.lists(st.text(max_size=12)), st.sampled_from([NTZ, UTC_US, pa.date32(), pa.int32(), pa.decimal128(5, 2)]))
def test_lenient_parsing_never_fails(texts: list[str], kind: pa.DataType) -> None:
    found = parse_strings_leniently(pa.array(texts, pa.string()), kind)
    assert (len(found), found.type) == (len(texts), kind)


PATHS = {
    "a.parquet": f"{TABLE}/a.parquet",
    "p=1/a b.parquet": f"{TABLE}/p=1/a b.parquet",
    "p=a%20b/x%2525": f"{TABLE}/p=a b/x%25",
    "p=2021-01-01 00:00:00/x": f"{TABLE}/p=2021-01-01 00:00:00/x",
    "%C3%A9": f"{TABLE}/é",
    "a//b": f"{TABLE}/a/b",
    "./a": f"{TABLE}/a",
    "a+b": f"{TABLE}/a+b",
    "s3://other/k%23y": "s3://other/k#y",
    "s3a://other/k": "s3://other/k",
    "S3N://other/k": "s3://other/k",
    "file:/tmp/x%20y": "file:///tmp/x y",
    "file:///tmp/x": "file:///tmp/x",
    "wasb://x/y": "wasb://x/y",
    "dbfs:/x/y": "dbfs:/x/y",
}


@pytest.mark.parametrize("path", PATHS)
def test_a_path_of_the_log_names_its_location(path: str) -> None:
    assert file_location(TABLE, path) == PATHS[path]


def test_many_paths_are_located_as_one_is() -> None:
    assert file_locations(TABLE, pa.array(list(PATHS))).to_pylist() == list(PATHS.values())


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1), max_size=8))
def test_many_odd_paths_are_located_as_one_is(paths: list[str]) -> None:
    try:
        expected = [file_location(TABLE, path) for path in paths]
    except (UnsupportedError, CorruptError):
        return
    assert file_locations(TABLE, pa.array(paths, pa.string())).to_pylist() == expected


def test_a_path_that_does_not_decode_is_corrupt() -> None:
    with pytest.raises(CorruptError, match="UTF-8"):
        file_location(TABLE, "%FF")
