"""Statistics: bounds that hold for every value, whatever their writer did."""

import asyncio
import datetime as dt
import json
import time
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.tables.delta.stats import FileStats
from storage.tables.snapshot import ColumnStats
from tests.support.delta_build import Lake, add, column, inline_vector, metadata, protocol, remove

pytestmark = pytest.mark.anyio


def stats(n_rows: int = 10, low: Any = None, high: Any = None, nulls: int | None = 0, **more: Any) -> dict[str, Any]:
    return {"numRecords": n_rows, "minValues": {"x": low}, "maxValues": {"x": high}, "nullCount": {"x": nulls}} | more


async def of_column(kind: Any, *texts: Any) -> ColumnStats:
    lake = Lake()
    files = [add(f"f{number}", stats=text) for number, text in enumerate(texts)]
    await lake.commit(0, protocol(), metadata(column("x", kind)), *files)
    found = (await lake.load()).files.stats("x")
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("kind", "low", "high", "expected"),
    [
        ("long", -5, 2**63 - 1, (-5, 2**63 - 1)),
        ("byte", -128, 127, (-128, 127)),
        ("string", "a", "zé\U0010ffff", ("a", "zé\U0010ffff")),
        ("double", -1.5, 1e300, (-1.5, float("inf"))),
        ("double", 3.4, 3.4, (3.4, 3.4000000953674316)),
        ("double", 1, 2, (1.0, 2.0)),
        ("float", -0.5, 0.5, (-0.5, 0.5)),
        ("double", "NaN", float("nan"), (None, None)),
        ("boolean", False, True, (False, True)),
        ("date", "2024-01-01", "2024-12-31", (dt.date(2024, 1, 1), dt.date(2024, 12, 31))),
        ("decimal(38,18)", 1, Decimal(2), (Decimal("1.000000000000000000"), Decimal("2.000000000000000000"))),
        ("long", "5", 1.5, (None, None)),
        ("string", 5, ["x"], (None, None)),
        ("date", "2024-13-01", 19000, (None, None)),
        ("byte", -129, 300, (None, None)),
        ("decimal(3,1)", "x", True, (None, None)),
    ],
)
async def test_bounds_have_the_type_of_their_column(kind: str, low: Any, high: Any, expected: tuple[Any, Any]) -> None:
    text = json.dumps(stats(low=low, high=high), default=float)
    found = await of_column(kind, text, stats(low=None, high=None), "no json", None)
    assert (found.minimum.to_pylist(), found.maximum.to_pylist()) == (
        [expected[0], None, None, None],
        [expected[1], None, None, None],
    )
    assert found.null_count.to_pylist() == [0, 0, None, None]
    assert found.minimum.type == found.maximum.type


async def test_long_decimals_keep_every_digit() -> None:
    text = '{"numRecords":1,"minValues":{"x":12345678901234567890.123456789},"maxValues":{"x":99999999999999999999.9}}'
    found = await of_column("decimal(38,9)", text)
    assert found.minimum[0].as_py() == Decimal("12345678901234567890.123456789")
    assert found.maximum[0].as_py() == Decimal("99999999999999999999.900000000")


async def test_timestamps_cut_to_milliseconds_are_widened() -> None:
    texts = [
        "2024-01-01T00:00:00.123Z",
        "2024-01-01T00:00:00.123+01:00",
        "2024-01-01 00:00:00.123",
        "1969-12-31T23:59:59.999Z",
    ]
    found = await of_column("timestamp", *(stats(low=text, high=text) for text in texts))
    us = pa.int64()
    at = 1_704_067_200_123_000
    assert found.minimum.cast(us).to_pylist() == [at, at - 3_600_000_000, at, -1_999]
    assert found.maximum.cast(us).to_pylist() == [at + 999, at - 3_600_000_000 + 999, at + 999, -1]


async def test_zeros_of_both_signs_are_one_value() -> None:
    found = await of_column("double", stats(low=0.0, high=-0.0))
    assert str(found.minimum[0].as_py()) == "-0.0"
    assert str(found.maximum[0].as_py()) == "0.0"


async def test_a_null_count_of_loose_bounds_counts_only_at_its_ends() -> None:
    texts = [stats(10, 1, 2, nulls, tightBounds=False) for nulls in (0, 4, 10)]
    found = await of_column("long", *texts, stats(10, 1, 2, 4))
    assert found.null_count.to_pylist() == [0, None, 10, 4]


async def test_a_column_without_any_bounds_or_outside_the_schema_has_no_statistics() -> None:
    lake = Lake()
    nested = {"type": "struct", "fields": [column("y")]}
    await lake.commit(0, protocol(), metadata(column("x", nested), column("b", "binary")), add("a", stats=stats(3)))
    files = (await lake.load()).files
    assert files.stats("x") is None
    assert files.stats("nowhere") is None
    assert files.n_rows.tolist() == [3]


