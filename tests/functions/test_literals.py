"""Arrow values as SQL text: what the engine makes of the text is the value again, in its type."""

import datetime as dt
import decimal
import math
from typing import Any

import pyarrow as pa
import pytest
from datafusion import SessionContext
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.literals import identifier, string, type_name, typed_literal
from storage.errors import UnsupportedError

CONTEXT = SessionContext()
MOMENT = dt.datetime(1969, 12, 31, 23, 59, 59, 123456)
VALUES: list[tuple[pa.DataType, list[Any]]] = [
    (pa.bool_(), [True, False]), (pa.int8(), [-128, 127]), (pa.int16(), [-5]), (pa.int32(), [2**31 - 1]),
    (pa.int64(), [-(2**63), 2**63 - 1]), (pa.uint8(), [255]), (pa.uint16(), [9]), (pa.uint32(), [2**32 - 1]),
    (pa.uint64(), [2**64 - 1]), (pa.float16(), [1.5, math.inf]),
    (pa.float32(), [0.10000000149011612, -0.0, math.inf, -math.inf, math.nan, 1e-45]),
    (pa.float64(), [0.1, -0.0, math.inf, -math.inf, math.nan, 5e-324, 1.7976931348623157e308]),
    (pa.string(), ["", "it's", '"', "a\\b", "雪", "a\nb", "$1 :x", "NULL", "\t;--"]), (pa.large_string(), ["x"]),
    (pa.string_view(), ["x"]), (pa.binary(), [b"", b"\x00\xff'"]), (pa.large_binary(), [b"\x00"]),
    (pa.binary_view(), [b"\x00\xff"]), (pa.binary(3), [b"\x00\x01\xff"]),
    (pa.date32(), [dt.date(1, 1, 1), dt.date(9999, 12, 31)]),
    (pa.date64(), [dt.date(1969, 12, 31)]), (pa.timestamp("s"), [MOMENT.replace(microsecond=0)]),
    (pa.timestamp("ms"), [MOMENT.replace(microsecond=123000)]), (pa.timestamp("us"), [MOMENT, dt.datetime(1, 1, 1)]),
    (pa.timestamp("us", "UTC"), [MOMENT.replace(tzinfo=dt.UTC)]),
    (pa.timestamp("us", "America/New_York"), [MOMENT.replace(tzinfo=dt.UTC)]),
    (pa.time32("s"), [dt.time(23, 59, 59)]), (pa.time32("ms"), [dt.time(0, 0, 0, 1000)]),
    (pa.time64("us"), [dt.time(1, 2, 3, 4)]),
    (pa.duration("us"), [dt.timedelta(days=-1, microseconds=5)]), (pa.duration("s"), [dt.timedelta(seconds=5)]),
    (pa.decimal128(38, 10), [decimal.Decimal("-1234567890123456789012345678.0123456789"), decimal.Decimal("1E-10")]),
    (pa.decimal128(5, -2), [decimal.Decimal("12300")]), (pa.decimal256(50, 3), [decimal.Decimal("1.500")]),
    (pa.dictionary(pa.int32(), pa.string()), ["it's"]),
]  # fmt: skip
CASES = [(type_, value) for type_, values in VALUES for value in [*values, None]]


@pytest.mark.parametrize(("type_", "value"), CASES, ids=[f"{type_}-{value!r}" for type_, value in CASES])
def test_a_value_survives_its_text(type_: pa.DataType, value: Any) -> None:
    scalar = pa.scalar(value, type_) if not pa.types.is_dictionary(type_) else pa.array([value], type_)[0]
    try:
        text = typed_literal(scalar, type_)
    except UnsupportedError:
        return
    (found,) = CONTEXT.sql(f"SELECT {text} AS x").to_arrow_table().column("x").combine_chunks()
    assert found.type == type_
    expected = scalar.as_py()
    if isinstance(expected, float):
        assert math.copysign(1, found.as_py()) == math.copysign(1, expected) or math.isnan(expected)
        assert found.as_py() == expected or math.isnan(expected)
    else:
        assert found.as_py() == expected


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("type_", [pa.timestamp, pa.duration])
def test_instants_keep_every_digit(type_: Any, unit: str) -> None:
    for number in (0, -1, 1_700_000_000_123_456_789 if unit == "ns" else 1_700_000_000):
        scalar = pa.scalar(number, pa.int64()).cast(type_(unit))
        try:
            text = typed_literal(scalar, scalar.type)
        except UnsupportedError:
            continue
        found = CONTEXT.sql(f"SELECT {text} AS x").to_arrow_table().column("x").combine_chunks()
        assert found.cast(pa.int64()).to_pylist() == [number]


@pytest.mark.parametrize(
    "type_",
    [pa.struct([("a b", pa.int64()), ("q'q", pa.string())]), pa.list_(pa.int64()), pa.large_list(pa.string()),
     pa.list_(pa.float32(), 3), pa.map_(pa.string(), pa.int64()), pa.null()],
)  # fmt: skip
def test_a_null_of_a_nested_type_has_that_type(type_: pa.DataType) -> None:
    text = typed_literal(pa.scalar(None, type_), type_)
    found = CONTEXT.sql(f"SELECT {text} AS x").to_arrow_table()
    assert found.column("x").null_count == 1
    assert str(found.schema.field("x").type).split("<")[0] == str(type_).split("<")[0]


def test_a_nested_value_is_refused() -> None:
    with pytest.raises(UnsupportedError):
        typed_literal(pa.scalar([1]), pa.list_(pa.int64()))
    with pytest.raises(UnsupportedError):
        typed_literal(pa.scalar(None, pa.struct([('"', pa.int64())])), pa.struct([('"', pa.int64())]))
    with pytest.raises(UnsupportedError):
        type_name(pa.month_day_nano_interval())


@settings(deadline=None)
@given(st.text(max_size=20).filter(lambda text: "\x00" not in text))
def test_any_text_and_any_name_survive_quoting(text: str) -> None:
    found = CONTEXT.sql(f"SELECT {string(text)} AS {identifier('n' + text)}").to_arrow_table()
    assert found.column_names == ["n" + text]
    assert found.column(0).to_pylist() == [text]
