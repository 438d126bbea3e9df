"""INSERT, UPDATE and DELETE of tables with a primary key, in both formats."""

from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest

from storage.errors import ConflictError, InvalidError, SqlError
from tests.support.lakes import Lake, open_lake

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["delta", "iceberg"])
async def lake(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Lake]:
    async with open_lake(tmp_path / "lake") as opened:
        await opened.rows(
            f"CREATE TABLE k (id INT PRIMARY KEY, name TEXT, n BIGINT, price DECIMAL(10, 2)) USING {request.param}"
        )
        await opened.rows("INSERT INTO k VALUES (1, 'a', 10, 1.005), (2, 'b', 20, NULL)")
        yield opened


async def rows(lake: Lake) -> list[tuple[object, ...]]:
    return await lake.rows("SELECT id, name, n FROM k ORDER BY id")


async def test_decimal_literals_are_exact_and_rounded_to_the_columns_scale(lake: Lake) -> None:
    assert await lake.value("SELECT price FROM k WHERE id = 1") == Decimal("1.01")


async def test_an_insert_of_a_key_that_exists_is_a_conflict_and_stores_nothing(lake: Lake) -> None:
    with pytest.raises(ConflictError, match=r"key=\(id=1\)"):
        await lake.rows("INSERT INTO k (n, id) VALUES (7, 7), (1, 1)")
    with pytest.raises(ConflictError, match="two rows of the statement"):
        await lake.rows("INSERT INTO k (id) VALUES (7), (8), (7)")
    assert await rows(lake) == [(1, "a", 10), (2, "b", 20)]


async def test_an_update_may_move_keys_but_not_onto_others(lake: Lake) -> None:
    assert await lake.rows("UPDATE k SET id = id + 10, n = n + 1 WHERE id = 1") == [("updated 1 row of default.k", 1)]
    with pytest.raises(ConflictError, match="exists already"):
        await lake.rows("UPDATE k SET id = 2 WHERE id = 11")
    await lake.rows("UPDATE k SET id = 13 - id")  # 11 and 2 change places
    assert await rows(lake) == [(2, "a", 11), (11, "b", 20)]


async def test_an_update_from_another_table_meets_each_row_once(lake: Lake) -> None:
    await lake.rows("UPDATE k SET n = s.v, name = DEFAULT FROM (VALUES (1, 7), (5, 8)) AS s(id, v) WHERE k.id = s.id")
    assert await rows(lake) == [(1, None, 7), (2, "b", 20)]
    with pytest.raises(InvalidError, match="several rows of FROM"):
        await lake.rows("UPDATE k SET n = s.v FROM (VALUES (1, 7), (1, 8)) AS s(id, v) WHERE k.id = s.id")


async def test_deleted_rows_are_gone_and_their_keys_are_free(lake: Lake) -> None:
    assert await lake.rows("DELETE FROM k AS x USING (VALUES (1), (1)) AS s(v) WHERE x.id = s.v") == [
        ("deleted 1 row from default.k", 1)
    ]
    await lake.rows("INSERT INTO k (id, n) VALUES ($1, :n)", {"1": 1, "n": 5})
    assert await rows(lake) == [(1, None, 5), (2, "b", 20)]
    assert (await lake.rows("DELETE FROM k"))[0][1] == 2
    assert await rows(lake) == []


async def test_on_conflict_updates_with_the_old_row_and_the_excluded_one(lake: Lake) -> None:
    await lake.rows("INSERT INTO k (id, n) VALUES (1, 0), (3, 3) ON CONFLICT DO NOTHING")
    answer = await lake.rows(
        "INSERT INTO k AS old (id, n, name) VALUES (1, 5, 'x'), (2, 5, 'x'), (4, 4, 'd') ON CONFLICT (id) "
        "DO UPDATE SET n = n + excluded.n, name = old.name || EXCLUDED.name WHERE old.n < 20"
    )
    assert answer == [("inserted 1 and updated 1 rows of default.k", 2)]
    assert await rows(lake) == [(1, "ax", 15), (2, "b", 20), (3, None, 3), (4, "d", 4)]


@pytest.mark.parametrize(
    ("sql", "words", "facts"),
    [
        ("INSERT INTO k (id, n) VALUES (1, 1), (70000000000, 1)", "does not fit", {"column": "id", "row": 2}),
        ("INSERT INTO k (id, n) SELECT 5, 'x'", "does not fit", {"column": "n", "row": 1, "value": "x"}),
        ("INSERT INTO k (n) VALUES (1)", "NOT NULL", {"column": "id"}),
        ("UPDATE k SET n = 1.5", "does not fit", {"column": "n"}),
        ("UPDATE k SET id = NULL", "NOT NULL", {"column": "id"}),
        ("INSERT INTO k VALUES (1, 2)", "expected 4 values", {"line": 1, "column": 22}),
        ("INSERT INTO k SELECT 1", "4 of the table", {}),
        ("INSERT INTO k (id, nope) VALUES (1, 2)", "no such column: nope", {}),
        ("UPDATE k SET n = 1\n WHERE idd = 3", "did you mean", {"line": 2, "column": 8}),
        ("INSERT INTO k VALUES (1, 'a', 1, 1) ON CONFLICT (n) DO NOTHING", "primary key", {}),
        ("INSERT INTO k VALUES (1, 'a', 1, 1) ON CONFLICT DO UPDATE SET id = 2", "primary key", {}),
    ],
)
async def test_a_wrong_statement_stores_nothing_and_says_where(
    lake: Lake, sql: str, words: str, facts: dict[str, object]
) -> None:
    with pytest.raises(InvalidError, match=words) as caught:
        await lake.rows(sql)
    assert facts.items() <= caught.value.facts.items()
    assert isinstance(caught.value, (SqlError, InvalidError))
    assert await rows(lake) == [(1, "a", 10), (2, "b", 20)]


async def test_a_created_table_is_read_over_the_log_and_after_truncate_is_empty(lake: Lake) -> None:
    made = await lake.rows("CREATE TABLE c AS SELECT * FROM k")
    assert made == [("created table default.c with 2 rows", 2)]
    await lake.rows("INSERT INTO c SELECT * FROM c")
    await lake.rows("INSERT OVERWRITE c SELECT * FROM c WHERE id = 1")
    assert await lake.value("SELECT count(*) FROM c") == 2
    await lake.rows("TRUNCATE TABLE k")
    assert await rows(lake) == []
    await lake.rows("INSERT INTO k (id) VALUES (1)")
    assert await rows(lake) == [(1, None, None)]
