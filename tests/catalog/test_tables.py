"""Namespaces and tables over a KV."""

import asyncio
import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from catalog.kv import Put
from catalog.kv.memory import MemoryKV
from catalog.tables import NAME_LENGTH_MAX, TableEntry, Tables
from storage.clock import SystemClock
from storage.errors import ConflictError, CorruptError, InvalidError, NotFoundError, UnsupportedError

pytestmark = pytest.mark.anyio

GOLDEN = Path(__file__).parents[1] / "golden" / "catalog"
KEY = "table/default/t"
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


# Entries of other releases


def golden(name: str) -> Any:
    return json.loads((GOLDEN / f"{name}.json").read_text())


async def stored(kv: MemoryKV, key: str = KEY) -> Any:
    found = await kv.get(key)
    assert found is not None
    return json.loads(found.value)


@pytest.mark.parametrize("name", ["table-v1", "table-v2", "table-v2-grown"])
async def test_an_entry_keeps_all_that_is_in_it_when_it_is_changed(tables: Tables, kv: MemoryKV, name: str) -> None:
    """As releases wrote it, and as one may that knows more fields."""
    await kv.txn({}, [Put(KEY, json.dumps(golden(name)).encode())])
    entry = await tables.get("default", "t")
    assert (entry.id, entry.created_ms) == ("t-1", 1_700_000_000_000)
    await tables.change("default", "t", "t-1", lambda each: replace(each, created_ms=5))
    assert await stored(kv) == golden(name) | {"created_ms": 5}
    await tables.rename(("default", "t"), ("default", "u"))
    assert await stored(kv, "table/default/u") == golden(name) | {"created_ms": 5}


async def test_a_managed_entry_is_read_as_it_was_written(tables: Tables, kv: MemoryKV) -> None:
    await kv.txn({}, [Put(KEY, json.dumps(golden("table-v2")).encode())])
    entry = await tables.get("default", "t")
    assert entry.managed is not None
    spec = entry.managed.spec
    assert entry.source == "s3://bucket/lake/t/metadata/00001.metadata.json"
    assert (spec.schema.names, spec.primary_key, spec.schema_id) == (["k", "day", "n"], ("k",), 1)
    assert [each.name for each in spec.partition_by] == ["day"]
    assert entry.managed.schemas.keys() == {0, 1}


async def test_an_entry_of_a_newer_form_is_refused_alone(tables: Tables, kv: MemoryKV) -> None:
    await tables.create(replace(ENTRY, name="other"))
    await kv.txn({}, [Put(KEY, json.dumps(golden("table-v9")).encode()), Put("table/default/bad", b"no JSON")])
    listed = await tables.listed()
    assert [each.name for each in listed.entries] == ["other"]
    assert [(each.name, each.id, type(each.error)) for each in listed.refused] == [
        ("bad", None, CorruptError),
        ("t", "t-1", UnsupportedError),
    ]
    with pytest.raises(UnsupportedError, match=r"a newer Firnline wrote this catalog entry; upgrade table=default\.t"):
        await tables.get("default", "t")
    with pytest.raises(UnsupportedError, match="upgrade"):
        await tables.change("default", "t", "t-1", lambda each: each)
    with pytest.raises(CorruptError):
        await tables.all()
    assert (await tables.get("default", "other")).id == "id0"
    assert await stored(kv) == golden("table-v9")


async def test_a_table_that_cannot_be_read_is_not_taken_for_dropped(tables: Tables, kv: MemoryKV) -> None:
    await kv.txn({}, [Put(KEY, json.dumps(golden("table-v9")).encode())])
    listed = await tables.listed()
    known = listed.refused_as("t-1")
    assert known is not None
    assert known.name == "t"
    assert listed.refused_as("t-2") is None
    await kv.txn({}, [Put("table/default/bad", b"no JSON")])
    unknown = (await tables.listed()).refused_as("t-2")
    assert unknown is not None
    assert unknown.name == "bad"
