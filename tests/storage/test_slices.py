"""Slices of Parquet files: what is read by a known layout is what reading the file gives."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.blobs.memory import MemoryBlobs
from storage.clock import SystemClock
from storage.errors import InvalidError
from storage.stores import Stores
from storage.tables.project import without_views
from storage.tables.slices import BLOCK_ROWS, FileLayout, Slice, decode, pack, plan_reads, read_layouts, unpack

pytestmark = pytest.mark.anyio


async def layout_or_reason(data: bytes) -> tuple[FileLayout | str, int]:
    """Return what `read_layouts` says of a file, and how many requests that took."""
    blobs = MemoryBlobs(SystemClock())
    etag = (await blobs.put("a", data)).etag
    stores = Stores(lambda _root: blobs)
    [found] = await read_layouts(stores, [("s3://b/a", len(data), etag)])
    assert isinstance(found, str) or found.etag == etag
    return found, stores.count.requests


async def layout_of(data: bytes) -> FileLayout:
    """Return the layout, once stored and read back."""
    found, _requests = await layout_or_reason(data)
    assert isinstance(found, FileLayout), found
    [stored] = unpack(pack([found]))
    assert stored.block_rows.tolist() == found.block_rows.tolist()
    return stored


def read_back(data: bytes, layout: FileLayout, slices: Sequence[Slice], columns: Sequence[str]) -> None:
    """Hold the rows of slices against those that pyarrow reads of the whole file, views of strings made plain."""
    whole = pq.read_table(io.BytesIO(data), coerce_int96_timestamp_unit="us").replace_schema_metadata(None)
    whole = whole.cast(without_views(whole.schema))
    assert layout.schema.equals(whole.schema, check_metadata=True)
    whole = whole.select([name for name in whole.column_names if name in columns])
    plan = plan_reads(layout, slices, columns)
    assert plan.n_bytes == sum(limit - start for start, limit in plan.ranges)
    found = decode(layout, plan, [data[start:limit] for start, limit in plan.ranges])
    answered: list[int] = []
    for first, batch in found:
        rows = pa.Table.from_batches([batch])
        expected = whole.slice(first, len(batch))
        assert rows.schema.equals(expected.schema, check_metadata=True)
        assert rows.equals(expected) or repr(rows.to_pylist()) == repr(expected.to_pylist())
        answered += range(first, first + len(batch))
    assert len(answered) == len(set(answered)), "no row is answered twice"
    assert {row for part in slices for row in range(part.start, part.limit)} <= set(answered)


def blocks(layout: FileLayout) -> list[Slice]:
    bounds = layout.block_rows.tolist()
    return [Slice(start, limit) for start, limit in pairwise(bounds)]


def parquet(table: pa.Table, **options: object) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


N = 40_000
NESTED = pa.table(
    {
        "id": np.arange(N),
        "name": [f"name {i % 97}" if i % 5 else None for i in range(N)],
        "list": [list(range(i % 4)) if i % 7 else None for i in range(N)],
        "struct": [{"a": i, "b": f"x{i}" * (i % 9)} for i in range(N)],
        "map": pa.array([[("k", i)] if i % 3 else [] for i in range(N)], pa.map_(pa.string(), pa.int64())),
        "at": pa.array(np.arange(N), pa.timestamp("us", "UTC")),
    }
)
OPTIONS: list[dict[str, object]] = [
    {"row_group_size": BLOCK_ROWS},
    {"row_group_size": N},
    {"row_group_size": N, "write_page_index": True, "data_page_size": 20_000},
    {"row_group_size": 2 * BLOCK_ROWS + 1, "write_page_index": True, "data_page_size": 5_000, "compression": "zstd"},
    {"row_group_size": N, "write_page_index": True, "data_page_version": "2.0", "write_page_checksum": True},
    {"row_group_size": BLOCK_ROWS, "write_page_index": True, "max_rows_per_page": 1024, "write_batch_size": 256},
]


@cache
def layouts() -> list[tuple[FileLayout, bytes]]:
    """The nested table, written with each of the options, and its layouts."""
    files = [parquet(NESTED, **options) for options in OPTIONS]
    return [(asyncio.run(layout_of(file)), file) for file in files]


@pytest.mark.parametrize("options", OPTIONS)
async def test_slices_are_the_rows_of_the_file(options: dict[str, object]) -> None:
    data = parquet(NESTED, **options)
    layout = await layout_of(data)
    read_back(data, layout, blocks(layout), NESTED.column_names)
    some = [Slice(10, 20), Slice(9_000, 9_001), Slice(20_000, 20_100), Slice(N - 1, N)]
    read_back(data, layout, some, NESTED.column_names)
    for name in NESTED.column_names:
        read_back(data, layout, some[1:3], [name, "id"])


async def test_a_layout_costs_one_request() -> None:
    for options in OPTIONS:
        _layout, requests = await layout_or_reason(parquet(NESTED, **options))
        assert requests == 1


def nulled(values: list[object], kind: pa.DataType) -> pa.Array:
    """Make an array of three block's rows, every seventh value a NULL."""
    return pa.array([values[i % len(values)] if i % 7 else None for i in range(3 * 500)], kind)


