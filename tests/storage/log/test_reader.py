"""What a log's readers promise: the chain and nothing else, and no gap or damage unseen."""

from __future__ import annotations

import pytest

from storage.blobs.memory import MemoryBlobs
from storage.clock import SystemClock
from storage.errors import CorruptError, NotFoundError
from storage.log import Position
from storage.log.reader import replay
from storage.log.segments import base_key, encode_segment, slot_key
from storage.log.settings import LogSettings
from storage.log.sweep import sweep
from tests.support.faults import CrashBlobs, SimulatedCrash
from tests.support.logs import LOG, bodies, keys, open_test_log, record

pytestmark = pytest.mark.anyio


async def two_epochs() -> MemoryBlobs:
    """Slots 0-0 (seal), 1-0, 1-1, 1-2 (seal), 2-2, 2-3."""
    blobs = MemoryBlobs(SystemClock())
    for epoch in (1, 2):
        async with await open_test_log(blobs, epoch) as writer:
            for part in "ab":
                await writer.append([record(f"{epoch}{part}")])
    return blobs


@pytest.mark.parametrize("lost", [Position(1, 0), Position(1, 1), Position(1, 2), Position(2, 2)])
async def test_a_lost_segment_or_seal_is_a_gap(lost: Position) -> None:
    blobs = await two_epochs()
    await blobs.delete(slot_key(LOG, lost))
    with pytest.raises(CorruptError):
        await bodies(blobs)


async def test_a_log_that_ends_before_what_is_known_of_it_is_corrupt() -> None:
    blobs = await two_epochs()
    await blobs.delete(slot_key(LOG, Position(2, 3)))
    with pytest.raises(CorruptError, match="too early"):
        await bodies(blobs, Position(2, 4))


async def test_damage_is_named_and_nothing_of_its_segment_is_served() -> None:
    blobs = await two_epochs()
    key = slot_key(LOG, Position(1, 1))
    data = bytearray((await blobs.get(key))[0])
    data[-6] ^= 1
    await blobs.put(key, bytes(data))
    served = []
    with pytest.raises(CorruptError, match=f"segment={key} record=0 sequence=1"):
        async for item in replay(blobs, LOG):
            served.append(item.record.body)
    assert served == [b"1a"]
    with pytest.raises(CorruptError, match="not one"):
        await blobs.put(f"{LOG}/segments/notes.txt", b"")
        await bodies(blobs)


async def test_what_a_fenced_writer_left_behind_its_seal_is_not_read() -> None:
    blobs = await two_epochs()
    records = [b"not even a record"]
    left = encode_segment(Position(1, 5), records, created_ms=0, writer=0)
    await blobs.put(slot_key(LOG, Position(1, 5)), left)
    assert await bodies(blobs) == ["1a", "1b", "2a", "2b"]


async def test_a_swept_segment_that_comes_back_is_not_read_and_goes_again() -> None:
    blobs = await two_epochs()
    key = slot_key(LOG, Position(1, 0))
    late, _meta = await blobs.get(key)
    settings = LogSettings(idempotency_window_ms=0)
    await sweep(blobs, LOG, Position(1, 2), settings, SystemClock())
    assert await bodies(blobs) == ["2a", "2b"]
    await blobs.put(key, late, if_absent=True)
    assert await bodies(blobs) == ["2a", "2b"]
    await sweep(blobs, LOG, Position(1, 2), settings, SystemClock())
    assert await keys(blobs) == [base_key(LOG), "s/0-0", "s/1-2", "s/2-2", "s/2-3"]


async def test_a_sweep_may_crash_anywhere_and_be_run_again() -> None:
    settings = LogSettings(idempotency_window_ms=0)
    for when in ("before", "after"):
        for crash_at in range(1, 9):
            blobs = await two_epochs()
            crashing = CrashBlobs(blobs, crash_at, when)  # type: ignore[arg-type]
            try:
                await sweep(crashing, LOG, Position(2, 3), settings, SystemClock())
            except SimulatedCrash:
                assert (await bodies(blobs))[-1] == "2b"
            await sweep(blobs, LOG, Position(2, 3), settings, SystemClock())
            assert await keys(blobs) == [base_key(LOG), "s/0-0", "s/1-2", "s/2-3"]
            assert await bodies(blobs) == ["2b"]


async def test_a_reader_that_a_sweep_overtakes_is_told() -> None:
    blobs = MemoryBlobs(SystemClock())
    async with await open_test_log(blobs, 1) as writer:
        for n in range(20):
            await writer.append([record(f"{n}")])
    reader = replay(blobs, LOG)
    assert (await anext(reader)).record.body == b"0"
    await sweep(blobs, LOG, Position(1, 19), LogSettings(idempotency_window_ms=0), SystemClock())
    with pytest.raises(NotFoundError, match="swept"):
        async for _item in reader:
            pass
