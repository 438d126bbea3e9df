"""BlobKV when puts get lost or go unanswered, and what its head looks like."""

import asyncio
import json

import pytest

from catalog.kv import Event, Put
from catalog.kv.blob import BlobKV
from catalog.kv.blob_head import REQUESTS_KEPT
from storage.blobs import BlobMeta
from storage.blobs.memory import MemoryBlobs
from storage.clock import SystemClock
from storage.errors import (
    ConflictError,
    CorruptError,
    IndeterminateError,
    InvalidError,
    NotFoundError,
    UnavailableError,
    UnsupportedError,
)
from tests.support.clock import ManualClock
from tests.support.faults import CrashBlobs, SimulatedCrash, TwoCoinBlobs, WrappedBlobs

pytestmark = pytest.mark.anyio

KEY = "_catalog/head.json"

GOLDEN = (
    '{"format":"firnline-kv","version":1,"sequence":3,"requests":["r1","r2","r3"],"revision":2,"floor":1,'
    '"next_lease":2,"leases":{"1":[10000,1700000010000]},'
    '"entries":{"ns/é":[1,null,"text"],"table/a":[2,1,{"base64":"/wA="}]},'
    '"history":[[1,"ns/é","text"],[2,"table/a",{"base64":"/wA="}],[2,"gone",null]]}'
)


async def increment(kv: BlobKV, key: str) -> str:
    """Try once to add one; return ``done``, ``lost`` or ``unknown``."""
    entry = await kv.get(key)
    value = b"%d" % (int(entry.value if entry else b"0") + 1)
    try:
        result = await kv.txn({key: entry.revision if entry else 0}, [Put(key, value)])
    except UnavailableError:
        return "lost"
    except IndeterminateError:
        return "unknown"
    return "done" if result.succeeded else "lost"


@pytest.mark.parametrize("seed", range(60))
async def test_increments_over_a_store_that_loses_puts_and_answers_are_exact(seed: int) -> None:
    blobs = MemoryBlobs(SystemClock())
    kvs = [BlobKV(TwoCoinBlobs(blobs, seed * 10 + n), KEY, ManualClock(seed=seed * 10 + n)) for n in range(3)]
    n_done = 0

    async def work(kv: BlobKV) -> None:
        nonlocal n_done
        for _ in range(8):
            outcome = await increment(kv, "n")
            assert outcome != "unknown", "the head says whether the put is in it"
            n_done += outcome == "done"

    await asyncio.gather(*(work(kv) for kv in kvs))
    entry = await BlobKV(blobs, KEY, ManualClock()).get("n")
    assert int(entry.value if entry else b"0") == n_done


@pytest.mark.parametrize("seed", range(20))
async def test_puts_without_a_compare_happen_once(seed: int) -> None:
    blobs = MemoryBlobs(SystemClock())
    kv = BlobKV(TwoCoinBlobs(blobs, seed, p_lost=0.2, p_silent=0.6), KEY, ManualClock(seed=seed))
    done = []
    for number in range(10):
        try:
            result = await kv.txn({}, [Put("n", b"%d" % number)])
        except UnavailableError:
            continue
        done.append(Event("n", b"%d" % number, result.revision))
    watch = BlobKV(blobs, KEY, ManualClock()).watch("n", 1)
    assert [await anext(watch) for _ in done] == done
    assert (await BlobKV(blobs, KEY, ManualClock()).range(""))[1] == len(done)
    await watch.aclose()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("crash_at", range(1, 7))
async def test_a_crash_at_any_call_leaves_a_whole_head(crash_at: int, when: str) -> None:
    blobs = MemoryBlobs(SystemClock())
    dying = BlobKV(CrashBlobs(blobs, crash_at, when), KEY, ManualClock())  # type: ignore[arg-type]
    acknowledged = 0
    with pytest.raises(SimulatedCrash):
        for _ in range(6):
            result = await dying.txn({}, [Put("a", b"x"), Put("b", b"x")])
            acknowledged = result.revision
            await dying.get("a")
    entries, revision = await BlobKV(blobs, KEY, ManualClock()).range("")
    assert revision in (acknowledged, acknowledged + 1)
    assert {entry.key for entry in entries} in ({"a", "b"}, set())
    assert len({entry.revision for entry in entries}) <= 1


