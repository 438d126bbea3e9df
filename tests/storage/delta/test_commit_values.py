"""Every type and odd partition values, through our writer to our reader, deltalake and DuckDB; statistics that hold."""

from __future__ import annotations

import datetime as dt
import io
import json
import math
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import deltalake
import hypothesis.strategies as st
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings

from storage.clock import SystemClock
from storage.errors import InvalidError, UnsupportedError
from storage.tables.delta.commit import DeltaWriter
from storage.tables.delta.write_stats import stats_json
from storage.tables.delta.write_values import check_partition_rows, encode_path, partition_text
from storage.tables.write import DataFile
from tests.support.delta_read import load_folder, local_stores, multiset, read_rows
from tests.support.delta_write import data_file, make_spec
from tests.support.duckdb_readers import duckdb_with

pytestmark = pytest.mark.anyio

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
_TIMES = st.datetimes(dt.datetime(1, 1, 2), dt.datetime(9999, 12, 30))
_WITH_STATS: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "i8": (pa.int8(), st.integers(-128, 127)),
    "i16": (pa.int16(), st.integers(-(1 << 15), (1 << 15) - 1)),
    "i32": (pa.int32(), st.integers(-(1 << 31), (1 << 31) - 1)),
    "i64": (pa.int64(), st.integers(-(1 << 63), (1 << 63) - 1)),
    "f32": (pa.float32(), st.floats(width=32)),
    "f64": (pa.float64(), st.floats()),
    "dec": (pa.decimal128(38, 6), st.decimals(-(10**31), 10**31, places=6)),
    "text": (pa.string(), _TEXT),
    "day": (pa.date32(), st.dates()),
    "at": (pa.timestamp("us", "UTC"), _TIMES.map(lambda at: at.replace(tzinfo=dt.UTC))),
    "bare": (pa.timestamp("us"), _TIMES),
}
_WITHOUT: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "yes": (pa.bool_(), st.booleans()),
    "bytes": (pa.binary(), st.binary(max_size=5)),
    "list": (pa.list_(pa.field("element", pa.int32())), st.lists(st.none() | st.integers(0, 9), max_size=3)),
    "map": (pa.map_(pa.string(), pa.int64()), st.dictionaries(_TEXT, st.none() | st.integers(0, 9), max_size=2)),
    "struct": (
        pa.struct([("a b", pa.string()), ("deep", pa.struct([("n", pa.int64())]))]),
        st.fixed_dictionaries({"a b": st.none() | _TEXT, "deep": st.fixed_dictionaries({"n": st.integers(0, 9)})}),
    ),
}
_ALL = _WITH_STATS | _WITHOUT
SCHEMA = pa.schema([(name, kind) for name, (kind, _) in _ALL.items()])
_ROW = st.fixed_dictionaries({name: st.none() | values for name, (_, values) in _ALL.items()})


def as_table(rows: list[dict[str, Any]]) -> pa.Table:
    pairs = [{**row, "map": None if row["map"] is None else list(row["map"].items())} for row in rows]
    return pa.Table.from_pylist(pairs, SCHEMA)


def read_by_deltalake(folder: Path) -> pa.Table:
    table = deltalake.DeltaTable(str(folder))
    return pa.table(deltalake.QueryBuilder().register("t", table).execute("SELECT * FROM t").read_all())