STRUCT = pa.struct([("a", pa.int32()), ("b", pa.list_(pa.string()))])
DAY = datetime(2026, 11, 21, 17, 30, 1, 123456)
TYPES: dict[str, pa.Array] = {
    **{str(kind): nulled([0, 1, 100, 7], kind) for kind in
       (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())},
    "float16": nulled([np.float16(1.5)], pa.float16()),
    "float32": nulled([0.0, -0.0, float("nan"), 1.5], pa.float32()),
    "float64": nulled([0.0, -0.0, float("nan"), 1.5], pa.float64()),
    **{f"decimal {p}": nulled([Decimal("1.25"), Decimal("-3.5")], pa.decimal128(p, 2)) for p in (5, 12, 38)},
    "decimal256": nulled([Decimal("1.25")], pa.decimal256(50, 2)),
    **{str(kind): nulled(["a", "", "é" * 40], kind) for kind in (pa.string(), pa.large_string(), pa.string_view())},
    **{str(kind): nulled([b"a", b"", b"\xff\0"], kind) for kind in (pa.binary(), pa.large_binary())},
    "fixed": nulled([b"0123456789abcdef", b"\0" * 16], pa.binary(16)),
    "bool": nulled([True, False, False], pa.bool_()),
    "date32": nulled([DAY.date()], pa.date32()),
    "time32": nulled([DAY.time().replace(microsecond=0)], pa.time32("ms")),
    "time64": nulled([DAY.time()], pa.time64("us")),
    **{f"timestamp {unit} {zone}": nulled([1, 2, 1_795_282_201], pa.timestamp(unit, zone))
       for unit in ("s", "ms", "us", "ns") for zone in (None, "UTC", "Europe/Berlin")},
    "duration": nulled([1, 2], pa.duration("us")),
    "null": pa.nulls(1500),
    "dictionary": nulled(["x", "y", "z"], pa.string()).dictionary_encode(),
    "list": nulled([[1, None, 3], [], [2]], pa.list_(pa.int64())),
    "large list": nulled([["a"], []], pa.large_list(pa.string())),
    "fixed list": nulled([[1.0, 2.0]], pa.list_(pa.float32(), 2)),
    "struct": nulled([{"a": 1, "b": ["x", None]}, {"a": None, "b": None}], STRUCT),
    "map": nulled([[("k", 1)], []], pa.map_(pa.string(), pa.int32())),
    "deep": nulled([[[{"a": [1]}], []], []], pa.list_(pa.list_(pa.struct([("a", pa.list_(pa.int8()))])))),
}  # fmt: skip
CODED: list[dict[str, Any]] = [
    *({"compression": codec} for codec in ("none", "snappy", "gzip", "zstd", "lz4", "brotli")),
    {"use_dictionary": False},
    {"store_schema": False},
    {"data_page_version": "2.0", "compression": "zstd"},
    {"write_page_checksum": True, "data_page_size": 100},
    {"version": "1.0", "coerce_timestamps": "ms", "allow_truncated_timestamps": True},
]


