"""What a table could not hold, or a fold not write, is refused before it is acknowledged, in both formats."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from storage.errors import InvalidError
from tests.support.lakes import Lake, open_lake

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["delta", "iceberg"])
async def lake(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Lake]:
    async with open_lake(tmp_path / "lake") as opened:
        await opened.rows(f"CREATE TABLE t (id INT PRIMARY KEY, p TEXT) USING {request.param}")
        yield opened


@pytest.fixture
async def delta(tmp_path: Path) -> AsyncIterator[Lake]:
    async with open_lake(tmp_path / "lake") as opened:
        yield opened


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("'firnline.log.0' = '99'", "the table's own"),
        ("'firn.row_group_rows' = '-1'", "whole number of rows above zero"),
        ("'firn.row_group_rows' = 'many'", "whole number of rows above zero"),
        ("'firn.compression_level' = '99'", "1 to 22"),
        ("'firn.retention_hours' = 'nan'", "number of hours"),
        ("'firn.vacuum_unsafe' = 'perhaps'", "true or false"),
        ("'firn.bloom_columns' = 'id, q'", "column=q"),
        ("'firn.row_groups' = '1'", "did you mean firn.row_group_rows"),
    ],
)
async def test_properties_that_a_fold_could_not_use_are_never_set(lake: Lake, given: str, message: str) -> None:
    with pytest.raises(InvalidError, match=message):
        await lake.rows(f"ALTER TABLE t SET ({given})")
    with pytest.raises(InvalidError, match=message):
        await lake.rows(f"CREATE TABLE u (id INT) USING iceberg WITH ({given})")
    await lake.rows("INSERT INTO t VALUES (1, 'a')")
    await lake.rows("OPTIMIZE t")
    assert await lake.rows("SELECT * FROM t") == [(1, "a")]


async def test_users_own_properties_are_taken(lake: Lake) -> None:
    await lake.rows("ALTER TABLE t SET ('firn.row_group_rows' = '1000', 'team' = 'snow', 'firn.bloom_columns' = 'id')")


async def test_a_delta_table_has_a_column_that_it_is_not_partitioned_by(delta: Lake) -> None:
    for columns in ("a INT", "a INT PRIMARY KEY"):
        with pytest.raises(InvalidError, match="needs a column that it is not partitioned by partition_by=a"):
            await delta.rows(f"CREATE TABLE t ({columns}) PARTITIONED BY (a)")
    await delta.rows("CREATE TABLE t (a INT, b INT) PARTITIONED BY (a)")
    with pytest.raises(InvalidError, match="not partitioned by"):
        await delta.rows("ALTER TABLE t DROP COLUMN b")


async def test_an_iceberg_table_may_be_partitioned_by_all_of_its_columns(delta: Lake) -> None:
    await delta.rows("CREATE TABLE t (a INT) USING iceberg PARTITIONED BY (a)")
    await delta.rows("INSERT INTO t VALUES (1), (NULL), (1)")
    await delta.rows("OPTIMIZE t")
    assert await delta.rows("SELECT a FROM t ORDER BY a") == [(1,), (1,), (None,)]


@pytest.mark.parametrize("key", ["", " PRIMARY KEY"])
async def test_an_empty_string_is_no_partition_of_a_delta_table(delta: Lake, key: str) -> None:
    await delta.rows(f"CREATE TABLE t (id INT{key}, p TEXT) PARTITIONED BY (p)")
    await delta.rows("INSERT INTO t VALUES (1, 'a'), (2, NULL)")
    for sql in (
        "INSERT INTO t VALUES (3, 'b'), (4, '')",
        "UPDATE t SET p = '' WHERE id = 1",
        "MERGE INTO t USING (SELECT 1 AS id) AS s ON t.id = s.id WHEN MATCHED THEN UPDATE SET p = ''",
        "INSERT OVERWRITE t VALUES (3, '')",
        f"CREATE TABLE u ({'PRIMARY KEY (id)' * bool(key) or ''}) PARTITIONED BY (p) AS SELECT 1 AS id, '' AS p"
        if key
        else "CREATE TABLE u PARTITIONED BY (p) AS SELECT 1 AS id, '' AS p",
    ):
        with pytest.raises(InvalidError, match="cannot hold an empty string"):
            await delta.rows(sql)
    await delta.rows("OPTIMIZE t")
    assert await delta.rows("SELECT * FROM t ORDER BY id") == [(1, "a"), (2, None)]
