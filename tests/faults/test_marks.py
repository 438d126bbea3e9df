"""A fold that ends at the worst moment: between the two looks that a statement takes at the log and at a table."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest

from catalog.kv import KV
from catalog.tables import TableEntry, Tables
from service.engine import Engine
from service.parse import parse
from service.settings import LogAccess
from service.statement import Receipt, Statement
from service.write.context import Work
from service.write.rewrite import folded
from storage.clock import Clock
from storage.log.access import Log, Logs
from storage.log.settings import LogSettings
from storage.stores import Stores
from tests.support.lakes import Lake, open_lake
from tests.support.managed import append, fold, make_table

pytestmark = pytest.mark.anyio

SCHEMA = pa.schema([pa.field("id", pa.int64(), nullable=False), ("v", pa.string())])


@pytest.fixture(params=["delta", "iceberg"])
async def table(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[tuple[Lake, TableEntry]]:
    async with open_lake(tmp_path / "lake") as lake:
        entry = await make_table(lake, "t", SCHEMA, request.param)
        await append(lake, entry, {"id": [1], "v": ["a"]})
        await fold(lake)
        yield lake, await lake.engine.tables.get("default", "t")


async def test_rows_that_are_folded_after_the_catalog_was_listed_are_read(table: tuple[Lake, TableEntry]) -> None:
    lake, entry = table
    await append(lake, entry, {"id": [2], "v": ["b"]})
    loading = lake.engine._loading(lake.engine.stores, Receipt())
    await loading.names()
    await fold(lake)
    loaded = await loading.load(loading.entries[("default", "t")])
    assert loaded.tail is not None
    n_rows = int(loaded.snapshot.files.n_rows.sum())
    assert n_rows + loaded.tail.n_rows == 2


@dataclass
class _Between:
    """Logs; something happens before the marks are told."""

    inner: Logs
    happens: Callable[[], Awaitable[None]]

    async def log(self, shard: int) -> Log:
        return await self.inner.log(shard)

    async def stored(self, shard: int) -> Log:
        return await self.inner.stored(shard)

    async def folded(self) -> dict[int, int]:
        await self.happens()
        return await self.inner.folded()

    async def set_folded(self, shard: int, sequence: int) -> None:
        await self.inner.set_folded(shard, sequence)

    async def close(self) -> None:
        await self.inner.close()


class _Context:
    """What a write needs of an engine."""

    def __init__(self, engine: Engine, logs: Logs) -> None:
        self.tables: Tables = engine.tables
        self.kv: KV = engine.kv
        self.clock: Clock = engine.clock
        self.stores: Stores = engine.stores
        self.lake = engine.lake
        self.query = engine.query
        self.logs = logs


async def test_a_rewrite_begins_with_all_rows_though_another_folds_them(table: tuple[Lake, TableEntry]) -> None:
    lake, entry = table
    await append(lake, entry, {"id": [2], "v": ["b"]})
    logs = _Between(lake.engine.logs, lambda: fold(lake))
    work = Work(_Context(lake.engine, logs), parse("SELECT 1"), Statement("", "s"), Receipt(), lake.engine.stores)
    base = await folded(work, entry)
    assert int(base.snapshot.files.n_rows.sum()) == 2


async def test_a_long_log_whose_end_is_in_another_owners_journal_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Most of it in parts from the object store, which no epoch tells, and the rest from a journal of one.
    monkeypatch.setattr("functions.tail.READ_BYTES", 2000)
    never = LogAccess(writer=LogSettings(flush_interval_ms=60_000))
    async with open_lake(tmp_path / "lake", log=never) as owner, open_lake(tmp_path / "lake") as reader:
        entry = await make_table(owner, "t", SCHEMA)
        for number in range(12):
            await append(owner, entry, {"id": [number], "v": ["x" * 400]})
            if number < 10:
                await (await owner.engine.logs.log(0)).flush()
        assert await reader.value("SELECT count(*) FROM t") == 12
        await append(owner, entry, {"id": [12], "v": ["x"]})
        assert await reader.value("SELECT count(*) FROM t") == 13
