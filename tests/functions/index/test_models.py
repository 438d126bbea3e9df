"""Segments in use: loaded once, bounded in memory, and matched with the files of a snapshot."""

from __future__ import annotations

import asyncio
import hashlib
import time
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catalog.indexes import IndexColumn, IndexEntry, Indexes, SegmentRef
from catalog.kv.memory import MemoryKV
from functions.index.build import build
from functions.index.columns import column_names, index_columns
from functions.index.models import Coverage, Models, segment_location
from storage.blobs.memory import MemoryBlobs
from storage.stores import Stores
from storage.tables import parquet
from storage.tables.snapshot import At, FileSet, Snapshot
from tests.support.clock import ManualClock
from tests.support.faults import FlakyBlobs, WrappedBlobs

pytestmark = pytest.mark.anyio
LAKE = "s3://bucket/lake"
DATA = "s3://bucket/data"


class Small:
    """Parquet files in memory, and an index of them: a segment of each file."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.kv, self.blobs = MemoryKV(self.clock), WrappedBlobs(MemoryBlobs(self.clock))
        self.stores = Stores(lambda _root: self.blobs)
        self.indexes = Indexes(self.kv, self.clock)

    async def put(self, name: str, start: int, n: int = 100) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"id": pa.array(range(start, start + n), pa.int64())}), sink)
        await self.blobs.put(f"data/{name}.parquet", sink.getvalue().to_pybytes())

    async def snapshot(self) -> Snapshot:
        return await parquet.load(self.stores, DATA, At(), None)

    async def index(self, n: int, *, inline: bool = False) -> IndexEntry:
        for number in range(n):
            await self.put(f"f{number}", 100 * number)
        snapshot = await self.snapshot()
        entry = IndexEntry("t", "i", "locator", index_columns(snapshot, ["id"]), 0)
        await self.indexes.create(entry)
        refs, stored = [], {}
        for number in range(n):
            segment = (await build(self.stores, snapshot, [number], entry)).segment
            assert segment is not None
            data = segment.encode()
            checksum = hashlib.sha256(data).hexdigest()
            refs.append(SegmentRef(f"s{number}", 1, segment.n_keys, len(data), checksum, inline))
            if inline:
                stored[f"s{number}"] = data
            else:
                blobs, key = self.stores.resolve(segment_location(LAKE, "t", f"s{number}"))
                await blobs.put(key, data)
        return await self.indexes.change("t", "i", lambda old: replace(old, segments=tuple(refs)), inline=stored)

    def models(self, **settings: int) -> Models:
        return Models(self.kv, self.stores, LAKE, **settings)


@pytest.mark.parametrize("inline", [True, False])
async def test_segments_are_loaded_once_for_all_statements(inline: bool) -> None:
    small = Small()
    index = await small.index(3, inline=inline)
    snapshot = await small.snapshot()
    models = small.models()
    before = small.blobs.n_calls
    found = await asyncio.gather(*(models.coverage(index, snapshot) for _ in range(20)))
    assert all(each.covered.all() and len(each.segments) == 3 for each in found)
    assert small.blobs.n_calls - before == (0 if inline else 3)
    assert await models.coverage(index, snapshot) is await models.coverage(index, snapshot)
    assert found[0].names == ("id",)


async def test_a_statement_that_is_cancelled_leaves_the_load_to_the_others() -> None:
    small = Small()
    index = await small.index(2)
    snapshot = await small.snapshot()
    slow = FlakyBlobs(small.blobs, 0, delay_s=0.05)
    models = Models(small.kv, Stores(lambda _root: slow), LAKE)
    first = asyncio.create_task(models.coverage(index, snapshot))
    await asyncio.sleep(0.01)
    second = asyncio.create_task(models.coverage(index, snapshot))
    await asyncio.sleep(0.01)
    first.cancel()
    coverage = await second
    assert coverage.covered.all()
    assert slow.n_calls == 2
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_memory_is_bounded_and_what_was_forgotten_is_loaded_again() -> None:
    small = Small()
    index = await small.index(4)
    snapshot = await small.snapshot()
    models = small.models(bytes_max=1)
    for _ in range(2):
        before = small.blobs.n_calls
        coverage = await models.coverage(index, snapshot)
        assert coverage.covered.all()
        assert small.blobs.n_calls - before >= 3
    held = small.models()
    await held.coverage(index, snapshot)
    assert held.n_bytes > 0
    held.forget([])
    assert held.n_bytes == 0
    before = small.blobs.n_calls
    assert (await held.coverage(index, snapshot)).covered.all()
    assert small.blobs.n_calls - before == 4


async def test_what_an_index_has_no_more_is_let_go_of() -> None:
    small = Small()
    index = await small.index(3)
    snapshot = await small.snapshot()
    models = small.models()
    await models.coverage(index, snapshot)
    before = models.n_bytes
    newer = await small.indexes.change("t", "i", lambda old: replace(old, segments=old.segments[1:]))
    assert (await models.coverage(newer, snapshot)).covered.tolist() == [False, True, True]
    assert 0 < models.n_bytes < before
    assert (await models.coverage(index, snapshot)).covered.all()


async def test_a_file_that_was_replaced_is_not_covered() -> None:
    small = Small()
    index = await small.index(3)
    await small.put("f1", 9000)
    coverage = await small.models().coverage(index, await small.snapshot())
    assert coverage.covered.tolist() == [True, False, True]
    await small.blobs.delete("data/f0.parquet")
    coverage = await small.models().coverage(index, await small.snapshot())
    assert coverage.covered.tolist() == [False, True]
    assert coverage.reason == ""


async def test_a_segment_that_fails_is_tried_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    small = Small()
    index = await small.index(2)
    snapshot = await small.snapshot()
    place = "lake/_firnline/index/t/s1"
    data, _meta = await small.blobs.get(place)
    await small.blobs.delete(place)
    models = small.models()
    assert (await models.coverage(index, snapshot)).covered.tolist() == [True, False]
    await small.blobs.put(place, data)
    assert (await models.coverage(index, snapshot)).covered.tolist() == [True, False]
    loop = asyncio.get_running_loop()
    now_s = loop.time()
    monkeypatch.setattr(loop, "time", lambda: now_s + 60)
    assert (await models.coverage(index, snapshot)).covered.all()


async def test_a_column_of_another_type_or_no_column_covers_nothing() -> None:
    small = Small()
    index = await small.index(1)
    snapshot = await small.snapshot()
    retyped = replace(index, columns=(IndexColumn("id", "int32"),), revision=0)
    coverage = await small.models().coverage(retyped, snapshot)
    assert (coverage.covered.any(), coverage.names) == (False, ())
    assert coverage.reason == "column id was int32 when it was indexed, and is int64"
    gone = replace(index, columns=(IndexColumn("other", "int64"),), revision=0)
    assert (await small.models().coverage(gone, snapshot)).reason == "the table has no column other any more"


def test_a_column_is_known_by_its_field_id_or_else_by_its_name_in_the_files() -> None:
    def field(name: str, **tags: str) -> pa.Field:
        names = {"id": b"PARQUET:field_id", "physical": b"firnline.physical_name"}
        return pa.field(name, pa.int64(), metadata={names[tag]: value.encode() for tag, value in tags.items()})

    by_id = [IndexColumn("a", "int64", 7)]
    assert column_names(by_id, pa.schema([field("a", id="8"), field("b", id="7")])) == ("b",)
    by_name = [IndexColumn("a", "int64")]
    assert column_names(by_name, pa.schema([field("a", physical="x"), field("b", physical="a")])) == ("b",)
    assert isinstance(column_names(by_name, pa.schema([field("a", physical="x")])), str)


async def test_ten_thousand_files_are_matched_in_milliseconds() -> None:
    small = Small()
    index = await small.index(1)
    snapshot = await small.snapshot()
    (segment,) = await small.models().segments(index)
    n = 10_000
    paths = [f"s3://bucket/t/part-{number:08}-c000.snappy.parquet" for number in range(n)]
    sizes = np.full(n, 100, np.int64)
    large = replace(segment, paths=paths, sizes=sizes, etags=["e"] * n)  # type: ignore[type-var]
    many = replace(snapshot, etag="many", files=FileSet(paths[::-1], sizes, np.full(n, 5, np.int64)), etags=("e",) * n)  # type: ignore[call-arg]
    models = small.models()
    (ref,) = index.segments
    models._held["t", ref.id, ref.checksum] = large  # type: ignore[assignment]
    started = time.process_time()
    first: Coverage = await models.coverage(index, many)
    once_s = time.process_time() - started
    started = time.process_time()
    for _ in range(100):
        assert await models.coverage(index, many) is first
    again_s = (time.process_time() - started) / 100
    print(f"matched {n} files in {once_s * 1000:.1f} ms, then {again_s * 1e6:.1f} us")
    assert first.covered.all()
    assert first.segments[0].files.tolist() == list(range(n))[::-1]
    assert once_s < 0.2
    assert again_s < 0.002


async def test_who_has_an_older_entry_goes_on_with_the_newer_one(caplog: pytest.LogCaptureFixture) -> None:
    small = Small()
    old = await small.index(2, inline=True)
    data = (await small.indexes.inline("t", ["s0"]))["s0"]
    ref = replace(old.segments[0], id="other")
    new = await small.indexes.change("t", "i", lambda each: replace(each, segments=(ref,)), inline={"other": data})
    models = small.models()
    coverage = await models.coverage(old, await small.snapshot())
    assert coverage.index == new
    assert coverage.covered.tolist() == [True, False]
    assert not caplog.records
    await small.indexes.drop("t")
    again = small.models()
    assert not (await again.coverage(new, await small.snapshot())).covered.any()
    assert [record.getMessage() for record in caplog.records] == ["index i covers less: segments are missing: other"]
    assert not (await again.coverage(new, await small.snapshot())).covered.any()
    assert len(caplog.records) == 1
