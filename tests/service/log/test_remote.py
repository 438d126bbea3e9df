"""A log of another process: over HTTP, with lost answers, wrong secrets and an owner that goes."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

from catalog.kv.memory import MemoryKV
from service.log.http_client import HttpClient, NotReachedError
from service.log.open import open_logs
from service.log.remote import RemoteLog
from service.settings import LogAccess
from storage.blobs.memory import MemoryBlobs
from storage.clock import SystemClock
from storage.errors import (
    ConflictError,
    IndeterminateError,
    InvalidError,
    OverloadedError,
    UnauthenticatedError,
    UnavailableError,
)
from storage.log import AckMode, RecordKind
from storage.log.settings import LogSettings
from storage.stores import Stores
from tests.support.lake_logs import HASTY, answering, opened, row, texts, touching
from tests.support.moto import free_port
from tests.support.tcp_proxy import proxy_to

pytestmark = pytest.mark.anyio


async def test_another_process_appends_and_reads_through_the_owner(tmp_path: Path) -> None:
    async with answering(tmp_path) as (owner, _url), opened(tmp_path, may_own=False) as other:
        await (await owner.log(0)).append([row("a", "k")])
        await other.folded()
        log = await other.log(0)
        receipt = await log.append([row("b"), row("c" * 100_000)], ack=AckMode.OBJECT)
        assert (receipt.position.sequence, receipt.n_records, receipt.ack) == (1, 2, AckMode.OBJECT)
        found = await log.read(0)
        assert texts(found) == ["a", "b", "c" * 100_000]
        assert found.epoch == receipt.position.epoch
        assert (await log.find("t", "k")).position.sequence == 0  # type: ignore[union-attr]
        assert await log.find("t", "none") is None
        assert await log.flush() == 3
        cut = await log.read(0, bytes_max=1)
        assert (texts(cut), cut.more) == (["a"], True)


async def test_errors_are_those_of_the_owner(tmp_path: Path) -> None:
    tight = LogSettings(flush_interval_ms=5, append_bytes_max=1000, unflushed_bytes_max=1000, unfolded_bytes_max=1000)
    async with answering(tmp_path, writer=tight) as (owner, url), opened(tmp_path, may_own=False) as other:
        log = await other.log(0)
        await (await owner.log(0)).append([row("a", kind=RecordKind.UPSERT)], touched=touching(1))
        await other.folded()
        with pytest.raises(ConflictError, match="another statement"):
            await log.append([row("b", kind=RecordKind.UPSERT)], touched=touching(1, since=(0, 0)))
        with pytest.raises(InvalidError, match="one table"):
            await log.append([row("a"), row("a", table="other")])
        with pytest.raises(OverloadedError) as raised:
            for n in range(40):
                await log.append([row(f"{n:x}" * 30)])
        assert raised.value.facts["retry_after_s"] > 0
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.post(url + "/v1/log/0/append", content=b"x")
            assert (answer.status_code, answer.json()["title"]) == (401, "UnauthenticatedError")
            assert answer.headers["content-type"] == "application/problem+json"
        guessing = HttpClient(url, SystemClock())
        with pytest.raises(UnauthenticatedError):
            await RemoteLog(guessing, 0, "guess", HASTY).read(0)
        await guessing.close()


async def test_a_process_that_may_not_own_asks_the_server_to(tmp_path: Path) -> None:
    async with answering(tmp_path) as (owner, url):
        secret = owner._directory.settings.secret
        async with opened(tmp_path, may_own=False, via_url=url, via_secret=secret) as worker:
            log = await worker.log(0)
            assert (await worker.folded(), (await log.read(0)).limit) == ({}, 0)
            receipt = await log.append([row("a")])
            assert (await owner.shard(0).own()).epoch == receipt.position.epoch
            await worker.folded()
            assert texts(await log.read(0)) == ["a"]


async def test_a_server_takes_the_log_from_a_process_that_only_held_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as embedded, answering(tmp_path) as (owner, _url):
        await (await embedded.log(0)).append([row("a")])
        await (await owner.log(0)).append([row("b")])
        await (await embedded.log(0)).append([row("c")])
        assert embedded.shard(0).owned is None
        assert texts(await (await owner.log(0)).read(0)) == ["a", "b", "c"]


async def test_when_the_owner_is_gone_another_takes_over_and_reads_go_on(tmp_path: Path) -> None:
    async with opened(tmp_path) as other:
        async with answering(tmp_path) as (owner, _url):
            await (await owner.log(0)).append([row("a")])
            await other.folded()
            log = await other.log(0)
            assert texts(await log.read(0)) == ["a"]
            await log.append([row("b")])
        assert texts(await log.read(0)) == ["a", "b"]
        await log.append([row("c")])
        assert other.shard(0).owned is not None
        assert texts(await log.read(0)) == ["a", "b", "c"]


async def test_what_an_owner_without_a_journal_acknowledged_is_read_though_it_does_not_answer() -> None:
    # As when etcd is down: the owner's lease ran out, and nobody can tell who comes after it.
    clock = SystemClock()
    kv, blobs = MemoryKV(clock), MemoryBlobs(clock)
    settings = replace(HASTY, ack=AckMode.OBJECT, wait_s=60.0)
    nowhere = replace(settings, url=f"http://127.0.0.1:{free_port()}", secret="s" * 20)
    owner = open_logs("s3://bucket/lake", nowhere, kv, Stores(lambda _root: blobs), clock)
    reader = open_logs("s3://bucket/lake", settings, kv, Stores(lambda _root: blobs), clock)
    try:
        await (await owner.log(0)).append([row("a")])
        await reader.folded()
        async with asyncio.timeout(5):
            assert texts(await (await reader.log(0)).read(0)) == ["a"]
    finally:
        await owner.close()
        await reader.close()


async def test_a_lost_answer_is_indeterminate_without_a_key_and_resolved_with_one(tmp_path: Path) -> None:
    async with answering(tmp_path) as (owner, url):
        await (await owner.log(0)).append([row("a")])
        async with proxy_to(int(url.rpartition(":")[2])) as proxy:
            access = replace(HASTY, wait_s=0.3)
            client = HttpClient(f"http://{proxy.endpoint}", SystemClock())
            log = RemoteLog(client, 0, owner._directory.settings.secret or "", access)
            assert (await log.read(0)).limit == 1
            proxy.mute()
            with pytest.raises(UnavailableError):
                await log.read(0)
            lost = asyncio.create_task(log.append([row("b")]))
            keyed = asyncio.create_task(log.append([row("c", "k")]))
            while (await (await owner.log(0)).read(0)).limit < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            proxy.unmute()
            with pytest.raises(IndeterminateError):
                await lost
            with pytest.raises(IndeterminateError):
                await keyed
            assert (await log.append([row("c", "k")])).position.sequence < 3
            assert (await log.read(0)).limit == 3
            await client.close()


async def test_nothing_was_stored_where_nobody_listens() -> None:
    log = RemoteLog(HttpClient("http://127.0.0.1:9", SystemClock()), 0, "s", LogAccess())
    with pytest.raises(NotReachedError):
        await log.append([row("a")])


async def test_many_clients_and_large_key_sets_arrive_whole(tmp_path: Path) -> None:
    async with answering(tmp_path) as (owner, _url), opened(tmp_path, may_own=False) as other:
        await owner.shard(0).own()
        log = await other.log(0)
        keys = np.arange(100_000, dtype=np.uint64)
        await log.append([row("big", kind=RecordKind.UPSERT)], touched=replace(touching(), keys=keys))
        await asyncio.gather(*(log.append([row(str(n))]) for n in range(200)))
        with pytest.raises(ConflictError):
            await log.append([row("x", kind=RecordKind.UPSERT)], touched=touching(99_999, since=(0, 0)))
        found = texts(await log.read(0))
        assert sorted(found[1:], key=int) == [str(n) for n in range(200)]


async def test_reading_an_empty_tail_takes_about_a_millisecond(tmp_path: Path) -> None:
    async with answering(tmp_path) as (owner, _url), opened(tmp_path, may_own=False) as other:
        await owner.shard(0).own()
        log = await other.log(0)
        await log.append([row("a")])
        took = []
        for _ in range(100):
            started = time.perf_counter()
            await log.read(1)
            took.append(time.perf_counter() - started)
        assert sorted(took)[5] < 0.02  # of the quick ones: others of this machine have their turns in between
