"""CREATE INDEX, DROP INDEX and SHOW INDEXES, from SQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from functions.check import check
from service.statement import Limits, Statement
from storage.errors import (
    ConflictError,
    FirnlineError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    SqlError,
    UnsupportedError,
)
from storage.stores import normalize
from tests.support.lakes import Lake, open_lake

pytestmark = pytest.mark.anyio
ROWS = "SELECT value AS id, value * 7 % 1000 AS v, CAST(value AS TEXT) AS s FROM generate_series(1, 1000) AS g(value)"


@pytest.fixture
async def lake(tmp_path: Path) -> AsyncIterator[Lake]:
    async with open_lake(tmp_path) as opened:
        await opened.table(f"CREATE TABLE t ORDER BY (id) AS {ROWS}")
        yield opened


async def shown(lake: Lake, name: str = "t") -> list[dict[str, Any]]:
    return (await lake.table(f"SHOW INDEXES FROM {name}")).to_pylist()


async def status(lake: Lake, sql: str) -> str:
    answer = await lake.table(sql)
    return str(answer.column("status")[0].as_py())


def written(place: str) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in Path(place.removeprefix("file://")).rglob("*")}


@pytest.mark.parametrize(("kind", "column"), [("learned", "id"), ("locator", "v"), ("locator", "s")])
async def test_an_index_is_built_and_shown(lake: Lake, kind: str, column: str) -> None:
    told = await status(lake, f"CREATE INDEX i ON t ({column}) USING {kind}")
    assert told.startswith(f"created {kind} index i on default.t: 1000 keys of 1 of 1 files")
    (row,) = await shown(lake)
    assert row["table"] == "default.t"
    assert (row["name"], row["kind"], row["columns"], row["status"]) == ("i", kind, column, "ready")
    assert (row["keys"], row["files_covered"], row["files_total"], row["segments"]) == (1000, 1, 1, 1)
    assert row["bytes"] > 0
    assert row["bytes_per_key"] == round(row["bytes"] / 1000, 4)
    assert (row["error_bound"] is not None) == (kind == "learned")
    assert row["skipped"] == ""
    assert (await lake.table("SHOW INDEXES")).to_pylist() == [row]


async def test_an_index_answers_as_a_scan_does(lake: Lake) -> None:
    before = await lake.rows("SELECT * FROM t WHERE id = 77")
    await lake.table("CREATE INDEX i ON t (id)")
    assert (await shown(lake))[0]["kind"] == "learned"
    assert await lake.rows("SELECT * FROM t WHERE id = 77") == before
    assert await lake.rows("SELECT * FROM t WHERE id = 7700") == []


async def test_without_using_the_kind_is_what_suits_the_order_of_the_files(lake: Lake) -> None:
    await lake.table("CREATE INDEX ON t (v)")
    await lake.table("CREATE INDEX ON t (id)")
    assert {row["name"]: row["kind"] for row in await shown(lake)} == {"t_v_index": "locator", "t_id_index": "learned"}


async def test_a_name_is_taken_once(lake: Lake) -> None:
    await lake.table("CREATE INDEX i ON t (id)")
    with pytest.raises(ConflictError, match="has an index of this name"):
        await lake.table("CREATE INDEX i ON t (v)")
    assert "exists already" in await status(lake, "CREATE INDEX IF NOT EXISTS i ON t (v)")
    assert "dropped index i" in await status(lake, "DROP INDEX i ON t")
    with pytest.raises(NotFoundError, match="no such index"):
        await lake.table("DROP INDEX i ON t")
    assert "there is no index" in await status(lake, "DROP INDEX IF EXISTS i ON t")
    assert await shown(lake) == []


async def test_the_same_idempotency_key_makes_an_index_once(lake: Lake) -> None:
    for expected in ("created", "done before"):
        statement = Statement("CREATE INDEX i ON t (id)", "s", idempotency_key="k")
        result = await lake.engine.run(statement)
        rows = [batch async for batch in result.batches]
        assert rows[0].column("status")[0].as_py().startswith(expected)


@pytest.mark.parametrize(
    ("sql", "error", "says"),
    [
        ("CREATE INDEX i ON tt (id)", NotFoundError, "did you mean t?"),
        ("CREATE INDEX i ON t (iid)", SqlError, "no such column: iid; did you mean id?"),
        ("CREATE INDEX i ON t (id, id)", SqlError, "names a column twice"),
        ("CREATE INDEX i ON t (n)", UnsupportedError, "cannot be in an index; integers"),
        ("CREATE INDEX i ON t (p)", InvalidError, "partition pruning"),
        ("CREATE INDEX primary ON t (id)", InvalidError, "reserved"),
        ("CREATE INDEX i ON t (id) USING btree", UnsupportedError, "learned"),
        ("CREATE INDEX i ON t (id) USING other", SqlError, "expected learned or locator"),
        ("CREATE INDEX i ON t (id) WITH (filter_bit = 8)", InvalidError, "did you mean filter_bits?"),
        ("CREATE INDEX i ON t (id) WITH (filter_bits = 80)", InvalidError, "whole number from"),
        ("CREATE INDEX i ON t (id) USING locator WITH (epsilon = 8)", InvalidError, "a locator index takes"),
        ("CREATE INDEX i ON t (v) USING learned", InvalidError, "USING locator"),
        ("CREATE INDEX i ON t (lower(s))", UnsupportedError, "expression"),
        ("CREATE INDEX i ON t (id DESC)", UnsupportedError, "direction"),
        ("CREATE INDEX i ON t (id) WHERE id > 5", UnsupportedError, "some rows"),
        ("CREATE INDEX i ON t", SqlError, "expected ("),
        ("CREATE UNIQUE INDEX i ON t (id)", UnsupportedError, "PRIMARY KEY"),
        ("CREATE INDEX i ON delta('x') (id)", SqlError, ""),
        ("CREATE INDEX i ON t (a, b, c, d, e, f, g, h, i)", UnsupportedError, "up to 8 columns"),
        ("EXPLAIN CREATE INDEX i ON t (id)", UnsupportedError, "EXPLAIN"),
        ("SHOW INDEXES FROM u", NotFoundError, "no such table"),
        ("DROP INDEX i", SqlError, "expected ON"),
    ],
)
async def test_what_cannot_be_is_refused_by_name(
    tmp_path: Path, sql: str, error: type[FirnlineError], says: str
) -> None:
    async with open_lake(tmp_path) as lake:
        await lake.table(
            "CREATE TABLE t PARTITIONED BY (p) ORDER BY (id) AS "
            "SELECT value AS id, value * 7 % 1000 AS v, CAST(value AS TEXT) AS s, 'x' AS p, [value] AS n "
            "FROM generate_series(1, 1000) AS g(value)"
        )
        with pytest.raises(error) as caught:
            await lake.table(sql)
        assert says in str(caught.value)
        assert (await lake.table("SHOW INDEXES")).num_rows == 0


async def test_a_reader_makes_no_index(lake: Lake) -> None:
    for sql in ("CREATE INDEX i ON t (id)", "DROP INDEX i ON t"):
        with pytest.raises(ForbiddenError):
            await lake.table(sql, role="reader")
    assert (await lake.table("SHOW INDEXES", role="reader")).num_rows == 0


@pytest.mark.parametrize("format_", ["parquet", "delta", "iceberg"])
async def test_external_tables_get_indexes_and_their_files_are_only_read(tmp_path: Path, format_: str) -> None:
    async with open_lake(tmp_path / "lake") as lake:
        if format_ == "parquet":
            place = lake.write("data/a.parquet", pa.table({"id": range(1000), "v": range(1000)}))
            place = str(Path(place).parent)
        else:
            await lake.table(f"CREATE TABLE own USING {format_} ORDER BY (id) AS {ROWS}")
            entry = await lake.engine.tables.get("default", "own")
            place = entry.location
        files = written(place)
        await lake.table(f"CREATE EXTERNAL TABLE x STORED AS {format_} LOCATION '{place}'")
        await lake.table("CREATE INDEX i ON x (id) USING learned")
        await lake.table("CREATE INDEX j ON x (v) USING locator")
        rows = await shown(lake, "x")
        assert [(row["name"], row["status"], row["keys"]) for row in rows] == [
            ("i", "ready", 1000),
            ("j", "ready", 1000),
        ]
        assert await lake.rows("SELECT id FROM x WHERE id = 5") == [(5,)]
        assert written(place) == files


async def test_an_index_goes_with_its_table_and_follows_a_new_name(lake: Lake) -> None:
    await lake.table("CREATE INDEX i ON t (id)")
    await lake.table("ALTER TABLE t RENAME TO u")
    assert [row["table"] for row in await shown(lake, "u")] == ["default.u"]
    await lake.table("DROP TABLE u")
    assert await lake.engine.indexes.all() == {}


@pytest.mark.parametrize("format_", ["delta", "iceberg"])
async def test_an_index_follows_a_renamed_column_and_not_one_of_the_old_name(tmp_path: Path, format_: str) -> None:
    async with open_lake(tmp_path) as lake:
        await lake.table(f"CREATE TABLE t USING {format_} ORDER BY (id) AS {ROWS}")
        await lake.table("CREATE INDEX i ON t (v) USING locator")
        await lake.table("ALTER TABLE t RENAME COLUMN v TO w")
        (row,) = await shown(lake)
        assert (row["columns"], row["status"], row["files_covered"]) == ("w", "ready", 1)
        await lake.table("ALTER TABLE t ADD COLUMN v BIGINT")
        assert (await shown(lake))[0]["columns"] == "w"
        assert await lake.rows("SELECT id FROM t WHERE w = 7") == [(1,)]
        assert await lake.rows("SELECT id FROM t WHERE v = 7") == []
        await lake.table("INSERT INTO t SELECT 2000, 5000, 'x', 9")
        await lake.table("OPTIMIZE t")
        assert (await shown(lake))[0]["status"] == "ready"
        assert await lake.rows("SELECT id FROM t WHERE w = 5000") == [(2000,)]
        assert await lake.rows("SELECT id FROM t WHERE v = 9") == [(2000,)]
        report = await check(
            lake.engine.stores, lake.engine.kv, lake.engine.clock, normalize(lake.engine.lake), deep=True
        )
        assert not [finding for finding in report.findings if "index" in finding.where]
        await lake.table("ALTER TABLE t DROP COLUMN w")
        (row,) = await shown(lake)
        assert row["status"].startswith("invalid: the table has no column")
        assert row["files_covered"] == 0
        await lake.table("OPTIMIZE t")
        await lake.table("DROP INDEX i ON t")


@pytest.mark.parametrize("format_", ["delta", "iceberg"])
async def test_an_index_of_a_wider_type_is_built_anew(tmp_path: Path, format_: str) -> None:
    async with open_lake(tmp_path) as lake:
        await lake.table(f"CREATE TABLE t (id INT, v INT) USING {format_}")
        await lake.table("INSERT INTO t VALUES (1, 5), (2, 6)")
        await lake.table("OPTIMIZE t")
        await lake.table("CREATE INDEX i ON t (v) USING locator")
        assert (await shown(lake))[0]["status"] == "ready"
        await lake.table("ALTER TABLE t ALTER COLUMN v TYPE BIGINT")
        (row,) = await shown(lake)
        assert row["files_covered"] == 0
        assert "int32" in row["status"]
        assert await lake.rows("SELECT id FROM t WHERE v = 6") == [(2,)]
        await lake.table("OPTIMIZE t")
        (row,) = await shown(lake)
        assert (row["status"], row["files_covered"]) == ("ready", 1)
        assert await lake.rows("SELECT id FROM t WHERE v = 6") == [(2,)]


@pytest.mark.parametrize("format_", ["delta", "iceberg"])
async def test_optimize_leaves_one_segment_and_a_primary_key_gets_its_index(tmp_path: Path, format_: str) -> None:
    async with open_lake(tmp_path) as lake:
        await lake.table(f"CREATE TABLE k (id BIGINT PRIMARY KEY, v TEXT) USING {format_}")
        for start in (0, 1000):
            await lake.table(
                f"INSERT INTO k SELECT value, 'x' FROM generate_series({start + 1}, {start + 1000}) AS g(value)"
            )
            await lake.table("OPTIMIZE k")
        (row,) = await shown(lake, "k")
        assert (row["name"], row["kind"], row["status"], row["segments"]) == ("primary", "learned", "ready", 1)
        with pytest.raises(InvalidError, match="index of the primary key"):
            await lake.table("DROP INDEX primary ON k")
        await lake.table("ALTER TABLE k SET ('firn.index_primary_key' = 'false')")
        await lake.table("OPTIMIZE k")
        assert await shown(lake, "k") == []


async def test_the_catalog_over_http_has_the_indexes(lake: Lake) -> None:
    from service.catalog_view import EngineCatalog

    await lake.table("CREATE INDEX i ON t (id) WITH (epsilon = 16)")
    (index,) = (await EngineCatalog(lake.engine).describe_table("default", "t"))["indexes"]
    assert (index["name"], index["columns"], index["status"], index["files_covered"]) == ("i", ["id"], "ready", 1)
    assert index["created"].endswith("Z")


@pytest.mark.parametrize(
    ("columns", "clauses", "expected"),
    [
        ("id BIGINT PRIMARY KEY, v TEXT", "", ("learned", "id")),
        ("id BIGINT PRIMARY KEY, v TEXT", "ORDER BY (v)", ("locator", "id")),
        ("id BIGINT PRIMARY KEY, v TEXT", "ORDER BY (id DESC)", ("locator", "id")),
        ("id BIGINT, v TEXT, PRIMARY KEY (id, v)", "ORDER BY (id)", ("locator", "id, v")),
        ("id BIGINT, v TEXT, PRIMARY KEY (id, v)", "ORDER BY (id, v)", ("learned", "id, v")),
        ("id BIGINT, v TEXT, PRIMARY KEY (v, id)", "PARTITIONED BY (v)", ("learned", "id")),
        ("id BOOLEAN PRIMARY KEY, v TEXT", "", None),
        ("id BIGINT, v TEXT, PRIMARY KEY (v)", "PARTITIONED BY (v)", None),
    ],
)
async def test_a_primary_keys_index_suits_the_order_of_the_table(
    tmp_path: Path, columns: str, clauses: str, expected: tuple[str, str] | None
) -> None:
    async with open_lake(tmp_path) as lake:
        await lake.table(f"CREATE TABLE k ({columns}) {clauses}")
        await lake.table(
            "INSERT INTO k VALUES (false, 'a')" if "BOOLEAN" in columns else "INSERT INTO k VALUES (1, 'a'), (0, 'b')"
        )
        await lake.table("OPTIMIZE k")
        found = [(row["kind"], row["columns"], row["status"]) for row in await shown(lake, "k")]
        assert found == ([(*expected, "ready")] if expected else [])


async def test_an_index_that_is_stopped_half_way_is_gone_on_with(lake: Lake) -> None:
    with pytest.raises(FirnlineError):
        await lake.table("CREATE INDEX i ON t (id)", limits=Limits(timeout_ms=1))
    await lake.table("OPTIMIZE t")
    assert [row["status"] for row in await shown(lake)] in ([], ["ready"])


async def test_truncating_a_table_leaves_no_segments(lake: Lake) -> None:
    await lake.table("CREATE INDEX i ON t (id)")
    await lake.table("TRUNCATE t")
    (row,) = await shown(lake)
    assert (row["files_covered"], row["segments"]) == (0, 1)
    await lake.table("OPTIMIZE t")
    (row,) = await shown(lake)
    assert (row["status"], row["segments"], row["keys"]) == ("ready", 0, 0)
