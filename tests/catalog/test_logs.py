"""Owners, epochs and marks of logs in the catalog."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from catalog.kv import KV, Entry, Put
from catalog.kv.memory import MemoryKV
from catalog.kv.sqlite import SqliteKV
from catalog.log_lease import LogLease
from catalog.logs import LogCatalog, LogOwner, shard_of
from catalog.process import Process, is_dead, this_process
from storage.clock import SystemClock
from storage.errors import CorruptError, InvalidError, UnavailableError

pytestmark = pytest.mark.anyio

_ELSEWHERE = Process("another machine/1", "boot/pid:[1]", 4711, 99)


def owner(instance: str, process: Process = _ELSEWHERE) -> LogOwner:
    return LogOwner(0, instance, process, "http://127.0.0.1:1", "secret")


@pytest.fixture
async def kv(tmp_path: Path) -> AsyncIterator[KV]:
    kv = SqliteKV(tmp_path / "catalog.db", SystemClock())
    yield kv
    await kv.close()


async def test_one_of_many_who_claim_gets_the_log(kv: KV) -> None:
    logs = LogCatalog(kv, SystemClock())
    leases = await asyncio.gather(*(logs.claim(0, owner(f"i{n}"), None, 30) for n in range(8)))
    (lease,) = [each for each in leases if each is not None]
    state = (await logs.load()).of(0)
    assert state.owner is not None
    assert state.owner.epoch == state.epoch == lease.epoch
    assert state.owner.url == "http://127.0.0.1:1"
    assert "secret" not in repr(state)
    await lease.release()
    assert not lease.held()
    assert (await logs.load()).of(0).owner is None


async def test_every_epoch_is_greater_than_all_before(kv: KV) -> None:
    logs = LogCatalog(kv, SystemClock())
    last = 0
    for n in range(6):
        lease = await logs.claim(0, owner(f"i{n}"), None, 30, at_least=50 if n == 3 else 0)
        assert lease is not None
        assert lease.epoch > last
        assert n < 3 or lease.epoch >= 50
        last = lease.epoch
        await lease.release()


async def test_a_lease_that_is_not_kept_alive_is_lost_to_the_next(kv: KV) -> None:
    clock = SystemClock()
    logs = LogCatalog(kv, clock)
    lease = await logs.claim(0, owner("one"), None, 0.6)
    assert lease is not None
    await asyncio.sleep(0.9)
    assert lease.held()
    assert await logs.claim(0, owner("two"), None, 0.6) is None
    lease._keeping.cancel()
    await asyncio.sleep(0.7)
    assert not lease.held()
    heir = await logs.claim(0, owner("two"), None, 0.6)
    assert heir is not None
    await heir.release()


async def test_a_lease_is_not_held_any_longer_than_the_catalog_may_count(kv: KV) -> None:
    class Silent:
        async def lease_keepalive(self, lease: int) -> None:
            raise UnavailableError("the catalog is away")

    started_s = SystemClock().monotonic_s()
    lease = LogLease(Silent(), SystemClock(), 7, 1, 0.3, started_s)  # type: ignore[arg-type]
    while lease.held():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert 0.3 <= SystemClock().monotonic_s() - started_s < 5
    lease._keeping.cancel()


async def test_an_owner_that_died_on_this_machine_is_replaced_at_once(kv: KV) -> None:
    logs = LogCatalog(kv, SystemClock())
    program = "from catalog.process import this_process; p = this_process(); print(p.host, p.scope, p.pid, p.started)"
    command = [sys.executable, "-c", program]
    told = (await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)).stdout.split()
    dead = Process(told[0], " ".join(told[1:-2]), int(told[-2]), int(told[-1]))
    assert is_dead(dead)
    assert not is_dead(this_process())
    assert not is_dead(_ELSEWHERE)
    assert is_dead(replace(this_process(), started=1))
    first = await logs.claim(0, owner("one", dead), None, 30)
    second = await logs.claim(0, owner("two", this_process()), None, 30)
    assert first is not None
    assert second is not None
    assert await logs.claim(0, owner("three"), None, 30) is None
    # The dead one's lease runs out later, and takes nothing with it.
    await first.release()
    state = (await logs.load()).of(0)
    assert state.owner is not None
    assert state.owner.instance == "two"
    await second.release()


async def test_marks_only_grow_whoever_raises_them(kv: KV) -> None:
    logs = LogCatalog(kv, SystemClock())
    await asyncio.gather(*(logs.raise_folded(3, n) for n in (5, 2, 9, 7, 1)))
    assert (await logs.load()).of(3).folded == 9
    assert (await logs.load()).of(0).folded == 0


async def test_a_lake_keeps_the_number_of_its_logs() -> None:
    kv = MemoryKV(SystemClock())
    logs = LogCatalog(kv, SystemClock())
    assert (await logs.load()).shards is None
    made = await logs.shards(4)
    assert (await logs.shards(9)) == made
    assert (await logs.load()).shards == made
    found = {await shard_of(kv, f"table{n}") for n in range(100)}
    assert found == {0, 1, 2, 3}
    with pytest.raises(InvalidError, match="1 to 256"):
        await logs.shards(0)
    assert await shard_of(MemoryKV(SystemClock()), "t") == 0


async def test_who_wants_a_log_is_seen_until_it_has_it(kv: KV) -> None:
    logs = LogCatalog(kv, SystemClock())
    await logs.want(0, "me")
    assert (await logs.load()).of(0).wanted_by == "me"
    lease = await logs.claim(0, owner("me"), None, 30)
    assert (await logs.load()).of(0).wanted_by is None
    assert lease is not None
    await lease.release()


@pytest.mark.parametrize("value", [b"", b"[]", b"{}", b'{"v":2}', b'{"v":1}'])
async def test_an_entry_that_cannot_be_read_is_named(value: bytes) -> None:
    kv = MemoryKV(SystemClock())
    for key in ("log/0/owner", "log/0/epoch", "log/0/folded", "log/shards"):
        await kv.txn({}, [Put(key, value)])
        with pytest.raises(CorruptError, match=key):
            await LogCatalog(kv, SystemClock()).load()
        await kv.txn({}, [Put(key, None)])
    assert isinstance(await kv.get("log/0/owner"), Entry | None)
