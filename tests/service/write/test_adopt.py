"""A crash between a table's own metadata and the catalog's entry: what comes next takes the columns as they are."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from service.parse import parse
from service.statement import Receipt, Statement
from service.write.alter import _changed
from service.write.context import Work
from service.write.parse import parse_write
from service.write.statements import AlterTable
from storage.tables.write import Change
from tests.support.lakes import Lake, open_lake

pytestmark = pytest.mark.anyio


@pytest.fixture
async def lake(tmp_path: Path) -> AsyncIterator[Lake]:
    async with open_lake(tmp_path / "lake") as opened:
        yield opened


async def half_altered(lake: Lake, sql: str) -> None:
    """Do what an ALTER TABLE of a Delta table does up to its crash."""
    write = parse_write(parse(sql))
    assert isinstance(write, AlterTable)
    work = Work(lake.engine, parse(sql), Statement(sql, "s"), Receipt(), lake.engine.stores.scoped())
    entry = await work.managed(write.table)
    spec = _changed(entry, write)
    await work.writer(entry).commit(await work.load(entry), Change("alter", spec=spec))


@pytest.mark.parametrize("key", ["PRIMARY KEY", ""])
@pytest.mark.parametrize(
    ("alter", "columns"),
    [
        ("ADD COLUMN c STRUCT<x: INT>", ["id", "n", "c"]),
        ("RENAME COLUMN n TO m", ["id", "m"]),
        ("DROP COLUMN n", ["id"]),
        ("RENAME COLUMN id TO number", ["number", "n"]),
    ],
)
@pytest.mark.parametrize("then", ["UPDATE", "ALTER"])
async def test_the_next_statement_adopts_the_columns(
    lake: Lake, key: str, alter: str, columns: list[str], then: str
) -> None:
    await lake.rows(f"CREATE TABLE t (id INT {key}, n INT)")
    await lake.rows("INSERT INTO t VALUES (1, 1)")
    await lake.rows("OPTIMIZE t")
    await lake.rows("INSERT INTO t VALUES (2, 2)")
    await half_altered(lake, f"ALTER TABLE t {alter}")
    assert (await lake.table("SELECT * FROM t")).column_names == columns
    first = columns[0]
    if then == "ALTER":
        await lake.rows("ALTER TABLE t ADD COLUMN z INT")
        columns = [*columns, "z"]
    else:
        await lake.rows("OPTIMIZE t")
    await lake.rows(f"UPDATE t SET {first} = {first} + 10")
    await lake.rows(f"INSERT INTO t ({first}) VALUES (3)")
    assert await lake.rows(f"SELECT {first} FROM t ORDER BY 1") == [(3,), (11,), (12,)]
    await lake.rows("OPTIMIZE t")
    assert (await lake.table("SELECT * FROM t")).column_names == columns
    entry = await lake.engine.tables.get("default", "t")
    assert entry.managed is not None
    assert entry.managed.spec.schema.names == columns
