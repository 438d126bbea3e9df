"""Logs over etcd and an S3 API, where owners are on several machines; and shells side by side on one."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import httpx
import pytest

from service.log.open import LakeLogs, open_logs
from service.log.server import LogServerSettings
from service.settings import EngineSettings, LogAccess
from storage.blobs.open import open_blobs
from storage.blobs.s3_options import S3Options
from storage.clock import SystemClock
from storage.errors import UnavailableError
from storage.log import AckMode
from storage.log.settings import LogSettings
from storage.stores import Stores
from tests.support.etcd import EtcdServer, etcd_server_or_skip
from tests.support.firn import environment, program
from tests.support.lake_logs import row, texts
from tests.support.log_server import LogServer, start_log_server
from tests.support.moto import create_bucket, moto_options, start_moto

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

_LAKE = "s3://logs/lake"
_ACCESS = LogAccess(lease_ttl_s=2.0, wait_s=10.0, poll_s=0.1, writer=LogSettings(flush_interval_ms=5))


@asynccontextmanager
async def _client(etcd: EtcdServer, s3: S3Options) -> AsyncIterator[LakeLogs]:
    clock = SystemClock()
    stores, kv = Stores(partial(open_blobs, s3=s3, clock=clock)), etcd.kv()
    logs = open_logs(_LAKE, replace(_ACCESS, may_own=False), kv, stores, clock)
    try:
        yield logs
    finally:
        await logs.close()
        await kv.close()
        await stores.close()


def _start(etcd: EtcdServer, s3: S3Options) -> LogServer:
    engine = EngineSettings(lake=_LAKE, catalog=f"etcd://{etcd.endpoint}", s3=s3, log=_ACCESS)
    return start_log_server(LogServerSettings(engine, port=0, drain_s=2.0, log_level="error"))


async def _ready(server: LogServer) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        while (await client.get(server.url + "/readyz")).status_code != 200:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_over_etcd_and_s3_a_killed_owner_is_replaced_and_an_outage_of_etcd_is_survived() -> None:
    with etcd_server_or_skip() as etcd, start_moto() as endpoint:
        create_bucket(endpoint, "logs")
        s3 = moto_options(endpoint)
        servers = [_start(etcd, s3)]
        try:
            await _ready(servers[0])
            async with _client(etcd, s3) as logs:
                await logs.folded()
                log = await logs.log(0)
                first = await log.append([row("a")])
                assert first.ack is AckMode.OBJECT
                servers.append(_start(etcd, s3))
                servers[0].kill()
                second = await log.append([row("b", "k")])
                assert second.position.epoch > first.position.epoch
                await logs.folded()
                assert texts(await log.read(0)) == ["a", "b"]

                etcd.kill()
                with pytest.raises(UnavailableError):
                    for _ in range(200):
                        await log.append([row("b", "k")])
                        await asyncio.sleep(0.05)
                etcd.start()
                etcd.wait()
                await _ready(servers[1])
                await log.append([row("c")])
                await logs.folded()
                assert texts(await log.read(0)) == ["a", "b", "c"]
            assert servers[1].end() == 0
        finally:
            for server in servers:
                server.kill()


def test_shells_side_by_side_write_to_one_lake(tmp_path: Path) -> None:
    def start(sql: str) -> subprocess.Popen[bytes]:
        command = [program(), "sql", "--lake", str(tmp_path / "lake"), "--format", "csv", sql]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())

    def end(process: subprocess.Popen[bytes]) -> bytes:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        return out

    end(start("CREATE TABLE t (id BIGINT, PRIMARY KEY (id)) USING delta"))
    for process in [start(f"INSERT INTO t VALUES ({n})") for n in range(3)]:
        end(process)
    assert end(start("SELECT count(*) AS n, sum(id) AS s FROM t")).split() == [b"n,s", b"3,3"]
