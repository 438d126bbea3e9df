"""Statements that write tell how far they are; cancelled at any of these points they have done all or nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from service.parse import parse
from service.progress import Tell
from service.statement import Receipt, Statement
from service.write.context import Work
from service.write.dispatch import dispatch
from service.write.parse import parse_write
from tests.support.lakes import Lake, open_lake

pytestmark = pytest.mark.anyio
N_FILES = 6
Told = tuple[int, int | None, str]


@pytest.fixture
async def lake(tmp_path: Path) -> AsyncIterator[Lake]:
    """A table ``t`` of six files, and its rows in six CSV files."""
    async with open_lake(tmp_path / "lake") as opened:
        await opened.table("CREATE TABLE t (v BIGINT, s VARCHAR)")
        (tmp_path / "lake" / "in").mkdir()
        for number in range(N_FILES):
            await opened.table(f"INSERT INTO t VALUES ({number}, 'old')")
            (tmp_path / "lake" / "in" / f"{number}.csv").write_text(f"v,s\n{number},old\n")
            await opened.table("DELETE FROM t WHERE v = -1")  # folds the row into a file
        yield opened


async def run(lake: Lake, sql: str, tell: Tell) -> str:
    parsed = parse(sql)
    work = Work(lake.engine, parsed, Statement(sql, "s"), Receipt(), lake.engine.stores, tell=tell)
    return (await dispatch(work, parse_write(parsed))).status


async def told_of(lake: Lake, sql: str) -> list[Told]:
    told: list[Told] = []
    await run(lake, sql, lambda *each: told.append(each))
    return told


def last_of(told: list[Told]) -> dict[str, tuple[int, int | None]]:
    return {what: (n_done, n_total) for n_done, n_total, what in told}


async def test_what_is_counted_and_of_how_many(lake: Lake) -> None:
    assert last_of(await told_of(lake, f"COPY t FROM '{lake.folder}/in/*.csv'")) == {"files read": (6, 6)}
    await lake.table("CREATE INDEX i ON t (v) USING locator")
    found = last_of(await told_of(lake, "UPDATE t SET s = 'new' WHERE v < 3"))
    assert found["rows folded"] == (N_FILES, None)
    assert found["files written anew"][1] == 4
    found = last_of(await told_of(lake, "OPTIMIZE t"))
    assert found["files merged"][0] == found["files merged"][1]
    assert found["files indexed by default.t.i"] == (1, 1)
    await lake.table("ALTER TABLE t SET ('firn.vacuum_unsafe' = 'true')")
    found = last_of(await told_of(lake, "VACUUM t RETAIN 0 HOURS"))
    (n_deleted, n_total) = found["files deleted"]
    assert n_deleted == n_total
    assert found["files listed"] == (n_deleted + 1, None)
    assert last_of(await told_of(lake, f"COPY t TO '{lake.folder}/out.csv'")) == {"rows written": (2 * N_FILES, None)}
    found = last_of(await told_of(lake, "CREATE TABLE u AS SELECT * FROM t"))
    assert found == {"rows read": (2 * N_FILES, None), "rows written": (2 * N_FILES, 2 * N_FILES)}


def strays(lake: Lake, table: str) -> set[str]:
    """Data files below the table's folder that no version of it has."""
    (folder,) = (lake.folder / "tables" / "default").glob(f"{table}-*")
    logged = "".join(each.read_text() for each in (folder / "_delta_log").glob("*.json"))
    return {
        each.name for each in folder.rglob("*.parquet") if each.name not in logged and "_delta_log" not in each.parts
    }


async def stopped_at(lake: Lake, sql: str, number: int) -> bool:
    """Cancel the statement at the so-manieth time that it tells something; False if it has ended before."""
    n_told = 0

    def tell(_done: int, _of: int | None, _what: str) -> None:
        nonlocal n_told
        n_told += 1
        if n_told == number:
            task.cancel()

    task = asyncio.create_task(run(lake, sql, tell))
    await asyncio.wait({task})
    return task.cancelled()


async def test_optimize_can_be_cancelled_anywhere_and_goes_on_when_it_is_run_again(lake: Lake) -> None:
    await lake.table("CREATE INDEX i ON t (v) USING locator")
    rows = sorted(await lake.rows("SELECT * FROM t"))
    number = 1
    while await stopped_at(lake, "OPTIMIZE t", number):
        assert sorted(await lake.rows("SELECT * FROM t")) == rows
        assert strays(lake, "t") == set()
        number += 1
    assert number > 2
    assert "files_covered" in (shown := (await lake.table("SHOW INDEXES FROM t")).to_pylist()[0])
    assert (shown["status"], shown["files_total"]) == ("ready", 1)


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE t SET s = 'new' WHERE v < 5",
        "DELETE FROM t WHERE v < 3",
        "COPY t FROM '{folder}/in/*.csv'",
        "INSERT INTO t SELECT v + 100, s FROM t",
        "INSERT OVERWRITE t SELECT v + 100, s FROM t",
        "MERGE INTO t USING (SELECT 2 AS k) AS x ON t.v = x.k WHEN MATCHED THEN DELETE",
    ],
)
async def test_a_statement_that_is_cancelled_has_done_all_or_nothing(lake: Lake, sql: str) -> None:
    sql = sql.format(folder=lake.folder)
    before = sorted(await lake.rows("SELECT * FROM t"))
    number = 1
    while await stopped_at(lake, sql, number):
        assert sorted(await lake.rows("SELECT * FROM t")) == before
        assert strays(lake, "t") == set()
        number += 1
    assert number > 1
    assert sorted(await lake.rows("SELECT * FROM t")) != before


async def test_a_vacuum_that_is_cancelled_has_deleted_nothing_that_is_needed(lake: Lake) -> None:
    await lake.table("OPTIMIZE t")
    await lake.table("ALTER TABLE t SET ('firn.vacuum_unsafe' = 'true')")
    rows = sorted(await lake.rows("SELECT * FROM t"))
    n_told = len(await told_of(lake, "VACUUM t RETAIN 0 HOURS DRY RUN"))
    assert await stopped_at(lake, "VACUUM t RETAIN 0 HOURS", n_told + 2)
    assert sorted(await lake.rows("SELECT * FROM t")) == rows
    assert not await stopped_at(lake, "VACUUM t RETAIN 0 HOURS", 0)
    (folder,) = (lake.folder / "tables" / "default").glob("t-*")
    assert len(list(folder.glob("*.parquet"))) == 1
    assert sorted(await lake.rows("SELECT * FROM t")) == rows


async def test_a_copy_that_is_cancelled_leaves_no_file(lake: Lake) -> None:
    assert await stopped_at(lake, f"COPY t TO '{lake.folder}/out.csv'", 1)
    assert not (lake.folder / "out.csv").exists()
