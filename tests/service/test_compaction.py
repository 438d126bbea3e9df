"""Passes over a real lake: when they are due, what they do, and that they end."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from functions.exchange import results_prefix
from service.compaction import (
    Compaction,
    CompactionSettings,
    PassReport,
    compact_lake,
    flush,
    unfolded,
)
from service.compaction_watch import background, due_shards, watch
from service.compactor import open_compaction
from service.settings import EngineSettings, LogAccess
from storage.clock import SystemClock
from storage.errors import NotFoundError
from storage.log import Record, RecordKind
from storage.log.settings import LogSettings
from tests.support.compacting import eventually, make, put, rows_of
from tests.support.folding import ipc, table_of

pytestmark = pytest.mark.anyio
APPEND = RecordKind.APPEND


def settings_of(folder: Path) -> EngineSettings:
    return EngineSettings(
        lake=str(folder), log=LogAccess(writer=LogSettings(flush_interval_ms=1, idempotency_window_ms=0))
    )


async def test_a_pass_folds_sweeps_and_merges_what_small_folds_left(tmp_path: Path) -> None:
    async with open_compaction(settings_of(tmp_path)) as compaction:
        entry = await make(compaction, "t", "delta")
        merged = 0
        for n in range(4):
            await put(compaction, entry, APPEND, table_of([(n, "x")]))
            await flush(compaction)
            report = await compact_lake(compaction, CompactionSettings(merge_files_min=3))
            merged += sum(each.n_commits for each in report.merged.values())
        assert merged == 1
        assert report.n_segments_swept >= 1
        assert await rows_of(compaction, entry) == [(n, "x") for n in range(4)]
        assert (await unfolded(compaction, 0, 4)).n_segments == 0


async def test_a_pass_deletes_pages_of_statements_whose_lifetime_is_over(tmp_path: Path) -> None:
    async with open_compaction(settings_of(tmp_path)) as compaction:
        blobs, _key = compaction.stores.resolve(f"file://{tmp_path}")
        left = []
        for name, life_ms in (("over", -1), ("running", 60_000)):
            place = results_prefix(str(tmp_path), name, compaction.clock.now_ms() + life_ms)
            left.append(place.removeprefix("file:///") + "0.0-1-0-0.arrow")
            await blobs.put(left[-1], b"rows")
        assert (await compact_lake(compaction)).n_pages_swept == 1
        assert (await compact_lake(compaction)).n_pages_swept == 0
        with pytest.raises(NotFoundError):
            await blobs.head(left[0])
        await blobs.head(left[1])


class LaterClock(SystemClock):
    """Runs ahead of the store's."""

    def __init__(self, ahead_ms: int) -> None:
        super().__init__()
        self.ahead_ms = ahead_ms

    def now_ms(self) -> int:
        return super().now_ms() + self.ahead_ms


async def test_a_pass_deletes_staged_files_that_are_older_than_a_day(tmp_path: Path) -> None:
    async with open_compaction(settings_of(tmp_path)) as compaction:
        blobs, folder = compaction.stores.resolve(f"file://{tmp_path}/_firnline/staged")
        await blobs.put(f"{folder}/left.parquet", b"PAR1")
        other = f"{folder}-by-users/left.parquet"
        await blobs.put(other, b"PAR1")
        for hours, n_swept in ((23, 0), (25, 1), (25, 0)):
            later = replace(compaction, clock=LaterClock(hours * 3600_000))
            assert (await compact_lake(later)).n_staged_swept == n_swept
        assert [meta.key async for meta in blobs.list(folder)] == [other]


