"""Whatever fails within a commit to an Iceberg table, its change is in the table once or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import pyarrow as pa
import pytest

from catalog.kv import Entry, Put, TxnResult
from storage.errors import ConflictError, IndeterminateError, UnavailableError
from storage.tables.write import Change, Watermark
from tests.support.faults import CrashBlobs, SimulatedCrash, TwoCoinBlobs
from tests.support.iceberg_write import IcebergTable, open_table
from tests.support.kv_faults import CrashKV, TwoCoinKV, WrappedKV

pytestmark = pytest.mark.anyio

SCHEMA = pa.schema([pa.field("id", pa.int64(), False)])
CALLS_MAX = 40


async def fold(table: IcebergTable, mark: int) -> None:
    """Fold as a compactor does: from the table's watermark, rewriting what is there."""
    snapshot = await table.snapshot()
    found = table.writer.watermark(snapshot, "0")
    if found >= mark:
        return
    rows = [{"id": number} for number in range(mark)]
    file = await table.file(rows)
    change = Change("fold", (file,), tuple(snapshot.files.paths), watermark=Watermark("0", found, mark))
    await table.writer.commit(snapshot, change)


async def check(table: IcebergTable, *expected: int) -> int:
    """The table is whole: its rows are those of its watermark."""
    table.known = None
    mark = table.writer.watermark(await table.snapshot(), "0")
    assert mark in expected
    assert sorted(row["id"] for row in await table.rows()) == list(range(mark))
    return mark


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("part", ["blobs", "kv"])
async def test_a_crash_at_any_call_leaves_the_old_table_or_the_new_one(
    part: str, when: Literal["before", "after"]
) -> None:
    seen = set()
    for crash_at in range(1, CALLS_MAX):
        table = await open_table(SCHEMA)
        await fold(table, 3)
        crashing = (
            table.seen_through(blobs=CrashBlobs(table.blobs, crash_at, when))
            if part == "blobs"
            else table.seen_through(kv=CrashKV(table.kv, crash_at, when))
        )
        try:
            await fold(crashing, 5)
        except SimulatedCrash:
            seen.add(await check(table, 3, 5))
            await fold(table, 5)
            await check(table, 5)
        else:
            break
    else:
        pytest.fail("the commit never came to its end")
    assert crash_at > 2
    assert 3 in seen


async def test_a_crash_while_a_table_is_made_leaves_no_table_or_a_whole_one() -> None:
    from catalog.tables import Tables
    from catalog.writers import create_table
    from storage.errors import NotFoundError
    from tests.support.iceberg_write import make_entry

    for crash_at in range(1, CALLS_MAX):
        table = await open_table(SCHEMA)
        entry = make_entry(SCHEMA, table.clock, name="made")
        kv = CrashKV(table.kv, crash_at, "after")
        try:
            await create_table(entry, table.stores, Tables(kv, table.clock), table.clock)
        except SimulatedCrash:
            try:
                table.entry = await table.tables.get("default", "made")
            except NotFoundError:
                continue
        else:
            assert crash_at > 1
            break
        table.known = None
        assert await table.rows() == []


@pytest.mark.parametrize("seed", range(25))
async def test_lost_replies_commit_each_change_once(seed: int) -> None:
    table = await open_table(SCHEMA)
    faulty = table.seen_through(TwoCoinBlobs(table.blobs, seed, p_lost=0.1, p_silent=0.1), TwoCoinKV(table.kv, seed))
    appended, unknown = [], []
    for number in range(12):
        file = await table.file([{"id": number}])
        faulty.entry = table.entry
        base = await table.snapshot()
        try:
            await faulty.writer.commit(base, Change("insert", (file,)))
        except UnavailableError:
            continue
        except IndeterminateError:
            unknown.append(number)
        else:
            appended.append(number)
    found = sorted(row["id"] for row in await table.rows())
    assert len(found) == len(set(found)), "nothing is doubled"
    assert set(appended) <= set(found) <= {*appended, *unknown}
    assert appended


@pytest.mark.parametrize("seed", range(8))
async def test_two_folds_at_once_with_lost_replies_fold_once(seed: int) -> None:
    import asyncio

    table = await open_table(SCHEMA)

    async def run(view: IcebergTable) -> None:
        for mark in range(1, 8):
            for _ in range(30):
                try:
                    await fold(view, mark)
                    break
                except (ConflictError, UnavailableError, IndeterminateError):
                    view.known = None

    views = [table.seen_through(kv=TwoCoinKV(table.kv, seed * 10 + n, p_lost=0.1, p_silent=0.2)) for n in range(2)]
    await asyncio.gather(*(run(view) for view in views))
    await check(table, 7)


class LostKV(WrappedKV):
    """A catalog that makes one transaction, does not say so, and is away from then on."""

    is_away = False

    async def get(self, key: str) -> Entry | None:
        if self.is_away:
            raise UnavailableError("simulated: the catalog is away")
        return await super().get(key)

    async def txn(self, compares: Mapping[str, int], puts: Sequence[Put]) -> TxnResult:
        await super().txn(compares, puts)
        self.is_away = True
        raise IndeterminateError("simulated: the transaction ran, and there was no answer")


async def test_a_commit_that_may_have_happened_is_not_said_to_have_failed() -> None:
    # Whoever hears "it did not happen" does it again, and an UPDATE would be made twice.
    table = await open_table(SCHEMA)
    await fold(table, 3)
    with pytest.raises(IndeterminateError):
        await fold(table.seen_through(kv=LostKV(table.kv)), 5)
    await check(table, 5)