class UnansweredPut(WrappedBlobs):
    """The put numbered ``at`` goes unanswered; ``meanwhile`` runs before its writer can read back."""

    def __init__(self, inner: MemoryBlobs, at: int, *, happens: bool, unreadable: bool = False) -> None:
        super().__init__(inner)
        self.at, self.happens, self.unreadable = at, happens, unreadable
        self.n_puts = 0
        self.meanwhile: BlobKV | None = None
        self.n_meanwhile = 0

    async def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> BlobMeta:
        self.n_puts += 1
        if self.n_puts != self.at:
            return await self.inner.put(key, data, if_absent=if_absent, if_match=if_match)
        if self.happens:
            await self.inner.put(key, data, if_absent=if_absent, if_match=if_match)
        for number in range(self.n_meanwhile):
            assert self.meanwhile is not None
            await self.meanwhile.txn({}, [Put("other", b"%d" % number)])
        raise IndeterminateError("simulated: no answer", key=key)

    async def head(self, key: str) -> BlobMeta:
        if self.unreadable and self.n_puts >= self.at:
            raise UnavailableError("simulated: not to be read", key=key)
        return await self.inner.head(key)


async def test_a_done_put_is_recognised_behind_other_writes() -> None:
    blobs = MemoryBlobs(SystemClock())
    faulty = UnansweredPut(blobs, 2, happens=True)
    faulty.meanwhile, faulty.n_meanwhile = BlobKV(blobs, KEY, ManualClock(seed=1)), REQUESTS_KEPT - 1
    kv = BlobKV(faulty, KEY, ManualClock())
    await kv.txn({}, [Put("first", b"")])
    assert await kv.txn({"a": 0}, [Put("a", b"1")]) is not None
    entry = await kv.get("a")
    assert entry is not None and entry.revision == 2
    assert faulty.n_puts == 2


async def test_a_put_that_the_head_no_longer_names_is_indeterminate() -> None:
    blobs = MemoryBlobs(SystemClock())
    faulty = UnansweredPut(blobs, 2, happens=True)
    faulty.meanwhile, faulty.n_meanwhile = BlobKV(blobs, KEY, ManualClock(seed=1)), REQUESTS_KEPT + 1
    kv = BlobKV(faulty, KEY, ManualClock())
    await kv.txn({}, [Put("first", b"")])
    with pytest.raises(IndeterminateError):
        await kv.txn({}, [Put("a", b"1")])


async def test_an_unanswered_put_that_cannot_be_read_back_is_indeterminate() -> None:
    faulty = UnansweredPut(MemoryBlobs(SystemClock()), 2, happens=True, unreadable=True)
    kv = BlobKV(faulty, KEY, ManualClock())
    await kv.txn({}, [Put("first", b"")])
    with pytest.raises(IndeterminateError, match="cannot be read back"):
        await kv.txn({}, [Put("a", b"1")])


async def test_an_unanswered_put_that_did_not_happen_is_sent_again() -> None:
    faulty = UnansweredPut(MemoryBlobs(SystemClock()), 2, happens=False)
    kv = BlobKV(faulty, KEY, ManualClock())
    await kv.txn({}, [Put("first", b"")])
    assert (await kv.txn({"a": 0}, [Put("a", b"1")])).revision == 2
    assert faulty.n_puts == 3


class AlwaysConflicts(WrappedBlobs):
    async def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> BlobMeta:
        raise ConflictError("simulated: lost the race", key=key)


async def test_races_lost_past_the_deadline_are_unavailable() -> None:
    kv = BlobKV(AlwaysConflicts(MemoryBlobs(SystemClock())), KEY, SystemClock(), deadline_s=0.1)
    with pytest.raises(UnavailableError, match="too many writers"):
        await kv.txn({}, [Put("a", b"1")])


