"""Keys of rows: hashes that agree between processes and types, refusals, and the last row of each key."""

from __future__ import annotations

import datetime as dt
import decimal
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.keys import check_keys, key_hashes, last_of_each
from storage.errors import InvalidError, UnsupportedError

_COLUMNS = {
    "i": pa.array([1, 2, -3], pa.int32()),
    "s": pa.array(["a", "", "a string that is longer than eight bytes"]),
    "b": pa.array([b"\x00", b"", b"\x00\x00"], pa.binary()),
    "d": pa.array([dt.date(2026, 1, 1)] * 3),
    "t": pa.array([dt.datetime(2026, 1, 1, tzinfo=dt.UTC)] * 3, pa.timestamp("us", "UTC")),
    "f": pa.array([0.5, -1.0, 3.0], pa.float32()),
    "n": pa.array([decimal.Decimal("1.50"), decimal.Decimal("-1.50"), decimal.Decimal(0)], pa.decimal128(30, 2)),
    "o": pa.array([True, False, True]),
}
_ROWS = pa.table(_COLUMNS)
GOLDEN = {
    "i": 171140915806765654,
    "s": 4628363833817063858,
    "b": 15080840913861674541,
    "d": 8791769496505897426,
    "t": 13756292091288197483,
    "f": 8063531101728954656,
    "n": 2408379692884643890,
    "o": 137863502478868527,
}
GOLDEN_PAIR = [14836603779290129240, 11918778868028477579, 1099884421278319339]


def test_hashes_are_written_in_stone() -> None:
    found = {name: int(key_hashes(_ROWS, [name]).sum(dtype=np.uint64)) for name in _COLUMNS}
    assert found == GOLDEN
    assert [int(each) for each in key_hashes(_ROWS, ["i", "s"])] == GOLDEN_PAIR


def test_another_process_finds_the_same_hashes() -> None:
    text = (
        "import pyarrow as pa; from functions.keys import key_hashes;"
        "print(key_hashes(pa.table({'s': ['x', 'yy']}), ['s']).tolist())"
    )
    out = subprocess.run([sys.executable, "-c", text], check=True, capture_output=True, text=True).stdout
    assert out.strip() == str(key_hashes(pa.table({"s": ["x", "yy"]}), ["s"]).tolist())


def test_hashes_do_not_depend_on_chunks_widths_or_the_sign_of_zero() -> None:
    parts = pa.concat_tables([_ROWS.slice(0, 1), _ROWS.slice(1)])
    for name in _COLUMNS:
        assert (key_hashes(parts, [name]) == key_hashes(_ROWS, [name])).all()
        assert (key_hashes(_ROWS.slice(1), [name]) == key_hashes(_ROWS, [name])[1:]).all()
    wide = _ROWS.set_column(0, "i", _COLUMNS["i"].cast(pa.int64())).set_column(5, "f", _COLUMNS["f"].cast("double"))
    assert (key_hashes(wide, ["i", "f"]) == key_hashes(_ROWS, ["i", "f"])).all()
    zeros = key_hashes(pa.table({"f": [0.0, -0.0]}), ["f"])
    assert zeros[0] == zeros[1]


@given(st.lists(st.binary(max_size=70), max_size=40))
def test_byte_strings_have_the_hash_they_have_alone(values: list[bytes]) -> None:
    together = key_hashes(pa.table({"b": pa.array(values, pa.binary())}), ["b"])
    alone = [key_hashes(pa.table({"b": pa.array([each], pa.binary())}), ["b"])[0] for each in values]
    assert together.tolist() == [int(each) for each in alone]
    assert len(set(together.tolist())) == len(set(values))


def test_many_keys_do_not_collide() -> None:
    numbers = np.arange(200_000)
    assert len(np.unique(key_hashes(pa.table({"i": numbers}), ["i"]))) == len(numbers)
    words = pa.array([f"user-{number}" for number in numbers])
    assert len(np.unique(key_hashes(pa.table({"s": words}), ["s"]))) == len(numbers)
    pairs = pa.table({"a": numbers % 500, "b": numbers // 500})
    assert len(np.unique(key_hashes(pairs, ["a", "b"]))) == len(numbers)


def test_a_nested_key_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="primary key column=l"):
        key_hashes(pa.table({"l": [[1]]}), ["l"])


def test_nulls_and_nans_are_refused_with_row_and_column() -> None:
    check_keys(_ROWS, list(_COLUMNS))
    with pytest.raises(InvalidError, match="is NULL; give it a value column=k row=1"):
        check_keys(pa.table({"k": [1, None]}), ["k"])
    with pytest.raises(InvalidError, match="is NaN; give it a value column=k row=2"):
        check_keys(pa.table({"k": [1.0, 2.0, float("nan")]}), ["k"])


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["a", "b"]), st.integers()), max_size=30))
def test_the_last_row_of_each_key_is_kept_in_order(values: list[tuple[int, str, int]]) -> None:
    rows = pa.table(
        {
            "k": pa.array([k for k, _, _ in values], pa.int64()),
            "s": pa.array([s for _, s, _ in values], pa.string()),
            "v": pa.array([str(v) for _, _, v in values], pa.string()),
        }
    )
    last = {(k, s): number for number, (k, s, _) in enumerate(values)}
    expected = [rows.slice(number, 1).to_pylist()[0] for number in sorted(last.values())]
    assert last_of_each(rows, ["k", "s"]).to_pylist() == expected


def test_zero_and_minus_zero_are_one_key_and_the_row_keeps_its_sign() -> None:
    kept = last_of_each(pa.table({"k": [0.0, 1.0, -0.0], "v": [1, 2, 3]}), ["k"])
    assert kept.column("v").to_pylist() == [2, 3]
    assert str(kept.column("k")[1].as_py()) == "-0.0"
