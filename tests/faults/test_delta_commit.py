"""Commits to Delta tables under races, crashes and lost replies: each change is in the table once or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import deltalake
import pyarrow as pa
import pytest

from storage.blobs import Blobs
from storage.blobs.memory import MemoryBlobs
from storage.clock import SystemClock
from storage.errors import ConflictError, IndeterminateError, UnavailableError
from storage.stores import Stores
from storage.tables.delta import load
from storage.tables.delta.commit import DeltaWriter
from storage.tables.snapshot import At, Snapshot
from storage.tables.write import Change, Watermark
from tests.support.clock import ManualClock
from tests.support.delta_read import load_folder, local_stores, read_rows
from tests.support.delta_write import data_file, make_spec
from tests.support.faults import CrashBlobs, SimulatedCrash, TwoCoinBlobs

pytestmark = pytest.mark.anyio

TABLE = "s3://lake/t"
SCHEMA = pa.schema([("id", pa.int64())])


def rows(*numbers: int) -> pa.Table:
    return pa.table({"id": numbers}, SCHEMA)


def stores_on(blobs: Blobs) -> Stores:
    return Stores(lambda _root: blobs)


async def snapshot_of(blobs: Blobs) -> Snapshot:
    return await load(stores_on(blobs), TABLE, At(), None)


async def ids_in(blobs: Blobs) -> Counter[int]:
    stores = stores_on(blobs)
    return Counter((await read_rows(stores, await load(stores, TABLE, At(), None))).column("id").to_pylist())


async def new_table(blobs: Blobs, **properties: str) -> None:
    await DeltaWriter(stores_on(blobs), TABLE, SystemClock()).create(make_spec(SCHEMA, properties=properties))


async def fold(reliable: Blobs, blobs: Blobs, number: int, seed: int = 0) -> None:
    """Fold the record of this sequence as a compactor does: from a fresh snapshot, unless the table has it."""
    stores = stores_on(blobs)
    writer = DeltaWriter(stores, TABLE, ManualClock(seed=seed))
    base = await load(stores, TABLE, At(), None)
    held = writer.watermark(base, "0")
    if held > number:
        return
    file = await data_file(stores_on(reliable), TABLE, f"{number}-{seed}.parquet", rows(number))
    await writer.commit(base, Change("fold", (file,), watermark=Watermark("0", held, number + 1)))


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_crash_at_any_call_leaves_the_change_whole_or_out(when: Literal["before", "after"]) -> None:
    crashes, crash_at = 0, 0
    while crashes == crash_at:
        crash_at += 1
        store = MemoryBlobs(SystemClock())
        await new_table(store, **{"delta.checkpointInterval": "2"})
        await fold(store, store, 0)
        blobs = CrashBlobs(store, crash_at, when)
        try:
            await fold(store, blobs, 1, seed=1)
        except SimulatedCrash:
            crashes += 1
        found = await ids_in(store)
        assert found in (Counter([0]), Counter([0, 1]))
        await fold(store, store, 1, seed=2)
        await fold(store, store, 2, seed=2)
        assert await ids_in(store) == Counter([0, 1, 2]), crash_at
    assert crashes >= 8  # list and read, put, and the checkpoint's own calls


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_crash_while_a_table_is_made_leaves_it_whole_or_out(when: Literal["before", "after"]) -> None:
    for crash_at in range(1, 4):
        store = MemoryBlobs(SystemClock())
        with contextlib.suppress(SimulatedCrash):
            await new_table(CrashBlobs(store, crash_at, when))
        with contextlib.suppress(ConflictError):
            await new_table(store)
        assert await ids_in(store) == Counter()


async def test_under_two_coins_every_change_of_every_writer_is_in_the_table_once() -> None:
    lost_replies = 0
    for seed in range(50):
        store = MemoryBlobs(SystemClock())
        await new_table(store)
        blobs = TwoCoinBlobs(store, seed)

        async def write(writer: int, seed: int = seed, store: Blobs = store, blobs: Blobs = blobs) -> None:
            nonlocal lost_replies
            clock = ManualClock(seed=seed * 10 + writer)
            for n in range(2):
                number = writer * 10 + n
                file = await data_file(stores_on(store), TABLE, f"{number}.parquet", rows(number))
                while True:
                    base = await snapshot_of(store)
                    if file.location in set(base.files.paths):
                        break
                    try:
                        await DeltaWriter(stores_on(blobs), TABLE, clock).commit(base, Change("insert", (file,)))
                        break
                    except UnavailableError:
                        assert file.location not in set((await snapshot_of(store)).files.paths)
                    except IndeterminateError:
                        lost_replies += 1

        await asyncio.gather(*map(write, range(3)))
        assert await ids_in(store) == Counter(w * 10 + n for w in range(3) for n in range(2)), seed
    assert lost_replies < 30  # nearly all are read back within the commit


async def test_under_two_coins_two_compactors_fold_each_record_once() -> None:
    for seed in range(40):
        store = MemoryBlobs(SystemClock())
        await new_table(store)
        blobs = TwoCoinBlobs(store, seed)

        async def compact(worker: int, seed: int = seed, store: Blobs = store, blobs: Blobs = blobs) -> None:
            for number in range(4):
                for attempt in range(50):
                    try:
                        await fold(store, blobs, number, seed=seed * 1000 + attempt * 10 + worker)
                        break
                    except (ConflictError, UnavailableError, IndeterminateError):
                        continue

        await asyncio.gather(compact(1), compact(2))
        assert await ids_in(store) == Counter(range(4)), seed


async def test_a_delayed_put_that_lands_after_another_writers_commit_is_lost_for_good() -> None:
    class LatePut(TwoCoinBlobs):
        """The first put of a commit gets no answer, and happens once another writer has had its turn."""

        late: bytes | None = None

        async def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None):  # type: ignore[no-untyped-def]
            if self.late is None and key.endswith(f"{1:020}.json"):
                self.late = data
                await fold(self.inner, self.inner, 7, seed=7)
                with contextlib.suppress(ConflictError):
                    await self.inner.put(key, data, if_absent=True)
                raise IndeterminateError("simulated: no answer", key=key)
            return await self.inner.put(key, data, if_absent=if_absent, if_match=if_match)

    store = MemoryBlobs(SystemClock())
    await new_table(store)
    blobs = LatePut(store, 1)
    file = await data_file(stores_on(store), TABLE, "a.parquet", rows(1))
    writer = DeltaWriter(stores_on(blobs), TABLE, ManualClock())
    done = await writer.commit(await snapshot_of(store), Change("insert", (file,)))
    assert (done.version, done.attempts) == (2, 2)
    assert await ids_in(store) == Counter([1, 7])


def test_eight_writers_and_deltalake_lose_nothing(tmp_path: Path) -> None:
    """Each in a thread with an event loop and stores of its own, as processes have them."""
    n_writers, n_each = 8, 5
    stores = local_stores()
    asyncio.run(DeltaWriter(stores, f"file://{tmp_path}", SystemClock()).create(make_spec(SCHEMA)))

    def ours(writer: int) -> int:
        return asyncio.run(_write_all(tmp_path, [writer * 100 + n for n in range(n_each)]))

    def theirs() -> None:
        for n in range(n_each):
            deltalake.write_deltalake(str(tmp_path), rows(9000 + n), mode="append")

    with ThreadPoolExecutor(n_writers + 1) as pool:
        other = pool.submit(theirs)
        attempts = list(pool.map(ours, range(n_writers)))
        other.result()
    expected = Counter([w * 100 + n for w in range(n_writers) for n in range(n_each)] + [9000 + n for n in range(5)])
    snapshot = asyncio.run(load_folder(tmp_path))
    assert Counter(asyncio.run(read_rows(stores, snapshot)).column("id").to_pylist()) == expected
    table = deltalake.DeltaTable(str(tmp_path))
    assert Counter(pa.table(table.to_pyarrow_table()).column("id").to_pylist()) == expected
    assert table.version() == n_writers * n_each + 5
    assert sum(attempts) > n_writers * n_each  # there were races
    commits = sorted((tmp_path / "_delta_log").glob("0*.json"))
    assert all(json.loads(path.read_text().splitlines()[-1]) for path in commits)


async def _write_all(folder: Path, numbers: list[int]) -> int:
    stores, attempts = local_stores(), 0
    writer, snapshot = DeltaWriter(stores, f"file://{folder}", SystemClock()), await load_folder(folder)
    for number in numbers:
        file = await data_file(stores, f"file://{folder}", f"{number}.parquet", rows(number))
        attempts += (await writer.commit(snapshot, Change("insert", (file,)))).attempts
    return attempts
