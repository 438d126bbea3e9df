"""Pages: rows that go from task to task come out as they went in, or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from functions import exchange
from functions.exchange import (
    PageWriter,
    delete_results,
    is_results_prefix,
    read_pages,
    results_prefix,
    sweep_results,
    write_pages,
)
from functions.tasks import Page
from storage.blobs.local import LocalBlobs
from storage.blobs.local_files import temporary_name
from storage.blobs.memory import MemoryBlobs
from storage.errors import ConflictError, CorruptError, InvalidError, NotFoundError
from storage.stores import Stores
from tests.support.clock import ManualClock

pytestmark = pytest.mark.anyio

LAKE = "s3://bucket/lake"
SCHEMA = pa.schema([("k", pa.int64()), ("v", pa.string())])


def lake(clock: ManualClock | None = None) -> tuple[Stores, MemoryBlobs, str]:
    clock = clock or ManualClock()
    blobs = MemoryBlobs(clock)
    return Stores(lambda _root: blobs), blobs, results_prefix(LAKE, "s1", clock.now_ms() + 60_000)


def rows(n: int, start: int = 0) -> pa.RecordBatch:
    return pa.record_batch({"k": range(start, start + n), "v": [f"row {k}" for k in range(start, start + n)]}, SCHEMA)


async def read(stores: Stores, pages: Sequence[Page], schema: pa.Schema = SCHEMA, **options: Any) -> pa.Table:
    return pa.Table.from_batches([batch async for batch in read_pages(stores, pages, **options)], schema)


async def keys(blobs: MemoryBlobs) -> list[str]:
    return [meta.key async for meta in blobs.list()]


async def test_few_rows_stay_in_the_message() -> None:
    stores, blobs, prefix = lake()
    pages = await write_pages(stores, prefix, "0.0-1", [[rows(2)], [], [rows(3, 2)]], SCHEMA, inline_bytes_max=1 << 20)
    assert [(page.bucket, page.n_rows, page.location) for page in pages] == [(0, 2, None), (2, 3, None)]
    assert await keys(blobs) == []
    assert await read(stores, pages) == pa.Table.from_batches([rows(2), rows(3, 2)])


async def test_many_rows_become_blobs_named_by_task_and_bucket() -> None:
    stores, blobs, prefix = lake()
    pages = await write_pages(stores, prefix, "0.0-1", [[rows(200)], [rows(300, 200)]], SCHEMA, inline_bytes_max=1000)
    folder = "lake/_firnline/results/1700000060000-s1"
    assert await keys(blobs) == [f"{folder}/0.0-1-0-0.arrow", f"{folder}/0.0-1-1-0.arrow"]
    assert all(page.data is None for page in pages)
    assert await read(stores, pages) == pa.Table.from_batches([rows(200), rows(300, 200)])


async def test_pages_are_cut_where_they_grow_large_and_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "PAGE_BYTES", 2000)
    stores, _blobs, prefix = lake()
    whole = rows(5000)
    pages = await write_pages(stores, prefix, "0.0-1", [[whole]], SCHEMA, inline_bytes_max=10)
    assert len(pages) > 20
    assert await read(stores, pages, concurrency=3) == pa.Table.from_batches([whole])


async def test_many_small_buckets_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "HELD_BYTES_MAX", 10_000)
    stores, _blobs, prefix = lake()
    writer = PageWriter(stores, prefix, "0.0-1", SCHEMA, inline_bytes_max=10)
    for start in range(0, 2000, 10):
        await writer.add(start // 10 % 50, rows(10, start))
        assert sum(writer._bytes.values()) <= 10_000
    pages = await writer.finish()
    found = await read(stores, pages)
    assert sorted(found["k"].to_pylist()) == list(range(2000))
    for bucket in range(50):
        own = await read(stores, [page for page in pages if page.bucket == bucket])
        assert {k // 10 % 50 for k in own["k"].to_pylist()} == {bucket}


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"d": pa.array(["a", "b", None, "a"]).dictionary_encode()}),
        pa.table({"l": [[1, None], [], None], "s": [{"x": 1, "y": [{"z": "q"}]}, None, {"x": 2, "y": []}]}),
        pa.table({"m": pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int8()))}),
        pa.table({"n": pa.nulls(3), "f": [float("nan"), -0.0, None]}),
        pa.table({"v": pa.array(["a", "long enough not to be inlined", None], pa.string_view())}),
        pa.table({"t": pa.array([1, None], pa.timestamp("us", "UTC")), "e": pa.array([1, 2], pa.decimal128(30, 4))}),
    ],
    ids=["dictionary", "nested", "map", "null-and-nan", "views", "times-and-decimals"],
)
async def test_rows_of_every_type_come_back(table: pa.Table) -> None:
    stores, _blobs, prefix = lake()
    for inline_bytes_max in (0, 1 << 20):
        name = f"t{inline_bytes_max}"
        batches = [*table.to_batches(max_chunksize=2), *table.slice(1).to_batches()]
        pages = await write_pages(stores, prefix, name, [batches], table.schema, inline_bytes_max=inline_bytes_max)
        found = await read(stores, pages, table.schema)
        assert repr(found.to_pylist()) == repr(pa.concat_tables([table, table.slice(1)]).to_pylist())
        assert found.schema.equals(table.schema)


async def test_dictionaries_that_differ_from_batch_to_batch_come_back() -> None:
    stores, _blobs, prefix = lake()
    batches = [pa.record_batch({"d": pa.array(words).dictionary_encode()}) for words in (["a", "b"], ["c"], ["a", "d"])]
    pages = await write_pages(stores, prefix, "t", [batches], batches[0].schema, inline_bytes_max=1 << 20)
    assert (await read(stores, pages, batches[0].schema))["d"].to_pylist() == ["a", "b", "c", "a", "d"]


async def test_rows_without_columns_are_counted() -> None:
    stores, _blobs, prefix = lake()
    batch = pa.RecordBatch.from_struct_array(pa.array([{}] * 7, pa.struct([])))
    pages = await write_pages(stores, prefix, "t", [[batch, batch]], batch.schema, inline_bytes_max=1 << 20)
    assert [page.n_rows for page in pages] == [14]
    assert [found.num_rows async for found in read_pages(stores, pages)] == [7, 7]


async def test_no_rows_are_no_pages() -> None:
    stores, blobs, prefix = lake()
    assert await write_pages(stores, prefix, "t", [[rows(0)], []], SCHEMA, inline_bytes_max=0) == []
    assert await keys(blobs) == []


async def test_a_slice_carries_only_its_own_rows() -> None:
    stores, _blobs, prefix = lake()
    [page] = await write_pages(stores, prefix, "t", [[rows(100_000).slice(5, 2)]], SCHEMA, inline_bytes_max=1 << 20)
    assert page.n_bytes < 2000


@pytest.mark.parametrize("inline", [True, False])
async def test_a_page_that_is_not_what_was_written_is_named(inline: bool) -> None:
    stores, blobs, prefix = lake()
    [page] = await write_pages(stores, prefix, "t", [[rows(10)]], SCHEMA, inline_bytes_max=1 << 20 if inline else 0)
    if inline:
        assert page.data is not None
        page = replace(page, data=page.data[:100] + b"?" + page.data[101:])
    else:
        [key] = await keys(blobs)
        data, _meta = await blobs.get(key)
        await blobs.put(key, data[:-20] + bytes(20))
    with pytest.raises(CorruptError, match=r"in the message" if inline else r"results/.*/t-0-0\.arrow"):
        await read(stores, [page])


async def test_a_page_that_says_another_number_of_rows_is_refused() -> None:
    stores, _blobs, prefix = lake()
    [page] = await write_pages(stores, prefix, "t", [[rows(10)]], SCHEMA, inline_bytes_max=1 << 20)
    with pytest.raises(CorruptError, match="number of rows"):
        await read(stores, [replace(page, n_rows=11)])


async def test_a_page_past_its_lifetime_is_said_to_be_gone() -> None:
    stores, _blobs, prefix = lake()
    pages = await write_pages(stores, prefix, "t", [[rows(10)]], SCHEMA, inline_bytes_max=0)
    assert await delete_results(stores, prefix) == 1
    with pytest.raises(NotFoundError, match="gone"):
        await read(stores, pages)


async def test_nothing_is_written_over_another_page() -> None:
    stores, _blobs, prefix = lake()
    await write_pages(stores, prefix, "t", [[rows(10)]], SCHEMA, inline_bytes_max=0)
    with pytest.raises(ConflictError):
        await write_pages(stores, prefix, "t", [[rows(10)]], SCHEMA, inline_bytes_max=0)


async def test_pages_go_to_no_other_place_than_that_of_results() -> None:
    stores, blobs, _prefix = lake()
    for place in ("", "s3://bucket/lake/", "s3://bucket/lake/t/_delta_log/", "s3://bucket/_firnline/results/x/"):
        with pytest.raises(InvalidError, match="no place for pages"):
            await write_pages(stores, place, "t", [[rows(10)]], SCHEMA, inline_bytes_max=0)
        with pytest.raises(InvalidError):
            await delete_results(stores, place)
    assert await keys(blobs) == []
    assert is_results_prefix(results_prefix("./lake", "s-1.x_Y", 5))
    for name in ("../x", "a/b", "", "a b", "x" * 300):
        with pytest.raises(InvalidError):
            results_prefix(LAKE, name, 5)


async def test_a_sweep_deletes_what_is_over_and_nothing_else() -> None:
    clock = ManualClock()
    stores, blobs, _prefix = lake(clock)
    for number, life_ms in enumerate((1000, 2000, 3000)):
        place = results_prefix(LAKE, f"s{number}", clock.now_ms() + life_ms)
        await write_pages(stores, place, "t", [[rows(10)], [rows(10)]], SCHEMA, inline_bytes_max=0)
    await blobs.put("lake/_firnline/results/0-strange/x", b"")
    await blobs.put("lake/_firnline/staged/0000000000000-s/x", b"")
    assert await sweep_results(stores, LAKE, clock) == 0
    clock.advance(2000)
    assert await sweep_results(stores, LAKE, clock) == 4
    assert await sweep_results(stores, LAKE, clock) == 0
    left = {key.split("/")[3] for key in await keys(blobs)}
    assert left == {"1700000003000-s2", "0-strange", "0000000000000-s"}


async def test_of_a_local_lake_no_folder_and_no_unfinished_file_is_left(tmp_path: Path) -> None:
    clock = ManualClock()
    stores = Stores(lambda _root: LocalBlobs(Path("/"), clock))
    places = [results_prefix(str(tmp_path), f"s{number}", clock.now_ms() + 1000) for number in range(4)]
    for place in places:
        await write_pages(stores, place, "t", [[rows(10)]], SCHEMA, inline_bytes_max=0)
    folders = [Path(place.removeprefix("file://")) for place in places]
    (folders[1] / temporary_name("0" * 32)).write_bytes(b"of a worker that was killed")
    assert await delete_results(stores, places[0]) == 1
    assert not folders[0].exists()
    assert await sweep_results(stores, str(tmp_path), clock) == 0
    assert all(folder.exists() for folder in folders[1:])
    clock.advance(1000)
    assert await sweep_results(stores, str(tmp_path), clock) == 3
    assert list((tmp_path / "_firnline/results").iterdir()) == []
