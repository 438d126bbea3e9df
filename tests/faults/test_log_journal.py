"""What is in the journal and not in the store: lost replies, fences, and readers meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from storage.blobs import BlobMeta
from storage.blobs.memory import MemoryBlobs
from storage.clock import SystemClock
from storage.errors import FencedError, IndeterminateError, UnavailableError
from storage.log.settings import LogSettings
from tests.support.faults import WrappedBlobs
from tests.support.logs import bodies, open_test_log, record

pytestmark = pytest.mark.anyio

SLOW = LogSettings(flush_interval_ms=600_000, retry_delay_ms=0)


class DeafBlobs(WrappedBlobs):
    """While ``is_deaf`` puts happen and no answer comes back, and nothing can be read."""

    is_deaf = False

    async def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> BlobMeta:
        meta = await super().put(key, data, if_absent=if_absent, if_match=if_match)
        if self.is_deaf:
            raise IndeterminateError("simulated: no answer, though the put happened", key=key)
        return meta

    async def get(self, key: str) -> tuple[bytes, BlobMeta]:
        if self.is_deaf:
            raise UnavailableError("simulated: no answer", key=key)
        return await super().get(key)


async def test_an_upload_without_an_answer_is_the_same_segment_when_it_is_tried_again(tmp_path: Path) -> None:
    store = MemoryBlobs(SystemClock())
    blobs = DeafBlobs(store)
    settings = LogSettings(flush_interval_ms=0, retry_delay_ms=1, put_tries_max=2)
    async with await open_test_log(blobs, 1, tmp_path / "journal", settings=settings) as writer:
        blobs.is_deaf = True
        for text in "abc":
            await writer.append([record(text)])
            await asyncio.sleep(0.02)
        assert await bodies(store) == ["a"]
        blobs.is_deaf = False
        await writer.flush()
        await writer.append([record("d")])
    assert await bodies(store) == ["a", "b", "c", "d"]


async def test_in_object_mode_a_put_that_stays_unknown_stops_the_writer_and_the_next_one_finds_it() -> None:
    store = MemoryBlobs(SystemClock())
    blobs = DeafBlobs(store)
    writer = await open_test_log(blobs, 1)
    blobs.is_deaf = True
    with pytest.raises(IndeterminateError):
        await writer.append([record("a", "a")])
    blobs.is_deaf = False
    with pytest.raises(FencedError):
        await writer.append([record("b", "b")])
    await writer.close()
    async with await open_test_log(store, 2) as again:
        for text in "ab":
            await again.append([record(text, text)])
    assert await bodies(store) == ["a", "b"]


async def test_after_a_fence_only_what_was_not_uploaded_gets_new_positions(tmp_path: Path) -> None:
    """Without keys, so that nothing but the positions tells what was uploaded."""
    store = MemoryBlobs(SystemClock())
    old = await open_test_log(store, 1, tmp_path / "journal", settings=SLOW)
    await old.append([record("a")])
    await old.flush()
    await old.append([record("b")])
    await old.append([record("c")])
    async with await open_test_log(store, 2) as other:
        await other.append([record("x")])
    await old.close()
    with pytest.raises(FencedError):
        old.tail()
    async with await open_test_log(store, 3, tmp_path / "journal", settings=SLOW) as again:
        assert await bodies(store, tail=again.tail()) == ["a", "x", "b", "c"]
    assert await bodies(store) == ["a", "x", "b", "c"]
    async with await open_test_log(store, 4, tmp_path / "journal"):
        assert await bodies(store) == ["a", "x", "b", "c"]


async def test_what_is_only_in_the_journal_stays_in_memory_for_readers(tmp_path: Path) -> None:
    store = MemoryBlobs(SystemClock())
    settings = LogSettings(flush_interval_ms=600_000, tail_bytes_max=0)
    async with await open_test_log(store, 1, tmp_path / "journal", settings=settings) as writer:
        await writer.append([record("a")])
        await writer.append([record("b")])
        assert await bodies(store, tail=writer.tail()) == ["a", "b"]
        await writer.flush()
        assert writer.tail().entries() == []
        await writer.append([record("c")])
        assert await bodies(store, tail=writer.tail()) == ["a", "b", "c"]