@pytest.mark.parametrize("options", CODED, ids=lambda options: "-".join(map(str, options.values())))
async def test_every_type_comes_back_as_the_file_has_it(options: dict[str, object]) -> None:
    data = parquet(pa.table(TYPES), row_group_size=500, **options)
    layout = await layout_of(data)
    assert len(layout.block_rows) == 4
    read_back(data, layout, [Slice(3, 4), Slice(1_000, 1_400)], list(TYPES))
    for name in TYPES:
        read_back(data, layout, [Slice(600, 601)], [name])


@pytest.mark.parametrize("options", [{}, {"data_page_version": "2.0"}, {"use_dictionary": False}])
async def test_every_type_comes_back_from_pages(options: dict[str, object]) -> None:
    table = pa.concat_tables([pa.table(TYPES).combine_chunks()] * 12).combine_chunks()
    data = parquet(
        table, row_group_size=len(table), write_page_index=True, data_page_size=700, write_batch_size=64, **options
    )
    layout = await layout_of(data)
    assert len(layout.block_rows) == 4
    read_back(data, layout, [Slice(3, 4), Slice(9_000, 9_100), Slice(len(table) - 1, len(table))], list(TYPES))
    for name in TYPES:
        read_back(data, layout, [Slice(5_000, 5_001), Slice(16_000, 16_100)], [name])


ENCODINGS = {
    "DELTA_BINARY_PACKED": "int64", "DELTA_LENGTH_BYTE_ARRAY": "string", "DELTA_BYTE_ARRAY": "string",
    "BYTE_STREAM_SPLIT": "float64", "PLAIN": "fixed", "RLE": "bool",
}  # fmt: skip


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_every_encoding_is_read(encoding: str) -> None:
    table = pa.concat_tables([pa.table({"v": TYPES[ENCODINGS[encoding]]})] * 20).combine_chunks()
    options = {"use_dictionary": False, "column_encoding": {"v": encoding}, "data_page_version": "2.0"}
    data = parquet(table, write_page_index=True, data_page_size=1_000, write_batch_size=100, **options)
    layout = await layout_of(data)
    read_back(data, layout, [Slice(3, 4), Slice(20_000, 20_001)], ["v"])


async def test_timestamps_of_12_bytes_are_microseconds() -> None:
    data = parquet(pa.table({"at": TYPES["timestamp us None"]}), use_deprecated_int96_timestamps=True)
    read_back(data, await layout_of(data), [Slice(3, 4)], ["at"])


async def test_field_ids_survive() -> None:
    fields = [
        pa.field(name, pa.int64(), metadata={b"PARQUET:field_id": number})
        for name, number in [("a", b"7"), ("b", b"9")]
    ]
    data = parquet(pa.table([[1, 2], [3, 4]], schema=pa.schema(fields)))
    layout = await layout_of(data)
    read_back(data, layout, [Slice(0, 2)], ["b"])
    assert [field.metadata[b"PARQUET:field_id"] for field in layout.schema] == [b"7", b"9"]


async def test_empty_files_and_row_groups_have_no_blocks() -> None:
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, pa.schema([("v", pa.string())])) as writer:
        for n in (0, 3, 0, 2, 0):
            writer.write_table(pa.table({"v": ["x"] * n}, writer.schema), row_group_size=10)
    data = sink.getvalue()
    layout = await layout_of(data)
    assert layout.block_rows.tolist() == [0, 3, 5]
    read_back(data, layout, [Slice(1, 4)], ["v"])
    empty = await layout_of(parquet(pa.table({"v": pa.array([], pa.int64())})))
    assert (empty.n_rows, empty.block_rows.tolist()) == (0, [0])
    assert decode(empty, plan_reads(empty, [], ["v"]), []) == []


async def test_a_column_that_the_file_lacks_is_left_out() -> None:
    layout = await layout_of(parquet(pa.table({"a": [1, 2]})))
    assert plan_reads(layout, [Slice(0, 1)], ["a", "b"]) != plan_reads(layout, [], ["a"])
    with pytest.raises(InvalidError, match="none of the columns"):
        plan_reads(layout, [Slice(0, 1)], ["b"])
    with pytest.raises(InvalidError, match="does not have these rows"):
        plan_reads(layout, [Slice(1, 3)], ["a"])


