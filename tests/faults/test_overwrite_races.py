"""INSERT OVERWRITE, TRUNCATE and RESTORE beside folds and statements that began before them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from functions.append import append_rows
from functions.fold import FoldSettings, ManagedTable, _fold_once, load_managed
from service.engine import Engine
from service.parse import parse
from service.statement import Receipt, Statement
from service.write.context import Outcome, Work
from service.write.dispatch import dispatch
from service.write.parse import parse_write
from storage.errors import ConflictError
from storage.log import AckMode, Record, RecordKind
from storage.log import Receipt as LogReceipt
from storage.log.access import Log, LogRange, Logs, Touched
from storage.tables.write import Watermark
from tests.support.lakes import Lake, open_lake
from tests.support.managed import append, fold

pytestmark = pytest.mark.anyio

Happens = Callable[[], Awaitable[object]]


@pytest.fixture(params=["delta", "iceberg"])
async def lake(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Lake]:
    async with open_lake(tmp_path / "lake") as opened:
        await opened.rows(f"CREATE TABLE k (id INT PRIMARY KEY, n INT) USING {request.param}")
        await opened.rows("INSERT INTO k VALUES (1, 0)")
        await fold(opened)
        yield opened


class _Flushing:
    """A log; something happens once, right after its first flush."""

    def __init__(self, inner: Log, happens: list[Happens]) -> None:
        self._inner, self._happens = inner, happens

    async def append(
        self, records: Sequence[Record], *, ack: AckMode | None = None, touched: Touched | None = None
    ) -> LogReceipt:
        return await self._inner.append(records, ack=ack, touched=touched)

    async def find(self, table_id: str, idempotency_key: str) -> LogReceipt | None:
        return await self._inner.find(table_id, idempotency_key)

    async def read(self, start: int, *, bytes_max: int = 0) -> LogRange:
        return await self._inner.read(start, bytes_max=bytes_max)

    async def flush(self) -> int:
        limit = await self._inner.flush()
        while self._happens:
            await self._happens.pop()()
        return limit


class _Logs:
    def __init__(self, inner: Logs, happens: Happens) -> None:
        self._inner, self._happens = inner, [happens]

    async def log(self, shard: int) -> Log:
        return _Flushing(await self._inner.log(shard), self._happens)

    async def stored(self, shard: int) -> Log:
        return await self._inner.stored(shard)

    async def folded(self) -> dict[int, int]:
        return await self._inner.folded()

    async def set_folded(self, shard: int, sequence: int) -> None:
        await self._inner.set_folded(shard, sequence)

    async def close(self) -> None:
        await self._inner.close()


class _Context:
    def __init__(self, engine: Engine, logs: Logs) -> None:
        self.tables, self.kv, self.clock, self.stores = engine.tables, engine.kv, engine.clock, engine.stores
        self.lake, self.query, self.logs = engine.lake, engine.query, logs


async def _run(lake: Lake, sql: str, after_flush: Happens) -> Outcome:
    parsed = parse(sql)
    logs = _Logs(lake.engine.logs, after_flush)
    work = Work(_Context(lake.engine, logs), parsed, Statement(sql, "s"), Receipt(), lake.engine.stores)
    return await dispatch(work, parse_write(parsed))


@pytest.mark.parametrize("sql", ["INSERT OVERWRITE k VALUES (2, 7)", "RESTORE TABLE k TO VERSION {version}"])
async def test_a_fold_that_began_before_rows_were_replaced_does_not_double_a_key(lake: Lake, sql: str) -> None:
    engine = lake.engine
    if "{version}" in sql:
        await lake.rows("INSERT INTO k VALUES (2, 7)")
        await fold(lake)
        await lake.value("SELECT count(*) FROM k")
        sql = sql.format(version=lake.receipt.snapshots["default.k"])
        await lake.rows("DELETE FROM k WHERE id = 2")
        await fold(lake)
    entry = await engine.tables.get("default", "k")
    begun: list[ManagedTable] = []

    async def upsert_and_begin_a_fold() -> None:
        await append(lake, entry, {"id": [2], "n": [8]})
        await (await engine.logs.log(0)).flush()
        begun.append(await load_managed(engine.stores, engine.tables, engine.clock, entry))

    await _run(lake, sql, upsert_and_begin_a_fold)
    table = begun[0]
    found = await (await engine.logs.stored(0)).read(table.watermark)
    mark = Watermark("0", table.watermark, found.limit)
    records = [each for each in found.records if each.record.table_id == entry.id]
    with contextlib.suppress(ConflictError):
        await _fold_once(engine.stores, engine.clock, table, records, mark, FoldSettings(), None)
    await fold(lake)
    assert await lake.value("SELECT count(*) FROM k WHERE id = 2") == 1


async def test_rows_that_are_folded_while_a_table_is_replaced_by_its_own_rows_stay(lake: Lake) -> None:
    entry = await lake.engine.tables.get("default", "k")

    async def upsert_and_fold() -> None:
        await append(lake, entry, {"id": [2], "n": [8]})
        await fold(lake)

    await _run(lake, "INSERT OVERWRITE k SELECT id, n + 1 FROM k", upsert_and_fold)
    assert (2,) in [row[:1] for row in await lake.rows("SELECT id, n FROM k")]


async def test_rows_of_a_table_without_a_key_stay_too(lake: Lake) -> None:
    engine = lake.engine
    format_ = (await engine.tables.get("default", "k")).format
    await lake.rows(f"CREATE TABLE u (id INT, n INT) USING {format_}")
    await lake.rows("INSERT INTO u VALUES (1, 0)")
    entry = await engine.tables.get("default", "u")

    async def append_and_fold() -> None:
        await append(lake, entry, {"id": [2], "n": [8]})
        await fold(lake)

    await _run(lake, "INSERT OVERWRITE u SELECT id, n + 1 FROM u", append_and_fold)
    assert sorted(row[0] for row in await lake.rows("SELECT id, n FROM u")) == [1, 2]


@pytest.mark.parametrize("sql", ["TRUNCATE TABLE k", "INSERT OVERWRITE k VALUES (5, 5)"])
async def test_an_update_that_read_rows_which_are_gone_since_does_not_bring_them_back(lake: Lake, sql: str) -> None:
    engine = lake.engine
    begun = await engine.query("SELECT id, n FROM k", None, Statement("", "s"), Receipt())
    read = [batch async for batch in begun.batches]
    await lake.rows(sql)
    entry = await engine.tables.get("default", "k")
    with pytest.raises(ConflictError):
        await append_rows(
            await engine.logs.log(0), entry, pa.Table.from_batches(read), kind=RecordKind.UPSERT,
            since=begun.since[("default", "k")],
        )  # fmt: skip
    assert (1, 0) not in await lake.rows("SELECT id, n FROM k")
