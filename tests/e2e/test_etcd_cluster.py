"""Three real etcd members, one of them killed or frozen while clients work."""

import asyncio
import time
from collections.abc import Iterator

import pytest

from catalog.kv import KV, Event, Put
from storage.errors import IndeterminateError, UnavailableError
from tests.support.etcd import EtcdCluster, etcd_cluster_or_skip

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]


@pytest.fixture
def cluster() -> Iterator[EtcdCluster]:
    with etcd_cluster_or_skip(3) as running:
        yield running


async def increment(kv: KV, key: str) -> int:
    """Add one by compare-and-swap and return the value put."""
    while True:
        entry = await kv.get(key)
        value = int(entry.value if entry else b"0") + 1
        if (await kv.txn({key: entry.revision if entry else 0}, [Put(key, b"%d" % value)])).succeeded:
            return value


async def collect(kv: KV, key: str, into: list[Event]) -> None:
    async for event in kv.watch(key, 1):
        into.append(event)


async def until(condition: object, within_s: float = 30.0) -> None:
    assert callable(condition)
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_a_killed_leader_under_load_loses_and_doubles_nothing(cluster: EtcdCluster) -> None:
    kv, observer = cluster.kv(), cluster.kv()
    seen: list[Event] = []
    watching = asyncio.create_task(collect(observer, "n", seen))
    values: list[int] = []
    stopping = asyncio.Event()

    async def work() -> None:
        while not stopping.is_set():
            values.append(await increment(kv, "n"))

    workers = [asyncio.create_task(work()) for _ in range(4)]
    await until(lambda: len(values) > 50)
    before = len(values)
    leader = cluster.leader()
    leader.kill()
    await until(lambda: len(values) > before + 100)
    leader.start()
    leader.wait()
    await until(lambda: len(values) > before + 150)
    stopping.set()
    await asyncio.gather(*workers)

    assert sorted(values) == list(range(1, len(values) + 1))
    entry = await kv.get("n")
    assert entry is not None and int(entry.value) == len(values)
    await until(lambda: len(seen) >= len(values))
    assert [int(event.value or b"") for event in seen] == list(range(1, len(values) + 1))
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    await kv.close()
    await observer.close()


async def test_a_frozen_leader_is_passed_over(cluster: EtcdCluster) -> None:
    kv = cluster.kv()
    await increment(kv, "n")
    leader = cluster.leader()
    leader.pause()
    try:
        started = time.monotonic()
        assert await increment(kv, "n") == 2
        assert time.monotonic() - started < 8
        started = time.monotonic()
        for expected in range(3, 23):
            assert await increment(kv, "n") == expected
        assert time.monotonic() - started < 4, "the client keeps asking the frozen member"
    finally:
        leader.resume()
    await kv.close()


async def test_a_watch_on_a_frozen_member_moves_to_another(cluster: EtcdCluster) -> None:
    kv, observer = cluster.kv(), cluster.kv()
    seen: list[Event] = []
    watching = asyncio.create_task(collect(observer, "n", seen))
    await increment(kv, "n")
    await until(lambda: len(seen) == 1)
    leader = cluster.leader()
    leader.pause()
    try:
        for _ in range(5):
            await increment(kv, "n")
        await until(lambda: len(seen) == 6, within_s=25)
    finally:
        leader.resume()
    assert [event.value for event in seen] == [b"1", b"2", b"3", b"4", b"5", b"6"]
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    await kv.close()
    await observer.close()


async def test_a_lease_outlives_the_leader_while_it_is_kept_alive(cluster: EtcdCluster) -> None:
    kv = cluster.kv()
    lease = await kv.lease_grant(3)
    await kv.txn({}, [Put("writer", b"me", lease)])
    cluster.leader().kill()
    for _ in range(5):
        await kv.lease_keepalive(lease)
        await asyncio.sleep(1)
    assert await kv.get("writer") is not None
    await kv.lease_revoke(lease)
    assert await kv.get("writer") is None
    await kv.close()


async def test_without_a_majority_a_write_is_never_said_to_have_happened(cluster: EtcdCluster) -> None:
    kv = cluster.kv(deadline_ms=3000)
    await increment(kv, "n")
    killed = cluster.members[:2]
    for member in killed:
        member.kill()
    started = time.monotonic()
    with pytest.raises((UnavailableError, IndeterminateError)):
        await kv.txn({}, [Put("n", b"99")])
    with pytest.raises(UnavailableError):
        await kv.get("n")
    assert time.monotonic() - started < 10
    for member in killed:
        member.start()
    await until(lambda: all(member._is_healthy() for member in cluster.members))
    entry = await kv.get("n")
    assert entry is not None and entry.value in (b"1", b"99")
    await kv.close()