async def test_a_log_is_due_by_age_by_bytes_or_by_segments(tmp_path: Path) -> None:
    async with open_compaction(settings_of(tmp_path)) as compaction:
        entry = await make(compaction, "t", "delta")
        patient = CompactionSettings(age_s=3600)
        assert await due_shards(compaction, CompactionSettings()) == []
        for n in range(3):
            await put(compaction, entry, APPEND, table_of([(n, "x")]))
            await flush(compaction)
        assert await due_shards(compaction, patient) == []
        assert await due_shards(compaction, CompactionSettings()) == [0]
        assert await due_shards(compaction, CompactionSettings(age_s=3600, bytes_min=10)) == [0]
        assert await due_shards(compaction, CompactionSettings(age_s=3600, segments_min=3)) == [0]
        await compact_lake(compaction)
        assert await due_shards(compaction, CompactionSettings()) == []


async def test_watching_ends_when_nothing_is_due_for_long(tmp_path: Path) -> None:
    async with open_compaction(settings_of(tmp_path)) as compaction:
        entry = await make(compaction, "t", "iceberg")
        await put(compaction, entry, APPEND, table_of([(1, "x")]))
        await flush(compaction)
        passes: list[PassReport] = []
        await watch(compaction, CompactionSettings(interval_s=0.02), on_pass=passes.append, idle_s=0.3)
        assert [each.fold.total["rows"] for each in passes] == [1]
        assert await rows_of(compaction, entry) == [(1, "x")]


async def test_the_background_folds_while_the_lake_is_open_and_at_its_end_if_much_waits(tmp_path: Path) -> None:
    async with open_compaction(settings_of(tmp_path)) as compaction:
        entry = await make(compaction, "t", "delta")
        async with background(compaction, CompactionSettings(interval_s=0.02), lambda: True):
            await put(compaction, entry, APPEND, table_of([(1, "x")]))

            async def folded() -> bool:
                return len(await rows_of(compaction, entry)) == 1

            await eventually(folded)
        patient = CompactionSettings(age_s=3600, segments_min=2)
        for expected, wrote in ((1, False), (3, True)):
            async with background(compaction, patient, lambda wrote=wrote: wrote):  # type: ignore[misc]
                await put(compaction, entry, APPEND, table_of([(2, "x")]))
                await flush(compaction)
            assert len(await rows_of(compaction, entry)) == expected


async def test_a_pass_goes_on_after_the_catalog_failed(tmp_path: Path) -> None:
    async with open_compaction(settings_of(tmp_path)) as compaction:
        entry = await make(compaction, "t", "delta")
        await put(compaction, entry, APPEND, table_of([(1, "x")]))
        await flush(compaction)
        log = tmp_path / "_firnline" / "log" / "0"
        hidden = tmp_path / "hidden"
        segments = next(path for path in log.iterdir() if path.is_dir())
        segments.rename(hidden)
        segments.write_text("not a folder")
        stop = asyncio.Event()
        watching = asyncio.create_task(_impatient(compaction, stop))
        await asyncio.sleep(0.2)
        assert not watching.done()
        segments.unlink()
        hidden.rename(segments)

        async def folded() -> bool:
            return len(await rows_of(compaction, entry)) == 1

        await eventually(folded)
        stop.set()
        await watching


async def _impatient(compaction: Compaction, stop: asyncio.Event) -> None:
    await watch(compaction, CompactionSettings(interval_s=0.02), stop=stop)


async def test_a_table_that_meets_a_defect_keeps_no_other_from_its_fold(tmp_path: Path) -> None:
    async with open_compaction(settings_of(tmp_path)) as compaction:
        bad = await make(compaction, "bad", "delta", ("id",))
        good = await make(compaction, "good", "delta")
        # A row without its key: no writer of ours appends such a record.
        keyless = Record(bad.id, 0, RecordKind.UPSERT, ipc(table_of([(1, "x")]).select(["v"])))
        await (await compaction.logs.log(0)).append([keyless])
        await put(compaction, good, APPEND, table_of([(1, "x")]))
        await flush(compaction)
        report = await compact_lake(compaction)
        assert list(report.errors) == ["default.bad"]
        assert await rows_of(compaction, good) == [(1, "x")]
        assert (await compaction.logs.folded())[0] == 0
