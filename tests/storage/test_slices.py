"""Slices of Parquet files: what is read by a known layout is what reading the file gives."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.blobs.memory import MemoryBlobs
from storage.clock import SystemClock
from storage.stores import Stores
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
    """Hold the rows of slices against those that pyarrow reads of the whole file."""
    whole = pq.read_table(io.BytesIO(data), coerce_int96_timestamp_unit="us").replace_schema_metadata(None)
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
    return [Slice(start, limit) for start, limit in zip(bounds, bounds[1:], strict=False)]


def parquet(table: pa.Table, **options: object) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


N = 40_000
NESTED = pa.table(
    {
        "id": np.arange(N),
        "name": [f"name {i % 97}" if i % 5 else None for i in range(N)],
        "list": [[j for j in range(i % 4)] if i % 7 else None for i in range(N)],
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
]


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
