"""Indexes kept in step with their tables: what is covered, what is merged, what is swept, and crashes in between."""

from __future__ import annotations

import asyncio
import copy
from contextlib import suppress
from dataclasses import replace
from typing import Literal

import numpy as np
import pyarrow as pa
import pytest

from catalog.indexes import IndexEntry, Indexes, IndexKind
from catalog.kv.memory import MemoryKV
from catalog.tables import TableEntry
from functions.fold import FoldSettings
from functions.fold_log import fold_all
from functions.index.columns import index_columns
from functions.index.keep import drop_strays, keep_indexes, sweep_segments
from functions.index.maintain import Maintenance, Refreshed, refresh
from functions.index.models import Coverage, Models
from functions.index.plan import CLASS_MAX, plan_groups
from functions.index.segment import Segment
from functions.index.skips import Skips
from storage.blobs.memory import MemoryBlobs
from storage.errors import ConflictError, IndeterminateError, UnavailableError
from storage.log import RecordKind
from tests.support.clock import ManualClock
from tests.support.faults import CrashBlobs, SimulatedCrash, TwoCoinBlobs
from tests.support.folding import FoldLake, Format, table_of
from tests.support.kv_faults import CrashKV, TwoCoinKV

pytestmark = pytest.mark.anyio
APPEND = RecordKind.APPEND


def maintenance(lake: FoldLake, *, inline_bytes_max: int = 64 << 10) -> Maintenance:
    models = Models(lake.kv, lake.stores, "s3://bucket/lake")
    indexes = Indexes(lake.kv, lake.clock)
    return Maintenance(lake.stores, indexes, models, lake.clock, "s3://bucket/lake", inline_bytes_max=inline_bytes_max)


async def add(lake: FoldLake, entry: TableEntry, start: int, n: int = 20) -> None:
    rows = [(number, f"v{number % 7}") for number in range(start, start + n)]
    await lake.append((entry, APPEND, table_of(rows)))
    report = await fold_all(lake.stores, lake.logs, lake.tables, lake.clock, FoldSettings())
    assert not report.errors


async def make_index(
    lake: FoldLake, entry: TableEntry, kind: IndexKind = "locator", column: str = "id", name: str = "i"
) -> None:
    columns = index_columns((await lake.load(entry)).snapshot, [column])
    await Indexes(lake.kv, lake.clock).create(IndexEntry(entry.id, name, kind, columns, lake.clock.now_ms()))


async def refreshed(lake: FoldLake, parts: Maintenance, entry: TableEntry, *, as_one: bool = False) -> Refreshed:
    (index,) = await parts.indexes.of(entry.id)
    return await refresh(parts, index, (await lake.load(entry)).snapshot, as_one=as_one)


async def covered(lake: FoldLake, parts: Maintenance, entry: TableEntry) -> Coverage:
    (index,) = await parts.indexes.of(entry.id)
    return await parts.models.coverage(index, (await lake.load(entry)).snapshot)


def locate(coverage: Coverage, key: int) -> set[int]:
    """The files of the snapshot that may hold the key."""
    keys = pa.table({"id": pa.array([key], pa.int64())})
    found: set[int] = set()
    for each in coverage.segments:
        files = each.files[each.segment.locate(keys).file]
        found |= set(files[files >= 0].tolist())
    return found


async def blobs_of(lake: FoldLake) -> set[str]:
    return {meta.key.rpartition("/")[2] async for meta in lake.blobs.list("lake/_firnline/index/")}


