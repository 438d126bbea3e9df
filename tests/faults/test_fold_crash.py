"""A crash before and after every blob and catalog call of a fold, a merge and a vacuum: rows are there once."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import pytest

from catalog.kv.memory import MemoryKV
from catalog.tables import TableEntry
from functions.compact import optimize
from functions.fold import FoldSettings
from functions.fold_log import fold_all
from functions.vacuum import vacuum
from storage.blobs.memory import MemoryBlobs
from storage.errors import ConflictError, IndeterminateError, UnavailableError
from storage.log import RecordKind
from tests.support.clock import ManualClock
from tests.support.faults import CrashBlobs, SimulatedCrash, TwoCoinBlobs
from tests.support.folding import SCHEMA, FoldLake, Format, table_of
from tests.support.kv_faults import CrashKV, TwoCoinKV

pytestmark = pytest.mark.anyio
APPEND, UPSERT, DELETE = RecordKind.APPEND, RecordKind.UPSERT, RecordKind.DELETE
KEY = SCHEMA.empty_table().select(["id"]).schema
Rows = list[tuple[Any, ...]]
Kind = Literal["append", "keyed"]


class Prepared:
    """A lake whose table holds some rows and whose log holds more; copied for every crash."""

    def __init__(self, lake: FoldLake, entry: TableEntry, model: Rows) -> None:
        self.entry, self.model = entry, sorted(model, key=repr)
        assert isinstance(lake.blobs, MemoryBlobs)
        self._blobs, self._state, self._clock = dict(lake.blobs._blobs), copy.deepcopy(lake.kv._state), lake.clock

    def lake(self) -> FoldLake:
        clock = copy.deepcopy(self._clock)
        blobs, kv = MemoryBlobs(clock), MemoryKV(clock)
        blobs._blobs, blobs._n_puts = dict(self._blobs), 1_000_000
        kv._state = copy.deepcopy(self._state)
        return FoldLake(blobs, kv, clock)


async def prepare(format_: Format, kind: Kind) -> Prepared:
    lake = FoldLake(clock=ManualClock())
    entry = await lake.create("t", format_, ("id",) if kind == "keyed" else ())
    if kind == "append":
        await lake.append((entry, APPEND, table_of([(1, "a"), (2, "b")])))
        await fold(lake)
        await lake.append((entry, APPEND, table_of([(3, "c")])), (entry, APPEND, table_of([(3, "c")])))
        model: Rows = [(1, "a"), (2, "b"), (3, "c"), (3, "c")]
    else:
        await lake.append((entry, UPSERT, table_of([(1, "a"), (2, "b"), (3, "c")])))
        await fold(lake)
        await lake.append((entry, UPSERT, table_of([(2, "B"), (4, "d")])), (entry, DELETE, table_of([(1,)], KEY)))
        await lake.append((entry, UPSERT, table_of([(4, "D")])))
        model = [(2, "B"), (3, "c"), (4, "D")]
    await lake.close()
    return Prepared(lake, entry, model)


async def fold(lake: FoldLake) -> None:
    report = await fold_all(lake.stores, lake.logs, lake.tables, lake.clock, FoldSettings(range_bytes=1))
    for error in report.errors.values():
        raise error


async def work(lake: FoldLake, entry: TableEntry) -> None:
    """Everything that a compactor does."""
    await fold(lake)
    await optimize(lake.stores, lake.tables, lake.clock, entry)
    lake.clock.advance(200 * 3_600_000)  # type: ignore[attr-defined]
    await vacuum(lake.stores, lake.tables, lake.clock, entry)


async def check(lake: FoldLake, prepared: Prepared) -> None:
    entry = prepared.entry
    assert await lake.rows(entry) == prepared.model
    table = await lake.load(entry)
    assert (await lake.logs.folded())[0] <= table.watermark
    # What crashes left behind is gone after the vacuum of a later day.
    lake.clock.advance(200 * 3_600_000)  # type: ignore[attr-defined]
    await vacuum(lake.stores, lake.tables, lake.clock, entry)
    live = {path.removeprefix("s3://bucket/") for path in table.snapshot.files.paths}
    assert set(await lake.keys(entry)) == live


async def crash_everywhere(prepared: Prepared, what: str, when: Literal["before", "after"], step: int) -> int:
    """Crash at every ``step``-th call in turn, run again, and check; return how many calls there were."""
    crash_at = 0 if when == "before" else 1 - step
    while True:
        crash_at += step
        lake = prepared.lake()
        blobs = CrashBlobs(lake.blobs, crash_at if what == "blobs" else 0, when)
        kv = CrashKV(lake.kv, crash_at if what == "kv" else 0, when)
        try:
            await work(lake.again(blobs, kv), prepared.entry)
        except SimulatedCrash:
            await work(lake, prepared.entry)
            await check(lake, prepared)
            continue
        await check(lake, prepared)
        return crash_at


@pytest.mark.parametrize("kind", ["append", "keyed"])
@pytest.mark.parametrize("format_", ["delta", "iceberg"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("what", ["blobs", "kv"])
async def test_a_crash_at_any_call_loses_and_doubles_nothing(
    format_: Format, kind: Kind, what: str, when: Literal["before", "after"]
) -> None:
    prepared = await prepare(format_, kind)
    # An Iceberg commit is slow to build: there the calls before which and after which it crashes take turns.
    step = 3 if format_ == "iceberg" and what == "blobs" else 1
    assert await crash_everywhere(prepared, what, when, step) > (20 if what == "blobs" else 4)


@pytest.mark.parametrize("kind", ["append", "keyed"])
@pytest.mark.parametrize("format_", ["delta", "iceberg"])
async def test_lost_replies_fold_each_row_once(format_: Format, kind: Kind) -> None:
    prepared = await prepare(format_, kind)
    for seed in range(2 if format_ == "iceberg" else 10):
        lake = prepared.lake()
        for attempt in range(60):
            shaky = lake.again(TwoCoinBlobs(lake.blobs, seed * 1000 + attempt), TwoCoinKV(lake.kv, seed * 77 + attempt))
            if await _tried(lambda shaky=shaky: work(shaky, prepared.entry)):  # type: ignore[misc]
                break
        await work(lake, prepared.entry)
        await check(lake, prepared)


async def _tried(act: Callable[[], Awaitable[None]]) -> bool:
    try:
        await act()
    except (UnavailableError, IndeterminateError, ConflictError):
        return False
    return True


@pytest.mark.parametrize("format_", ["delta", "iceberg"])
async def test_one_of_several_folds_crashes_and_the_others_go_on(format_: Format) -> None:
    prepared = await prepare(format_, "keyed")
    for crash_at in range(5, 45, 4):
        lake = prepared.lake()
        dying = lake.again(CrashBlobs(lake.blobs, crash_at, "after"))
        await asyncio.gather(work(dying, prepared.entry), fold(lake), fold(lake.again()), return_exceptions=True)
        await work(lake, prepared.entry)
        await check(lake, prepared)
