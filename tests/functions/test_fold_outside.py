"""Others write to the same table while it is folded: theirs and ours are there, each once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from functions.compact import optimize
from functions.fold_log import fold_all
from functions.layout import write_files
from functions.rewrite import rewrite_rows
from storage.blobs import Blobs
from storage.blobs.local import LocalBlobs
from storage.clock import SystemClock
from storage.errors import ConflictError
from storage.log import RecordKind
from storage.tables.write import Change
from tests.support.faults import WrappedBlobs
from tests.support.folding import SCHEMA, FoldLake, Format, table_of

pytestmark = pytest.mark.anyio
APPEND, UPSERT = RecordKind.APPEND, RecordKind.UPSERT


class Intruded(WrappedBlobs):
    """Lets someone else act right before the first put of a key that contains ``part``."""

    def __init__(self, inner: Blobs, part: str, act: Callable[[], Awaitable[None]]) -> None:
        super().__init__(inner)
        self._part, self._act, self.n_acts = part, act, 0

    async def _before(self, call: str, key: str) -> None:
        if call == "put" and self._part in key and not self.n_acts:
            self.n_acts += 1
            await self._act()


async def fold(lake: FoldLake) -> None:
    report = await fold_all(lake.stores, lake.logs, lake.tables, lake.clock)
    assert not report.errors


@pytest.mark.parametrize("key", [(), ("id",)])
async def test_an_outside_delta_append_in_the_middle_of_a_fold(tmp_path: Path, key: tuple[str, ...]) -> None:
    import deltalake

    clock = SystemClock()
    lake = FoldLake(LocalBlobs(tmp_path, clock), clock=clock)
    entry = await lake.create("t", "delta", key)
    folder = str(tmp_path / entry.location.removeprefix("s3://bucket/"))
    await lake.append((entry, UPSERT if key else APPEND, table_of([(1, "ours"), (2, "ours")])))
    await fold(lake)
    await lake.append((entry, UPSERT if key else APPEND, table_of([(3, "ours"), (2, "new")])))

    async def intrude() -> None:
        rows = table_of([(10, "theirs")]).cast(SCHEMA.remove_metadata())
        await asyncio.to_thread(deltalake.write_deltalake, folder, rows, mode="append")

    blobs = Intruded(lake.blobs, "_delta_log/", intrude)
    await fold(lake.again(blobs))
    assert blobs.n_acts == 1
    expected = [(1, "ours"), (10, "theirs"), (2, "new"), (3, "ours")]
    if not key:
        expected.append((2, "ours"))
    assert await lake.rows(entry) == sorted(expected, key=repr)
    seen = deltalake.DeltaTable(folder).to_pyarrow_table()
    assert sorted(zip(*seen.to_pydict().values(), strict=True), key=repr) == sorted(expected, key=repr)
    await lake.close()


@pytest.mark.parametrize("format_", ["delta", "iceberg"])
async def test_another_commit_that_rewrites_a_file_of_the_fold_makes_it_begin_anew(format_: Format) -> None:
    lake = FoldLake()
    entry = await lake.create("t", format_, ("id",))
    await lake.append((entry, UPSERT, table_of([(1, "a"), (2, "b")])))
    await fold(lake)
    await lake.append((entry, UPSERT, table_of([(2, "B")])))

    async def intrude() -> None:
        table = await lake.load(entry)
        merged = await rewrite_rows(
            lake.stores, lake.clock, table.snapshot, table.spec, {0: _first_of_two()}, table_of([(7, "theirs")]),
            operation="update",
        )  # fmt: skip
        await table.writer.commit(table.snapshot, merged)

    blobs = Intruded(lake.blobs, "_delta_log/" if format_ == "delta" else "metadata/", intrude)
    await fold(lake.again(blobs))
    assert await lake.rows(entry) == [(2, "B"), (7, "theirs")]
    assert len(await lake.keys(entry)) == 3  # the first file, theirs, ours; the attempt that lost left none
    await lake.close()


def _first_of_two() -> object:
    import numpy as np

    return np.array([True, False])


@pytest.mark.parametrize("format_", ["delta", "iceberg"])
async def test_an_append_in_the_middle_of_a_merge_stays(format_: Format) -> None:
    lake = FoldLake()
    entry = await lake.create("t", format_)
    for n in range(3):
        await lake.append((entry, APPEND, table_of([(n, "x")])))
        await fold(lake)

    async def intrude() -> None:
        table = await lake.load(entry)
        files = await write_files(
            lake.stores, lake.clock, table.snapshot.location, table.snapshot.schema, table.spec,
            table_of([(10, "theirs")]), table_format=format_,
        )  # fmt: skip
        await table.writer.commit(table.snapshot, Change("insert", tuple(files)))

    blobs = Intruded(lake.blobs, "_delta_log/" if format_ == "delta" else "metadata/", intrude)
    other = lake.again(blobs)
    done = await optimize(other.stores, other.tables, other.clock, entry)
    assert done.n_commits >= 1
    assert await lake.rows(entry) == [(0, "x"), (1, "x"), (10, "theirs"), (2, "x")]
    await lake.close()


@pytest.mark.parametrize("format_", ["delta", "iceberg"])
async def test_a_fold_that_always_loses_says_so_and_leaves_no_files(format_: Format) -> None:
    lake = FoldLake()
    entry = await lake.create("t", format_)
    await lake.append((entry, APPEND, table_of([(1, "a")])))
    table = await lake.load(entry)
    files = await write_files(
        lake.stores, lake.clock, table.snapshot.location, table.snapshot.schema, table.spec, table_of([(1, "a")]),
        table_format=format_,
    )  # fmt: skip
    from storage.tables.write import Watermark

    with pytest.raises(ConflictError):
        await table.writer.commit(table.snapshot, Change("fold", tuple(files), watermark=Watermark("0", 5, 9)))
    await lake.close()