async def test_an_unchanged_head_is_read_once() -> None:
    blobs = WrappedBlobs(MemoryBlobs(SystemClock()))
    writer, reader = BlobKV(blobs, KEY, ManualClock()), BlobKV(blobs, KEY, ManualClock())
    await writer.txn({}, [Put("a", b"1")])
    await reader.get("a")
    blobs.n_calls = 0
    for _ in range(5):
        await reader.range("")
    assert blobs.n_calls == 5, "one head request a read"
    await writer.txn({}, [Put("a", b"2")])
    assert blobs.n_calls == 6, "one put a transaction"


async def test_the_head_of_version_1_is_written_as_it_is_read() -> None:
    blobs, clock = MemoryBlobs(SystemClock()), ManualClock()
    await blobs.put(KEY, GOLDEN.encode())
    kv = BlobKV(blobs, KEY, clock)
    entries, revision = await kv.range("")
    assert [(entry.key, entry.value, entry.revision) for entry in entries] == [
        ("ns/é", b"text", 1),
        ("table/a", b"\xff\x00", 2),
    ]
    assert revision == 2
    await kv.txn({}, [Put("b", b"3")])
    document = json.loads((await blobs.get(KEY))[0])
    golden = json.loads(GOLDEN)
    assert document["sequence"] == 4 and document["requests"][:3] == golden["requests"]
    assert document["entries"] == {**golden["entries"], "b": [3, None, "3"]}
    assert document["history"] == [*golden["history"], [3, "b", "3"]]
    assert {key: document[key] for key in ("format", "version", "floor", "next_lease", "leases")} == {
        key: golden[key] for key in ("format", "version", "floor", "next_lease", "leases")
    }
    clock.advance(10_000)
    assert await kv.get("table/a") is None


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[]", b"nonsense", GOLDEN[:-1].encode(), GOLDEN.replace("/wA=", "?").encode(), b'{"format":"x"}'],
)
async def test_a_damaged_head_is_corrupt(data: bytes) -> None:
    blobs = MemoryBlobs(SystemClock())
    await blobs.put(KEY, data)
    with pytest.raises(CorruptError, match=KEY):
        await BlobKV(blobs, KEY, ManualClock()).get("a")
    with pytest.raises(CorruptError):
        await BlobKV(blobs, KEY, ManualClock()).txn({}, [Put("a", b"1")])


async def test_a_head_of_a_later_version_is_refused_by_name() -> None:
    blobs = MemoryBlobs(SystemClock())
    await blobs.put(KEY, GOLDEN.replace('"version":1', '"version":2').encode())
    with pytest.raises(UnsupportedError, match="version=2 known=1"):
        await BlobKV(blobs, KEY, ManualClock()).get("a")


async def test_a_head_that_was_deleted_under_its_reader_is_corrupt() -> None:
    blobs = MemoryBlobs(SystemClock())
    kv = BlobKV(blobs, KEY, ManualClock())
    await kv.txn({}, [Put("a", b"1")])
    await blobs.delete(KEY)
    with pytest.raises(CorruptError, match="deleted"):
        await kv.get("a")


async def test_a_map_past_the_size_of_a_head_is_refused_and_keeps_working() -> None:
    kv = BlobKV(MemoryBlobs(SystemClock()), KEY, ManualClock())
    with pytest.raises(InvalidError, match="keep it in etcd"):
        for number in range(20):
            await kv.txn({}, [Put(f"k{number}", b"x" * (1 << 20))])
    assert (await kv.txn({}, [Put("k0", None)])).succeeded
    assert (await kv.txn({}, [Put("k1", b"small")])).succeeded


async def test_a_lease_that_ran_out_is_ended_for_every_reader_in_one_revision() -> None:
    blobs, clock = MemoryBlobs(SystemClock()), ManualClock()
    first, second = BlobKV(blobs, KEY, clock), BlobKV(blobs, KEY, clock)
    lease = await first.lease_grant(5)
    await first.txn({}, [Put("a", b"1", lease), Put("b", b"1", lease)])
    clock.advance(5_000)
    assert await asyncio.gather(first.get("a"), second.get("b")) == [None, None]
    assert (await first.range(""))[1] == 2
    with pytest.raises(NotFoundError):
        await second.lease_keepalive(lease)
