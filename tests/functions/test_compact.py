"""Small files merged, for both formats."""

from __future__ import annotations

import asyncio

import pytest

from functions.compact import CompactSettings, optimize
from functions.fold_log import fold_all
from functions.layout import LayoutSettings
from storage.log import RecordKind
from storage.tables.write import PartitionField, SortField
from tests.support.folding import FoldLake, Format, table_of

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("format_", ["delta", "iceberg"])]
SMALL = CompactSettings(layout=LayoutSettings(target_file_bytes=20_000))


async def filled(lake: FoldLake, entry: object, folds: int, rows: int = 3) -> list[tuple[int, str]]:
    model = []
    for n in range(folds):
        part = [(n * rows + i, "abc"[i % 3]) for i in range(rows)]
        model += part
        await lake.append((entry, RecordKind.APPEND, table_of(part)))  # type: ignore[arg-type]
        await fold_all(lake.stores, lake.logs, lake.tables, lake.clock)
    return sorted(model, key=repr)


async def test_small_files_become_one_with_the_same_rows_in_order(format_: Format) -> None:
    lake = FoldLake()
    entry = await lake.create("t", format_, order_by=(SortField(1, True),))
    model = await filled(lake, entry, 5)
    watermark = (await lake.load(entry)).watermark
    done = await optimize(lake.stores, lake.tables, lake.clock, entry)
    assert (done.n_files_removed, done.n_files_added, done.n_commits) == (5, 1, 1)
    assert await lake.rows(entry) == model
    table = await lake.load(entry)
    assert len(table.snapshot.files) == 1
    assert table.watermark == watermark
    assert not (await optimize(lake.stores, lake.tables, lake.clock, entry)).n_commits
    await lake.close()


@pytest.mark.parametrize("transform", ["identity", "bucket[2]"])
async def test_files_are_merged_within_their_partitions(format_: Format, transform: str) -> None:
    lake = FoldLake()
    entry = await lake.create("t", format_, partition_by=(PartitionField(2, transform, "part"),))
    model = await filled(lake, entry, 3)
    before = len((await lake.load(entry)).snapshot.files)
    done = await optimize(lake.stores, lake.tables, lake.clock, entry)
    after = len((await lake.load(entry)).snapshot.files)
    assert before == 3 * after
    assert done.n_files_added == after
    assert await lake.rows(entry) == model
    assert not (await optimize(lake.stores, lake.tables, lake.clock, entry)).n_commits
    await lake.close()


async def test_only_chosen_files_are_merged(format_: Format) -> None:
    lake = FoldLake()
    entry = await lake.create("t", format_)
    model = await filled(lake, entry, 4)

    def choose(snapshot: object) -> object:
        maximum = snapshot.files.stats("id").maximum.to_pylist()  # type: ignore[attr-defined]
        import numpy as np

        return np.array([value < 6 for value in maximum])

    done = await optimize(lake.stores, lake.tables, lake.clock, entry, choose=choose)  # type: ignore[arg-type]
    assert (done.n_files_removed, done.n_files_added) == (2, 1)
    assert await lake.rows(entry) == model
    await lake.close()


async def test_merges_and_folds_at_once_lose_and_double_nothing(format_: Format) -> None:
    lake = FoldLake()
    entry = await lake.create("t", format_)
    await filled(lake, entry, 3)
    for n in range(100, 106):
        await lake.append((entry, RecordKind.APPEND, table_of([(n, "x")])))

    async def compact() -> None:
        for _ in range(3):
            await optimize(lake.again().stores, lake.tables, lake.clock, entry)

    await asyncio.gather(
        compact(),
        compact(),
        fold_all(lake.stores, lake.logs, lake.tables, lake.clock),
    )
    found = await lake.rows(entry)
    assert [row[0] for row in sorted(found)] == [*range(9), *range(100, 106)]
    await lake.close()
