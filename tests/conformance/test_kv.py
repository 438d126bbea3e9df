"""Every KV backend through one file. A new backend is one row in KVS."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from catalog.kv import KEY_BYTES_MAX, KV, TXN_KEYS_MAX, VALUE_BYTES_MAX, Event, Put
from catalog.kv.blob import BlobKV
from catalog.kv.memory import MemoryKV
from catalog.kv.sqlite import SqliteKV
from catalog.kv.state import HistoryLimits
from storage.blobs import Blobs
from storage.blobs.local import LocalBlobs
from storage.blobs.memory import MemoryBlobs
from storage.blobs.s3 import S3Blobs
from storage.clock import SystemClock
from storage.errors import InvalidError, NotFoundError
from tests.support.etcd import EtcdServer, etcd_server_or_skip
from tests.support.moto import create_bucket, moto_endpoint, moto_options

__all__ = ["moto_endpoint"]

pytestmark = pytest.mark.anyio

Opener = Callable[[], KV]
ALL_FORGOTTEN_AFTER = 160
SMALL_HISTORY = HistoryLimits(events_max=64)


@dataclass(frozen=True)
class Backend:
    """One row of KVS.

    openers : given a fresh folder (and a server), yields a function that opens the same map once more
    lease_ttl_s : the shortest lease that the backend does not round up
    other_handles : None, or why a second handle does not see the first one's map
    forgets : makes the map forget the changes so far
    """

    openers: Callable[[Path, pytest.FixtureRequest], AbstractAsyncContextManager[Opener]]
    forgets: Callable[[KV, pytest.FixtureRequest], Awaitable[None]]
    lease_ttl_s: float = 0.6
    other_handles: str | None = None


@asynccontextmanager
async def opened(make: Opener) -> AsyncIterator[Opener]:
    handles: list[KV] = []

    def open_one() -> KV:
        handles.append(make())
        return handles[-1]

    try:
        yield open_one
    finally:
        for handle in handles:
            await handle.close()


def memory(_folder: Path, _request: pytest.FixtureRequest) -> AbstractAsyncContextManager[Opener]:
    return opened(lambda: MemoryKV(SystemClock(), history=SMALL_HISTORY))


def sqlite(folder: Path, _request: pytest.FixtureRequest) -> AbstractAsyncContextManager[Opener]:
    return opened(lambda: SqliteKV(folder / "catalog.sqlite", SystemClock(), history=SMALL_HISTORY))


def blob_memory(_folder: Path, _request: pytest.FixtureRequest) -> AbstractAsyncContextManager[Opener]:
    blobs = MemoryBlobs(SystemClock())
    return opened(lambda: over_blobs(blobs))


def blob_local(folder: Path, _request: pytest.FixtureRequest) -> AbstractAsyncContextManager[Opener]:
    return opened(lambda: over_blobs(LocalBlobs(folder, SystemClock())))


@asynccontextmanager
async def blob_s3(_folder: Path, request: pytest.FixtureRequest) -> AsyncIterator[Opener]:
    endpoint: str = request.getfixturevalue("moto_endpoint")
    bucket = f"kv-{SystemClock().new_id()}"
    create_bucket(endpoint, bucket)
    blobs = S3Blobs(bucket, moto_options(endpoint), SystemClock())
    try:
        async with opened(lambda: over_blobs(blobs)) as opener:
            yield opener
    finally:
        await blobs.close()


def over_blobs(blobs: Blobs) -> BlobKV:
    return BlobKV(blobs, "_catalog/head.json", SystemClock(), poll_interval_ms=10, history=SMALL_HISTORY)


def etcd(folder: Path, request: pytest.FixtureRequest) -> AbstractAsyncContextManager[Opener]:
    server: EtcdServer = request.getfixturevalue("etcd_server")
    return opened(lambda: server.kv(namespace=folder.name))


async def write_much(kv: KV, _request: pytest.FixtureRequest) -> None:
    for _ in range(ALL_FORGOTTEN_AFTER):
        await kv.txn({}, [Put("much", b"x")])


async def compact(kv: KV, request: pytest.FixtureRequest) -> None:
    server: EtcdServer = request.getfixturevalue("etcd_server")
    await kv.txn({}, [Put("much", b"x")])
    server.compact((await kv.range(""))[1])


KVS = {
    "memory": Backend(memory, other_handles="a MemoryKV is its own map", forgets=write_much),
    "sqlite": Backend(sqlite, forgets=write_much),
    "blob-memory": Backend(blob_memory, forgets=write_much),
    "blob-local": Backend(blob_local, forgets=write_much),
    "blob-s3": Backend(blob_s3, lease_ttl_s=1.0, forgets=write_much),
    "etcd": Backend(etcd, lease_ttl_s=2.0, forgets=compact),
}

SERVED = {"etcd", "blob-s3"}
"""Backends that need a server of their own."""


@pytest.fixture(scope="module")
def etcd_server() -> AsyncIterator[EtcdServer]:
    with etcd_server_or_skip() as server:
        yield server


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.e2e if name in SERVED else ()) for name in KVS])
def backend(request: pytest.FixtureRequest) -> Backend:
    return KVS[request.param]


@pytest.fixture
async def open_kv(backend: Backend, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Opener]:
    async with backend.openers(tmp_path, request) as opener:
        yield opener


@pytest.fixture
def kv(open_kv: Opener) -> KV:
    return open_kv()


@pytest.fixture
def two(open_kv: Opener, backend: Backend, kv: KV) -> tuple[KV, KV]:
    """Two handles on one map."""
    if backend.other_handles:
        pytest.skip(backend.other_handles)
    return kv, open_kv()


async def put(kv: KV, key: str, value: bytes | None, lease: int | None = None) -> int:
    result = await kv.txn({}, [Put(key, value, lease)])
    assert result.succeeded
    return result.revision


async def take(kv: KV, prefix: str, start_revision: int, n: int, timeout_s: float = 10.0) -> list[Event]:
    """The first ``n`` events of a watch."""
    events: list[Event] = []
    watch = kv.watch(prefix, start_revision)
    try:
        async with asyncio.timeout(timeout_s):
            async for event in watch:
                events.append(event)
                if len(events) == n:
                    break
    finally:
        await watch.aclose()
    return events


async def gone(kv: KV, key: str, within_s: float) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            while await kv.get(key) is not None:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            return True
    return False


# --- get and range


async def test_an_absent_key_is_none(kv: KV) -> None:
    assert await kv.get("nothing") is None
    assert (await kv.range("nothing"))[0] == []


async def test_a_put_is_read_back_with_the_revision_of_its_transaction(kv: KV) -> None:
    revision = await put(kv, "a", b"1")
    entry = await kv.get("a")
    assert entry is not None
    assert (entry.key, entry.value, entry.revision) == ("a", b"1", revision)


async def test_empty_values_are_values(kv: KV) -> None:
    await put(kv, "a", b"")
    entry = await kv.get("a")
    assert entry is not None and entry.value == b""
    assert [found.value for found in (await kv.range("a"))[0]] == [b""]


async def test_binary_values_keep_every_byte(kv: KV) -> None:
    await put(kv, "a", bytes(range(256)))
    entry = await kv.get("a")
    assert entry is not None and entry.value == bytes(range(256))


async def test_a_range_holds_the_prefix_and_nothing_else(kv: KV) -> None:
    for key in ("t", "t/", "t/a", "t/b", "t0", "s/z", "u"):
        await put(kv, key, key.encode())
    assert [entry.key for entry in (await kv.range("t/"))[0]] == ["t/", "t/a", "t/b"]
    assert [entry.key for entry in (await kv.range("t"))[0]] == ["t", "t/", "t/a", "t/b", "t0"]
    assert [entry.key for entry in (await kv.range(""))[0]] == ["s/z", "t", "t/", "t/a", "t/b", "t0", "u"]


async def test_a_range_names_the_revision_it_was_read_at(kv: KV) -> None:
    await put(kv, "a", b"1")
    revision = await put(kv, "b", b"2")
    entries, read_at = await kv.range("")
    assert read_at >= revision
    assert all(entry.revision <= read_at for entry in entries)


async def test_a_range_of_many_keys_is_whole_and_in_order(kv: KV) -> None:
    keys = [f"n/{number:05d}" for number in range(1200)]
    for start in range(0, len(keys), TXN_KEYS_MAX):
        await kv.txn({}, [Put(key, key.encode() * 20) for key in keys[start : start + TXN_KEYS_MAX]])
    assert [entry.key for entry in (await kv.range("n/"))[0]] == keys


UNICODE = ["é", "z", "\uffff", "\U0001f9ca", "table/日本", "a b\nc", "nul\x00inside", "ÿ", "\U0010ffff"]


async def test_unicode_keys_are_kept_and_ordered_by_their_utf8_bytes(kv: KV) -> None:
    for key in UNICODE:
        await put(kv, key, key.encode())
    entries, _revision = await kv.range("")
    assert [entry.key for entry in entries] == sorted(UNICODE, key=str.encode)
    for key in UNICODE:
        assert [entry.key for entry in (await kv.range(key))[0]] == [key]


async def test_the_last_code_point_as_a_prefix_finds_its_keys(kv: KV) -> None:
    await put(kv, "\U0010ffff\U0010ffff", b"1")
    await put(kv, "\U0010ffff", b"2")
    assert len((await kv.range("\U0010ffff"))[0]) == 2


# --- transactions


async def test_revisions_rise_with_every_change(kv: KV) -> None:
    revisions = [await put(kv, key, b"x") for key in ("a", "b", "a")]
    revisions.append(await put(kv, "a", None))
    assert revisions == sorted(set(revisions))


async def test_zero_compares_with_absence(kv: KV) -> None:
    created = await kv.txn({"a": 0}, [Put("a", b"first")])
    again = await kv.txn({"a": 0}, [Put("a", b"second")])
    assert created.succeeded and not again.succeeded
    assert again.revision >= created.revision
    entry = await kv.get("a")
    assert entry is not None and entry.value == b"first"


async def test_a_key_that_was_deleted_compares_as_absent(kv: KV) -> None:
    revision = await put(kv, "a", b"1")
    await put(kv, "a", None)
    assert not (await kv.txn({"a": revision}, [Put("a", b"2")])).succeeded
    assert (await kv.txn({"a": 0}, [Put("a", b"3")])).succeeded


async def test_a_failed_compare_changes_nothing(kv: KV) -> None:
    revision = await put(kv, "a", b"1")
    result = await kv.txn({"a": revision, "b": 7}, [Put("a", b"2"), Put("c", b"3")])
    assert not result.succeeded
    assert [(entry.key, entry.value) for entry in (await kv.range(""))[0]] == [("a", b"1")]


async def test_all_puts_of_a_transaction_share_its_revision(kv: KV) -> None:
    await put(kv, "gone", b"x")
    result = await kv.txn({"a": 0}, [Put("a", b"1"), Put("b", b"2"), Put("gone", None)])
    assert result.succeeded
    entries, _revision = await kv.range("")
    assert [(entry.key, entry.revision) for entry in entries] == [("a", result.revision), ("b", result.revision)]


async def test_a_transaction_may_compare_a_key_it_does_not_put(kv: KV) -> None:
    guard = await put(kv, "guard", b"x")
    assert (await kv.txn({"guard": guard}, [Put("a", b"1")])).succeeded
    entry = await kv.get("guard")
    assert entry is not None and entry.revision == guard


async def test_a_transaction_without_puts_only_compares(kv: KV) -> None:
    revision = await put(kv, "a", b"1")
    assert (await kv.txn({"a": revision}, [])).succeeded
    assert not (await kv.txn({"a": 0}, [])).succeeded
    assert (await kv.txn({}, [])).succeeded


async def test_deleting_an_absent_key_succeeds(kv: KV) -> None:
    assert (await kv.txn({}, [Put("nothing", None)])).succeeded


async def increment(kv: KV, key: str) -> int:
    """Add one by compare-and-swap; return the attempts it took."""
    for attempt in range(1, 1000):
        entry = await kv.get(key)
        value = str(int(entry.value if entry else b"0") + 1).encode()
        if (await kv.txn({key: entry.revision if entry else 0}, [Put(key, value)])).succeeded:
            return attempt
    raise AssertionError("never won")


async def test_concurrent_increments_lose_none(kv: KV) -> None:
    async def work() -> None:
        for _ in range(10):
            await increment(kv, "n")

    await asyncio.gather(*(work() for _ in range(8)))
    entry = await kv.get("n")
    assert entry is not None and entry.value == b"80"


async def test_concurrent_increments_through_two_handles_lose_none(two: tuple[KV, KV]) -> None:
    async def work(kv: KV) -> None:
        for _ in range(10):
            await increment(kv, "n")

    await asyncio.gather(*(work(kv) for kv in two for _ in range(3)))
    entry = await two[0].get("n")
    assert entry is not None and entry.value == b"60"


async def test_one_of_many_creators_wins(kv: KV) -> None:
    results = await asyncio.gather(*(kv.txn({"a": 0}, [Put("a", b"%d" % n)]) for n in range(16)))
    assert sum(result.succeeded for result in results) == 1
    entry = await kv.get("a")
    assert entry is not None
    assert entry.value == b"%d" % next(n for n, result in enumerate(results) if result.succeeded)


async def test_a_write_through_one_handle_is_read_through_the_other_at_once(two: tuple[KV, KV]) -> None:
    first, second = two
    for number in range(20):
        await put(first, "a", b"%d" % number)
        entry = await second.get("a")
        assert entry is not None and entry.value == b"%d" % number


# --- limits


async def test_a_value_at_the_limit_is_kept(kv: KV) -> None:
    value = b"\x01\xff" * (VALUE_BYTES_MAX // 2)
    await put(kv, "a", value)
    entry = await kv.get("a")
    assert entry is not None and entry.value == value


async def test_a_value_past_the_limit_is_refused_with_its_key_and_size(kv: KV) -> None:
    with pytest.raises(InvalidError, match=r"the value is too large.*key=big.*bytes=1048577"):
        await kv.txn({}, [Put("big", b"x" * (VALUE_BYTES_MAX + 1))])
    assert await kv.get("big") is None


async def test_a_transaction_at_the_limits_is_kept(kv: KV) -> None:
    puts = [Put(f"k{number}", b"x" * 12_000) for number in range(TXN_KEYS_MAX)]
    assert (await kv.txn({item.key: 0 for item in puts}, puts)).succeeded
    assert len((await kv.range("k"))[0]) == TXN_KEYS_MAX


@pytest.mark.parametrize(
    ("puts", "message"),
    [
        ([Put(f"k{number}", b"") for number in range(TXN_KEYS_MAX + 1)], "too many keys.*puts=101"),
        ([Put(f"k{number}", b"x" * 700_000) for number in range(2)], "transaction is too large"),
        ([Put("a", b"1"), Put("a", b"2")], "puts one key twice key=a"),
        ([Put("", b"1")], "key is empty"),
        ([Put("k" * (KEY_BYTES_MAX + 1), b"1")], "key is too long"),
        ([Put("\ud800", b"1")], "not valid unicode"),
    ],
)
async def test_a_transaction_past_a_limit_is_refused(kv: KV, puts: list[Put], message: str) -> None:
    with pytest.raises(InvalidError, match=message):
        await kv.txn({}, puts)
    assert (await kv.range(""))[0] == []


async def test_a_key_at_the_limit_is_kept(kv: KV) -> None:
    await put(kv, "é" * (KEY_BYTES_MAX // 2), b"1")
    assert await kv.get("é" * (KEY_BYTES_MAX // 2)) is not None


# --- watch


async def test_a_watch_yields_earlier_and_later_changes_in_order(kv: KV) -> None:
    first = await put(kv, "a", b"1")
    second = await put(kv, "a", b"2")
    taking = asyncio.create_task(take(kv, "", first, 4))
    await asyncio.sleep(0.1)
    third = await put(kv, "a", None)
    fourth = await put(kv, "a", b"4")
    assert await taking == [
        Event("a", b"1", first),
        Event("a", b"2", second),
        Event("a", None, third),
        Event("a", b"4", fourth),
    ]


async def test_a_watch_starts_at_its_revision(kv: KV) -> None:
    await put(kv, "a", b"1")
    second = await put(kv, "a", b"2")
    assert await take(kv, "a", second, 1) == [Event("a", b"2", second)]


async def test_a_watch_of_a_later_revision_waits_for_it(kv: KV) -> None:
    first = await put(kv, "a", b"1")
    taking = asyncio.create_task(take(kv, "", first + 2, 1))
    await asyncio.sleep(0.1)
    await put(kv, "a", b"2")
    third = await put(kv, "a", b"3")
    assert await taking == [Event("a", b"3", third)]


async def test_a_watch_sees_only_its_prefix(kv: KV) -> None:
    first = await put(kv, "s/a", b"1")
    await put(kv, "t", b"2")
    await put(kv, "t0", b"3")
    inside = await put(kv, "t/x", b"4")
    assert await take(kv, "t/", first, 1) == [Event("t/x", b"4", inside)]


async def test_a_watch_yields_every_put_of_a_transaction(kv: KV) -> None:
    result = await kv.txn({}, [Put("a", b"1"), Put("b", b"2"), Put("c", b"3")])
    events = await take(kv, "", result.revision, 3)
    assert sorted(events, key=lambda event: event.key) == [
        Event("a", b"1", result.revision),
        Event("b", b"2", result.revision),
        Event("c", b"3", result.revision),
    ]


async def test_a_watch_is_silent_about_the_deletion_of_an_absent_key(kv: KV) -> None:
    first = await put(kv, "a", b"1")
    await kv.txn({}, [Put("b", None)])
    last = await put(kv, "c", b"3")
    assert [event.key for event in await take(kv, "", first, 2)] == ["a", "c"]
    assert last > first


async def test_a_watch_resumes_behind_the_last_revision_seen(kv: KV) -> None:
    start = await put(kv, "n", b"0")
    seen = await take(kv, "n", start, 1)
    for number in range(1, 6):
        await put(kv, "n", b"%d" % number)
        seen += await take(kv, "n", seen[-1].revision + 1, 1)
    assert [event.value for event in seen] == [b"%d" % number for number in range(6)]


async def test_a_watch_under_load_yields_each_change_once_and_in_order(kv: KV) -> None:
    start = await put(kv, "n", b"0")
    taking = asyncio.create_task(take(kv, "n", start, 31))
    for number in range(1, 31):
        await put(kv, "n", b"%d" % number)
        await asyncio.sleep(0.02 if number % 5 == 0 else 0)
    assert [event.value for event in await taking] == [b"%d" % number for number in range(31)]


async def test_a_range_and_a_watch_from_the_next_revision_miss_nothing(kv: KV) -> None:
    await put(kv, "a", b"1")
    _entries, revision = await kv.range("")
    taking = asyncio.create_task(take(kv, "", revision + 1, 1))
    after = await put(kv, "b", b"2")
    assert await taking == [Event("b", b"2", after)]


async def test_two_watches_see_the_same_changes(two: tuple[KV, KV]) -> None:
    start = await put(two[0], "a", b"1")
    takings = [asyncio.create_task(take(kv, "", start, 3)) for kv in two for _ in range(2)]
    await put(two[0], "b", b"2")
    await put(two[1], "c", b"3")
    seen = await asyncio.gather(*takings)
    assert all(events == seen[0] for events in seen)
    assert [event.key for event in seen[0]] == ["a", "b", "c"]


async def test_a_watch_from_a_revision_no_longer_held_is_not_found(
    kv: KV, backend: Backend, request: pytest.FixtureRequest
) -> None:
    start = await put(kv, "a", b"1")
    await put(kv, "a", b"2")
    await backend.forgets(kv, request)
    with pytest.raises(NotFoundError, match="read the range again"):
        await take(kv, "", start, 1)
    _entries, revision = await kv.range("")
    taking = asyncio.create_task(take(kv, "", revision + 1, 1))
    last = await put(kv, "a", b"3")
    assert await taking == [Event("a", b"3", last)]


async def test_a_watch_from_revision_zero_is_refused(kv: KV) -> None:
    with pytest.raises(InvalidError, match="revision 1 or later"):
        await take(kv, "", 0, 1)


# --- leases


async def test_a_key_goes_when_its_lease_is_revoked(kv: KV) -> None:
    lease = await kv.lease_grant(60)
    start = await put(kv, "a", b"1", lease)
    await put(kv, "b", b"2")
    await kv.lease_revoke(lease)
    assert [entry.key for entry in (await kv.range(""))[0]] == ["b"]
    events = await take(kv, "", start, 3)
    assert [(event.key, event.value) for event in events] == [("a", b"1"), ("b", b"2"), ("a", None)]
    assert events[2].revision > events[1].revision


async def test_a_key_goes_when_its_lease_runs_out_and_the_watch_says_so(kv: KV, backend: Backend) -> None:
    lease = await kv.lease_grant(backend.lease_ttl_s)
    start = await put(kv, "a", b"1", lease)
    events = await take(kv, "a", start, 2, timeout_s=backend.lease_ttl_s + 5)
    assert [event.value for event in events] == [b"1", None]
    assert await kv.get("a") is None
    with pytest.raises(NotFoundError):
        await kv.lease_keepalive(lease)


async def test_a_read_after_expiry_finds_nothing(kv: KV, backend: Backend) -> None:
    lease = await kv.lease_grant(backend.lease_ttl_s)
    await put(kv, "a", b"1", lease)
    assert await gone(kv, "a", backend.lease_ttl_s + 5)
    assert (await kv.txn({"a": 0}, [Put("a", b"2")])).succeeded


async def test_a_lease_that_is_kept_alive_holds_its_keys(kv: KV, backend: Backend) -> None:
    lease = await kv.lease_grant(backend.lease_ttl_s)
    await put(kv, "a", b"1", lease)
    for _ in range(6):
        await asyncio.sleep(backend.lease_ttl_s / 3)
        await kv.lease_keepalive(lease)
    assert await kv.get("a") is not None
    assert await gone(kv, "a", backend.lease_ttl_s + 5)


async def test_a_put_without_the_lease_frees_the_key_from_it(kv: KV) -> None:
    lease = await kv.lease_grant(60)
    await put(kv, "a", b"1", lease)
    await put(kv, "a", b"2")
    await kv.lease_revoke(lease)
    entry = await kv.get("a")
    assert entry is not None and entry.value == b"2"


async def test_a_lease_that_is_no_more_takes_no_keys(kv: KV) -> None:
    lease = await kv.lease_grant(60)
    await kv.lease_revoke(lease)
    with pytest.raises(NotFoundError, match="lease"):
        await kv.txn({}, [Put("a", b"1", lease)])
    with pytest.raises(NotFoundError):
        await kv.lease_keepalive(lease)
    assert await kv.get("a") is None


async def test_revoking_twice_is_no_error(kv: KV) -> None:
    lease = await kv.lease_grant(60)
    await kv.lease_revoke(lease)
    await kv.lease_revoke(lease)


async def test_leases_are_distinct(kv: KV) -> None:
    first, second = await kv.lease_grant(60), await kv.lease_grant(60)
    await put(kv, "a", b"1", first)
    await put(kv, "b", b"2", second)
    await kv.lease_revoke(first)
    assert [entry.key for entry in (await kv.range(""))[0]] == ["b"]


@pytest.mark.parametrize("ttl_s", [0, -1, 1e9])
async def test_a_lease_of_no_or_endless_time_is_refused(kv: KV, ttl_s: float) -> None:
    with pytest.raises(InvalidError, match="ttl_s"):
        await kv.lease_grant(ttl_s)


async def test_a_lease_ends_for_every_handle(two: tuple[KV, KV], backend: Backend) -> None:
    first, second = two
    lease = await first.lease_grant(backend.lease_ttl_s)
    await put(first, "leader", b"me", lease)
    start = (await second.range(""))[1]
    events = await take(second, "leader", start, 2, timeout_s=backend.lease_ttl_s + 5)
    assert [event.value for event in events] == [b"me", None]
