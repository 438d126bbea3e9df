"""The real log service: killed under load, paused while another takes over, ended gently."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import pytest

from service.log.open import LakeLogs
from service.log.server import LogServerSettings
from service.settings import EngineSettings, LogAccess
from storage.errors import FirnlineError, IndeterminateError, OverloadedError, UnavailableError
from storage.log import AckMode
from storage.log.settings import LogSettings
from tests.support.lake_logs import opened, row, texts
from tests.support.log_server import LogServer, start_log_server

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

_ACCESS = LogAccess(
    lease_ttl_s=2.0, wait_s=8.0, poll_s=0.05, writer=LogSettings(flush_interval_ms=5, journal_bytes_max=50_000)
)


def _settings(lake: Path, **access: object) -> LogServerSettings:
    log = replace(_ACCESS, **access)  # type: ignore[arg-type]
    return LogServerSettings(EngineSettings(lake=str(lake), log=log), port=0, drain_s=2.0, log_level="error")


Start = Callable[..., LogServer]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts log services; what runs at the end is killed."""
    started: list[LogServer] = []

    def begin(lake: Path, **access: object) -> LogServer:
        started.append(start_log_server(_settings(lake, **access)))
        return started[-1]

    yield begin
    for server in started:
        server.kill()


async def _ready(server: LogServer) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        while (await client.get(server.url + "/readyz")).status_code != 200:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@dataclass
class _Load:
    """Clients that append for ever and note what they were told."""

    logs: LakeLogs
    acknowledged: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)

    async def client(self, name: str, ack: AckMode, keyed: bool) -> None:
        log = await self.logs.log(0)
        n = 0
        while True:
            text = f"{name}.{n}"
            n += 1
            try:
                await log.append([row(text, text if keyed else None)], ack=ack)
            except IndeterminateError:
                self.unknown.add(text)
            except (UnavailableError, OverloadedError):
                self.refused.add(text)
                await asyncio.sleep(0.02)
            else:
                self.acknowledged.add(text)

    def check(self, found: list[str]) -> None:
        assert len(found) == len(set(found)), "doubled"
        assert self.acknowledged <= set(found), f"lost {len(self.acknowledged - set(found))}"
        assert not self.refused & set(found), "stored though refused"


@pytest.mark.parametrize("seed", range(2))
async def test_a_killed_service_loses_and_doubles_nothing(tmp_path: Path, start: Start, seed: int) -> None:
    chance = random.Random(seed)
    async with opened(tmp_path, may_own=False, wait_s=8.0) as logs:
        load = _Load(logs)
        server = start(tmp_path)
        await _ready(server)
        await logs.folded()
        clients = [asyncio.create_task(load.client(f"{n}", list(AckMode)[n % 2], keyed=n % 3 > 0)) for n in range(6)]
        for _ in range(3):
            await asyncio.sleep(chance.uniform(0.1, 0.5))
            server.kill()
            server = start(tmp_path)
        await _ready(server)
        await asyncio.sleep(0.2)
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        await logs.folded()
        log = await logs.log(0)
        load.check(texts(await log.read(0)))
        assert len(load.acknowledged) > 20
        assert server.end() == 0
        load.check(texts(await (await logs.stored(0)).read(0)))


async def test_a_service_that_is_gone_leaves_what_it_acknowledged_to_readers(tmp_path: Path, start: Start) -> None:
    server = start(tmp_path, writer=LogSettings(flush_interval_ms=60_000))
    async with opened(tmp_path, may_own=False) as logs:
        await _ready(server)
        await logs.folded()
        log = await logs.log(0)
        for n in range(5):
            await log.append([row(str(n))])
        server.kill()
        assert texts(await log.read(0)) == ["0", "1", "2", "3", "4"]
        await logs.folded()
        assert texts(await log.read(0)) == ["0", "1", "2", "3", "4"]
        assert texts(await (await logs.stored(0)).read(0)) == []
    async with opened(tmp_path) as logs:
        assert await (await logs.log(0)).flush() == 5
        assert texts(await (await logs.stored(0)).read(0)) == ["0", "1", "2", "3", "4"]


async def test_a_zombie_is_refused_and_what_it_writes_is_not_read(tmp_path: Path, start: Start) -> None:
    journals = [str(tmp_path / "one"), str(tmp_path / "two")]
    lake = tmp_path / "lake"
    async with opened(lake, may_own=False, wait_s=8.0) as logs:
        zombie = start(lake, journal=journals[0])
        await _ready(zombie)
        await logs.folded()
        log = await logs.log(0)
        first = await log.append([row("before")], ack=AckMode.OBJECT)
        os.kill(zombie.process.pid, signal.SIGSTOP)
        heir = start(lake, journal=journals[1])
        await _ready(heir)
        after = await log.append([row("after")])
        assert after.position.epoch > first.position.epoch
        os.kill(zombie.process.pid, signal.SIGCONT)
        async with httpx.AsyncClient(trust_env=False) as client:
            secret = (await logs._directory.refresh()).of(0).owner.secret  # type: ignore[union-attr]
            for _ in range(20):
                answer = await client.get(
                    zombie.url + "/v1/log/0/read?start=0", headers={"Authorization": f"Bearer {secret}"}
                )
                assert answer.status_code in (401, 503)
                answer = await client.get(zombie.url + "/readyz")
                assert answer.status_code == 503
        await logs.folded()
        assert texts(await log.read(0)) == ["before", "after"]
        assert zombie.end() == 0
        assert texts(await log.read(0)) == ["before", "after"]
        assert heir.end() == 0


async def test_a_second_service_stands_by_and_takes_over(tmp_path: Path, start: Start) -> None:
    async with opened(tmp_path, may_own=False, wait_s=8.0) as logs:
        one, two = start(tmp_path), start(tmp_path)
        await _ready(one)
        await logs.folded()
        log = await logs.log(0)
        await log.append([row("a")])
        assert one.end() == 0
        await log.append([row("b")])
        await _ready(two)
        assert texts(await log.read(0)) == ["a", "b"]
        async with httpx.AsyncClient(trust_env=False) as client:
            shown = (await client.get(two.url + "/metrics")).text
        for name in ("append_seconds_bucket", "batch_records_bucket", "unflushed_bytes", "unfolded_bytes", "epoch"):
            assert f"firnline_log_{name}" in shown
        assert 'firnline_log_lag_records{shard="0"} 2.0' in shown
        assert two.end() == 0


async def test_ending_brings_everything_to_the_object_store(tmp_path: Path, start: Start) -> None:
    server = start(tmp_path, writer=LogSettings(flush_interval_ms=60_000))
    async with opened(tmp_path, may_own=False) as logs:
        await _ready(server)
        await logs.folded()
        log = await logs.log(0)
        for n in range(20):
            with suppress(FirnlineError):
                await log.append([row(str(n))])
        assert server.end() == 0
        assert len((await (await logs.stored(0)).read(0)).records) == 20
        assert (await logs._directory.refresh()).of(0).owner is None
