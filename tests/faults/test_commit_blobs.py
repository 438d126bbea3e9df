"""A commit by compare-and-swap under lost replies and crashes: with a read-back each entry is in the head once."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Literal

import pytest

from storage.blobs import Blobs
from storage.blobs.memory import MemoryBlobs
from storage.clock import SystemClock
from storage.errors import ConflictError, IndeterminateError, UnavailableError
from tests.support.faults import CrashBlobs, FlakyBlobs, SimulatedCrash, TwoCoinBlobs

pytestmark = pytest.mark.anyio

SEEDS = 200
HEAD = "head"


async def entries_of(blobs: Blobs) -> list[str]:
    entries: list[str] = json.loads((await blobs.get(HEAD))[0])
    return entries


async def commit(blobs: Blobs, entry: str, *, reads_back: bool) -> None:
    """Append ``entry`` to the head; without ``reads_back`` a lost reply is taken for a failure."""
    uncertain = False
    while True:
        data, meta = await blobs.get(HEAD)
        entries = json.loads(data)
        if uncertain and reads_back and entry in entries:
            return
        try:
            await blobs.put(HEAD, json.dumps([*entries, entry]).encode(), if_match=meta.etag)
        except (ConflictError, UnavailableError):
            continue
        except IndeterminateError:
            uncertain = True
            continue
        return


async def run_writers(seed: int, *, reads_back: bool) -> Counter[str]:
    """Let three writers commit two entries each, and count the entries in the head."""
    store = MemoryBlobs(SystemClock())
    await store.put(HEAD, b"[]")
    blobs = TwoCoinBlobs(store, seed)

    async def write(writer: int) -> None:
        for n in range(2):
            await commit(blobs, f"{writer}.{n}", reads_back=reads_back)

    await asyncio.gather(*map(write, range(3)))
    return Counter(await entries_of(store))


async def test_with_a_read_back_no_seed_commits_twice() -> None:
    for seed in range(SEEDS):
        counts = await run_writers(seed, reads_back=True)
        assert sorted(counts) == sorted(f"{writer}.{n}" for writer in range(3) for n in range(2)), seed
        assert set(counts.values()) == {1}, seed


async def test_without_a_read_back_most_seeds_commit_twice() -> None:
    doubled = 0
    for seed in range(SEEDS):
        counts = await run_writers(seed, reads_back=False)
        doubled += max(counts.values()) > 1
    assert doubled > SEEDS // 2


async def test_equal_seeds_fail_equally() -> None:
    assert await run_writers(7, reads_back=False) == await run_writers(7, reads_back=False)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_crash_at_any_call_leaves_a_commit_that_can_be_run_again(when: Literal["before", "after"]) -> None:
    async def run(blobs: Blobs) -> None:
        """Write a body under its own name, then commit it; safe to run again."""
        try:
            await blobs.put("bodies/1", b"body", if_absent=True)
        except ConflictError:
            assert (await blobs.get("bodies/1"))[0] == b"body"
        if "bodies/1" not in await entries_of(blobs):
            await commit(blobs, "bodies/1", reads_back=True)

    crashes = 0
    for crash_at in range(1, 10):
        store = MemoryBlobs(SystemClock())
        await store.put(HEAD, b"[]")
        blobs = CrashBlobs(store, crash_at, when)
        try:
            await run(blobs)
        except SimulatedCrash:
            crashes += 1
            with pytest.raises(SimulatedCrash):
                await blobs.head(HEAD)
        await run(store)
        assert await entries_of(store) == ["bodies/1"]
    assert crashes == 4


async def test_a_flaky_store_fails_as_often_as_asked_and_does_nothing_then() -> None:
    store = MemoryBlobs(SystemClock())
    blobs = FlakyBlobs(store, 1, p_fail=0.5)
    failed = 0
    for n in range(100):
        try:
            await blobs.put(f"{n}", b"")
        except UnavailableError:
            failed += 1
    assert 30 < failed < 70
    assert len([_ async for _ in store.list()]) == 100 - failed
