"""Vacuum: what may go goes, what may be needed stays."""

from __future__ import annotations

import pytest

from functions.compact import optimize
from functions.fold_log import fold_all
from functions.vacuum import vacuum
from storage.errors import InvalidError
from storage.log import RecordKind
from tests.support.clock import ManualClock
from tests.support.folding import FoldLake, Format, table_of

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("format_", ["delta", "iceberg"])]
HOUR = 3_600_000
UNSAFE = {"firn.vacuum_unsafe": "true"}


async def merged(format_: Format, properties: dict[str, str] | None = None) -> tuple[FoldLake, object, ManualClock]:
    """A table of one live file, and of three that it was merged from."""
    clock = ManualClock()
    lake = FoldLake(clock=clock)
    entry = await lake.create("t", format_, properties=properties)
    for n in range(3):
        await lake.append((entry, RecordKind.APPEND, table_of([(n, "x")])))
        await fold_all(lake.stores, lake.logs, lake.tables, lake.clock)
        clock.advance(1000)
    await optimize(lake.stores, lake.tables, lake.clock, entry)
    clock.advance(1000)
    return lake, entry, clock


async def test_files_that_were_removed_within_the_retention_stay(format_: Format) -> None:
    lake, entry, clock = await merged(format_)
    clock.advance(100 * HOUR)
    assert not (await vacuum(lake.stores, lake.tables, clock, entry)).files  # type: ignore[arg-type]
    assert len(await lake.keys(entry)) == 4  # type: ignore[arg-type]
    await lake.close()


async def test_files_that_were_removed_before_the_retention_go_and_the_rows_stay(format_: Format) -> None:
    lake, entry, clock = await merged(format_)
    clock.advance(200 * HOUR)
    would = await vacuum(lake.stores, lake.tables, clock, entry, dry_run=True)  # type: ignore[arg-type]
    assert len(await lake.keys(entry)) == 4  # type: ignore[arg-type]
    done = await vacuum(lake.stores, lake.tables, clock, entry)  # type: ignore[arg-type]
    assert {file for file in done.files if file.endswith(".parquet")} == {
        file for file in would.files if file.endswith(".parquet")
    }
    assert len([file for file in done.files if file.endswith(".parquet")]) == 3
    assert len(await lake.keys(entry)) == 1  # type: ignore[arg-type]
    assert await lake.rows(entry) == [(0, "x"), (1, "x"), (2, "x")]  # type: ignore[arg-type]
    assert done.n_bytes > 0
    again = await vacuum(lake.stores, lake.tables, clock, entry)  # type: ignore[arg-type]
    assert not again.files
    await lake.close()


async def test_orphans_go_once_they_are_old_and_other_things_stay(format_: Format) -> None:
    lake, entry, clock = await merged(format_, UNSAFE)
    folder = entry.location.removeprefix("s3://bucket/")  # type: ignore[attr-defined]
    await lake.blobs.put(f"{folder}/orphan.parquet", b"x")
    await lake.blobs.put(f"{folder}/_hidden/notes.txt", b"x")
    clock.advance(HOUR // 2)
    await vacuum(lake.stores, lake.tables, clock, entry, retain_hours=0.1)  # type: ignore[arg-type]
    assert f"{folder}/orphan.parquet" in await lake.keys(entry)  # type: ignore[arg-type]
    clock.advance(HOUR)
    await vacuum(lake.stores, lake.tables, clock, entry, retain_hours=0.1)  # type: ignore[arg-type]
    assert f"{folder}/orphan.parquet" not in await lake.keys(entry)  # type: ignore[arg-type]
    assert (await lake.blobs.head(f"{folder}/_hidden/notes.txt")).size == 1
    assert await lake.rows(entry) == [(0, "x"), (1, "x"), (2, "x")]  # type: ignore[arg-type]
    await lake.close()


async def test_less_than_a_week_is_refused_unless_the_table_allows_it(format_: Format) -> None:
    lake, entry, clock = await merged(format_)
    with pytest.raises(InvalidError, match=r"firn\.vacuum_unsafe"):
        await vacuum(lake.stores, lake.tables, clock, entry, retain_hours=1)  # type: ignore[arg-type]
    await lake.close()
    lake, entry, clock = await merged(format_, UNSAFE)
    done = await vacuum(lake.stores, lake.tables, clock, entry, retain_hours=0)  # type: ignore[arg-type]
    assert len([file for file in done.files if file.endswith(".parquet")]) == 3
    assert len(await lake.rows(entry)) == 3  # type: ignore[arg-type]
    await lake.close()
