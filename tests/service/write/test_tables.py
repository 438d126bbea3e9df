"""Tables through their lives: columns that change, upkeep, files in and out, statements that are sent twice."""

from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from service.executor import InlineExecutor
from service.statement import Receipt, Statement
from storage.errors import ConflictError, ForbiddenError, InvalidError, NotFoundError, UnsupportedError
from tests.support.lakes import Lake, open_lake

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["delta", "iceberg"])
async def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def lake(tmp_path: Path) -> AsyncIterator[Lake]:
    async with open_lake(tmp_path / "lake") as opened:
        yield opened


async def send(lake: Lake, sql: str, key: str) -> tuple[str, Receipt]:
    result = await InlineExecutor(lake.engine, lake.engine.clock).run(Statement(sql, "s", idempotency_key=key))
    rows = [row async for batch in result.batches for row in batch.to_pylist()]
    return rows[0]["status"], result.receipt


async def test_columns_come_go_and_change_their_names_over_log_and_files(lake: Lake, form: str) -> None:
    await lake.rows(f"CREATE TABLE t (id INT PRIMARY KEY, a TEXT, f REAL) USING {form} ORDER BY (a)")
    await lake.rows("INSERT INTO t VALUES (1, 'x', 1.5)")
    await lake.rows("ALTER TABLE t ALTER COLUMN f TYPE DOUBLE")
    await lake.rows("INSERT INTO t VALUES (2, 'y', 1e100)")
    await lake.rows("OPTIMIZE t")
    await lake.rows("ALTER TABLE t ADD COLUMN s STRUCT<x: INT, y: TEXT[]>")
    await lake.rows("INSERT INTO t VALUES (3, 'z', 3, struct(1, ['p']))")
    await lake.rows("ALTER TABLE t RENAME COLUMN f TO g")
    await lake.rows("ALTER TABLE t RENAME COLUMN id TO number")
    await lake.rows("UPDATE t SET g = 7 WHERE number = 1")
    expected = [(1, "x", 7.0, None), (2, "y", 1e100, None), (3, "z", 3.0, {"x": 1, "y": ["p"]})]
    assert await lake.rows("SELECT * FROM t ORDER BY number") == expected
    await lake.rows("ALTER TABLE t DROP COLUMN s")
    await lake.rows("ALTER TABLE t ADD COLUMN s INT")
    await lake.rows("OPTIMIZE t")
    assert await lake.rows("SELECT * FROM t ORDER BY number") == [(*row[:3], None) for row in expected]
    for name, words in {"number": "primary key", "a": "sorted"}.items():
        with pytest.raises(InvalidError, match=words):
            await lake.rows(f"ALTER TABLE t DROP COLUMN {name}")
    with pytest.raises(UnsupportedError, match="wider"):
        await lake.rows("ALTER TABLE t ALTER COLUMN g TYPE REAL")
    await lake.rows("ALTER TABLE t RENAME TO u")
    await lake.rows("INSERT INTO u (number) VALUES (9)")
    assert await lake.value("SELECT count(*) FROM u") == 4


async def test_optimize_says_what_it_folded_and_what_it_merged(lake: Lake, form: str) -> None:
    await lake.rows(f"CREATE TABLE t (id INT) USING {form}")
    told = []
    for values in ("(1), (2)", "(3)", ""):
        for value in values.split(", ") if values else ():
            await lake.rows(f"INSERT INTO t VALUES {value}")
        told += [status for status, _ in await lake.rows("OPTIMIZE t")]
    assert told == [
        "optimized default.t: 2 rows of 2 records folded, 0 files became 0",
        "optimized default.t: 1 rows of 1 records folded, 2 files became 1",
        "optimized default.t: 0 rows of 0 records folded, 0 files became 0",
    ]


@pytest.mark.parametrize("key", ["PRIMARY KEY", ""])
async def test_a_restored_table_has_its_old_rows_and_takes_new_ones(lake: Lake, form: str, key: str) -> None:
    await lake.rows(f"CREATE TABLE t (id INT {key}, p TEXT) USING {form} PARTITIONED BY (p, bucket(2, id))")
    await lake.rows("INSERT INTO t VALUES (1, 'a'), (2, NULL), (3, 'b')")
    await lake.rows("OPTIMIZE t")
    version = (await lake.rows("SHOW HISTORY t"))[0][0]
    await lake.rows("DELETE FROM t WHERE id = 1")
    await lake.rows("INSERT INTO t VALUES (4, 'a')")
    assert (await lake.rows(f"RESTORE TABLE t TO VERSION {version}"))[0][0].startswith("restored default.t")
    await lake.rows("INSERT INTO t VALUES (5, 'b')")
    assert await lake.rows("SELECT id FROM t ORDER BY id") == [(1,), (2,), (3,), (5,)]
    with pytest.raises(NotFoundError):
        await lake.rows("RESTORE TABLE t TO VERSION 7777")
    assert await lake.rows("VACUUM t DRY RUN") == [("would delete 0 files of default.t", 0)]


