"""Segments: every row of a key lies where `locate` says, and what is stored says the same."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.indexes import IndexKind
from functions.index.file_keys import key_part
from functions.index.segment import Segment, decode
from storage.errors import CorruptError, UnsupportedError
from tests.support.indexing import rows_located, segment_of

GOLDEN = Path(__file__).parents[2] / "golden" / "index"
KINDS: list[IndexKind] = ["learned", "locator"]
_LIMIT = 2**63
_VALUES: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.int8(): st.integers(-128, 127),
    pa.int64(): st.integers(-_LIMIT, _LIMIT - 1) | st.sampled_from([-_LIMIT, -1, 0, 1, _LIMIT - 1]) | st.integers(0, 9),
    pa.float64(): st.floats() | st.sampled_from([0.0, -0.0, math.inf, -math.inf, 1.5]),
    pa.timestamp("us", "UTC"): st.datetimes(timezones=st.just(dt.UTC)),
    pa.decimal128(38, 0): st.integers(-(10**38) + 1, 10**38 - 1).map(decimal.Decimal),
    pa.string(): st.text(max_size=12) | st.text("ab\0", max_size=12),
    pa.binary(16): st.binary(min_size=16, max_size=16),
}


def _table(rows: list[tuple[Any, ...]], types: list[pa.DataType]) -> pa.Table:
    with decimal.localcontext(prec=60):
        columns = [pa.array([row[i] for row in rows], type_) for i, type_ in enumerate(types)]
    return pa.Table.from_arrays(columns, names=[f"c{i}" for i in range(len(types))])


def _plain(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value.encode() if isinstance(value, str) else value for value in row)


def _has_key(row: tuple[Any, ...]) -> bool:
    return all(value is not None and value == value for value in row)


@st.composite
def _files(draw: st.DrawFn, columns_max: int = 3) -> tuple[list[list[tuple[Any, ...]]], list[pa.DataType]]:
    types = draw(st.lists(st.sampled_from(list(_VALUES)), min_size=1, max_size=columns_max))
    row = st.tuples(
        *[_VALUES[type_] | st.none() if draw(st.integers(0, 3)) == 0 else _VALUES[type_] for type_ in types]
    )
    files = draw(st.lists(st.lists(row, max_size=25), min_size=1, max_size=5))
    some = [each for file in files for each in file]
    if some and draw(st.booleans()):  # keys that occur often, also in other files
        files = [file + draw(st.lists(st.sampled_from(some), max_size=10)) for file in files]
        files[0] += [draw(st.sampled_from(some))] * draw(st.sampled_from([0, 0, 250]))
    return files, types


def _sorted(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return sorted(filter(_has_key, rows), key=_plain) + [row for row in rows if not _has_key(row)]


def _check_complete(segment: Segment, files: list[list[tuple[Any, ...]]], types: list[pa.DataType]) -> None:
    """Ask for all keys at once, and for some alone."""
    keys = list(dict.fromkeys(row for rows in files for row in rows if _has_key(row)))
    number = {key: at for at, key in enumerate(keys)}
    there = [(key, file, row) for file, rows in enumerate(files) for row, key in enumerate(rows) if _has_key(key)]
    assert segment.n_keys == len(there)
    found = rows_located(segment.locate(_table(keys, types)))
    assert all((number[key], file, row) in found for key, file, row in there)
    for key in keys[:3]:
        alone = rows_located(segment.locate(_table([key], types)))
        assert {(0, file, row) for each, file, row in there if each == key} <= alone


@pytest.mark.parametrize("options", [{}, {"filter_bits": "0", "epsilon": "1"}])
@settings(deadline=None, max_examples=25)
@given(_files())
def test_a_learned_segment_knows_every_row_of_sorted_files(options: dict[str, str], given_: Any) -> None:
    files, types = given_
    files = [_sorted(rows) for rows in files]
    segment = segment_of([_table(rows, types) for rows in files], "learned", options)
    assert len(segment.paths) == len(files)
    _check_complete(segment, files, types)
    _check_complete(decode(segment.encode()), files, types)


@pytest.mark.parametrize("options", [{}, {"filter_bits": "0"}, {"filter_bits": "16"}])
@settings(deadline=None, max_examples=15)
@given(_files())
def test_a_locator_knows_every_row_of_files_in_any_order(options: dict[str, str], given_: Any) -> None:
    files, types = given_
    segment = segment_of([_table(rows, types) for rows in files], "locator", options)
    _check_complete(segment, files, types)
    _check_complete(decode(segment.encode()), files, types)


@settings(deadline=None, max_examples=30)
@given(_files(2), st.data())
def test_a_range_of_a_learned_segment_holds_every_row_between_its_bounds(given_: Any, data: st.DataObject) -> None:
    files, types = given_
    files = [_sorted(rows) for rows in files]
    segment = decode(segment_of([_table(rows, types) for rows in files], "learned").encode())
    values = [row[0] for rows in files for row in rows if row[0] is not None and row[0] == row[0]]
    bounds = st.none() | _VALUES[types[0]].filter(lambda value: value == value)
    low, high = (data.draw(bounds | st.sampled_from(values) if values else bounds) for _ in range(2))
    located = segment.locate_range(low, high)
    found = rows_located(located)
    for file, rows in enumerate(files):
        for at, row in enumerate(rows):
            value = _plain(row)[0]
            above = low is None or (_has_key(row) and value >= _plain((low,))[0])
            if _has_key(row) and above and (high is None or value <= _plain((high,))[0]):
                assert (0, file, at) in found
    with decimal.localcontext(prec=60):
        scalars = (None if bound is None else pa.scalar(bound, types[0]) for bound in (low, high))
        assert rows_located(segment.locate_range(*scalars)) == found


@pytest.mark.parametrize("kind", KINDS)
def test_most_keys_that_do_not_exist_are_located_nowhere(kind: IndexKind) -> None:
    ids = np.arange(0, 40_000, 2)
    tables = [pa.table({"id": part}) for part in np.split(ids, 10)]
    tables += [pa.table({"id": part + 20_000}) for part in np.split(ids, 10)]  # these overlap: a second run
    segment = segment_of(tables, kind)
    missing = pa.table({"id": ids + 1})
    assert len(np.unique(segment.locate(missing).key)) <= 0.01 * len(ids)
    assert not len(segment.locate(pa.table({"id": [-1, 60_001, 2**62]})).key)


def test_a_key_of_a_sorted_file_is_within_the_bound() -> None:
    rng = np.random.default_rng(1)
    ids = np.unique(rng.integers(0, 2**60, 30_000))
    tables = [pa.table({"id": part}) for part in np.array_split(ids, 7)]
    segment = segment_of(tables, "learned", {"epsilon": "16"})
    located = segment.locate(pa.table({"id": ids}))
    assert segment.error <= 18
    assert len(located.key) == len(ids), "one file each"
    assert (located.limit - located.start).max() <= 2 * segment.error + 2


def test_all_keys_equal_and_keys_at_the_types_limits_are_found() -> None:
    low, high = -_LIMIT, _LIMIT - 1
    files = [[(low,)] * 3 + [(high,)] * 3, [(high,)] * 500, [(low,)] * 500]
    types = [pa.int64()]
    for kind in KINDS:
        _check_complete(segment_of([_table(rows, types) for rows in files], kind), files, types)


def test_rows_between_keys_that_have_none_are_counted() -> None:
    """Nearly all rows are without a key, so that no bound of the model hides a row that is missed."""
    rows: list[tuple[Any, ...]] = []
    for key in range(400):
        rows += [(key,)] + [(None,)] * (200 if key % 3 else 0)
    files = [[(None,)] * 3_000 + rows, [(500,), (501,)]]
    segment = segment_of([_table(each, [pa.int64()]) for each in files], "learned")
    _check_complete(segment, files, [pa.int64()])
    located = segment.locate(_table([(key,) for key in range(400)], [pa.int64()]))
    assert (located.start >= 2_900).all(), "what is before the first key is no part of a run"


def test_the_greatest_number_is_found_in_each_of_many_runs() -> None:
    files = [[(-_LIMIT,), (at,)] + [(_LIMIT - 1,)] * 300 for at in range(6)]
    _check_complete(segment_of([_table(rows, [pa.int64()]) for rows in files], "learned"), files, [pa.int64()])


@pytest.mark.parametrize("type_", list(_VALUES), ids=str)
@settings(deadline=None, max_examples=25)
@given(st.data())
def test_rows_count_as_sorted_where_their_keys_do_not_decrease(type_: pa.DataType, data: st.DataObject) -> None:
    row = st.tuples(_VALUES[type_] | st.none(), *data.draw(st.sampled_from([(), (_VALUES[type_],)])))
    rows = data.draw(st.lists(row, min_size=2, max_size=6))
    rows += data.draw(st.lists(st.sampled_from(rows), max_size=2))
    rows = data.draw(st.sampled_from([rows, _sorted(rows)]))
    keys = [_plain(row) for row in rows if _has_key(row)]
    part = key_part(_table(rows, [type_] * len(rows[0])), 7)
    assert part.is_sorted == (keys == sorted(keys))
    assert part.rows.tolist() == [at + 7 for at, row in enumerate(rows) if _has_key(row)]


def test_many_files_that_overlap_are_as_many_runs() -> None:
    files = [[(key,) for key in range(at, 3_000, 30)] for at in range(30)]
    types = [pa.int32()]
    segment = segment_of([_table(rows, types) for rows in files], "learned")
    _check_complete(segment, files, types)
    located = segment.locate(_table([(key,) for key in range(3_000)], types))
    assert len(located.key) == 3_000, "the filter says which run"


@pytest.mark.parametrize("kind", KINDS)
def test_a_segment_of_files_without_keys_locates_nothing(kind: IndexKind) -> None:
    tables = [_table(rows, [pa.float64()]) for rows in ([], [(None,), (math.nan,)])]
    segment = decode(segment_of(tables, kind).encode())
    assert len(segment.paths) == 2
    assert not len(segment.locate(_table([(1.0,)], [pa.float64()])).key)


def test_a_locator_refuses_ranges() -> None:
    with pytest.raises(UnsupportedError, match="USING learned"):
        segment_of([pa.table({"id": [1]})], "locator").locate_range(1, 2)


def _sample(kind: IndexKind) -> Segment:
    names = [f"k-{at:05d}" for at in range(0, 900, 3)]
    parts = [names[:150], names[100:], names[:10]]
    return segment_of([pa.table({"name": part, "at": pa.array(range(len(part)), pa.int32())}) for part in parts], kind)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_stored_is_read_back_the_same(kind: IndexKind) -> None:
    segment = _sample(kind)
    again = decode(segment.encode())
    for name in ("kind", "types", "paths", "etags", "n_keys", "n_bytes", "error", "space"):
        assert getattr(again, name) == getattr(segment, name), name
    assert again.sizes.tolist() == segment.sizes.tolist()
    assert [each.block_rows.tolist() for each in again.layouts] == [
        each.block_rows.tolist() for each in segment.layouts
    ]
    assert again.encode() == segment.encode()


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_that_were_cut_or_changed_are_refused(kind: IndexKind) -> None:
    data = _sample(kind).encode()
    rng = np.random.default_rng(3)
    for at in {0, 3, 4, 8, 12, 16, len(data) - 1, *rng.integers(0, len(data), 150).tolist()}:
        flipped = bytearray(data)
        flipped[at] ^= 1 << int(rng.integers(8))
        with pytest.raises(CorruptError):
            decode(bytes(flipped))
        with pytest.raises(CorruptError):
            decode(data[:at])
    with pytest.raises(CorruptError):
        decode(data + b"\0")


def _headers(data: bytes) -> tuple[dict[str, Any], bytes]:
    n = struct.unpack_from("<I", data, 8)[0]
    return json.loads(data[16 : 16 + n]), data[16 + n :]


def _with_header(header: dict[str, Any], body: bytes) -> bytes:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<4sHHII", b"FNIX", 1, 0, len(text), zlib.crc32(text)) + text + body


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=30)
@given(st.data())
def test_a_header_with_other_values_is_refused_or_locates_something(kind: IndexKind, data: st.DataObject) -> None:
    header, body = _headers(_SAMPLES.setdefault(kind, _sample(kind).encode()))
    place: Any = header
    while True:
        at = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[at], dict | list) or not place[at]:
            break
        place = place[at]
    place[at] = data.draw(st.integers(-3, 2**65) | st.integers(0, 20) | st.none() | st.text(max_size=4) | st.just([]))
    try:
        segment = decode(_with_header(header, body))
    except CorruptError:
        return
    if segment.types == ("string", "int32"):
        segment.locate(pa.table({"name": ["k-00003", "k-00004"], "at": pa.array([1, 5], pa.int32())}))


_SAMPLES: dict[str, bytes] = {}


@pytest.mark.parametrize("kind", KINDS)
def test_the_stored_form_of_the_first_version_is_read(kind: IndexKind) -> None:
    """The files were written by ``(GOLDEN / f"{kind}.fnix").write_bytes(_sample(kind).encode())``."""
    segment = decode((GOLDEN / f"{kind}-1.fnix").read_bytes())
    assert segment.kind == kind
    assert segment.n_keys == 360
    keys = [(f"k-{at:05d}", at // 3) for at in range(0, 450, 3)]
    found = rows_located(segment.locate(_table(keys, [pa.string(), pa.int32()])))
    assert {(at, 0, at) for at in range(150)} <= found
    assert {(at, 2, at) for at in range(10)} <= found
