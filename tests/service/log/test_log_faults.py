"""What goes wrong around a log: the catalog is away, or older; a full disk; a moved lake; stores that lose replies."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from catalog.kv import Entry, Put, TxnResult
from catalog.kv.memory import MemoryKV
from service.log.open import LakeLogs
from storage.blobs.local import LocalBlobs
from storage.blobs.memory import MemoryBlobs
from storage.clock import SystemClock
from storage.errors import FencedError, FirnlineError, IndeterminateError, UnavailableError
from storage.log import AckMode, RecordKind
from storage.log.access import LogRange
from storage.log.sweep import sweep
from tests.support.faults import TwoCoinBlobs
from tests.support.lake_logs import HASTY, opened, row, texts, touching

pytestmark = pytest.mark.anyio


class Away(MemoryKV):
    """A catalog that can be away."""

    away = False

    def _look(self) -> None:
        if self.away:
            raise UnavailableError("the catalog is away")

    async def get(self, key: str) -> Entry | None:
        self._look()
        return await super().get(key)

    async def range(self, prefix: str) -> tuple[list[Entry], int]:
        self._look()
        return await super().range(prefix)

    async def txn(self, compares: Mapping[str, int], puts: Sequence[Put]) -> TxnResult:
        self._look()
        return await super().txn(compares, puts)

    async def lease_keepalive(self, lease: int) -> None:
        self._look()
        await super().lease_keepalive(lease)


async def _read(logs: LakeLogs, start: int = 0) -> LogRange:
    await logs.folded()
    return await (await logs.log(0)).read(start)


async def test_while_the_catalog_is_away_the_owner_goes_on_to_the_end_of_its_lease(tmp_path: Path) -> None:
    kv = Away(SystemClock())
    async with opened(tmp_path, kv=kv, lease_ttl_s=0.6) as logs:
        log = await logs.log(0)
        await log.append([row("a")])
        kv.away = True
        await log.append([row("b")])
        while logs.shard(0).owned is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        with pytest.raises(UnavailableError, match="the catalog does not answer"):
            await log.append([row("c")])
        assert texts(await _read(logs)) == ["a", "b"]
        kv.away = False
        await log.append([row("d")])
        assert texts(await _read(logs)) == ["a", "b", "d"]


async def test_a_log_whose_catalog_was_restored_from_an_older_copy_is_claimed_all_the_same(tmp_path: Path) -> None:
    async with opened(tmp_path, kv=MemoryKV(SystemClock()), ack=AckMode.OBJECT) as logs:
        for n in range(3):
            await (await logs.log(0)).append([row(str(n))])
            await logs.shard(0).release()
    shutil.rmtree(tmp_path / "_firnline/log/0/journal", ignore_errors=True)
    (tmp_path / "_firnline/log/0/journal").unlink(missing_ok=True)
    async with opened(tmp_path, kv=MemoryKV(SystemClock())) as logs:
        await (await logs.log(0)).append([row("3")])
        assert texts(await _read(logs)) == ["0", "1", "2", "3"]


async def test_a_full_disk_refuses_and_recovers(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    kv = MemoryKV(SystemClock())
    async with opened(tmp_path, kv=kv, writer=replace(HASTY.writer, flush_interval_ms=60_000)) as logs:
        log = await logs.log(0)
        await log.append([row("a")])
        # Python ignores SIGXFSZ, so a write past the limit fails as one on a full disk does.
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
        try:
            with pytest.raises(UnavailableError, match="make room"):
                await log.append([row(os.urandom(4000).hex())])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        await log.append([row("b")])
        assert texts(await _read(logs)) == ["a", "b"]


async def test_a_lake_that_was_moved_keeps_its_log_and_journal(tmp_path: Path) -> None:
    slow = replace(HASTY.writer, flush_interval_ms=60_000)
    async with opened(tmp_path / "old", writer=slow) as logs:
        await (await logs.log(0)).append([row("a")])
        shutil.copytree(tmp_path / "old", tmp_path / "new")
    async with opened(tmp_path / "new") as logs:
        assert texts(await _read(logs)) == ["a"]
        await (await logs.log(0)).flush()
        assert texts(await (await logs.stored(0)).read(0)) == ["a"]


async def test_what_an_owner_left_in_a_journal_elsewhere_is_brought_in(tmp_path: Path) -> None:
    slow = replace(HASTY.writer, flush_interval_ms=60_000)
    lake, elsewhere = tmp_path / "lake", tmp_path / "elsewhere"
    kv, blobs = MemoryKV(SystemClock()), LocalBlobs(Path("/"), SystemClock())
    async with opened(lake, kv=kv, blobs=blobs, journal=str(elsewhere), writer=slow) as first:
        await (await first.log(0)).append([row("a"), row("b")])
        shutil.copytree(elsewhere, tmp_path / "kept")
        owned = first.shard(0).owned
        assert owned is not None
        # As if it were killed: nothing is uploaded, and its lease goes.
        owned.lease.lose()
        await kv.lease_revoke(owned.lease._lease)
        first.shard(0)._owned = None
        for task in owned.writer._tasks:
            task.cancel()
        await asyncio.gather(*owned.writer._tasks, return_exceptions=True)
        os.close(owned.writer._lock)  # type: ignore[arg-type]
        owned.writer._journaled.close()  # type: ignore[union-attr]
        await owned.lease.release()
        async with opened(lake, kv=kv, blobs=blobs) as second:
            assert texts(await _read(second)) == ["a", "b"]
            await (await second.log(0)).append([row("c")])
            assert texts(await _read(second)) == ["a", "b", "c"]


async def test_a_read_of_what_was_swept_says_so_and_the_rest_is_read(tmp_path: Path) -> None:
    at_once = replace(HASTY.writer, idempotency_window_ms=0)
    async with opened(tmp_path, writer=at_once) as logs, opened(tmp_path) as reader:
        log = await logs.log(0)
        for n in range(4):
            await log.append([row(str(n))])
            await log.flush()
        await logs.set_folded(0, 2)
        place = logs._directory.place
        await asyncio.sleep(0.05)
        position = (await log.read(2)).records[0].position
        await sweep(place.blobs, place.log(0), position, at_once, SystemClock())
        with pytest.raises(FirnlineError, match="swept"):
            await (await reader.log(0)).read(0)
        assert texts(await _read(reader, 2)) == ["2", "3"]
        assert await reader.folded() == {0: 2}


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("ack", list(AckMode))
async def test_with_a_store_that_loses_puts_and_replies_nothing_acknowledged_is_lost_or_doubled(
    tmp_path: Path, seed: int, ack: AckMode
) -> None:
    kv = MemoryKV(SystemClock())
    blobs = TwoCoinBlobs(MemoryBlobs(SystemClock()), seed)
    settings = replace(HASTY.writer, put_tries_max=3, retry_delay_ms=1)
    acknowledged: set[str] = set()
    refused: set[str] = set()

    async def client(logs: LakeLogs, name: str) -> None:
        for n in range(12):
            text = f"{name}.{n}"
            try:
                await (await logs.log(0)).append([row(text, text if n % 2 else None)], ack=ack)
            except IndeterminateError:
                continue
            except UnavailableError:
                refused.add(text)
            else:
                acknowledged.add(text)

    async with (
        opened(tmp_path, kv=kv, blobs=blobs, writer=settings) as one,
        opened(tmp_path, kv=kv, blobs=blobs, writer=settings) as two,
    ):
        await asyncio.gather(client(one, "a"), client(one, "b"), client(two, "c"))
    async with opened(tmp_path, kv=kv, blobs=blobs.inner) as logs:
        found = texts(await _read(logs))
    assert len(found) == len(set(found))
    assert acknowledged <= set(found)
    assert not refused & set(found)


async def test_of_two_who_count_up_no_count_is_lost_whoever_owns_the_log(tmp_path: Path) -> None:
    """Each reads the newest number and appends the next; a conflict means to begin anew."""

    async def count(logs: LakeLogs, times: int) -> None:
        done = 0
        while done < times:
            found = await _read(logs)
            following = str(len(found.records))
            try:
                await (await logs.log(0)).append(
                    [row(following, kind=RecordKind.UPSERT)], touched=touching(1, since=(found.epoch, found.limit))
                )
            except FirnlineError as error:
                assert type(error).__name__ == "ConflictError", error
                await asyncio.sleep(0)
            else:
                done += 1

    async with opened(tmp_path) as one, opened(tmp_path) as two:
        await asyncio.gather(count(one, 20), count(one, 20), count(two, 6))
        assert texts(await _read(one)) == [str(n) for n in range(46)]


async def test_an_owner_whose_lease_was_taken_refuses_and_does_not_answer_reads(tmp_path: Path) -> None:
    async with opened(tmp_path) as logs:
        log = await logs.log(0)
        await log.append([row("a")])
        owned = logs.shard(0).owned
        assert owned is not None
        owned.lease.lose()
        with pytest.raises(FencedError):
            await owned.append([row("b")])
        with pytest.raises(FencedError):
            await owned.read(0)
        await log.append([row("c")])
        assert texts(await _read(logs)) == ["a", "c"]