@pytest.mark.parametrize("key", ["PRIMARY KEY", ""])
async def test_a_statement_that_is_sent_twice_takes_effect_once(lake: Lake, form: str, key: str) -> None:
    statements = [
        f"CREATE TABLE t (id INT {key}, n INT) USING {form}",
        "INSERT INTO t VALUES (1, 1), (2, 2)",
        "INSERT INTO t SELECT 3, 3",
        "UPDATE t SET n = n + 1",
        "DELETE FROM t WHERE id = 3",
        "MERGE INTO t USING (VALUES (7)) AS s(id) ON false WHEN NOT MATCHED THEN INSERT (id) VALUES (id)",
        "ALTER TABLE t ADD COLUMN x INT",
        "INSERT OVERWRITE t SELECT id, n + 1, 0 FROM t",
    ]
    for number, sql in enumerate(statements):
        first, receipt = await send(lake, sql, f"key{number}")
        again, second = await send(lake, sql, f"key{number}")
        assert "done before" not in first
        assert "done before" in again
        assert second.log_position == receipt.log_position
    assert await lake.rows("SELECT * FROM t ORDER BY id") == [(1, 3, 0), (2, 4, 0), (7, None, 0)]


async def test_files_are_copied_in_and_out(lake: Lake, form: str, tmp_path: Path) -> None:
    await lake.rows(f"CREATE TABLE t (id INT PRIMARY KEY, name TEXT, n INT) USING {form}")
    (tmp_path / "a1.csv").write_text("id,name,n\n1,x,1\n2,,2\n")
    (tmp_path / "a2.csv").write_text("name,id\ny,3\n")
    (tmp_path / "bad.csv").write_text("4;x;1\n5;y;zz\n")
    assert await lake.rows(f"COPY t FROM '{tmp_path}/a*.csv'") == [("copied 3 rows of 2 files into default.t", 3)]
    with pytest.raises(InvalidError, match="whole number") as caught:
        await lake.rows(f"COPY t FROM '{tmp_path}/bad.csv' (HEADER false, DELIMITER ';')")
    assert {"row": 2, "line": 2, "column": "n"}.items() <= caught.value.facts.items()
    for ending in ("parquet", "csv", "ndjson", "json", "arrow"):
        out = f"{tmp_path}/out.{ending}"
        assert (await lake.rows(f"COPY (SELECT id + 10 AS id, name FROM t WHERE id < 4) TO '{out}'"))[0][1] == 3
        with pytest.raises(ConflictError, match="overwrites none"):
            await lake.rows(f"COPY t TO '{out}'")
        await lake.rows(f"COPY t (id, name) FROM '{out}'")
        assert await lake.value("SELECT count(*) FROM t WHERE id > 10") == 3
        await lake.rows("DELETE FROM t WHERE id > 10")
    assert await lake.rows("SELECT * FROM t ORDER BY id") == [(1, "x", 1), (2, None, 2), (3, "y", None)]


async def test_copy_stays_within_the_access_policy(tmp_path: Path) -> None:
    async with open_lake(tmp_path / "lake", allow=()) as lake:
        await lake.rows("CREATE TABLE t (id INT)")
        for sql in (
            f"COPY t TO '{tmp_path}/x.csv'",
            f"COPY t FROM '{tmp_path}/*.csv'",
            "COPY t FROM '/etc/passwd' (FORMAT csv)",
        ):
            with pytest.raises(ForbiddenError):
                await lake.rows(sql)


async def test_values_of_every_kind_arrive_as_they_were_written(lake: Lake, form: str) -> None:
    columns = "a BIGINT, b DECIMAL(20, 5), c DATE, d TIMESTAMPTZ, e BINARY, f BOOLEAN, g DOUBLE[], h MAP<TEXT, INT>"
    await lake.rows(f"CREATE TABLE t ({columns}) USING {form}")
    await lake.rows("INSERT INTO t (a, b, c) SELECT 1, 1, '2026-01-30' UNION ALL SELECT 1, 1, '2026-01-31'")
    await lake.rows(
        "INSERT INTO t VALUES (9223372036854775807, 123456789012345.67890, DATE '2026-01-31', "
        "'2026-01-31T12:00:00+02:00', x'00ff', true, [1, 2.5], map(['k'], [1])), "
        "($1, $2, :c, NULL, NULL, NULL, NULL, NULL)",
        {"1": -1, "2": Decimal("0.1"), "c": "1969-12-31"},
    )
    rows: list[tuple[Any, ...]] = await lake.rows(
        "SELECT a, CAST(b AS TEXT), CAST(c AS TEXT), CAST(d AS TEXT), encode(e, 'hex'), f, g, map_extract(h, 'k') "
        "FROM t WHERE a <> 1 ORDER BY a"
    )
    assert rows == [
        (-1, "0.10000", "1969-12-31", None, None, None, None, rows[0][7]),
        (2**63 - 1, "123456789012345.67890", "2026-01-31", "2026-01-31T10:00:00Z", "00ff", True, [1.0, 2.5], [1]),
    ]
    assert await lake.value("SELECT count(*) FROM t WHERE a = 1") == 2
    await lake.rows("UPDATE t SET b = 123456789012345.67891 WHERE a = -1")
    await lake.rows(
        "MERGE INTO t USING (VALUES (5)) AS s(x) ON false "
        "WHEN NOT MATCHED THEN INSERT (a, b) VALUES (x, -99999999999999.12345)"
    )
    found = await lake.rows("SELECT CAST(b AS TEXT) FROM t WHERE a IN (-1, 5) ORDER BY a")
    assert found == [("123456789012345.67891",), ("-99999999999999.12345",)]


async def test_a_readers_role_writes_nothing(lake: Lake) -> None:
    await lake.rows("CREATE TABLE t (id INT)")
    for sql in ("INSERT INTO t VALUES (1)", "DROP TABLE t", "CREATE TABLE u (id INT)", "COPY t TO '/x.csv'"):
        with pytest.raises(ForbiddenError, match="reader"):
            await lake.table(sql, role="reader")
