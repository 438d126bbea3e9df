"""Indexes in the catalog, over every kind of map."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from catalog.indexes import IndexColumn, IndexEntry, Indexes, SegmentRef
from catalog.kv import KV, Put
from catalog.kv.memory import MemoryKV
from catalog.kv.sqlite import SqliteKV
from storage.clock import SystemClock
from storage.errors import ConflictError, CorruptError, InvalidError, NotFoundError
from tests.support.clock import ManualClock
from tests.support.etcd import EtcdServer, etcd_server_or_skip

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def etcd_server() -> Iterator[EtcdServer]:
    with etcd_server_or_skip() as server:
        yield server


@pytest.fixture(params=["memory", "sqlite", pytest.param("etcd", marks=pytest.mark.e2e)])
async def kv(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[KV]:
    opened: KV
    if request.param == "memory":
        opened = MemoryKV(SystemClock())
    elif request.param == "sqlite":
        opened = SqliteKV(tmp_path / "catalog.sqlite", SystemClock())
    else:
        opened = request.getfixturevalue("etcd_server").kv(namespace=tmp_path.name)
    yield opened
    await opened.close()


def segment(number: int, *, inline: bool = True) -> SegmentRef:
    return SegmentRef(f"s{number}", 2, 100 + number, 40, "c" * 64, inline, 32)


def index(name: str = "by_id", table_id: str = "t1") -> IndexEntry:
    columns = (IndexColumn("id", "int64", 1), IndexColumn("at", "timestamp[us, tz=UTC]"))
    return IndexEntry(table_id, name, "learned", columns, 5, options={"epsilon": "16"})


def with_segments(*numbers: int) -> IndexEntry:
    return replace(index(), segments=tuple(map(segment, numbers)))


async def test_an_index_comes_back_as_it_was_stored(kv: KV) -> None:
    indexes = Indexes(kv, ManualClock())
    assert await indexes.create(index())
    assert await indexes.create(index("a"))
    assert await indexes.create(index("x", "t2"))
    found = await indexes.of("t1")
    assert [each.name for each in found] == ["a", "by_id"]
    assert replace(found[1], revision=0) == index()
    assert found[1].revision > 0
    assert {table_id: [each.name for each in entries] for table_id, entries in (await indexes.all()).items()} == {
        "t1": ["a", "by_id"],
        "t2": ["x"],
    }


async def test_a_name_is_taken_once(kv: KV) -> None:
    indexes = Indexes(kv, ManualClock())
    await indexes.create(index())
    with pytest.raises(ConflictError, match="exists already"):
        await indexes.create(index())
    assert not await indexes.create(index(), if_not_exists=True)
    with pytest.raises(InvalidError, match="no slash"):
        await indexes.create(index("a/b"))


async def test_a_small_segment_comes_and_goes_with_the_index_that_names_it(kv: KV) -> None:
    indexes = Indexes(kv, ManualClock())
    await indexes.create(index())
    changed = await indexes.change(
        "t1", "by_id", lambda old: replace(old, segments=(segment(1), segment(2))), inline={"s1": b"1", "s2": b"2"}
    )
    assert (await indexes.of("t1"))[0] == changed
    assert await indexes.inline("t1", ["s1", "s2", "s3"]) == {"s1": b"1", "s2": b"2"}
    await indexes.change(
        "t1", "by_id", lambda old: replace(old, segments=(segment(3),)), inline={"s3": b"3"}, skips=b"skipped"
    )
    assert await indexes.inline("t1", ["s1", "s2", "s3"]) == {"s3": b"3"}
    assert await indexes.inline("t1", ["s1"]) == {}
    assert await indexes.skips("t1", "by_id") == b"skipped"
    dropped = await indexes.drop("t1")
    assert [each.name for each in dropped] == ["by_id"]
    entries, _revision = await kv.range("")
    assert [entry.key for entry in entries] == []


async def test_changes_at_once_are_all_made(kv: KV) -> None:
    indexes = Indexes(kv, SystemClock())
    await indexes.create(index())

    def add(number: int) -> asyncio.Task[IndexEntry]:
        def alter(old: IndexEntry) -> IndexEntry:
            return replace(old, segments=(*old.segments, segment(number)))

        return asyncio.create_task(indexes.change("t1", "by_id", alter, inline={f"s{number}": b"x"}))

    await asyncio.gather(*map(add, range(8)))
    (found,) = await indexes.of("t1")
    assert {each.id for each in found.segments} == {f"s{number}" for number in range(8)}


async def test_an_index_that_is_no_more_is_not_changed(kv: KV) -> None:
    indexes = Indexes(kv, ManualClock())
    with pytest.raises(NotFoundError, match="no such index"):
        await indexes.change("t1", "by_id", lambda old: old)
    assert await indexes.drop("t1", "by_id") == ()


async def test_an_entry_that_cannot_be_read_is_left_out_and_can_be_dropped(kv: KV) -> None:
    indexes = Indexes(kv, ManualClock())
    await indexes.create(index())
    await kv.txn({}, [Put("index/t1/newer", b'{"v": 99}'), Put("index/t1/odd", b"\xff")])
    assert [each.name for each in await indexes.of("t1")] == ["by_id"]
    assert [each.name for each in (await indexes.all())["t1"]] == ["by_id"]
    assert sorted(error.facts["key"] for error in await indexes.damaged()) == ["index/t1/newer", "index/t1/odd"]
    with pytest.raises(CorruptError, match="newer Firnline"):
        await indexes.change("t1", "newer", lambda old: old)
    assert len(await indexes.drop("t1", "newer")) == 1
    assert len(await indexes.drop("t1")) == 2
    assert await indexes.damaged() == []
