"""Keys as numbers: in the keys' order, and exactly theirs where 64 bits do."""

from __future__ import annotations

import datetime as dt
import decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.index.keyspace import KeySpace
from functions.index.ordinals import check_type, hashes, ordinals
from storage.errors import UnsupportedError

_DATE = dt.date(1970, 1, 1)
_VALUES: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.int8(): st.integers(-128, 127),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.uint32(): st.integers(0, 2**32 - 1),
    pa.float32(): st.floats(width=32, allow_nan=False),
    pa.float64(): st.floats(allow_nan=False),
    pa.date32(): st.dates(),
    pa.timestamp("us"): st.datetimes(),
    pa.timestamp("us", "UTC"): st.datetimes(timezones=st.just(dt.UTC)),
    pa.decimal128(12, 2): st.decimals(-(10**10) + 1, 10**10 - 1, places=2),
    pa.decimal128(38, 0): st.integers(-(10**38) + 1, 10**38 - 1).map(decimal.Decimal),
    pa.string(): st.text(max_size=12) | st.text("ab\0", max_size=12),
    pa.binary(): st.binary(max_size=20),
    pa.binary(16): st.binary(min_size=16, max_size=16),
}
_TYPES = list(_VALUES)


def _array(values: list[Any], type_: pa.DataType) -> pa.Array:
    if pa.types.is_decimal(type_):
        with decimal.localcontext(prec=60):
            return pa.array(values, type_)
    return pa.array(values, type_)


def _bytes_of(value: Any) -> Any:
    return value.encode() if isinstance(value, str) else value


@st.composite
def _keys(draw: st.DrawFn, columns_max: int = 3) -> tuple[list[tuple[Any, ...]], list[pa.DataType]]:
    types = draw(st.lists(st.sampled_from(_TYPES), min_size=1, max_size=columns_max))
    row = st.tuples(*[_VALUES[type_] for type_ in types])
    rows = draw(st.lists(row, min_size=1, max_size=30))
    if draw(st.booleans()):  # keys that have much in common
        rows += [tuple(draw(st.sampled_from([cell, row[i]])) for i, cell in enumerate(rows[0])) for row in rows]
    return rows, types


def _table(rows: list[tuple[Any, ...]], types: list[pa.DataType]) -> pa.Table:
    columns = [_array([row[i] for row in rows], type_) for i, type_ in enumerate(types)]
    return pa.Table.from_arrays(columns, names=[f"c{i}" for i in range(len(types))])


def _files(rows: list[tuple[Any, ...]], types: list[pa.DataType], at: int) -> list[Any]:
    parts = [part for part in (rows[:at], rows[at:]) if part]
    return [[ordinals(column.combine_chunks()) for column in _table(part, types).columns] for part in parts]


@settings(deadline=None, max_examples=60)
@given(_keys(), st.integers(0, 30))
def test_numbers_never_decrease_where_keys_grow(keys: Any, at: int) -> None:
    rows, types = keys
    rows.sort(key=lambda row: tuple(map(_bytes_of, row)))
    space = KeySpace.fit(_files(rows, types, at))
    numbers, inside = space.numbers(_table(rows, types))
    assert inside.all()
    assert (numbers[1:] >= numbers[:-1]).all()


@settings(deadline=None, max_examples=50)
@given(_keys(), st.integers(0, 30))
def test_a_files_rows_have_the_numbers_of_their_keys(keys: Any, at: int) -> None:
    rows, types = keys
    files = _files(rows, types, at)
    space = KeySpace.fit(files)
    kept = np.concatenate([space.kept(file) for file in files])
    assert (kept == space.numbers(_table(rows, types))[0]).all()


@settings(deadline=None, max_examples=50)
@given(_keys(1), st.data())
def test_a_key_of_other_values_is_inside_only_within_the_ranges(keys: Any, data: st.DataObject) -> None:
    rows, types = keys
    space = KeySpace.fit(_files(rows, types, 0))
    other = data.draw(_VALUES[types[0]])
    low, high = (fold(_bytes_of(row[0]) for row in rows) for fold in (min, max))
    _number, inside = space.numbers(_table([(other,)], types))
    assert inside[0] or other not in [row[0] for row in rows]
    if low <= _bytes_of(other) <= high and not pa.types.is_binary(types[0]):
        assert inside[0]


@settings(deadline=None, max_examples=60)
@given(_keys(2), st.data())
def test_the_keys_between_two_bounds_have_numbers_between_those_of_the_bounds(keys: Any, data: st.DataObject) -> None:
    rows, types = keys
    space = KeySpace.fit(_files(rows, types, 0))
    low, high = (data.draw(st.none() | _VALUES[types[0]] | st.sampled_from([row[0] for row in rows])) for _ in "lh")
    numbers, _inside = space.numbers(_table(rows, types))
    wanted = [
        (low is None or _bytes_of(row[0]) >= _bytes_of(low)) and (high is None or _bytes_of(row[0]) <= _bytes_of(high))
        for row in rows
    ]
    between = space.between(low, high, types[0])
    if between is None:
        assert not any(wanted)
    else:
        assert all(between[0] <= int(number) <= between[1] for number, w in zip(numbers, wanted, strict=True) if w)


def test_several_columns_are_exact_while_their_ranges_fit() -> None:
    keys = [(a, b, c) for a in (5, 7) for b in (-(2**40), 0, 2**40) for c in (100, 101)]
    space = KeySpace.fit(_files(keys, [pa.int64()] * 3, 0))
    assert len(np.unique(space.numbers(_table(keys, [pa.int64()] * 3))[0])) == len(keys)


def test_strings_are_told_apart_by_what_follows_their_common_beginning() -> None:
    keys = [(f"customer-{i:08d}", i % 3) for i in range(1_000)]
    types = [pa.string(), pa.int32()]
    space = KeySpace.fit(_files(keys, types, 400))
    numbers, _inside = space.numbers(_table(keys, types))
    assert (np.diff(numbers.astype(np.int64)) > 0).all()
    assert not space.numbers(_table([("customer", 0), ("customes-00000001", 0)], types))[1].any()


def test_negative_zero_and_zero_are_one_key() -> None:
    table = _table([(-0.0,), (0.0,)], [pa.float64()])
    space = KeySpace.fit([[ordinals(table.column(0).combine_chunks())]])
    assert len(set(space.numbers(table)[0].tolist())) == 1
    assert len(set(hashes(table).tolist())) == 1


def test_fixed_bytes_hash_like_bytes() -> None:
    rows = [(bytes([i]) * 16,) for i in range(100)]
    assert (hashes(_table(rows, [pa.binary(16)])) == hashes(_table(rows, [pa.binary()]))).all()


@pytest.mark.parametrize("type_", [pa.bool_(), pa.list_(pa.int32()), pa.float16(), pa.timestamp("ns"), pa.uint64()])
def test_a_type_that_cannot_be_a_key_is_refused_by_name(type_: pa.DataType) -> None:
    with pytest.raises(UnsupportedError, match=f"column=k type={type_}".replace("[", r"\[")):
        check_type("k", type_)
