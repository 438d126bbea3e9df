"""Namespaces and tables over a KV."""

import asyncio
import contextlib
from dataclasses import replace

import pytest

from catalog.kv import Put
from catalog.kv.memory import MemoryKV
from catalog.tables import NAME_LENGTH_MAX, TableEntry, Tables
from storage.clock import SystemClock
from storage.errors import ConflictError, CorruptError, InvalidError, NotFoundError

pytestmark = pytest.mark.anyio

ENTRY = TableEntry("default", "t", "id0", "parquet", "file:///x", 5, {"k": "v"})


@pytest.fixture
def kv() -> MemoryKV:
    return MemoryKV(SystemClock())


@pytest.fixture
def tables(kv: MemoryKV) -> Tables:
    return Tables(kv, SystemClock())


async def test_the_default_namespace_always_exists_and_stays(tables: Tables) -> None:
    assert await tables.namespaces() == ["default"]
    with pytest.raises(ConflictError):
        await tables.create_namespace("default")
    assert not await tables.create_namespace("default", if_not_exists=True)
    with pytest.raises(InvalidError):
        await tables.drop_namespace("default", cascade=True)


async def test_a_table_is_remembered_as_it_was_created(tables: Tables) -> None:
    await tables.create_namespace("a")
    entries = [ENTRY, replace(ENTRY, namespace="a", name="é'\"雪 x", location="s3://b/k'")]
    for entry in reversed(entries):
        assert await tables.create(entry)
    assert await tables.all() == sorted(entries, key=lambda each: each.namespace)


async def test_a_name_is_taken_once(tables: Tables) -> None:
    await tables.create(ENTRY)
    with pytest.raises(ConflictError, match="exists"):
        await tables.create(replace(ENTRY, location="file:///y"))
    assert not await tables.create(replace(ENTRY, location="file:///y"), if_not_exists=True)
    assert await tables.all() == [ENTRY]


async def test_of_concurrent_creates_one_wins(tables: Tables) -> None:
    await tables.create_namespace("a")
    works = [tables.create(replace(ENTRY, namespace="a", id=f"id{n}"), if_not_exists=True) for n in range(8)]
    assert sum(await asyncio.gather(*works)) == 1


async def test_a_table_needs_its_namespace(tables: Tables) -> None:
    with pytest.raises(NotFoundError, match="CREATE SCHEMA"):
        await tables.create(replace(ENTRY, namespace="nope"))


async def test_dropping_a_namespace_never_leaves_a_table_behind(tables: Tables) -> None:
    async def create(number: int) -> None:
        with contextlib.suppress(NotFoundError, ConflictError):
            await tables.create(replace(ENTRY, namespace="a", name=f"t{number}"))

    for _ in range(10):
        await tables.create_namespace("a", if_not_exists=True)
        works = [create(number) for number in range(4)]
        await asyncio.gather(*works[:2], tables.drop_namespace("a", cascade=True), *works[2:], return_exceptions=True)
        if "a" not in await tables.namespaces():
            assert await tables.all() == []


async def test_a_full_namespace_is_dropped_only_with_cascade(tables: Tables) -> None:
    await tables.create_namespace("a")
    await tables.create_namespace("ab")
    await tables.create(replace(ENTRY, namespace="a"))
    await tables.create(replace(ENTRY, namespace="ab"))
    with pytest.raises(ConflictError, match="CASCADE"):
        await tables.drop_namespace("a")
    await tables.drop_namespace("a", cascade=True)
    assert [table.namespace for table in await tables.all()] == ["ab"]
    with pytest.raises(NotFoundError):
        await tables.drop_namespace("a")
    await tables.drop_namespace("a", if_exists=True)


async def test_a_large_namespace_is_dropped_with_cascade(tables: Tables) -> None:
    await tables.create_namespace("a")
    for number in range(250):
        await tables.create(replace(ENTRY, namespace="a", name=f"t{number}"))
    await tables.drop_namespace("a", cascade=True)
    assert await tables.all() == []
    assert await tables.namespaces() == ["default"]


async def test_a_dropped_table_is_forgotten(tables: Tables) -> None:
    await tables.create(ENTRY)
    await tables.drop("default", "t")
    assert await tables.all() == []
    with pytest.raises(NotFoundError, match="no such table"):
        await tables.drop("default", "t")
    await tables.drop("default", "t", if_exists=True)


@pytest.mark.parametrize("name", ["", "a/b", "a\x00b", "x" * (NAME_LENGTH_MAX + 1)])
async def test_a_name_that_cannot_be_a_key_is_refused(tables: Tables, name: str) -> None:
    with pytest.raises(InvalidError):
        await tables.create_namespace(name)
    with pytest.raises(InvalidError):
        await tables.create(replace(ENTRY, name=name))


@pytest.mark.parametrize("name", ["information_schema", "scans", "firnline"])
async def test_reserved_namespaces_are_refused(tables: Tables, name: str) -> None:
    with pytest.raises(InvalidError, match="reserved"):
        await tables.create_namespace(name)


@pytest.mark.parametrize("value", [b"", b"{}", b"[1]", b"\xff", b'{"v": 2}', b'{"v": 1, "id": "x"}'])
async def test_an_entry_that_cannot_be_read_is_named(tables: Tables, kv: MemoryKV, value: bytes) -> None:
    await kv.txn({}, [Put("table/default/bad", value)])
    with pytest.raises(CorruptError, match="table/default/bad"):
        await tables.all()
