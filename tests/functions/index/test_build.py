"""Segments from files: which files are covered, and why others are not."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from catalog.indexes import IndexColumn
from functions.index.build import build
from functions.index.read_keys import ROWS_AT_ONCE
from storage.errors import InvalidError, UnsupportedError
from storage.tables.snapshot import FIELD_ID, PHYSICAL_NAME, Snapshot
from tests.support.indexing import Shelf, rows_located

pytestmark = pytest.mark.anyio


def _schema(*fields: tuple[str, pa.DataType, dict[bytes, bytes] | None]) -> pa.Schema:
    return pa.schema([pa.field(name, type_, metadata=metadata) for name, type_, metadata in fields])


async def _shelf(schema: pa.Schema, *tables: pa.Table, **options: Any) -> Shelf:
    shelf = Shelf(schema)
    for table in tables:
        await shelf.add(table, **options)
    return shelf


IDS = pa.schema([("id", pa.int64())])


async def test_files_that_are_not_sorted_are_left_out_of_a_learned_index_only() -> None:
    shelf = await _shelf(IDS, pa.table({"id": [1, 2, 3]}), pa.table({"id": [3, 1, 2]}), pa.table({"id": [4, None, 5]}))
    learned, locator = await shelf.build("learned"), await shelf.build("locator")
    assert learned.skipped == {1: "it is not sorted by the key"}
    assert learned.segment is not None
    assert learned.segment.paths == [shelf.paths[0], shelf.paths[2]]
    assert learned.segment.etags == ["m1", "m3"]
    assert learned.segment.sizes.tolist() == [shelf.sizes[0], shelf.sizes[2]]
    assert locator.skipped == {}
    assert locator.segment is not None
    assert rows_located(locator.segment.locate(pa.table({"id": [1]}))) == {
        (0, file, row) for file in (0, 1) for row in range(3)
    }


async def test_no_file_that_can_be_covered_is_no_segment() -> None:
    shelf = await _shelf(IDS, pa.table({"id": [2, 1]}))
    built = await shelf.build("learned")
    assert built.segment is None
    assert built.skipped == {0: "it is not sorted by the key"}


async def test_damaged_lost_and_foreign_files_are_left_out_with_the_reason() -> None:
    shelf = await _shelf(IDS, *[pa.table({"id": [at, at + 1]}) for at in range(7)])
    await shelf.add(pa.table({"other": [1]}))
    await shelf.add(pa.table({"id": ["text"]}))
    whole = (await shelf.blobs.get("t/1.parquet"))[0]
    await shelf.blobs.delete("t/1.parquet")
    await shelf.blobs.put("t/1.parquet", whole[: len(whole) // 2] + b"\xff" * (len(whole) // 2 - 8) + whole[-8:])
    await shelf.blobs.delete("t/2.parquet")
    await shelf.blobs.delete("t/3.parquet")
    await shelf.blobs.put("t/3.parquet", b"x" * shelf.sizes[3])
    await shelf.blobs.delete("t/4.parquet")
    await shelf.blobs.put("t/4.parquet", whole[:4] + b"\xff" * 20 + whole[24:])
    snapshot = shelf.snapshot()
    snapshot = replace(snapshot, files=replace(snapshot.files, formats={5: "orc", 6: "avro"}))
    built = await build(shelf.stores, snapshot, range(9), shelf.index("locator"))
    reasons = {file: reason.partition(":")[0] for file, reason in built.skipped.items()}
    assert reasons == {
        1: "it is damaged",
        2: "it is gone",
        3: "it is not a Parquet file",
        4: "it is damaged",
        5: "it is in ORC",
        6: "it is in Avro",
        7: "it has no column id",
        8: "it is damaged",
    }
    assert built.segment is not None
    assert built.segment.paths == [shelf.paths[0]]


async def test_columns_are_found_by_physical_name_field_id_and_name_mapping() -> None:
    physical = await _shelf(
        _schema(("id", pa.int64(), {PHYSICAL_NAME: b"col-1"})),
        pa.table({"id": [9], "col-1": pa.array([7], pa.int32())}),
    )
    column = IndexColumn("col-1", "int64")
    index = replace(physical.index("learned"), columns=(column,))
    segments = [(await build(physical.stores, physical.snapshot(matching="physical_name"), [0], index)).segment]
    for metadata, mapping in ({FIELD_ID: b"4"}, None), (None, {"old": 4}):
        stored = _schema(("old", pa.int32(), metadata), ("id", pa.int64(), {FIELD_ID: b"5"} if metadata else None))
        shelf = await _shelf(
            _schema(("id", pa.int64(), {FIELD_ID: b"4"})), pa.table([pa.array([7], pa.int32()), pa.array([9])], stored)
        )
        index = replace(shelf.index("learned"), columns=(IndexColumn("was", "int64", 4),))
        snapshot = shelf.snapshot(matching="field_id", name_mapping=mapping)
        segments.append((await build(shelf.stores, snapshot, [0], index)).segment)
    for segment in segments:
        assert segment is not None
        assert len(segment.locate(pa.table({"id": [7]})).key) == 1
        assert not len(segment.locate(pa.table({"id": [9]})).key)


async def test_a_large_file_is_read_in_stretches() -> None:
    n = 2 * ROWS_AT_ONCE + 12_345
    ids = np.arange(n) * 3
    rng = np.random.default_rng(0)
    for options in {"row_group_size": 700_000}, {"row_group_size": n, "write_page_index": True}:
        shelf = await _shelf(IDS, pa.table({"id": ids}), **options)
        built = await shelf.build("learned")
        assert built.segment is not None, built.skipped
        assert built.segment.n_keys == n
        rows = rng.integers(0, n, 500)
        located = built.segment.locate(pa.table({"id": ids[rows]}))
        assert ((located.start <= rows) & (rows < located.limit) & (located.key == np.arange(500))).all()
    swapped = ids.copy()
    swapped[ROWS_AT_ONCE + 5_000 :] = ids[: n - ROWS_AT_ONCE - 5_000]
    shelf = await _shelf(IDS, pa.table({"id": swapped}), row_group_size=ROWS_AT_ONCE + 5_000)
    assert (await shelf.build("learned")).segment is None, "each stretch is sorted, the file is not"


async def test_progress_is_told_for_every_file() -> None:
    shelf = await _shelf(IDS, *[pa.table({"id": [at]}) for at in range(5)])
    told: list[tuple[int, int]] = []
    index = shelf.index("learned")
    await build(shelf.stores, shelf.snapshot(), range(5), index, progress=lambda done, of: told.append((done, of)))
    assert told == [(at + 1, 5) for at in range(5)]


async def test_a_build_can_be_cancelled() -> None:
    shelf = await _shelf(IDS, *[pa.table({"id": [at]}) for at in range(40)])
    task = asyncio.create_task(shelf.build("learned"))
    await asyncio.sleep(0.002)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(asyncio.all_tasks()) == 1 or not [each for each in asyncio.all_tasks() if "build" in repr(each)]


@pytest.mark.parametrize(
    ("changes", "column", "error", "message"),
    [
        ({"partition_columns": ("id",)}, IndexColumn("id", "int64"), InvalidError, "partition pruning finds its files"),
        ({}, IndexColumn("gone", "int64"), InvalidError, "no column gone any more"),
        ({}, IndexColumn("id", "int32"), InvalidError, "was int32 when it was indexed, and is int64"),
        ({}, IndexColumn("flag", "bool"), UnsupportedError, "strings and binary can column=flag type=bool"),
    ],
)
async def test_what_cannot_be_indexed_is_refused(
    changes: dict[str, Any], column: IndexColumn, error: type[InvalidError], message: str
) -> None:
    shelf = await _shelf(pa.schema([("id", pa.int64()), ("flag", pa.bool_())]), pa.table({"id": [1], "flag": [True]}))
    snapshot: Snapshot = shelf.snapshot(**changes)
    with pytest.raises(error, match=re.escape(message)):
        await build(shelf.stores, snapshot, [0], replace(shelf.index("learned"), columns=(column,)))


@pytest.mark.parametrize("options", [{"filter_bits": "17"}, {"epsilon": "0"}, {"epsilon": "many"}])
async def test_an_option_with_a_wrong_value_is_refused(options: dict[str, str]) -> None:
    shelf = await _shelf(IDS, pa.table({"id": [1]}))
    with pytest.raises(InvalidError, match="is a number from"):
        await shelf.build("learned", options)


async def test_a_sorted_key_takes_little_more_than_its_filter() -> None:
    ids = np.unique(np.random.default_rng(5).integers(0, 2**50, 300_000))
    shelf = await _shelf(IDS, *[pa.table({"id": part}) for part in np.array_split(ids, 30)])
    bare = (await shelf.build("learned", {"filter_bits": "0"})).segment
    whole = (await shelf.build("learned")).segment
    assert bare is not None and whole is not None
    assert bare.model is not None and whole.model is not None
    assert bare.model.n_bytes / len(ids) < 0.1
    assert whole.model.n_bytes / len(ids) < 1.3


async def test_an_unsorted_key_takes_no_more_than_two_and_a_half_bytes() -> None:
    ids = np.random.default_rng(5).permutation(1_000_000)
    shelf = await _shelf(IDS, *[pa.table({"id": part}) for part in np.array_split(ids, 10)])
    segment = (await shelf.build("locator")).segment
    assert segment is not None and segment.model is not None
    assert segment.model.n_bytes / len(ids) <= 2.5
