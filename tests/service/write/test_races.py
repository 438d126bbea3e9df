"""Statements at once: none is lost, and each sees one state."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from storage.errors import ConflictError
from tests.support.lakes import Lake, open_lake

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["delta", "iceberg"])
async def lake(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Lake]:
    async with open_lake(tmp_path / "lake") as opened:
        await opened.rows(f"CREATE TABLE k (id INT PRIMARY KEY, n INT) USING {request.param}")
        await opened.rows(f"CREATE TABLE u (id INT, n INT) USING {request.param}")
        for table in "ku":
            await opened.rows(f"INSERT INTO {table} VALUES (1, 0), (2, 0)")
        yield opened


@pytest.mark.parametrize(("table", "tasks", "rounds"), [("k", 6, 6), ("u", 3, 3)])
async def test_concurrent_increments_are_all_counted(lake: Lake, table: str, tasks: int, rounds: int) -> None:
    async def count() -> None:
        for _ in range(rounds):
            await lake.rows(f"UPDATE {table} SET n = n + 1 WHERE id = 1")

    async def fold() -> None:
        for _ in range(5):
            await lake.rows(f"OPTIMIZE {table}")
            await asyncio.sleep(0.02)

    await asyncio.gather(fold(), *[count() for _ in range(tasks)])
    assert await lake.rows(f"SELECT id, n FROM {table} ORDER BY id") == [(1, tasks * rounds), (2, 0)]


async def test_of_concurrent_inserts_of_one_key_one_succeeds(lake: Lake) -> None:
    for number in range(10, 14):
        answers = await asyncio.gather(
            *[lake.rows(f"INSERT INTO k VALUES ({number}, {task})") for task in range(4)], return_exceptions=True
        )
        assert [isinstance(each, ConflictError) for each in answers].count(True) == 3
    assert await lake.value("SELECT count(*) FROM k") == 6


async def test_concurrent_upserts_of_one_key_add_up(lake: Lake) -> None:
    sql = "INSERT INTO k VALUES (7, 1) ON CONFLICT (id) DO UPDATE SET n = k.n + excluded.n"
    await asyncio.gather(*[lake.rows(sql) for _ in range(12)])
    assert await lake.value("SELECT n FROM k WHERE id = 7") == 12


async def test_rows_that_are_inserted_while_files_are_rewritten_stay(lake: Lake) -> None:
    async def insert() -> None:
        for number in range(100, 115):
            await lake.rows(f"INSERT INTO u VALUES ({number}, 0)")

    async def change() -> None:
        for _ in range(4):
            await lake.rows("UPDATE u SET n = n + 1 WHERE id = 1")
            await lake.rows("DELETE FROM u WHERE id < 0")

    await asyncio.gather(insert(), change(), change())
    assert await lake.value("SELECT count(*) FROM u") == 17
    assert await lake.value("SELECT n FROM u WHERE id = 1") == 8


async def test_of_two_tables_of_one_name_one_is_made_and_keeps_its_rows(lake: Lake) -> None:
    answers = await asyncio.gather(
        *[lake.rows(f"CREATE TABLE c AS SELECT {task} AS x") for task in range(4)], return_exceptions=True
    )
    made = [task for task, each in enumerate(answers) if not isinstance(each, BaseException)]
    assert len(made) == 1
    assert all(isinstance(each, ConflictError) for task, each in enumerate(answers) if task not in made)
    assert await lake.rows("SELECT x FROM c") == [(made[0],)]


async def test_columns_that_change_under_writers_lose_no_row(lake: Lake) -> None:
    async def insert(table: str) -> None:
        for number in range(100, 110):
            await lake.rows(f"INSERT INTO {table} (id, n) VALUES ({number}, {number})")

    async def alter(table: str) -> None:
        for number in range(4):
            await lake.rows(f"ALTER TABLE {table} ADD COLUMN c{number} INT")
            await lake.rows(f"UPDATE {table} SET c{number} = 5 WHERE id = 2")

    await asyncio.gather(*[work(table) for work in (insert, alter) for table in "ku"])
    for table in "ku":
        await lake.rows(f"OPTIMIZE {table}")
        assert await lake.rows(f"SELECT count(*), sum(n), sum(c0 + c3) FROM {table}") == [(12, 1045, 10)]