def read_by_duckdb(folder: Path) -> pa.Table:
    connection = duckdb_with("delta")
    connection.execute("SET TimeZone = 'UTC'")
    return connection.sql(f"FROM delta_scan('{folder}')").to_arrow_table()


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=st.lists(_ROW, max_size=6), row_group_size=st.integers(1, 6))
async def test_any_rows_are_read_back_by_all_and_their_bounds_hold(
    rows: list[dict[str, Any]], row_group_size: int
) -> None:
    expected = as_table(rows)
    with tempfile.TemporaryDirectory() as name:
        folder, stores = Path(name), local_stores()
        file = await data_file(stores, f"file://{folder}", "a.parquet", expected, row_group_size=row_group_size)
        await DeltaWriter(stores, f"file://{folder}", SystemClock()).create(make_spec(SCHEMA), (file,))
        snapshot = await load_folder(folder)
        assert multiset(await read_rows(stores, snapshot)) == multiset(expected)
        assert multiset(read_by_deltalake(folder).cast(SCHEMA)) == multiset(expected)
        assert multiset(read_by_duckdb(folder).cast(SCHEMA)) == multiset(expected)
    assert snapshot.files.n_rows.tolist() == [len(rows)]
    for column in SCHEMA.names:
        stats, values = snapshot.files.stats(column), expected.column(column)
        if stats is None or not len(rows):
            continue
        assert stats.null_count[0].as_py() in (None, values.null_count), column
        low, high = stats.minimum[0].as_py(), stats.maximum[0].as_py()
        known = [value for value in values.to_pylist() if value is not None]
        assert low is None or all(value >= low for value in known if value == value), column
        assert high is None or all(value <= high for value in known), column


def stats_of(table: pa.Table, **options: Any) -> dict[str, Any]:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    found: dict[str, Any] = json.loads(stats_json(pq.read_metadata(sink), **options), parse_float=Decimal)
    return found


def test_statistics_leave_out_what_would_be_wrong() -> None:
    table = pa.table(
        {
            "nan": [1.5, math.nan],
            "text": ["a" * 40, "b" * 31 + "\U0010ffff" * 3 + "x"],
            "at": pa.array([-1, 1_500], pa.timestamp("us", "UTC")),
            "dec": pa.array([Decimal("0.10"), Decimal("12345678901234567890.25")], pa.decimal128(30, 2)),
            "yes": [True, False],
            "none": pa.nulls(2, pa.int64()),
            "far": pa.array([0, 10_000_000], pa.int32()).cast(pa.date32()),
            "in": [{"x": 1, "y": [1]}, {"x": None, "y": None}],
            "last": pa.array([dt.datetime.max] * 2, pa.timestamp("us")),
        }
    )
    found = stats_of(table)
    assert found == {
        "numRecords": 2,
        "minValues": {
            "nan": Decimal("1.5"), "text": "a" * 32, "at": "1969-12-31T23:59:59.999Z", "dec": Decimal("0.10"),
            "in": {"x": 1}, "last": "9999-12-31T23:59:59.999",
        },
        "maxValues": {
            "text": "b" * 31 + "\U0010ffff" * 4, "at": "1970-01-01T00:00:00.002Z",
            "dec": Decimal("12345678901234567890.25"), "in": {"x": 1},
        },
        "nullCount": {"nan": 0, "text": 0, "at": 0, "dec": 0, "yes": 0, "none": 2, "far": 0, "in": {"x": 1}, "last": 0},
    }  # fmt: skip
    assert pc.max(table.column("text")).as_py() <= found["maxValues"]["text"]


def test_only_the_first_columns_and_those_of_the_key_have_statistics() -> None:
    table = pa.table({f"c{n}": [n] for n in range(40)})
    assert len(stats_of(table)["nullCount"]) == 32
    assert list(stats_of(table, n_columns=1, always=["c39"])["minValues"]) == ["c0", "c39"]
    assert len(stats_of(table, n_columns=-1)["nullCount"]) == 40