async def test_rows_are_counted_wherever_the_writer_put_them() -> None:
    odd = '{"minValues":{"numRecords":5},"numRecords":7}'
    texts = [stats(3), odd, ' { "numRecords" : 4 }', '{"numRecords":null}', "{", '{"numRecords":-1}', '"x"', None]
    lake = Lake()
    files = [add(f"f{number}", stats=text) for number, text in enumerate(texts)]
    await lake.commit(0, protocol(), metadata(column("numRecords")), *files)
    assert (await lake.load()).files.n_rows.tolist() == [3, 7, 4, -1, -1, -1, -1, -1]


async def test_widened_columns_keep_the_bounds_of_old_files() -> None:
    lake = Lake()
    await lake.commit(0, protocol(), metadata(column("x", "integer")), add("a", stats=stats(low=1, high=2)))
    known = await lake.load()
    assert known.files.stats("x").minimum.type == pa.int32()
    await lake.commit(1, metadata(column("x", "long")), add("b", stats=stats(low=1, high=2**40)))
    found = (await lake.load(known)).files.stats("x")
    assert sorted(found.maximum.to_pylist()) == [2, 2**40]
    await lake.commit(2, metadata(column("x", "decimal(30,2)")))
    found = (await lake.load(known)).files.stats("x")
    assert sorted(found.maximum.to_pylist()) == [Decimal("2.00"), Decimal("1099511627776.00")]


async def test_statistics_stay_with_their_files_when_others_go() -> None:
    lake = Lake()
    files = [add(f"f{number}", stats=stats(number, number, number)) for number in range(50)]
    await lake.commit(0, protocol(), metadata(column("x")), *files)
    known = await lake.load()
    assert known.files.stats("x") is known.files.stats("x")
    await lake.commit(1, *(remove(f"f{number}") for number in range(0, 50, 2)))
    newer = await lake.load(known)
    assert newer.files.stats("x").minimum.to_pylist() == newer.files.n_rows.tolist() == list(range(1, 50, 2))


async def test_rows_of_a_file_with_a_deletion_vector_are_physical() -> None:
    lake = Lake()
    await lake.commit(
        0, protocol(3, 7, ["deletionVectors"]), metadata(), add("a", stats=stats(9), vector=inline_vector([1]))
    )
    assert (await lake.load()).files.n_rows.tolist() == [9]


def test_ten_thousand_texts_are_decoded_once_and_filtered_fast() -> None:
    names = [f"c{number}" for number in range(16)]
    wanted = dict.fromkeys(names, pa.int64())
    bounds = dict.fromkeys(names, 7)
    text = json.dumps({"numRecords": 1, "minValues": bounds, "maxValues": bounds, "nullCount": bounds})
    decoded = FileStats(pa.array([text] * 10_000), None, 10_000)
    assert decoded.column("c0", wanted) is not None
    assert decoded.text is None
    started = time.process_time()
    for name in names:
        assert decoded.column(name, wanted).minimum[9_999].as_py() == 7
    assert time.process_time() - started < 0.05


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["x", "y"]), inner, max_size=2),
    max_leaves=5,
)
_KEYS = st.sampled_from(["numRecords", "minValues", "maxValues", "nullCount", "tightBounds"])
_KINDS = [pa.int8(), pa.int64(), pa.float32(), pa.string(), pa.binary(), pa.bool_(), pa.date32(), pa.decimal128(5, 2)]


@given(
    st.lists(st.dictionaries(_KEYS, _JSON).map(json.dumps) | st.text(max_size=8) | st.none(), max_size=6),
    st.sampled_from([*_KINDS, pa.timestamp("us", "UTC"), pa.timestamp("us")]),
)
@settings(deadline=None)
def test_any_text_gives_bounds_or_none(texts: list[str | None], kind: pa.DataType) -> None:
    from storage.tables.delta.stats import widen

    decoded = FileStats(pa.array(texts, pa.string()), None, len(texts))
    raw = decoded.column("x", {"x": kind})
    if raw is not None:
        found = widen(raw, kind, decoded)
        assert len(found.minimum) == len(found.maximum) == len(found.null_count) == len(texts)
        assert (found.minimum.type, found.maximum.type) == (kind, kind)


async def test_two_threads_that_decode_at_once_see_all_of_it() -> None:
    texts = pa.array([json.dumps(stats(1, number, number)) for number in range(6_000)])
    for _ in range(5):
        shared = FileStats(texts, None, len(texts))
        ask = [asyncio.to_thread(shared.column, "x", {"x": pa.int64()}) for _ in range(4)]
        for raw in await asyncio.gather(*ask):
            assert raw is not None
            assert raw.minimum.to_pylist() == list(range(6_000))
