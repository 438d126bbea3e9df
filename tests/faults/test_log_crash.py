"""A log under crashes, lost replies, zombies and full disks: what was acknowledged is there once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from storage.blobs.memory import MemoryBlobs
from storage.clock import SystemClock
from storage.errors import (
    CorruptError,
    FencedError,
    FirnlineError,
    IndeterminateError,
    OverloadedError,
    UnavailableError,
)
from storage.log import AckMode, Position
from storage.log.journal import Journal, read_journal
from storage.log.reader import replay
from storage.log.settings import LogSettings
from storage.log.sweep import sweep
from storage.log.tail import Entry
from storage.log.writer import open_log
from tests.support.faults import CrashBlobs, FlakyBlobs, SimulatedCrash, TwoCoinBlobs, WrappedBlobs
from tests.support.logs import FAST, LOG, TestLease, bodies, open_test_log, record

pytestmark = pytest.mark.anyio

Ack = Literal["object", "fsync"]


async def write_some(blobs: CrashBlobs, epoch: int, journal: Path | None, acked: set[str]) -> None:
    """Append as a client does: a key for each append, three under way at a time."""

    async def one(text: str) -> None:
        await writer.append([record(text, text), record(text + "'", text)])
        acked.add(text)

    writer = await open_test_log(blobs, epoch, journal)
    try:
        for start in range(0, 6, 3):
            results = await asyncio.gather(*(one(f"{n}") for n in range(start, start + 3)), return_exceptions=True)
            if any(isinstance(result, BaseException) for result in results):
                return
    finally:
        await writer.close()


@pytest.mark.parametrize("ack", ["object", "fsync"])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_crash_at_any_blob_call_loses_and_doubles_nothing(
    when: Literal["before", "after"], ack: Ack, tmp_path: Path
) -> None:
    crashed = 0
    for crash_at in range(1, 24):
        store = MemoryBlobs(SystemClock())
        journal = tmp_path / f"{crash_at}" if ack == "fsync" else None
        acked: set[str] = set()
        blobs = CrashBlobs(store, crash_at, when)
        with contextlib.suppress(SimulatedCrash):
            await write_some(blobs, 1, journal, acked)
        crashed += blobs.n_calls >= crash_at
        # A second crash while it recovers, one call later each time.
        with contextlib.suppress(SimulatedCrash):
            await write_some(CrashBlobs(store, 1 + crash_at % 9, when), 2, journal, set())
        async with await open_test_log(store, 3, journal) as writer:
            found = Counter(await bodies(store, tail=writer.tail()))
            assert acked <= set(found), crash_at
            assert set(found.values()) <= {1}, crash_at
        # The client retries everything: all is there, once, and no append is torn.
        await write_some(CrashBlobs(store, 0), 4, journal, acked)
        found = Counter(await bodies(store))
        assert found == Counter(f"{n}{tick}" for n in range(6) for tick in ("", "'")), crash_at
    assert crashed >= 8


@pytest.mark.parametrize("ack", ["object", "fsync"])
async def test_under_two_coins_every_client_that_retries_is_stored_once(ack: Ack, tmp_path: Path) -> None:
    stopped = 0
    for seed in range(40):
        store = MemoryBlobs(SystemClock())
        blobs = TwoCoinBlobs(store, seed)
        settings = LogSettings(flush_interval_ms=0, retry_delay_ms=0, put_tries_max=3)
        journal = tmp_path / f"{seed}" if ack == "fsync" else None
        acked: set[str] = set()
        epoch = 0
        while len(acked) < 5:
            epoch += 1
            assert epoch < 100
            try:
                writer = await open_test_log(blobs, epoch, journal, settings=settings)
            except (UnavailableError, IndeterminateError):
                continue
            for text in map(str, range(5)):
                try:
                    await writer.append([record(text, text)])
                    acked.add(text)
                except UnavailableError:
                    assert text not in await bodies(store), seed
                except (FencedError, IndeterminateError):
                    stopped += 1
            await writer.close()
            assert ack == "fsync" or acked <= set(await bodies(store)), seed
        async with await open_test_log(store, 100, journal):
            pass
        assert Counter(await bodies(store)) == Counter(map(str, range(5))), seed
    assert ack == "fsync" or stopped > 0


async def write_alone(blobs: TwoCoinBlobs, epoch: int, acked: dict[str, Position]) -> None:
    """Append four records, until something fails."""
    try:
        async with await open_test_log(blobs, epoch) as writer:
            for n in range(4):
                text = f"{epoch}.{n}"
                acked[text] = (await writer.append([record(text)])).position
    except FirnlineError:
        return


async def test_two_writers_that_take_turns_never_both_acknowledge_a_position() -> None:
    for seed in range(30):
        store = MemoryBlobs(SystemClock())
        blobs = TwoCoinBlobs(store, seed, p_lost=0.1, p_silent=0.2)
        acked: dict[str, Position] = {}
        await asyncio.gather(*(write_alone(blobs, epoch, acked) for epoch in (1, 2, 3, 4)))
        found = await bodies(store)
        assert [text for text in found if text in acked] == sorted(acked, key=lambda text: acked[text])
        assert len(set(acked.values())) == len(acked)
        assert len(set(found)) == len(found), seed


async def test_a_zombie_that_wakes_after_its_slot_was_swept_is_still_kept_out() -> None:
    store = MemoryBlobs(SystemClock())
    settings = LogSettings(flush_interval_ms=0, idempotency_window_ms=0)
    zombie = await open_test_log(store, 1, settings=settings)
    await zombie.append([record("a")])
    async with await open_test_log(store, 2, settings=settings) as writer:
        for text in "bcd":
            await writer.append([record(text)])
    await sweep(store, LOG, Position(2, 4), settings, SystemClock())
    with pytest.raises(FencedError):
        await zombie.append([record("zombie")])
    await zombie.close()
    assert await bodies(store) == ["d"]


async def test_a_writer_without_its_lease_stops_acknowledging_to_its_disk(tmp_path: Path) -> None:
    store = MemoryBlobs(SystemClock())
    lease = TestLease(1)
    slow = LogSettings(flush_interval_ms=600_000)
    writer = await open_log(store, LOG, lease, slow, SystemClock(), tmp_path / "journal")
    await writer.append([record("a")])
    lease.is_held = False
    with pytest.raises(IndeterminateError, match="lease"):
        await writer.append([record("b")])
    with pytest.raises(FencedError):
        await writer.append([record("c")])
    await writer.close()
    async with await open_test_log(store, 2, tmp_path / "journal"):
        assert await bodies(store) == ["a", "b"]


@pytest.mark.parametrize("journaled", [False, True])
async def test_a_put_that_ends_after_the_lease_did_is_not_acknowledged(journaled: bool, tmp_path: Path) -> None:
    # Who saw that nobody owns the log, and then read all of it, need not read it again.
    class SlowPuts(WrappedBlobs):
        async def _after(self, call: str, key: str) -> None:
            lease.is_held = not (held_up and call == "put")

    held_up = False
    lease = TestLease(1)
    store = MemoryBlobs(SystemClock())
    writer = await open_log(
        SlowPuts(store), LOG, lease, FAST, SystemClock(), tmp_path / "journal" if journaled else None
    )
    await writer.append([record("a")], ack=AckMode.OBJECT)
    held_up = True
    with pytest.raises(IndeterminateError, match="lease"):
        await writer.append([record("b")], ack=AckMode.OBJECT)
    with pytest.raises(FencedError):
        await writer.append([record("c")], ack=AckMode.OBJECT)
    await writer.close()
    async with await open_test_log(store, 2, tmp_path / "journal" if journaled else None):
        assert await bodies(store) == ["a", "b"]


async def test_a_store_that_is_away_delays_uploads_and_then_writers_are_told_to_wait(tmp_path: Path) -> None:
    store = MemoryBlobs(SystemClock())
    blobs = FlakyBlobs(store, 1)
    settings = LogSettings(flush_interval_ms=0, retry_delay_ms=1, append_bytes_max=1000, unflushed_bytes_max=3000)
    async with await open_test_log(blobs, 1, tmp_path / "journal", settings=settings) as writer:
        blobs._p_fail = 1.0
        acked = []
        with pytest.raises(OverloadedError) as raised:
            for n in range(1000):
                await writer.append([record(f"{n}")])
                acked.append(f"{n}")
        assert raised.value.facts["retry_after_s"] >= 1
        assert 10 < len(acked) < 1000
        assert await bodies(store, tail=writer.tail()) == acked
        blobs._p_fail = 0.0
        await writer.flush()
        await writer.append([record("after")])
    assert await bodies(store) == [*acked, "after"]


async def test_past_the_unfolded_limit_writers_wait_until_something_is_folded() -> None:
    store = MemoryBlobs(SystemClock())
    settings = LogSettings(flush_interval_ms=0, unfolded_bytes_max=1000)
    async with await open_test_log(store, 1, settings=settings) as writer:
        with pytest.raises(OverloadedError, match="compaction"):
            for n in range(100):
                await writer.append([record(f"{n}")])
        before = writer.next_position
        writer.mark_folded(before)
        assert writer.unfolded_bytes == 0
        assert (await writer.append([record("again")])).position == before


async def test_a_disk_that_fills_in_the_middle_of_an_entry_acknowledges_nothing_and_goes_on_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryBlobs(SystemClock())
    slow = LogSettings(flush_interval_ms=600_000)
    full = False
    real = os.write

    def write(descriptor: int, data: bytes) -> int:
        """A disk that takes half of the bytes, and then no more."""
        nonlocal full
        if full and len(data) > 40:
            return real(descriptor, data[: len(data) // 2])
        if full:
            raise OSError(28, "No space left on device")
        return real(descriptor, data)

    async with await open_test_log(store, 1, tmp_path / "journal", settings=slow) as writer:
        await writer.append([record("a")])
        monkeypatch.setattr(os, "write", write)
        full = True
        with pytest.raises(UnavailableError, match="No space left"):
            await writer.append([record("b")])
        full = False
        assert (await writer.append([record("c")])).position == Position(1, 1)
        contents = read_journal(tmp_path / "journal", LOG)
        assert contents is not None
        assert [len(entry.records) for entry in contents.entries] == [1, 1]
    assert await bodies(store) == ["a", "c"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.skipif(shutil.which("mount") is None, reason="needs mount(8)")
async def test_a_full_file_system_acknowledges_nothing_and_goes_on_when_there_is_room(small_disk: Path) -> None:
    store = MemoryBlobs(SystemClock())
    slow = LogSettings(flush_interval_ms=600_000)
    (small_disk / "ballast").write_bytes(bytes(20 << 10))
    acked = []
    async with await open_test_log(store, 1, small_disk / "journal", settings=slow) as writer:
        with pytest.raises(UnavailableError, match="No space left"):
            for n in range(100):
                await writer.append([record(os.urandom(3000), f"{n}")])
                acked.append(n)
        assert 0 < len(acked) < 20
        with pytest.raises(UnavailableError, match="No space left"):
            await writer.append([record(os.urandom(6000))])
        (small_disk / "ballast").unlink()
        receipt = await writer.append([record("after")])
        assert receipt.position == Position(1, len(acked))
    assert [item.record.idempotency_key async for item in replay(store, LOG)] == [*map(str, acked), None]


async def test_a_failed_fsync_stops_the_writer_and_the_next_one_finds_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryBlobs(SystemClock())
    slow = LogSettings(flush_interval_ms=600_000)
    writer = await open_test_log(store, 1, tmp_path / "journal", settings=slow)
    await writer.append([record("a", "a")])

    def fail(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(IndeterminateError, match="Input/output error"):
            await writer.append([record("b", "b")])
    with pytest.raises(FencedError):
        await writer.append([record("c", "c")])
    await writer.close()
    async with await open_test_log(store, 2, tmp_path / "journal") as again:
        for text in "abc":
            await again.append([record(text, text)], ack=AckMode.OBJECT)
    assert await bodies(store) == ["a", "b", "c"]


def journal_of(path: Path, sizes: list[int]) -> bytes:
    """Write a journal of one entry for each size; return its bytes."""
    from storage.log.records import encode_record

    journal = Journal(path, LOG, 1)
    journal.replace([])
    for n, size in enumerate(sizes):
        # Bytes that do not compress, so that sizes are what they say.
        body = b"".join(os.urandom(1) for _ in range(size))
        journal.append(Entry(Position(1, n), [encode_record(record(body), 1)]))
    journal.close()
    return path.read_bytes()


def entries_in(path: Path, data: bytes) -> int:
    path.write_bytes(data)
    contents = read_journal(path, LOG)
    assert contents is not None
    return len(contents.entries)


def test_a_journal_cut_anywhere_keeps_its_whole_entries(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    one = len(journal_of(path, [30]))
    data = journal_of(path, [30, 30])
    for limit in range(one, len(data)):
        assert entries_in(path, data[:limit]) == 1
        # The file has its size, and the rest did not reach the disk.
        padded = data[:limit] + bytes(len(data) - limit)
        if limit < len(data) - 8:
            try:
                assert entries_in(path, padded) == 1
            except CorruptError:
                # Within a page a disk writes all or nothing, so such a tear cannot be; it is named, not served.
                assert limit > one
    assert entries_in(path, data) == 2


def test_a_page_of_the_last_entry_that_never_reached_the_disk_is_a_torn_write(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    data = journal_of(path, [30, 20_000])
    for page in range(1, len(data) // 4096):
        torn = data[: page * 4096] + bytes(4096) + data[(page + 1) * 4096 :]
        assert entries_in(path, torn) == 1
    rest = len(data) // 4096 * 4096
    assert entries_in(path, data[:rest] + bytes(len(data) - rest)) == 1


def test_a_bit_flipped_anywhere_in_a_journal_is_named_and_never_served(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    data = journal_of(path, [20, 20])
    for byte in range(len(data)):
        flipped = bytearray(data)
        flipped[byte] ^= 1 << byte % 8
        with pytest.raises(CorruptError, match=r"journal"):
            entries_in(path, bytes(flipped))


async def test_two_processes_never_hold_one_journal(tmp_path: Path) -> None:
    store = MemoryBlobs(SystemClock())
    async with await open_test_log(store, 1, tmp_path / "journal"):
        with pytest.raises(FirnlineError, match="another process holds"):
            await open_test_log(store, 2, tmp_path / "journal")
    async with await open_test_log(store, 3, tmp_path / "journal", settings=FAST):
        pass
