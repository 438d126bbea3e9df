"""One log through its owner, through others in the same lake, and across changes of its owner."""

from __future__ import annotations

from pathlib import Path

import pytest

from catalog.kv.memory import MemoryKV
from storage.blobs.memory import MemoryBlobs
from storage.clock import SystemClock
from storage.errors import ConflictError, UnavailableError
from storage.log import AckMode, RecordKind
from tests.support.faults import WrappedBlobs
from tests.support.kv_faults import AwayKV
from tests.support.lake_logs import opened, row, texts, touching

pytestmark = pytest.mark.anyio


async def test_what_was_appended_is_read_and_found(tmp_path: Path) -> None:
    async with opened(tmp_path) as logs:
        log = await logs.log(0)
        assert await logs.folded() == {}
        receipt = await log.append([row("a", "k")])
        assert receipt.ack is AckMode.FSYNC
        assert await log.append([row("a", "k")]) == receipt
        assert (await log.append([row("b"), row("c")])).position.sequence == 1
        found = await log.read(0)
        assert texts(found) == ["a", "b", "c"]
        assert found.epoch == receipt.position.epoch
        assert texts(await log.read(2)) == ["c"]
        assert (await log.read(3)).limit == 3
        assert await log.find("t", "k") == receipt
        assert await log.find("t", "other") is None
        assert await logs.folded() == {0: 0}


async def test_a_lake_that_is_only_read_gets_no_log(tmp_path: Path) -> None:
    async with opened(tmp_path) as logs:
        log = await logs.log(0)
        assert (await log.read(0)).records == []
        assert await log.flush() == 0
        assert await log.find("t", "k") is None
        assert not (tmp_path / "_firnline").exists()


async def test_a_lake_that_is_opened_again_has_its_rows(tmp_path: Path) -> None:
    async with opened(tmp_path) as logs:
        first = await (await logs.log(0)).append([row("a", "k")])
    async with opened(tmp_path) as logs:
        log = await logs.log(0)
        found = await log.read(0)
        assert (texts(found), found.epoch) == (["a"], 0)
        again = await log.append([row("b")])
        assert again.position.epoch > first.position.epoch
        assert (await log.append([row("a", "k")])).position == first.position
        assert texts(await log.read(0)) == ["a", "b"]


async def test_a_log_that_nobody_owns_is_read_once_and_again_when_someone_did(tmp_path: Path) -> None:
    clock = SystemClock()
    kv, blobs = MemoryKV(clock), WrappedBlobs(MemoryBlobs(clock))
    async with (
        opened(tmp_path, kv=kv, blobs=blobs, ack=AckMode.OBJECT) as writer,
        opened(tmp_path, kv=kv, blobs=blobs, ack=AckMode.OBJECT) as reader,
    ):
        for n in range(3):
            await (await writer.log(0)).append([row(f"{n}")])
            await writer.shard(0).release()
            await reader.folded()  # as a statement does first: it asks the catalog anew
            log = await reader.log(0)
            assert texts(await log.read(0)) == [f"{each}" for each in range(n + 1)]
            before = blobs.n_calls
            for _ in range(3):
                assert (await log.read(n + 1)).limit == n + 1
            assert blobs.n_calls == before
            assert texts(await log.read(n)) == [f"{n}"]
            assert blobs.n_calls > before


async def test_a_log_is_quiet_from_its_last_read_until_someone_owns_it(tmp_path: Path) -> None:
    clock = SystemClock()
    kv, blobs = MemoryKV(clock), MemoryBlobs(clock)
    away = AwayKV(kv)
    async with opened(tmp_path, kv=kv, blobs=blobs) as writer, opened(tmp_path, kv=away, blobs=blobs) as reader:
        assert (await reader.folded()).quiet == {}
        await (await writer.log(0)).append([row("a")])
        log = await reader.log(0)
        assert (await reader.folded()).quiet == {}
        assert (await writer.folded()).quiet == {}  # its own log is not quiet
        await writer.shard(0).release()
        assert (await reader.folded()).quiet == {}
        assert (await log.read(0)).limit == 1
        assert (await reader.folded()).quiet == {0: 1}
        away.is_away = True
        assert (await reader.folded()).quiet == {}
        away.is_away = False
        await (await writer.log(0)).append([row("b")])
        assert (await reader.folded()).quiet == {}
        await writer.shard(0).release()
        assert (await reader.folded()).quiet == {}
        assert (await log.read(1)).limit == 2
        assert (await reader.folded()).quiet == {0: 2}


async def test_while_the_catalog_is_away_a_log_without_owner_is_read_from_the_store(tmp_path: Path) -> None:
    clock = SystemClock()
    kv, blobs = MemoryKV(clock), WrappedBlobs(MemoryBlobs(clock))
    away = AwayKV(kv)
    async with opened(tmp_path, kv=kv, blobs=blobs) as writer, opened(tmp_path, kv=away, blobs=blobs) as reader:
        await (await writer.log(0)).append([row("a")])
        await writer.shard(0).release()
        await reader.folded()
        log = await reader.log(0)
        assert (await log.read(0)).limit == 1
        before = blobs.n_calls
        away.is_away = True
        assert (await log.read(1)).limit == 1
        assert blobs.n_calls > before


async def test_the_log_goes_from_one_to_another_who_wants_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as one, opened(tmp_path) as two:
        for n in range(6):
            logs, other = (one, two) if n % 2 else (two, one)
            await (await logs.log(0)).append([row(str(n))])
            await other.folded()
            assert texts(await (await other.log(0)).read(0)) == [str(i) for i in range(n + 1)]


async def test_who_may_not_own_says_so(tmp_path: Path) -> None:
    async with opened(tmp_path, may_own=False) as logs:
        with pytest.raises(UnavailableError, match="start firn wal or firn serve"):
            await (await logs.log(0)).append([row("a")])


async def test_of_two_that_read_a_row_and_write_it_the_second_begins_anew(tmp_path: Path) -> None:
    async with opened(tmp_path) as logs:
        log = await logs.log(0)
        upsert = row("1", kind=RecordKind.UPSERT)
        before = await log.read(0)
        await log.append([upsert], touched=touching(1, 2, since=(before.epoch, before.limit)))
        read = await log.read(0)
        since = (read.epoch, read.limit)
        await log.append([upsert], touched=touching(1, 3, since=since))
        with pytest.raises(ConflictError, match="another statement"):
            await log.append([upsert], touched=touching(3, 4, since=since))
        await log.append([upsert], touched=touching(2, 4, since=since))
        with pytest.raises(ConflictError, match="begin anew"):
            await log.append([upsert], touched=touching(9, since=(read.epoch + 7, read.limit)))
        assert len((await log.read(0)).records) == 3


async def test_a_flush_brings_everything_to_the_object_store(tmp_path: Path) -> None:
    async with opened(tmp_path) as logs:
        log = await logs.log(0)
        for n in range(5):
            await log.append([row(str(n))])
        assert await log.flush() == 5
        assert texts(await (await logs.stored(0)).read(0)) == ["0", "1", "2", "3", "4"]


async def test_the_folded_mark_only_grows(tmp_path: Path) -> None:
    async with opened(tmp_path) as logs:
        await (await logs.log(0)).append([row("a"), row("b")])
        await logs.set_folded(0, 2)
        await logs.set_folded(0, 1)
        assert await logs.folded() == {0: 2}
