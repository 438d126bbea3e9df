"""Look-ups in an object store: how many requests they make, and that what is newer is seen."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from benchmarks.s3_facade import S3Facade, serve
from service.components import open_engine
from service.engine import Engine
from service.settings import EngineSettings
from service.statement import KeyLookup, Receipt, Statement
from storage.blobs.s3_options import S3Options
from storage.clock import SystemClock

pytestmark = pytest.mark.anyio

N = 60_000


@dataclass
class Store:
    """A lake in a store that counts requests."""

    facade: S3Facade
    settings: EngineSettings
    engine: Engine

    @property
    def n_data(self) -> int:
        return self.facade.counts["data"]

    async def run(self, sql: str, engine: Engine | None = None) -> tuple[list[tuple[Any, ...]], Receipt]:
        """Return the rows and the receipt; requests are counted from here."""
        return await self.answer(Statement(sql, "s"), engine)

    async def answer(self, statement: Statement, engine: Engine | None = None) -> tuple[list[tuple[Any, ...]], Receipt]:
        self.facade.counts.clear()
        result = await (engine or self.engine).run(statement)
        rows = pa.Table.from_batches([batch async for batch in result.batches], result.schema)
        return list(zip(*[column.to_pylist() for column in rows.columns], strict=True)), result.receipt


@asynccontextmanager
async def open_store(folder: Path) -> AsyncIterator[Store]:
    (folder / "s3" / "bucket").mkdir(parents=True)
    facade = S3Facade(folder / "s3", SystemClock())
    async with serve(facade) as url:
        s3 = S3Options(endpoint=url, region="us-east-1", access_key_id="x", secret_access_key="x")
        settings = EngineSettings(lake="s3://bucket/lake", catalog=f"sqlite://{folder}/catalog.db", s3=s3)
        async with open_engine(settings) as engine:
            yield Store(facade, settings, engine)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(tmp_path) as opened:
        yield opened


async def make(store: Store, format_: str) -> None:
    await store.run(
        f"CREATE TABLE t (id BIGINT NOT NULL, s TEXT, v DOUBLE, PRIMARY KEY (id)) USING {format_} "
        "WITH (lookup = 'true')"
    )
    await store.run(f"INSERT INTO t SELECT value * 2, 's' || value, value / 4.0 FROM generate_series(0, {N - 1})")
    await store.run("OPTIMIZE t")
    await store.run("SELECT * FROM t WHERE id = 4")


@pytest.mark.parametrize("format_", ["delta", "iceberg"])
async def test_a_hit_is_one_request_of_data_and_a_miss_none(store: Store, format_: str) -> None:
    await make(store, format_)
    for id_ in range(100, 2 * N, 12_000):
        rows, receipt = await store.run(f"SELECT * FROM t WHERE id = {id_}")
        assert rows == [(id_, f"s{id_ // 2}", id_ / 8)]
        assert store.n_data == 1
        assert receipt.requests == store.facade.counts["total"]
        assert receipt.bytes_scanned == store.facade.counts["bytes_out"] or format_ == "delta"
    n_data = 0
    for id_ in range(101, 2 * N, 1_200):
        rows, _receipt = await store.run(f"SELECT * FROM t WHERE id = {id_}")
        assert rows == []
        n_data += store.n_data
    assert n_data <= 3
    rows, _receipt = await store.answer(Statement("", "s", lookup=KeyLookup(("default", "t"), [100, 101])))
    assert rows == [(100, "s50", 12.5)]
    assert store.n_data == 1


async def test_an_iceberg_table_of_the_catalog_takes_no_other_request(store: Store) -> None:
    await make(store, "iceberg")
    await store.run("SELECT * FROM t WHERE id = 100")
    assert store.facade.counts["total"] == 1


async def test_near_keys_share_a_request(store: Store) -> None:
    await make(store, "delta")
    listed = ", ".join(str(id_) for id_ in range(0, 4_000, 40))
    rows, _receipt = await store.run(f"SELECT id FROM t WHERE id IN ({listed})")
    assert len(rows) == 100
    assert store.n_data == 1


@pytest.mark.parametrize("format_", ["delta", "iceberg"])
async def test_what_another_process_wrote_meanwhile_is_seen(store: Store, format_: str) -> None:
    await make(store, format_)
    async with open_engine(store.settings) as other:
        for value in ("one", "two"):
            await store.run(f"UPDATE t SET s = '{value}' WHERE id = 100", other)
            for _ in range(2):
                rows, _receipt = await store.run("SELECT s FROM t WHERE id = 100")
                assert rows == [(value,)]
                await store.run("OPTIMIZE t", other)
        await store.run("DELETE FROM t WHERE id = 100", other)
        assert (await store.run("SELECT s FROM t WHERE id = 100"))[0] == []
        await store.run("ALTER TABLE t ADD COLUMN more INT", other)
        await store.run("INSERT INTO t (id, more) VALUES (100, 7)", other)
        assert (await store.run("SELECT more FROM t WHERE id = 100"))[0] == [(7,)]
        found = await store.answer(Statement("", "s", lookup=KeyLookup(("default", "t"), [100], columns=("more",))))
        assert found[0] == [(7,)]


async def test_a_file_that_was_replaced_is_scanned(store: Store) -> None:
    await make(store, "delta")
    store.facade.fault = lambda request: "412 PreconditionFailed" if "if-match" in request.headers else None
    rows, receipt = await store.run("SELECT * FROM t WHERE id = 100")
    assert rows == [(100, "s50", 12.5)]
    assert (
        receipt.routes["default.t"]
        == "scan: primary: the files are not those that were indexed, by their etags or bytes"
    )
    store.facade.fault = None
    rows, receipt = await store.run("SELECT * FROM t WHERE id = 100")
    assert rows == [(100, "s50", 12.5)]
    assert receipt.routes["default.t"].startswith("scan")