@pytest.mark.parametrize("inline_bytes_max", [0, 64 << 10])
@pytest.mark.parametrize("format_", ["delta", "iceberg"])
@pytest.mark.parametrize("kind", ["learned", "locator"])
async def test_new_files_get_a_segment_and_few_segments_stay(
    format_: Format, kind: IndexKind, inline_bytes_max: int
) -> None:
    lake = FoldLake()
    entry = await lake.create("t", format_, ("id",) if kind == "learned" else ())
    parts = maintenance(lake, inline_bytes_max=inline_bytes_max)
    await add_any(lake, entry, 0)
    await make_index(lake, entry, kind)
    for number in range(1, CLASS_MAX + 3):
        done = await refreshed(lake, parts, entry)
        assert done.n_built == 1
        assert len(done.index.segments) <= CLASS_MAX
        coverage = await covered(lake, parts, entry)
        assert coverage.covered.all()
        assert all(len(locate(coverage, key)) == 1 for key in range(0, 100 * number, 33))
        assert not locate(coverage, -5)
        await add_any(lake, entry, 100 * number)
        assert not (await covered(lake, parts, entry)).covered.all()
    done = await refreshed(lake, parts, entry, as_one=True)
    assert len(done.index.segments) == 1
    assert done.index.segments[0].n_keys == 100 * (CLASS_MAX + 3)
    assert not (await refreshed(lake, parts, entry)).did_something
    assert not (await refreshed(lake, parts, entry, as_one=True)).did_something
    await lake.close()


async def add_any(lake: FoldLake, entry: TableEntry, start: int) -> None:
    assert entry.managed is not None
    kind = RecordKind.UPSERT if entry.managed.spec.primary_key else APPEND
    rows = [(number, f"v{number % 7}") for number in range(start, start + 100)]
    await lake.append((entry, kind, table_of(rows)))
    report = await fold_all(lake.stores, lake.logs, lake.tables, lake.clock, FoldSettings())
    assert not report.errors


async def test_files_that_cannot_be_covered_are_read_once_and_told() -> None:
    lake = FoldLake()
    entry = await lake.create("t", "delta")
    await lake.append((entry, APPEND, table_of([(3, "a"), (1, "b"), (2, "c")])))
    await fold_all(lake.stores, lake.logs, lake.tables, lake.clock, FoldSettings())
    await make_index(lake, entry, "learned")
    parts = maintenance(lake)
    done = await refreshed(lake, parts, entry)
    assert done.n_files == 1
    assert sum(done.index.skipped.values()) == 1
    assert "sorted" in next(iter(done.index.skipped))
    await add(lake, entry, 10)
    done = await refreshed(lake, parts, entry)
    assert (done.n_files, done.index.segments[0].n_keys) == (1, 20)
    assert sum(done.index.skipped.values()) == 1
    assert (await covered(lake, parts, entry)).covered.sum() == 1


async def test_of_two_refreshers_one_gives_up_and_its_segment_is_swept() -> None:
    lake = FoldLake()
    entry = await lake.create("t", "delta")
    await add(lake, entry, 0)
    await make_index(lake, entry)
    (index,) = await Indexes(lake.kv, lake.clock).of(entry.id)
    snapshot = (await lake.load(entry)).snapshot
    both = [refresh(maintenance(lake, inline_bytes_max=0), index, snapshot) for _ in range(2)]
    done = await asyncio.gather(*both, return_exceptions=True)
    assert sorted(type(each).__name__ for each in done) == ["ConflictError", "Refreshed"]
    parts = maintenance(lake)
    assert len(await blobs_of(lake)) == 2
    assert await sweep_segments(parts) == 0
    lake.clock.advance(2 * 3_600_000)  # type: ignore[attr-defined]
    assert await sweep_segments(parts) == 1
    (index,) = await parts.indexes.of(entry.id)
    assert await blobs_of(lake) == {index.segments[0].id}
    await lake.tables.drop("default", "t")
    assert await drop_strays(parts, lake.tables) == 1
    assert await sweep_segments(parts) == 1
    assert await blobs_of(lake) == set()


