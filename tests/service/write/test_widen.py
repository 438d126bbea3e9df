"""Columns of Delta tables that have files become wider: every file is written anew, with the schema, in one commit."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pytest

import service.write.alter
from functions.widen import rewrite_wider
from storage.tables.write import Change
from tests.support.lakes import Lake, open_lake

pytestmark = pytest.mark.anyio


@pytest.fixture
async def lake(tmp_path: Path) -> AsyncIterator[Lake]:
    async with open_lake(tmp_path / "lake") as opened:
        yield opened


def table_at(tmp_path: Path) -> deltalake.DeltaTable:
    return deltalake.DeltaTable(str(next((tmp_path / "lake/tables/default").glob("t-*"))))


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*.parquet")}


@pytest.mark.parametrize("key", [" PRIMARY KEY", ""])
@pytest.mark.parametrize("partition", ["", "PARTITIONED BY (p)"])
async def test_every_column_is_widened_over_log_and_files(lake: Lake, tmp_path: Path, key: str, partition: str) -> None:
    await lake.rows(
        f"CREATE TABLE t (id INT{key}, p TINYINT, n SMALLINT, f REAL, d DECIMAL(4, 2), s STRUCT<x: INT>) {partition}"
    )
    await lake.rows("INSERT INTO t VALUES (1, 1, 1, 1.5, 1.25, struct(1)), (2, NULL, NULL, NULL, NULL, NULL)")
    await lake.rows("OPTIMIZE t")
    await lake.rows("INSERT INTO t VALUES (3, 3, 3, 3.5, 3.25, struct(3))")
    wider = {"id": "BIGINT", "p": "INT", "n": "BIGINT", "f": "DOUBLE", "d": "DECIMAL(12, 2)"}
    for name, kind in wider.items():
        await lake.rows(f"ALTER TABLE t ALTER COLUMN {name} TYPE {kind}")
    await lake.rows("INSERT INTO t VALUES (5000000000, 70000, 5000000000, 1e100, 1234567890.12, NULL)")
    if key:
        await lake.rows("UPDATE t SET n = 10000000000 WHERE id = 1")
    expected = [
        (1, 1, 10**10 if key else 1, 1.5, Decimal("1.25"), {"x": 1}),
        (2, None, None, None, None, None),
        (3, 3, 3, 3.5, Decimal("3.25"), {"x": 3}),
        (5000000000, 70000, 5000000000, 1e100, Decimal("1234567890.12"), None),
    ]
    assert await lake.rows("SELECT * FROM t ORDER BY id") == expected
    assert await lake.rows("SELECT n FROM t WHERE n = 3") == [(3,)]
    await lake.rows("OPTIMIZE t")
    assert await lake.rows("SELECT * FROM t ORDER BY id") == expected
    read = table_at(tmp_path).to_pyarrow_table().sort_by("id")
    assert [tuple(row.values()) for row in read.to_pylist()] == expected
    assert read.schema.types[:5] == [pa.int64(), pa.int32(), pa.int64(), pa.float64(), pa.decimal128(12, 2)]


async def test_rows_deleted_in_a_mapped_table_stay_so_and_old_versions_keep_their_type(
    lake: Lake, tmp_path: Path
) -> None:
    await lake.rows("CREATE TABLE t (id INT, n INT)")
    await lake.rows("INSERT INTO t VALUES (1, 1), (2, 2)")
    await lake.rows("OPTIMIZE t")
    await lake.rows("ALTER TABLE t RENAME COLUMN n TO m")
    await lake.rows("DELETE FROM t WHERE id = 1")
    version = (await lake.rows("SHOW HISTORY t"))[0][0]
    await lake.rows("ALTER TABLE t ALTER COLUMN m TYPE BIGINT")
    await lake.rows("INSERT INTO t VALUES (3, 5000000000)")
    assert await lake.rows("SELECT * FROM t ORDER BY id") == [(2, 2), (3, 5000000000)]
    assert await lake.rows(f"SELECT m, arrow_typeof(m) FROM t FOR VERSION AS OF {version}") == [(2, "Int32")]


@pytest.mark.parametrize("meanwhile", ["append to none", "append", "delete"])
async def test_what_another_writer_does_meanwhile_is_widened_too(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    await lake.rows("CREATE TABLE t (id INT, n INT)")
    expected: list[Mapping[str, int]] = [{"id": 1, "n": 1}, {"id": 2, "n": 2}, {"id": 3, "n": 3}]
    if meanwhile == "append to none":
        expected = expected[2:]
    else:
        await lake.rows("INSERT INTO t VALUES (1, 1), (2, 2)")
        await lake.rows("OPTIMIZE t")
    expected = expected[1:2] if meanwhile == "delete" else expected
    changes: list[Change] = []

    def other() -> None:
        if meanwhile == "delete":
            table_at(tmp_path).delete("id = 1")
        else:
            more = pa.table({"id": pa.array([3], pa.int32()), "n": pa.array([3], pa.int32())})
            deltalake.write_deltalake(table_at(tmp_path), more, mode="append")

    async def overtaken(*args: Any) -> Change:
        changes.append(await rewrite_wider(*args))
        if len(changes) == 1:
            await asyncio.to_thread(other)
        return changes[-1]

    monkeypatch.setattr(service.write.alter, "rewrite_wider", overtaken)
    await lake.rows("ALTER TABLE t ALTER COLUMN n TYPE BIGINT")
    table = table_at(tmp_path)
    read = table.to_pyarrow_table().sort_by("id")
    assert read.to_pylist() == expected
    assert read.schema.field("n").type == pa.int64()
    assert await lake.rows("SELECT id, n FROM t ORDER BY id") == [tuple(each.values()) for each in expected]
    first, second = ({each.location.rsplit("/", 1)[1] for each in change.add} for change in changes)
    assert second <= files_in(tmp_path)
    if meanwhile == "delete":
        assert not first & files_in(tmp_path)
    else:
        assert first <= second


async def test_appends_and_folds_go_on_while_a_column_becomes_wider(lake: Lake) -> None:
    for table, key in {"k": " PRIMARY KEY", "u": ""}.items():
        await lake.rows(f"CREATE TABLE {table} (id INT{key}, n TINYINT)")
        await lake.rows(f"INSERT INTO {table} VALUES (0, 0)")
        await lake.rows(f"OPTIMIZE {table}")

    async def insert(table: str) -> None:
        for number in range(1, 13):
            await lake.rows(f"INSERT INTO {table} (id, n) VALUES ({number}, {number})")

    async def alter(table: str) -> None:
        for kind in ("SMALLINT", "INT", "BIGINT"):
            await lake.rows(f"ALTER TABLE {table} ALTER COLUMN n TYPE {kind}")
            await lake.rows(f"OPTIMIZE {table}")

    await asyncio.gather(*[work(table) for work in (insert, alter) for table in "ku"])
    for table in "ku":
        rows = await lake.rows(f"SELECT id, n, arrow_typeof(n) FROM {table} ORDER BY id")
        assert rows == [(number, number, "Int64") for number in range(13)]
