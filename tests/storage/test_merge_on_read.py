"""The merge-on-read reader against a slow one in plain Python."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import orc

from storage.errors import CorruptError, UnsupportedError
from storage.tables.merge_on_read import BlobFile, read_rows
from storage.tables.snapshot import FIELD_ID, EqualityDelete, FileSet, LoadedDeletes, Matching, Snapshot

SCHEMA = pa.schema(
    [
        pa.field(name, type_, True, {FIELD_ID: str(number).encode()})
        for number, (name, type_) in enumerate([("i", pa.int64()), ("s", pa.string()), ("f", pa.float64())], 1)
    ]
)
ROWS = st.fixed_dictionaries(
    {
        "i": st.none() | st.integers(0, 3),
        "s": st.none() | st.sampled_from(["", "a", "b"]),
        "f": st.none() | st.sampled_from([0.5, -1.0, math.nan]),
    }
)
NAMES = st.lists(st.sampled_from(SCHEMA.names), min_size=1, unique=True)


def snapshot_of(
    data: bytes,
    kind: Any = "parquet",
    schema: pa.Schema = SCHEMA,
    matching: Matching = "field_id",
    **sets: Any,
) -> Snapshot:
    files = FileSet(
        ["file:///x"], np.array([len(data)]), np.array([-1]), formats={} if kind == "parquet" else {0: kind}, **sets
    )  # fmt: skip
    return Snapshot("iceberg", "file:///t", 1, 0, schema, files, matching)


def parquet(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def read(data: bytes, snapshot: Snapshot, deletes: LoadedDeletes | None, columns: list[str] | None = None) -> pa.Table:
    schema = pa.schema([snapshot.schema.field(name) for name in columns or snapshot.schema.names])
    batches = list(read_rows(lambda _location, start, limit: data[start:limit], snapshot, 0, schema, deletes))
    return pa.Table.from_batches(batches, schema)


def key(value: Any) -> Any:
    return "NaN" if isinstance(value, float) and math.isnan(value) else value


def equality(names: list[str], rows: Sequence[Mapping[str, Any]]) -> EqualityDelete:
    schema = pa.schema([SCHEMA.field(name) for name in names])
    ids = [str(SCHEMA.get_field_index(name) + 1) for name in names]
    keys = pa.table(
        {
            number: pa.array([row[name] for row in rows], SCHEMA.field(name).type)
            for number, name in zip(ids, names, strict=True)
        }
    )
    return EqualityDelete(tuple(map(int, ids)), keys, schema)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(ROWS, max_size=12),
    st.sets(st.integers(0, 14)),
    st.lists(st.tuples(NAMES, st.lists(ROWS, max_size=4)), max_size=2),
    NAMES,
    st.integers(1, 5),
)  # fmt: skip
def test_rows_that_are_deleted_stay_out_and_the_others_in(
    rows: list[dict[str, Any]],
    positions: set[int],
    equalities: list[tuple[list[str], list[dict[str, Any]]]],
    columns: list[str],
    group_rows: int,
) -> None:
    data = parquet(pa.Table.from_pylist(rows, SCHEMA), row_group_size=group_rows)
    deletes = LoadedDeletes(
        np.array(sorted(positions), np.int64), tuple(equality(names, keys) for names, keys in equalities)
    )

    def deleted(row: dict[str, Any]) -> bool:
        return any(
            any(all(key(row[name]) == key(gone[name]) for name in names) for gone in keys) for names, keys in equalities
        )

    expected = [row for position, row in enumerate(rows) if position not in positions and not deleted(row)]
    found = read(data, snapshot_of(data), deletes, columns)
    assert [list(map(key, row.values())) for row in found.to_pylist()] == [
        [key(row[name]) for name in columns] for row in expected
    ]


def test_rows_are_counted_without_a_column() -> None:
    data = parquet(pa.table({"i": list(range(10))}), row_group_size=3)
    batches = list(
        read_rows(lambda _l, a, b: data[a:b], snapshot_of(data), 0, pa.schema([]), LoadedDeletes(np.array([0, 9])))
    )
    assert sum(batch.num_rows for batch in batches) == 8


def test_an_equality_delete_sees_the_value_of_a_column_that_the_file_lacks() -> None:
    data = parquet(pa.Table.from_pylist([{"i": 1}, {"i": 2}], pa.schema([SCHEMA.field("i")])))
    gone = equality(["s"], [{"s": None}])
    assert read(data, snapshot_of(data), LoadedDeletes(np.array([], np.int64), (gone,))).num_rows == 0
    kept = equality(["s"], [{"s": "a"}])
    assert read(data, snapshot_of(data), LoadedDeletes(np.array([], np.int64), (kept,))).num_rows == 2


def test_positions_count_the_rows_of_the_whole_file() -> None:
    numbers = list(range(100_000))
    data = parquet(pa.table({"i": numbers}, pa.schema([SCHEMA.field("i")])), row_group_size=30_000)
    gone = np.arange(0, 100_000, 3)
    found = read(data, snapshot_of(data), LoadedDeletes(gone), ["i"])
    assert found.column("i").to_pylist() == [n for n in numbers if n % 3]


def test_orc_files_are_read() -> None:
    table = pa.table({"i": [1, 2, 3], "s": ["a", None, "c"], "f": [0.5, 1.5, None]})
    sink = io.BytesIO()
    orc.write_table(table, sink)
    data = sink.getvalue()
    found = read(
        data,
        snapshot_of(data, "orc", pa.schema([f.remove_metadata() for f in SCHEMA]), "name"),
        LoadedDeletes(np.array([1])),
    )
    assert found.to_pylist() == [{"i": 1, "s": "a", "f": 0.5}, {"i": 3, "s": "c", "f": None}]


@pytest.mark.parametrize("codec", ["null", "deflate"])
def test_avro_files_are_read(codec: str) -> None:
    import fastavro

    schema = {
        "type": "record", "name": "r",
        "fields": [
            {"name": "renamed", "type": ["null", "long"], "field-id": 1},
            {"name": "s", "type": ["null", "string"], "field-id": 2},
        ],
    }  # fmt: skip
    sink = io.BytesIO()
    fastavro.writer(sink, schema, [{"renamed": 1, "s": "a"}, {"renamed": None, "s": None}], codec=codec)
    data = sink.getvalue()
    found = read(data, snapshot_of(data, "avro"), None)
    assert found.to_pylist() == [{"i": 1, "s": "a", "f": None}, {"i": None, "s": None, "f": None}]
    with pytest.raises(CorruptError, match="file:///x"):
        read(data[: len(data) // 2], snapshot_of(data[: len(data) // 2], "avro"), None)


@pytest.mark.parametrize("kind", ["parquet", "orc", "avro"])
def test_a_damaged_file_is_named(kind: str) -> None:
    data = b"this is no data file at all, " * 20
    with pytest.raises(CorruptError, match="file:///x"):
        read(data, snapshot_of(data, kind), None)


def test_rows_that_the_decoder_drops_are_not_passed_over_in_silence() -> None:
    schema = pa.schema([("l", pa.list_(pa.int32())), ("x", pa.int64())])
    table = pa.table({"l": [[1], None, [2]], "x": [1, 2, 3]}, schema)
    data = parquet(table, row_group_size=1, data_page_size=1)
    snapshot = snapshot_of(data, schema=schema, matching="name")
    assert read(data, snapshot, None, ["x"]).num_rows == 3
    with pytest.raises(CorruptError, match=r"another number of rows .*file:///x"):
        read(data, snapshot, None, ["l"])


def test_views_of_strings_are_read_with_deleted_rows() -> None:
    schema = pa.schema([("s", pa.string()), ("l", pa.list_(pa.string()))])
    data = parquet(
        pa.table(
            {"s": pa.array(["a", "b"], pa.string_view()), "l": pa.array([["a"], ["b"]], pa.list_(pa.string_view()))}
        )
    )
    deletes = LoadedDeletes(np.array([0]), ())
    rows = read(data, snapshot_of(data, schema=schema, matching="name"), deletes)
    assert rows.to_pylist() == [{"s": "b", "l": ["b"]}]


def test_another_format_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match="puffin"):
        read(b"x" * 50, snapshot_of(b"x" * 50, "puffin"), None)


@given(st.binary(max_size=50), st.lists(st.tuples(st.integers(0, 60), st.integers(-1, 60)), max_size=5))
def test_a_blob_reads_as_a_file_does(data: bytes, steps: list[tuple[int, int]]) -> None:
    blob, plain = BlobFile(lambda _location, start, limit: data[start:limit], "x", len(data)), io.BytesIO(data)
    for offset, size in steps:
        assert blob.seek(offset) == plain.seek(offset)
        assert blob.read(size) == plain.read(size)
        assert blob.tell() == plain.tell()
    assert blob.seek(-1, io.SEEK_END) == max(0, len(data) - 1)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_parts_that_cover_a_file_have_each_live_row_once_and_in_order(data: st.DataObject) -> None:
    n_rows = data.draw(st.integers(0, 60))
    table = pa.table({"i": range(n_rows), "s": ["a"] * n_rows, "f": [0.5] * n_rows}).cast(SCHEMA)
    kind = data.draw(st.sampled_from(("parquet", "parquet", "orc")))
    if kind == "orc":
        sink = io.BytesIO()
        orc.write_table(table, sink)
        stored = sink.getvalue()
    else:
        group, plain = data.draw(st.integers(1, 20)), data.draw(st.booleans())
        stored = parquet(table, row_group_size=group, use_dictionary=plain)
    snapshot = snapshot_of(stored, kind, matching="name")
    positions = sorted(data.draw(st.sets(st.integers(0, max(n_rows - 1, 0)))))
    deletes = LoadedDeletes(np.array(positions, dtype=np.int64))
    cuts = sorted({0, 2**63 - 1, *data.draw(st.lists(st.integers(0, len(stored)), max_size=8))})
    schema = data.draw(st.sampled_from((SCHEMA, pa.schema([]))))
    batches = [
        batch
        for part in pairwise(cuts)
        for batch in read_rows(lambda _l, a, b: stored[a:b], snapshot, 0, schema, deletes, part)
    ]
    kept = [row for row in range(n_rows) if row not in set(positions)]
    assert sum(batch.num_rows for batch in batches) == len(kept)
    if schema.names:
        assert [row["i"] for batch in batches for row in batch.to_pylist()] == kept