@pytest.mark.parametrize("damage", ["missing", "changed", "cut"])
@pytest.mark.parametrize("inline", [True, False])
async def test_a_segment_that_is_missing_or_damaged_covers_nothing_and_is_built_anew(inline: bool, damage: str) -> None:
    lake = FoldLake()
    entry = await lake.create("t", "delta")
    await add(lake, entry, 0)
    await make_index(lake, entry)
    inline_bytes_max = 64 << 10 if inline else 0
    done = await refreshed(lake, maintenance(lake, inline_bytes_max=inline_bytes_max), entry)
    await spoil(lake, entry, done.index, damage)
    parts = maintenance(lake, inline_bytes_max=inline_bytes_max)
    coverage = await covered(lake, parts, entry)
    assert not coverage.covered.any()
    assert coverage.reason.startswith("no segment can be read")
    if damage != "cut":
        await add(lake, entry, 50)
    done = await refreshed(lake, parts, entry)
    assert (await covered(lake, parts, entry)).covered.all()
    assert done.n_removed == 1


async def spoil(lake: FoldLake, entry: TableEntry, index: IndexEntry, damage: str) -> None:
    from catalog.kv import Put

    (ref,) = index.segments
    key = f"segment/{entry.id}/{ref.id}"
    place = f"lake/_firnline/index/{entry.id}/{ref.id}"
    if ref.inline:
        found = await lake.kv.get(key)
        data = {"missing": None, "changed": found.value[:-1] + b"?", "cut": found.value[:50]}[damage]
        await lake.kv.txn({}, [Put(key, data)])
    elif damage == "missing":
        await lake.blobs.delete(place)
    else:
        data, _meta = await lake.blobs.get(place)
        await lake.blobs.put(place, data[:-1] + b"?" if damage == "changed" else data[:50])


async def test_a_primary_key_gets_its_index_unless_a_property_says_no() -> None:
    lake = FoldLake()
    entry = await lake.create("t", "delta", ("id",))
    other = await lake.create("u", "delta", ("id",), properties={"firn.index_primary_key": "false"})
    parts = maintenance(lake)
    kept = await keep_indexes(parts, [entry, other])
    assert not kept.errors
    (index,) = await parts.indexes.of(entry.id)
    assert (index.name, index.is_primary, index.kind) == ("primary", True, "learned")
    assert await parts.indexes.of(other.id) == ()
    await parts.indexes.change(entry.id, "primary", lambda old: replace(old, version=None))


class Prepared:
    """A lake with an index that has two segments, and a third file; copied for every crash."""

    def __init__(self, lake: FoldLake, entry: TableEntry) -> None:
        self.entry = entry
        assert isinstance(lake.blobs, MemoryBlobs)
        self._blobs, self._state, self._clock = dict(lake.blobs._blobs), copy.deepcopy(lake.kv._state), lake.clock

    def lake(self) -> FoldLake:
        clock = copy.deepcopy(self._clock)
        blobs, kv = MemoryBlobs(clock), MemoryKV(clock)
        blobs._blobs, blobs._n_puts = dict(self._blobs), 1_000_000
        kv._state = copy.deepcopy(self._state)
        return FoldLake(blobs, kv, clock)


async def prepare(inline_bytes_max: int) -> Prepared:
    lake = FoldLake(clock=ManualClock())
    entry = await lake.create("t", "delta")
    await make_index(lake, entry)
    parts = maintenance(lake, inline_bytes_max=inline_bytes_max)
    for start in (0, 100):
        await add(lake, entry, start)
        await refreshed(lake, parts, entry)
    await add(lake, entry, 200)
    await lake.close()
    return Prepared(lake, entry)


async def work(lake: FoldLake, entry: TableEntry, inline_bytes_max: int) -> None:
    parts = maintenance(lake, inline_bytes_max=inline_bytes_max)
    await refreshed(lake, parts, entry)
    await refreshed(lake, parts, entry, as_one=True)
    lake.clock.advance(2 * 3_600_000)  # type: ignore[attr-defined]
    await sweep_segments(parts)


