"""Statements that change the catalog."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from storage.errors import (
    ConflictError,
    FirnlineError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    SqlError,
    UnsupportedError,
)
from tests.support.lakes import Lake, open_lake

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["sqlite", "memory:"])
async def lake(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Lake]:
    catalog = None if request.param == "sqlite" else request.param
    async with open_lake(tmp_path / "lake", catalog=catalog) as opened:
        opened.write("t.parquet", {"x": [1, 2]})
        yield opened


async def test_a_table_lives_from_create_to_drop(lake: Lake) -> None:
    location = lake.folder / "t.parquet"
    assert await lake.value("CREATE SCHEMA sales") == "created schema sales"
    made = await lake.value(f"CREATE EXTERNAL TABLE sales.t STORED AS PARQUET LOCATION '{location}'")
    assert made == "created table sales.t over 1 parquet files"
    assert await lake.rows("SHOW TABLES") == [("sales", "t", "parquet", f"file://{location}")]
    assert await lake.rows("SHOW SCHEMAS") == [("default",), ("sales",)]
    assert await lake.value("SELECT sum(x) FROM sales.t") == 3
    assert await lake.value("SELECT sum(x) FROM firnline.sales.t") == 3
    with pytest.raises(ConflictError, match="CASCADE"):
        await lake.rows("DROP SCHEMA sales")
    await lake.rows("DROP TABLE sales.t")
    await lake.rows("DROP SCHEMA sales")
    assert location.exists()
    assert await lake.rows("SHOW TABLES") == []


async def test_what_exists_is_said_to_exist(lake: Lake) -> None:
    create = f"CREATE EXTERNAL TABLE {{}}t STORED AS PARQUET LOCATION '{lake.folder / 't.parquet'}'"
    await lake.rows(create.format(""))
    with pytest.raises(ConflictError, match="exists"):
        await lake.rows(create.format(""))
    assert await lake.value(create.format("IF NOT EXISTS ")) == "table default.t exists already"
    await lake.rows("CREATE SCHEMA s")
    assert await lake.value("CREATE SCHEMA IF NOT EXISTS s") == "schema s exists already"
    for missing in ("DROP TABLE nope", "DROP SCHEMA nope"):
        with pytest.raises(NotFoundError):
            await lake.rows(missing)
    await lake.rows("DROP TABLE IF EXISTS nope")
    await lake.rows("DROP SCHEMA IF EXISTS nope CASCADE")


async def test_a_table_over_nothing_is_not_created(lake: Lake) -> None:
    with pytest.raises(NotFoundError, match="nope"):
        await lake.rows(f"CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{lake.folder}/nope'")
    assert await lake.rows("SHOW TABLES") == []


@pytest.mark.parametrize(
    "name", ['"x""y"', '"a\'b"', '"My Table"', "snow_雪", '"select"', '"a.b"', '"semi;colon"', '"--"', '"\\"']
)
async def test_any_quoted_name_is_a_name_and_nothing_else(lake: Lake, name: str) -> None:
    location = lake.folder / "t.parquet"
    await lake.rows(f"CREATE SCHEMA {name}")
    await lake.rows(f"CREATE EXTERNAL TABLE {name}.{name} STORED AS PARQUET LOCATION '{location}'")
    assert await lake.rows(f"SELECT x FROM {name}.{name} ORDER BY x") == [(1,), (2,)]
    assert await lake.value(f"SELECT max(x) FROM {name}.{name} WHERE x < (SELECT max(x) FROM {name}.{name})") == 1
    await lake.rows(f"DROP SCHEMA {name} CASCADE")


@pytest.mark.parametrize(
    ("sql", "column"),
    [
        ("DROP", 5), ("DROP VIEW v", 6), ("CREATE SCHEMA", 14), ("CREATE SCHEMA a b", 17), ("DROP TABLE a.b.c.d", 19),
        ("CREATE EXTERNAL VIEW v", 17), ("CREATE EXTERNAL TABLE t (x int)", 25),
        ("CREATE EXTERNAL TABLE t STORED PARQUET", 32), ("CREATE EXTERNAL TABLE t STORED AS parquet", 42),
        ("CREATE EXTERNAL TABLE t STORED AS parquet LOCATION x", 52),
        ("CREATE EXTERNAL TABLE t STORED AS parquet LOCATION 'x' OPTIONS ('a'", 68),
    ],
)  # fmt: skip
async def test_a_malformed_command_is_blamed_at_its_place(lake: Lake, sql: str, column: int) -> None:
    with pytest.raises(SqlError, match=r"expected|name|columns") as caught:
        await lake.rows(sql)
    assert caught.value.facts == {"line": 1, "column": column}


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE VIEW v AS SELECT 1", "CREATE OR REPLACE TABLE t AS SELECT 1",
        "CREATE OR REPLACE EXTERNAL TABLE t STORED AS x",
        "CREATE EXTERNAL TABLE t STORED AS csv LOCATION 'x'", "CREATE",
    ],
)  # fmt: skip
async def test_a_command_of_another_kind_is_refused_by_name(lake: Lake, sql: str) -> None:
    with pytest.raises(UnsupportedError):
        await lake.rows(sql)


async def test_a_reader_changes_nothing(lake: Lake) -> None:
    for sql in (
        "CREATE SCHEMA s",
        "DROP TABLE t",
        f"CREATE EXTERNAL TABLE t STORED AS parquet LOCATION '{lake.folder}'",
    ):
        with pytest.raises(ForbiddenError, match="reader"):
            await lake.table(sql, role="reader")


@pytest.mark.parametrize(
    "options", ["'uri' 'sqlite:////etc/passwd'", "'type' 'rest'", "'catalog.uri' 'x'", "format 'x'"]
)
async def test_an_option_that_means_nothing_is_refused(lake: Lake, options: str) -> None:
    with pytest.raises(InvalidError, match="unknown option"):
        await lake.rows(
            f"CREATE EXTERNAL TABLE t STORED AS parquet LOCATION '{lake.folder}/t.parquet' OPTIONS ({options})"
        )
    if "catalog." not in options:
        with pytest.raises(InvalidError, match="unknown option"):
            await lake.rows(f"CREATE EXTERNAL TABLE t STORED AS iceberg LOCATION 'a.b' OPTIONS ({options})")


async def test_a_table_of_an_iceberg_catalog_is_not_registered_where_paths_are_restricted(tmp_path: Path) -> None:
    async with open_lake(tmp_path / "lake", allow=()) as lake:
        for uri in ("sqlite:////etc/passwd", "http://169.254.169.254/", f"file://{lake.folder}/x", str(lake.folder)):
            with pytest.raises(ForbiddenError, match="owner"):
                await lake.rows(
                    f"CREATE EXTERNAL TABLE t STORED AS iceberg LOCATION 'a.b' OPTIONS ('catalog.uri' '{uri}')"
                )


async def test_names_past_the_catalogs_limits_are_refused(lake: Lake) -> None:
    for name in ("x" * 300, "雪" * 200 + "x" * 100, "a/b"):
        with pytest.raises(FirnlineError, match="name"):
            await lake.rows(f'CREATE SCHEMA "{name}"')
