"""A Delta table whose columns the catalog does not know: an ALTER was killed half way, or another writer made them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import deltalake
import pyarrow as pa
import pytest

from catalog.writers import writer_of
from service.parse import parse
from service.write.alter import _changed
from service.write.parse import parse_write
from service.write.statements import AlterTable
from storage.tables.delta import load
from storage.tables.snapshot import At
from storage.tables.write import Change
from tests.support.lakes import Lake, open_lake
from tests.support.managed import fold

pytestmark = pytest.mark.anyio


@pytest.fixture
async def lake(tmp_path: Path) -> AsyncIterator[Lake]:
    async with open_lake(tmp_path / "lake") as opened:
        await opened.rows("CREATE TABLE k (id INT PRIMARY KEY, n INT, p INT) USING delta ORDER BY (p)")
        await opened.rows("INSERT INTO k VALUES (1, 0, 1), (2, 0, 1)")
        await fold(opened)
        await opened.rows("INSERT INTO k VALUES (3, 1, 1)")
        await opened.rows("UPDATE k SET n = 5 WHERE id = 1")
        yield opened


async def _alter_killed(lake: Lake, sql: str) -> None:
    """Commit the change to the table, and do not tell the catalog."""
    engine = lake.engine
    statement = parse_write(parse(sql))
    assert isinstance(statement, AlterTable)
    entry = await engine.tables.get("default", "k")
    spec = _changed(entry, statement)
    assert spec is not None
    snapshot = await load(engine.stores, entry.location, At(), None)
    await writer_of(entry, engine.stores, engine.tables, engine.clock).commit(snapshot, Change("alter", spec=spec))


@pytest.mark.parametrize(
    ("sql", "rest"),
    [
        ("ALTER TABLE k RENAME COLUMN id TO key", ()),
        ("ALTER TABLE k RENAME COLUMN n TO m", ()),
        ("ALTER TABLE k ADD COLUMN z INT", (None,)),
    ],
)
@pytest.mark.parametrize("is_folded", [True, False])
async def test_rows_are_folded_read_and_written(lake: Lake, sql: str, rest: tuple[None, ...], is_folded: bool) -> None:
    await _alter_killed(lake, sql)
    assert await lake.rows("SELECT * FROM k ORDER BY 1") == [(1, 5, 1, *rest), (2, 0, 1, *rest), (3, 1, 1, *rest)]
    if is_folded:
        await fold(lake)
        assert await lake.engine.logs.folded() == {0: 3}
    await lake.rows("INSERT INTO k VALUES (4, 4, 4" + ", NULL)" * len(rest) + ")" * (1 - len(rest)))
    await lake.rows("UPDATE k SET p = 7 WHERE p = 1")
    await fold(lake)
    wanted = [(1, 5, 7, *rest), (2, 0, 7, *rest), (3, 1, 7, *rest), (4, 4, 4, *rest)]
    assert await lake.rows("SELECT * FROM k ORDER BY 1") == wanted


async def test_a_column_that_another_writer_added_keeps_its_values_when_rows_are_updated(lake: Lake) -> None:
    await fold(lake)
    entry = await lake.engine.tables.get("default", "k")
    rows = pa.table(
        {"id": pa.array([9], pa.int32()), "n": pa.array([9], pa.int32()), "p": pa.array([9], pa.int32()), "z": ["kept"]}
    )
    deltalake.write_deltalake(entry.location.removeprefix("file://"), rows, mode="append", schema_mode="merge")
    await lake.rows("UPDATE k SET n = n + 1 WHERE id = 9")
    assert await lake.rows("SELECT n, z FROM k WHERE id = 9") == [(10, "kept")]
    await lake.rows("INSERT INTO k (id, n, p) VALUES (9, 0, 0) ON CONFLICT (id) DO UPDATE SET n = 11")
    assert await lake.rows("SELECT n, z FROM k WHERE id = 9") == [(11, "kept")]


async def test_a_merge_keeps_the_values_of_a_column_that_another_writer_added(lake: Lake) -> None:
    await fold(lake)
    entry = await lake.engine.tables.get("default", "k")
    rows = pa.table(
        {"id": pa.array([9], pa.int32()), "n": pa.array([9], pa.int32()), "p": pa.array([9], pa.int32()), "z": ["kept"]}
    )
    deltalake.write_deltalake(entry.location.removeprefix("file://"), rows, mode="append", schema_mode="merge")
    await lake.rows("MERGE INTO k USING (SELECT 9 AS id) AS s ON k.id = s.id WHEN MATCHED THEN UPDATE SET n = 12")
    assert await lake.rows("SELECT n, z FROM k WHERE id = 9") == [(12, "kept")]