async def check_named(lake: FoldLake, entry: TableEntry, *, swept: bool) -> None:
    """What is named is there; rows are found; after a sweep nothing else is there."""
    parts = maintenance(lake)
    (index,) = await parts.indexes.of(entry.id)
    assert all(isinstance(each, Segment) for each in await parts.models.segments(index))
    coverage = await covered(lake, parts, entry)
    paths = (await lake.load(entry)).snapshot.files.paths
    for start in (0, 100, 200):
        if coverage.covered.all():
            assert len(locate(coverage, start + 3)) == 1
    assert len(set(paths)) == 3
    if swept:
        assert coverage.covered.all()
        assert await blobs_of(lake) == {ref.id for ref in index.segments if not ref.inline}
        entries, _revision = await lake.kv.range("segment/")
        assert {each.key.rpartition("/")[2] for each in entries} == {ref.id for ref in index.segments if ref.inline}


@pytest.mark.parametrize("inline_bytes_max", [0, 64 << 10])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("what", ["blobs", "kv"])
async def test_a_crash_at_any_call_leaves_every_named_segment_and_nothing_after_a_sweep(
    what: str, when: Literal["before", "after"], inline_bytes_max: int
) -> None:
    prepared = await prepare(inline_bytes_max)
    crash_at = 0
    while True:
        crash_at += 1
        lake = prepared.lake()
        blobs = CrashBlobs(lake.blobs, crash_at if what == "blobs" else 0, when)
        kv = CrashKV(lake.kv, crash_at if what == "kv" else 0, when)
        try:
            await work(lake.again(blobs, kv), prepared.entry, inline_bytes_max)
        except SimulatedCrash:
            await check_named(lake, prepared.entry, swept=False)
            await work(lake, prepared.entry, inline_bytes_max)
            await check_named(lake, prepared.entry, swept=True)
            continue
        await check_named(lake, prepared.entry, swept=True)
        break
    assert crash_at > 5


def test_segments_of_a_size_are_merged_and_larger_ones_are_left() -> None:
    n_rows = np.array([100_000_000, *[10_000] * 6])
    covered_files = [np.array([0]), *(np.array([number]) for number in range(1, 6))]
    groups = plan_groups(n_rows, covered_files, [1.0] * 6, np.zeros(7, bool), rows_max=50_000_000)
    assert [(each.is_built, each.files.tolist(), each.segments) for each in groups] == [
        (True, [0], (0,)),
        (False, [1, 2, 3, 4, 5, 6], (1, 2, 3, 4, 5)),
    ]


def test_a_segment_whose_rows_have_mostly_left_is_built_anew_from_the_rest() -> None:
    n_rows = np.array([10, 10, 10])
    covered_files = [np.array([0]), np.array([1, 2]), np.array([], np.int64)]
    groups = plan_groups(n_rows, covered_files, [0.4, 1.0, 0.0], np.zeros(3, bool), rows_max=1000)
    assert [(each.is_built, each.files.tolist(), each.segments) for each in groups] == [
        (True, [1, 2], (1,)),
        (False, [0], (0, 2)),
    ]


def test_a_list_of_skipped_files_that_cannot_be_read_is_empty() -> None:
    for data in (None, b"", b"\x00" * 10, b"x\x9c", b'{"v": 1}'):
        assert Skips.decode(data).by_file == {}


@pytest.mark.parametrize("inline_bytes_max", [0, 64 << 10])
async def test_replies_that_get_lost_lose_no_segment_and_leave_none(inline_bytes_max: int) -> None:
    prepared = await prepare(inline_bytes_max)
    for seed in range(12):
        lake = prepared.lake()
        odd = lake.again(TwoCoinBlobs(lake.blobs, seed), TwoCoinKV(lake.kv, seed))
        for _ in range(40):
            with suppress(UnavailableError, IndeterminateError, ConflictError):
                await work(odd, prepared.entry, inline_bytes_max)
                break
        await check_named(lake, prepared.entry, swept=False)
        await work(lake, prepared.entry, inline_bytes_max)
        await check_named(lake, prepared.entry, swept=True)
