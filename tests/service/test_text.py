"""Every Arrow type as JSON text: the promises of docs/http.md, type by type."""

import datetime as dt
import json
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.text import json_text
from storage.errors import UnsupportedError

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
CASES = [
    (pa.array([1, None, 2**63 - 1]), ["1", None, "9223372036854775807"]),
    (pa.array([2**64 - 1], pa.uint64()), ["18446744073709551615"]),
    (
        pa.array([1.5, float("nan"), float("inf"), -float("inf"), None]),
        ["1.5", '"NaN"', '"Infinity"', '"-Infinity"', None],
    ),
    (pa.array([0.1], pa.float32()), ["0.1"]),
    (pa.array(np.array([1.5], dtype="float16")), ["1.5"]),
    (pa.array([True, False, None]), ["true", "false", None]),
    (pa.nulls(2), [None, None]),
    (pa.array([Decimal("0.0000000001"), None], pa.decimal128(38, 10)), ['"0.0000000001"', None]),
    (pa.array([Decimal(12300)], pa.decimal128(5, -2)), ['"12300"']),
    (pa.array([Decimal("1.50")], pa.decimal256(50, 2)), ['"1.50"']),
    (pa.array([dt.date(2020, 2, 29), None]), ['"2020-02-29"', None]),
    (pa.array([1], pa.time64("ns")), ['"00:00:00.000000001"']),
    (pa.array([0, None], pa.timestamp("s")), ['"1970-01-01T00:00:00"', None]),
    (pa.array([1], pa.timestamp("ns")), ['"1970-01-01T00:00:00.000000001"']),
    (pa.array([1, None], pa.timestamp("us", "UTC")), ['"1970-01-01T00:00:00.000001Z"', None]),
    (pa.array([1720000000, None], pa.timestamp("s", "America/New_York")), ['"2024-07-03T05:46:40-04:00"', None]),
    (pa.array([0], pa.timestamp("s", "+05:30")), ['"1970-01-01T05:30:00+05:30"']),
    (pa.array([-(10**10)], pa.timestamp("s", "America/New_York")), ['"1653-02-10T06:13:20Z"']),
    (pa.array([1, -1500, None], pa.duration("ms")), ['"PT0.001S"', '"PT-1.5S"', None]),
    (
        pa.array([(1, 2, 3), (0, 0, 0), None, (-1, 0, -(10**9))], pa.month_day_nano_interval()),
        ['"P1M2DT0.000000003S"', '"PT0S"', None, '"P-1MT-1S"'],
    ),
    (pa.array([b"\xff", None]), ['"/w=="', None]),
    (pa.array([b"ab"], pa.binary(2)), ['"YWI="']),
    (pa.array(['a"\\\n\x01é\u2028', None, ""]), ['"a\\"\\\\\\n\\u0001é\u2028"', None, '""']),
    (pa.array(["a"], pa.string_view()), ['"a"']),
    (pa.array(["a", "b", None]).dictionary_encode(), ['"a"', '"b"', None]),
    (pa.RunEndEncodedArray.from_arrays([2, 3], ["a", "b"]), ['"a"', '"a"', '"b"']),
    (pa.array([[0], [1, None], None, []])[1:], ["[1,null]", None, "[]"]),
    (pa.array([[1, 2], None], pa.list_(pa.int64(), 2)), ["[1,2]", None]),
    (pa.array([[1], None], pa.list_view(pa.int64())), ["[1]", None]),
    (
        pa.array([{"a": 1, 'b"': "x"}, None, {"a": None, 'b"': None}]),
        ['{"a":1,"b\\"":"x"}', None, '{"a":null,"b\\"":null}'],
    ),
    (pa.array([{}, None], pa.struct([])), ["{}", None]),
    (pa.array([[("a", 1), ("b", None)], None, []], pa.map_(pa.string(), pa.int64())), ['{"a":1,"b":null}', None, "{}"]),
    (pa.array([[(1, 1)], [(2, 5)]], pa.map_(pa.int64(), pa.int64()))[1:], ['{"2":5}']),
    (pa.array([[{"a": [dt.date(2020, 1, 1)]}], [None]]), ['[{"a":["2020-01-01"]}]', "[null]"]),
    (pa.array([b"0" * 16], pa.uuid()), ['"30303030-3030-3030-3030-303030303030"']),
    (pa.array([], pa.list_(pa.int64())), []),
    (
        pa.UnionArray.from_dense(
            pa.array([0, 1], pa.int8()), pa.array([0, 0], pa.int32()), [pa.array([1]), pa.array(["x"])]
        ),
        ["1", '"x"'],
    ),
]


@pytest.mark.parametrize(("array", "expected"), CASES, ids=[str(case[0].type) for case in CASES])
def test_a_type_reads_as_documented_and_is_json(array: pa.Array, expected: list[str | None]) -> None:
    found = json_text(array).to_pylist()
    assert found == expected
    for text in found:
        if text is not None:
            json.loads(text)


def test_a_timestamp_that_iso_8601_cannot_say_is_refused_not_garbled() -> None:
    with pytest.raises(UnsupportedError, match="arrow or parquet"):
        json_text(pa.array([2**62], pa.timestamp("s")))


@given(st.lists(st.none() | TEXT, max_size=20))
def test_any_text_survives_json(values: list[str | None]) -> None:
    found = json_text(pa.array(values, pa.string())).to_pylist()
    assert [None if text is None else json.loads(text) for text in found] == values


@given(
    st.lists(
        st.none()
        | st.lists(
            st.none()
            | st.fixed_dictionaries({"a": st.none() | st.integers(-(2**63), 2**63 - 1), "b": st.none() | TEXT}),
            max_size=3,
        ),
        max_size=10,
    ),
    st.integers(0, 3),
)
def test_any_nesting_survives_json_also_when_sliced(values: list[object], start: int) -> None:
    kind = pa.list_(pa.struct([("a", pa.int64()), ("b", pa.string())]))
    found = json_text(pa.array(values, kind)[start:]).to_pylist()
    assert [None if text is None else json.loads(text) for text in found] == values[start:]


@example([-0.0])
@given(st.lists(st.none() | st.floats(), max_size=20))
def test_any_float_survives_json_exactly(values: list[float | None]) -> None:
    found = json_text(pa.array(values, pa.float64())).to_pylist()
    back = [None if text is None else float(json.loads(text)) for text in found]
    assert list(map(repr, back)) == list(map(repr, values))
