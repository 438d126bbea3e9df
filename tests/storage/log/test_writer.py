"""What a log's writer promises to those who append."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from storage.blobs.memory import MemoryBlobs
from storage.clock import SystemClock
from storage.errors import FencedError, InvalidError, OverloadedError, TooLargeError, UnavailableError
from storage.log import AckMode, Position, Record
from storage.log.backlog import Backlog
from storage.log.settings import LogSettings
from tests.support.clock import ManualClock
from tests.support.faults import FlakyBlobs, WrappedBlobs
from tests.support.logs import bodies, keys, open_test_log, record

pytestmark = pytest.mark.anyio


async def test_appends_within_a_flush_interval_share_one_put() -> None:
    blobs = WrappedBlobs(MemoryBlobs(SystemClock()))
    async with await open_test_log(blobs, 1, settings=LogSettings(flush_interval_ms=50)) as writer:
        before = blobs.n_calls
        receipts = await asyncio.gather(*(writer.append([record(f"{n}")]) for n in range(20)))
        assert blobs.n_calls == before + 1
    assert [receipt.position for receipt in receipts] == [Position(1, n) for n in range(20)]
    assert await keys(blobs) == ["s/0-0", "s/1-0"]


async def test_a_full_segment_does_not_wait_for_the_interval() -> None:
    blobs = MemoryBlobs(SystemClock())
    settings = LogSettings(flush_interval_ms=600_000, segment_bytes_max=100)
    async with await open_test_log(blobs, 1, settings=settings) as writer:
        accepted = [await writer.append_unconfirmed([record(f"{n}" + "abcdefghijklmnopqrst")]) for n in range(5)]
        await asyncio.wait_for(accepted[2], 5)
        assert not accepted[4].done()
    assert len(await keys(blobs)) >= 3


async def test_closing_stores_what_was_accepted_and_refuses_what_comes_after(tmp_path: Path) -> None:
    for journal in (None, tmp_path / "journal"):
        blobs = MemoryBlobs(SystemClock())
        writer = await open_test_log(blobs, 1, journal, settings=LogSettings(flush_interval_ms=600_000))
        accepted = [await writer.append_unconfirmed([record(f"{n}")], ack=AckMode.OBJECT) for n in range(3)]
        await writer.close()
        assert [(await done).ack for done in accepted] == [AckMode.OBJECT] * 3
        assert await bodies(blobs) == ["0", "1", "2"]
        with pytest.raises(UnavailableError, match="closing"):
            await writer.append([record("late")])
        await writer.close()


async def test_a_retry_gets_the_first_receipt_while_it_is_under_way_and_afterwards() -> None:
    blobs = MemoryBlobs(SystemClock())
    async with await open_test_log(blobs, 1, settings=LogSettings(flush_interval_ms=30)) as writer:
        first, second = await asyncio.gather(*(writer.append([record("a", "k"), record("b", "k")]) for _ in range(2)))
        other = await writer.append([record("c", "k", table="another")])
        third = await writer.append([record("a", "k"), record("b", "k")])
    assert first == second == third
    assert other.position == Position(1, 2)
    assert await bodies(blobs) == ["a", "b", "c"]


async def test_a_retry_of_a_large_append_is_stored_once_though_both_are_encoded_at_once() -> None:
    blobs = MemoryBlobs(SystemClock())
    async with await open_test_log(blobs, 1) as writer:
        large = record("x" * 300_000, "k")
        first, second = await asyncio.gather(writer.append([large]), writer.append([large]))
    assert first == second
    assert len(await bodies(blobs)) == 1


async def test_a_key_is_forgotten_after_the_window() -> None:
    clock = ManualClock()
    blobs = MemoryBlobs(clock)
    settings = LogSettings(flush_interval_ms=0, idempotency_window_ms=1000)
    async with await open_test_log(blobs, 1, settings=settings, clock=clock) as writer:
        await writer.append([record("a", "k")])
        clock.advance(999)
        assert (await writer.append([record("a", "k")])).position == Position(1, 0)
        clock.advance(1)
        assert (await writer.append([record("a", "k")])).position == Position(1, 1)


async def test_an_append_that_failed_for_certain_takes_no_position_and_can_be_retried() -> None:
    store = MemoryBlobs(SystemClock())
    blobs = FlakyBlobs(store, 1)
    async with await open_test_log(blobs, 1) as writer:
        blobs._p_fail = 1.0
        with pytest.raises(UnavailableError):
            await writer.append([record("a", "k")])
        blobs._p_fail = 0.0
        assert writer.unflushed_bytes == 0
        assert (await writer.append([record("a", "k")])).position == Position(1, 0)
    assert await bodies(store) == ["a"]


async def test_a_caller_that_goes_away_does_not_take_its_append_along() -> None:
    blobs = MemoryBlobs(SystemClock())
    async with await open_test_log(blobs, 1, settings=LogSettings(flush_interval_ms=50)) as writer:
        gone = asyncio.create_task(writer.append([record("a", "k")]))
        await asyncio.sleep(0)
        gone.cancel()
        assert (await writer.append([record("a", "k")])).position == Position(1, 0)
    assert await bodies(blobs) == ["a"]


async def test_a_journaled_log_offers_both_acks_and_one_without_only_object(tmp_path: Path) -> None:
    blobs = MemoryBlobs(SystemClock())
    settings = LogSettings(flush_interval_ms=20)
    async with await open_test_log(blobs, 1, tmp_path / "journal", settings=settings) as writer:
        assert (await writer.append([record("a")])).ack is AckMode.FSYNC
        assert (await writer.append([record("b")], ack=AckMode.OBJECT)).ack is AckMode.OBJECT
        assert await bodies(blobs) == ["a", "b"]
    async with await open_test_log(blobs, 2) as writer:
        with pytest.raises(InvalidError, match="ack=object"):
            await writer.append([record("c")], ack=AckMode.FSYNC)


async def test_the_journal_is_written_anew_once_it_is_large(tmp_path: Path) -> None:
    blobs = MemoryBlobs(SystemClock())
    settings = LogSettings(flush_interval_ms=0, journal_bytes_max=2000)
    async with await open_test_log(blobs, 1, tmp_path / "journal", settings=settings) as writer:
        for n in range(200):
            await writer.append([record(f"{n}")])
        await writer.flush()
        assert (tmp_path / "journal").stat().st_size < 4000
    assert (tmp_path / "journal").stat().st_size == 28
    assert await bodies(blobs) == [f"{n}" for n in range(200)]


@pytest.mark.parametrize(
    "appended",
    [[], [record("a", "k"), record("b", "l")], [record("a", table="t"), record("b", table="u")]],
    ids=["nothing", "two keys", "two tables"],
)
async def test_an_append_of_no_one_table_and_key_is_refused(appended: list[Record]) -> None:
    blobs = MemoryBlobs(SystemClock())
    async with await open_test_log(blobs, 1) as writer:
        with pytest.raises(InvalidError):
            await writer.append(appended)
    assert await bodies(blobs) == []


async def test_an_append_past_its_limit_is_refused() -> None:
    blobs = MemoryBlobs(SystemClock())
    settings = LogSettings(flush_interval_ms=0, append_bytes_max=100)
    async with await open_test_log(blobs, 1, settings=settings) as writer:
        with pytest.raises(TooLargeError):
            await writer.append([record(bytes(range(256)))])


async def test_an_epoch_is_used_once() -> None:
    blobs = MemoryBlobs(SystemClock())
    async with await open_test_log(blobs, 2):
        for epoch in (1, 2):
            with pytest.raises(FencedError):
                await open_test_log(blobs, epoch)


async def test_unfolded_bytes_are_known_again_after_a_restart() -> None:
    blobs = MemoryBlobs(SystemClock())
    async with await open_test_log(blobs, 1) as writer:
        await writer.append([record("a")])
        await writer.append([record("b")])
        before = writer.unfolded_bytes
    async with await open_test_log(blobs, 2) as writer:
        assert writer.unfolded_bytes == before > 0
        writer.mark_folded(Position(1, 1))
        assert writer.unfolded_bytes == before // 2
        writer.mark_folded(Position(1, 2))
        assert writer.unfolded_bytes == 0


def test_settings_that_cannot_work_are_refused() -> None:
    for bad in ({"segment_bytes_max": 0}, {"flush_interval_ms": -1}, {"unflushed_bytes_max": 1}):
        with pytest.raises(InvalidError):
            LogSettings(**bad)


def test_the_backlog_says_which_limit_and_how_long_to_wait() -> None:
    backlog = Backlog(LogSettings(append_bytes_max=10, unflushed_bytes_max=10, unfolded_bytes_max=15))
    backlog.queued(8)
    with pytest.raises(OverloadedError, match="object store"):
        backlog.check(3)
    backlog.dropped(8)
    backlog.stored(5, 12)
    with pytest.raises(OverloadedError, match=r"compaction.*retry_after_s=5"):
        backlog.check(4)
    backlog.folded(4)
    assert backlog.unfolded_bytes == 12
    backlog.folded(5)
    backlog.check(10)