_PARTITIONS: list[tuple[pa.DataType, list[Any]]] = [
    (pa.string(), ["a/b", "ä=é %25%", " ", "x y", "..", "null", "__HIVE_DEFAULT_PARTITION__", '"q"\\', "\t\n"]),
    (pa.int64(), [0, -(1 << 63), (1 << 63) - 1]),
    (pa.int8(), [-128, 127]),
    (pa.bool_(), [True, False]),
    (pa.float64(), [0.1, -1e300, math.nan, math.inf, -math.inf]),
    (pa.decimal128(20, 3), [Decimal("0.001"), Decimal("-12345678901234567.890")]),
    (pa.date32(), [dt.date(1, 1, 1), dt.date(1969, 12, 31), dt.date(9999, 12, 31)]),
    (pa.timestamp("us", "UTC"), [dt.datetime(1969, 12, 31, 23, 59, 59, 999_999, dt.UTC)]),
    (pa.timestamp("us"), [dt.datetime(1900, 1, 1), dt.datetime(2024, 2, 29, 1, 2, 3, 4)]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "values"), _PARTITIONS, ids=lambda value: str(value) if isinstance(value, pa.DataType) else ""
)
async def test_odd_partition_values_are_read_back_by_all(kind: pa.DataType, values: list[Any], tmp_path: Path) -> None:
    schema, stores, files = pa.schema([("id", pa.int64()), ("p", kind)]), local_stores(), list[DataFile]()
    expected = pa.table({"id": range(len(values) + 1), "p": pa.array([*values, None], kind)}, schema)
    for number in range(len(expected)):
        row = expected.slice(number, 1)
        files.append(
            await data_file(stores, f"file://{tmp_path}", f"{number}.parquet", row, {"p": row["p"][0].as_py()})
        )
    await DeltaWriter(stores, f"file://{tmp_path}", SystemClock()).create(
        make_spec(schema, partition_by=["p"]), tuple(files)
    )
    snapshot = await load_folder(tmp_path)
    assert multiset(await read_rows(stores, snapshot)) == multiset(expected)
    assert multiset(read_by_deltalake(tmp_path).cast(schema)) == multiset(expected)
    assert multiset(read_by_duckdb(tmp_path).select(["id", "p"]).cast(schema)) == multiset(expected)


def test_partition_values_may_be_the_numbers_that_iceberg_counts_in() -> None:
    assert partition_text(-1, pa.field("d", pa.date32())) == "1969-12-31"
    assert partition_text(-1, pa.field("t", pa.timestamp("us", "UTC"))) == "1969-12-31T23:59:59.999999Z"
    assert partition_text(0, pa.field("t", pa.timestamp("us"))) == "1970-01-01 00:00:00.000000"


def test_an_empty_string_in_a_partition_column_is_null_and_can_be_refused_beforehand() -> None:
    assert partition_text("", pa.field("p", pa.string())) is None
    with pytest.raises(InvalidError, match="null or an empty string column=p"):
        partition_text("", pa.field("p", pa.string(), nullable=False))
    check_partition_rows(pa.table({"p": ["a", None]}), ("p",))
    with pytest.raises(InvalidError, match="column=p row=1"):
        check_partition_rows(pa.table({"p": ["a", "", None]}), ("p",))


def test_paths_are_encoded_once_and_stay_under_their_table() -> None:
    assert encode_path("s3://b/t", "s3://b/t/p=a%2Fb é:+/1.parquet") == "p=a%252Fb%20%C3%A9%3A%2B/1.parquet"
    for outside in ("s3://b/other/1.parquet", "s3://b/t2/1.parquet", "s3://b/t/_delta_log/x.parquet"):
        with pytest.raises(InvalidError, match="outside its table's folder"):
            encode_path("s3://b/t", outside)


@pytest.mark.parametrize(
    ("field", "name"),
    [
        (pa.field("u", pa.uint8()), "u"),
        (pa.field("h", pa.float16()), "h"),
        (pa.field("t", pa.time64("us")), "t"),
        (pa.field("n", pa.timestamp("ns")), "n"),
        (pa.field("z", pa.timestamp("us", "Europe/Zurich")), "z"),
        (pa.field("s", pa.struct([("in", pa.list_(pa.uint64()))])), "s.in.element"),
        (pa.field("d", pa.decimal256(50, 2)), "d"),
    ],
)
async def test_a_type_that_delta_has_not_is_refused_by_name(field: pa.Field, name: str, tmp_path: Path) -> None:
    writer = DeltaWriter(local_stores(), f"file://{tmp_path}", SystemClock())
    with pytest.raises(UnsupportedError, match=f"column={name} "):
        await writer.create(make_spec(pa.schema([field])))
    with pytest.raises(InvalidError, match="by case alone"):
        await writer.create(make_spec(pa.schema([("a", pa.int32()), ("A", pa.int32())])))
