"""The life of a log, told by the exact contents of its bucket."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from storage.blobs.memory import MemoryBlobs
from storage.clock import SystemClock
from storage.errors import FencedError, IndeterminateError, NotFoundError
from storage.log import AckMode, Position
from storage.log.reader import end_of, replay
from storage.log.settings import LogSettings
from storage.log.sweep import sweep
from tests.support.clock import ManualClock
from tests.support.faults import CrashBlobs, SimulatedCrash
from tests.support.logs import LOG, bodies, keys, open_test_log, record

pytestmark = pytest.mark.anyio


async def test_00_an_empty_log_holds_the_seal_of_its_beginning() -> None:
    blobs = MemoryBlobs(SystemClock())
    assert await bodies(blobs) == []
    assert await end_of(blobs, LOG) == Position(0, 0)
    async with await open_test_log(blobs, 3):
        assert await keys(blobs) == ["s/0-0"]
    assert await end_of(blobs, LOG) == Position(3, 0)
    assert await bodies(blobs) == []


async def test_05_a_crash_before_the_put_leaves_nothing() -> None:
    blobs = MemoryBlobs(SystemClock())
    async with await open_test_log(blobs, 1):
        pass
    crashing = CrashBlobs(blobs, 0)
    writer = await open_test_log(crashing, 2)
    crashing._crash_at = crashing.n_calls + 1
    with pytest.raises(SimulatedCrash):
        await writer.append([record("lost")])
    await writer.close()
    assert await keys(blobs) == ["s/0-0", "s/1-0"]
    assert await bodies(blobs) == []


async def test_10_one_segment_holds_one_append() -> None:
    blobs = MemoryBlobs(SystemClock())
    async with await open_test_log(blobs, 1) as writer:
        receipt = await writer.append([record("a"), record("b")])
        assert (receipt.position, receipt.n_records, receipt.ack) == (Position(1, 0), 2, AckMode.OBJECT)
        assert await keys(blobs) == ["s/0-0", "s/1-0"]
        assert (await writer.append([record("c")])).position == Position(1, 2)
    assert await keys(blobs) == ["s/0-0", "s/1-0", "s/1-2"]
    assert await bodies(blobs) == ["a", "b", "c"]


async def test_20_a_fenced_writer_adds_nothing() -> None:
    blobs = MemoryBlobs(SystemClock())
    old = await open_test_log(blobs, 1)
    await old.append([record("a")])
    new = await open_test_log(blobs, 2)
    assert await keys(blobs) == ["s/0-0", "s/1-0", "s/1-1"]
    with pytest.raises(FencedError, match="sealed_by=2"):
        await old.append([record("zombie")])
    with pytest.raises(FencedError):
        await old.append([record("zombie")])
    assert (await new.append([record("b")])).position == Position(2, 1)
    assert await keys(blobs) == ["s/0-0", "s/1-0", "s/1-1", "s/2-1"]
    with pytest.raises(FencedError):
        await open_test_log(blobs, 1)
    await old.close()
    await new.close()
    assert await bodies(blobs) == ["a", "b"]


async def test_30_fsync_acknowledges_before_the_bucket_has_it(tmp_path: Path) -> None:
    blobs = MemoryBlobs(SystemClock())
    slow = LogSettings(flush_interval_ms=600_000)
    async with await open_test_log(blobs, 1, tmp_path / "journal", settings=slow) as writer:
        receipt = await writer.append([record("a")])
        assert (receipt.position, receipt.ack) == (Position(1, 0), AckMode.FSYNC)
        assert await keys(blobs) == ["s/0-0"]
        assert await bodies(blobs, tail=writer.tail()) == ["a"]
        assert await bodies(blobs) == []
        await writer.flush()
        assert await keys(blobs) == ["s/0-0", "s/1-0"]
        assert await bodies(blobs, tail=writer.tail()) == ["a"]
    assert await bodies(blobs) == ["a"]


async def test_40_replay_goes_on_across_epochs_from_any_position() -> None:
    blobs = MemoryBlobs(SystemClock())
    for epoch in (1, 4, 5, 9):
        async with await open_test_log(blobs, epoch) as writer:
            assert await bodies(blobs, writer.next_position) == []
            if epoch != 5:
                await writer.append([record(f"{epoch}a"), record(f"{epoch}b")])
                await writer.append([record(f"{epoch}c")])
    assert await keys(blobs) == [
        *("s/0-0", "s/1-0", "s/1-2", "s/1-3"),
        *("s/4-3", "s/4-5", "s/4-6", "s/5-6"),
        *("s/9-6", "s/9-8"),
    ]
    found = [item async for item in replay(blobs, LOG)]
    for index, item in enumerate(found):
        rest = [later async for later in replay(blobs, LOG, item.position)]
        assert rest == found[index:]
    assert [item.record.body.decode() for item in found] == [f"{epoch}{part}" for epoch in (1, 4, 9) for part in "abc"]


async def test_50_the_journal_of_a_dead_writer_is_uploaded_under_its_own_positions(tmp_path: Path) -> None:
    blobs = MemoryBlobs(SystemClock())
    crashing = CrashBlobs(blobs, 0)
    slow = LogSettings(flush_interval_ms=1)
    writer = await open_test_log(crashing, 1, tmp_path / "journal", settings=slow)
    crashing._crash_at = crashing.n_calls + 1
    receipt = await writer.append([record("a", "key")])
    await writer.close()
    assert await keys(blobs) == ["s/0-0"]
    async with await open_test_log(blobs, 2, tmp_path / "journal") as again:
        assert await keys(blobs) == ["s/0-0", "s/1-0", "s/1-1"]
        assert (await again.append([record("a", "key")])).position == receipt.position
        assert (await again.append([record("b")])).position == Position(2, 1)
    assert await bodies(blobs) == ["a", "b"]


async def test_60_a_journal_that_was_fenced_is_uploaded_under_new_positions(tmp_path: Path) -> None:
    blobs = MemoryBlobs(SystemClock())
    slow = LogSettings(flush_interval_ms=600_000, retry_delay_ms=0)
    old = await open_test_log(blobs, 1, tmp_path / "journal", settings=slow)
    await old.append([record("a", "a")])
    await old.append([record("b", "b")])
    async with await open_test_log(blobs, 2) as other:
        await other.append([record("b", "b")])
        waiting = await old.append_unconfirmed([record("c", "c")], ack=AckMode.OBJECT)
        while old.next_position.sequence < 3:  # noqa: ASYNC110 — the writer has no event for it
            await asyncio.sleep(0.001)
        await old.close()
        with pytest.raises(IndeterminateError):
            await waiting
    assert await bodies(blobs) == ["b"]
    async with await open_test_log(blobs, 3, tmp_path / "journal") as again:
        assert await bodies(blobs, tail=again.tail()) == ["b", "a", "c"]
        assert (await again.append([record("a", "a")])).position == Position(3, 1)
    assert await keys(blobs) == ["s/0-0", "s/1-0", "s/2-0", "s/2-1", "s/3-1"]
    assert await bodies(blobs) == ["b", "a", "c"]


async def test_90_a_sweep_leaves_seals_and_the_end() -> None:
    clock = ManualClock()
    blobs = MemoryBlobs(clock)
    settings = LogSettings(flush_interval_ms=0, idempotency_window_ms=1000)
    for epoch in (1, 2):
        async with await open_test_log(blobs, epoch, settings=settings, clock=clock) as writer:
            for part in "abc":
                await writer.append([record(f"{epoch}{part}")])
    everything = ["s/0-0", "s/1-0", "s/1-1", "s/1-2", "s/1-3", "s/2-3", "s/2-4", "s/2-5"]
    assert await keys(blobs) == everything
    assert (await sweep(blobs, LOG, Position(2, 6), settings, clock)).n_segments == 0
    assert await keys(blobs) == everything
    clock.advance(1000)
    swept = await sweep(blobs, LOG, Position(1, 2), settings, clock)
    assert (swept.n_segments, swept.base) == (2, 2)
    assert await keys(blobs) == ["wal/0/base", "s/0-0", "s/1-2", "s/1-3", "s/2-3", "s/2-4", "s/2-5"]
    assert await bodies(blobs) == ["1c", "2a", "2b", "2c"]
    with pytest.raises(NotFoundError, match="swept"):
        await bodies(blobs, Position(1, 1))
    assert (await sweep(blobs, LOG, Position(2, 6), settings, clock)).base == 5
    assert await keys(blobs) == ["wal/0/base", "s/0-0", "s/1-3", "s/2-5"]
    async with await open_test_log(blobs, 3, settings=settings, clock=clock) as writer:
        assert (await writer.append([record("3a")])).position == Position(3, 6)
    assert await bodies(blobs) == ["2c", "3a"]