async def test_what_has_no_layout_says_why() -> None:
    good = parquet(pa.table({"a": [1]}))
    twice = parquet(pa.table([[1], [2]], names=["a", "a"]))
    for data, reason in [
        (b"", "not a Parquet file"),
        (b"Obj\x01" + bytes(100), "not a Parquet file"),
        (good[:-4] + b"PARE", "encrypted"),
        (twice, "two of its columns"),
    ]:
        found, _requests = await layout_or_reason(data)
        assert isinstance(found, str)
        assert reason in found
    blobs = MemoryBlobs(SystemClock())
    await blobs.put("a", good)
    [found] = await read_layouts(Stores(lambda _root: blobs), [("s3://b/a", len(good), "another")])
    assert isinstance(found, str)
    assert "etag" in found


async def test_near_ranges_are_one_and_far_ones_several() -> None:
    rng = np.random.default_rng(0)
    table = pa.table({f"c{i}": rng.random(BLOCK_ROWS) for i in range(16)})
    layout = await layout_of(parquet(table, use_dictionary=False, compression="none"))
    every = plan_reads(layout, [Slice(5, 6)], table.column_names)
    assert len(every.ranges) == 1
    assert len(plan_reads(layout, [Slice(5, 6)], ["c3", "c4", "c6"]).ranges) == 1
    ends = plan_reads(layout, [Slice(5, 6)], ["c0", "c15"])
    assert len(ends.ranges) == 2
    assert ends.n_bytes < every.n_bytes / 7


async def test_a_long_range_is_cut() -> None:
    table = pa.table({"v": np.random.default_rng(0).random(3_000_000)})
    data = parquet(table, use_dictionary=False, compression="none", row_group_size=len(table))
    layout = await layout_of(data)
    plan = plan_reads(layout, [Slice(5, 6)], ["v"])
    assert [limit - start <= 16 << 20 for start, limit in plan.ranges] == [True, True]
    read_back(data, layout, [Slice(5, 6)], ["v"])


async def test_small_pages_of_a_row_group_of_one_block_are_read_apart() -> None:
    n = 2 * BLOCK_ROWS + 100
    table = pa.table({f"c{i}": np.random.default_rng(i).integers(0, 1 << 40, n) for i in range(4)})
    options = {"use_dictionary": False, "max_rows_per_page": 512, "write_batch_size": 512, "write_page_index": True}
    data = parquet(table, row_group_size=BLOCK_ROWS, **options)
    layout = await layout_of(data)
    assert layout.block_rows.tolist() == [0, BLOCK_ROWS, 2 * BLOCK_ROWS, n]
    for slices in ([Slice(700, 701)], [Slice(3, 9), Slice(8_000, 9_000)], blocks(layout)):
        read_back(data, layout, slices, table.column_names)
    [area] = plan_reads(layout, [Slice(700, 760)], table.column_names).areas
    assert [(piece.start, piece.limit) for piece in area.pieces] == [(512, 1_024)]
    assert plan_reads(layout, [Slice(700, 701)], ["c1"]).n_bytes < 5_000


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_slices_of_any_columns_are_the_rows_of_the_file(data: st.DataObject) -> None:
    layout, file = data.draw(st.sampled_from(layouts()))
    bounds = sorted(data.draw(st.lists(st.integers(0, layout.n_rows), min_size=2, max_size=8, unique=True)))
    slices = [Slice(start, limit) for start, limit in zip(bounds[::2], bounds[1::2], strict=False)]
    columns = data.draw(st.lists(st.sampled_from(NESTED.column_names), min_size=1, unique=True))
    read_back(file, layout, slices, columns)
    ranges = plan_reads(layout, slices, columns).ranges
    assert all(start < limit for start, limit in ranges)
    assert all(one[1] <= two[0] for one, two in pairwise(ranges))
