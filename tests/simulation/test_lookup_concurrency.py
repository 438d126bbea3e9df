"""Look-ups while rows are written, folded, compacted and indexed: each sees every row acknowledged before it."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from service.compaction import Compaction, compact_lake, indexing_of
from service.engine import Engine
from service.statement import KeyLookup, Route, Statement
from storage.log.settings import LogSettings
from tests.support.lakes import open_lake

pytestmark = pytest.mark.anyio

N_KEYS = 40
ROUNDS = 12


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Writing:
    """``acked`` is the value of each key that was acknowledged last; values only grow."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.acked = dict.fromkeys(range(N_KEYS), 0)
        self.sent = 0
        self.count = itertools.count()
        self.done = False

    async def answer(self, sql: str, lookup: KeyLookup | None = None, route: Route = "auto") -> pa.Table:
        statement = Statement(sql, f"c{next(self.count)}", lookup=lookup, route=route)
        result = await self.engine.run(statement)
        return pa.Table.from_batches([batch async for batch in result.batches], result.schema)

    async def put(self, first: int, step: int, value: int) -> None:
        self.sent = max(self.sent, value)
        rows = ", ".join(f"({key}, {value})" for key in range(first, N_KEYS, step))
        await self.answer(f"INSERT INTO t VALUES {rows} ON CONFLICT DO UPDATE SET v = excluded.v")
        self.acked.update((key, value) for key in range(first, N_KEYS, step))

    async def write(self) -> None:
        for value in range(1, ROUNDS + 1):
            await self.put(value % 3, 3, value)
            await asyncio.sleep(0.02)
        self.done = True

    async def compact(self) -> None:
        engine = self.engine
        indexing = indexing_of(engine.stores, engine.kv, engine.clock, engine.lake)
        parts = Compaction(
            engine.stores, engine.logs, engine.tables, engine.clock, engine.lake, LogSettings(), indexing
        )
        while not self.done:
            report = await compact_lake(parts)
            assert not report.errors, report.errors
            await asyncio.sleep(0.03)

    async def look(self, route: Route) -> int:
        n_looks = 0
        while not self.done:
            before = dict(self.acked)
            keys = [N_KEYS + 5, *range(0, N_KEYS, 7)]
            table = await self.answer("", KeyLookup(("default", "t"), keys), route)
            found: dict[Any, Any] = dict(zip(*(column.to_pylist() for column in table.columns), strict=True))
            assert list(found) == keys[1:]
            assert all(before[key] <= found[key] <= self.sent for key in found), (before, found)
            one = await self.answer("SELECT v FROM t WHERE id = 7")
            assert one.num_rows == 1
            assert one.column("v")[0].as_py() >= found[7]
            n_looks += 1
            await asyncio.sleep(0)
        return n_looks


@pytest.mark.parametrize("form", ["delta", "iceberg"])
async def test_look_ups_see_what_was_acknowledged_whatever_runs_beside_them(tmp_path: Path, form: str) -> None:
    async with open_lake(tmp_path / "lake") as lake:
        writing = Writing(lake.engine)
        await writing.answer(f"CREATE TABLE t (id BIGINT, v BIGINT, PRIMARY KEY (id)) USING {form}")
        await writing.put(0, 1, 0)
        await writing.answer("OPTIMIZE t")
        async with asyncio.timeout(100):
            *_, by_index, by_any = await asyncio.gather(
                writing.write(), writing.compact(), writing.look("auto"), writing.look("scan")
            )
        assert by_index > 0
        assert by_any > 0
