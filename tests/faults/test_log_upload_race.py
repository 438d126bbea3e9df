"""A reader that is ahead of the object store, while a new owner uploads what it has read from a journal."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from service.log.stored import read_stored
from storage.blobs import BlobMeta
from storage.blobs.local import LocalBlobs
from storage.clock import SystemClock
from storage.errors import CorruptError
from tests.support.faults import WrappedBlobs
from tests.support.logs import LOG, open_test_log, record

pytestmark = pytest.mark.anyio


class UploadsAfterTheListing(WrappedBlobs):
    """The first listing that a reader gets is from just before the upload."""

    def __init__(self, inner: LocalBlobs) -> None:
        super().__init__(inner)
        self.n_listings = 0

    async def list(self, prefix: str = "", *, start_after: str | None = None) -> AsyncIterator[BlobMeta]:
        found = [meta async for meta in super().list(prefix, start_after=start_after)]
        self.n_listings += 1
        if self.n_listings == 1:
            async with await open_test_log(self.inner, 2) as writer:
                await writer.append([record("c")])
        for meta in found:
            yield meta


async def test_an_upload_in_between_is_no_damage(tmp_path: Path) -> None:
    inner = LocalBlobs(tmp_path, SystemClock())
    async with await open_test_log(inner, 1) as writer:
        await writer.append([record("a"), record("b")])
    # It has read three records already, the last of them from a journal.
    found = await read_stored(UploadsAfterTheListing(inner), LOG, 3)
    assert (found.start, found.limit, found.entries) == (3, 3, [])


async def test_a_segment_that_is_missing_is_damage_all_the_same(tmp_path: Path) -> None:
    inner = LocalBlobs(tmp_path, SystemClock())
    async with await open_test_log(inner, 1) as writer:
        for text in "abc":
            await writer.append([record(text)])
    segments = sorted((tmp_path / LOG / "segments").iterdir())
    segments[2].unlink()
    with pytest.raises(CorruptError):
        await read_stored(inner, LOG, 1)
