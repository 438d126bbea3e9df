"""The table property ``lookup``: rows stay what they are, whoever reads them."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from storage.errors import InvalidError, NotFoundError
from tests.support.lakes import Lake, open_lake

pytestmark = pytest.mark.anyio


@pytest.fixture
async def lake(tmp_path: Path) -> AsyncIterator[Lake]:
    async with open_lake(tmp_path / "lake") as opened:
        yield opened


def row_groups(folder: Path) -> list[int]:
    found = []
    for path in sorted(folder.rglob("*.parquet")):
        metadata = pq.read_metadata(path)
        found += [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    return found


@pytest.mark.parametrize("table_format", ["delta", "iceberg"])
async def test_a_lookup_table_answers_as_any_other(lake: Lake, tmp_path: Path, table_format: str) -> None:
    await lake.rows(
        "CREATE TABLE t (id BIGINT PRIMARY KEY, price DECIMAL(15, 2), rate DECIMAL(6, 3), big DECIMAL(30, 1), "
        f"day DATE, word TEXT) USING {table_format} WITH (lookup = 'true')"
    )
    await lake.rows(
        "INSERT INTO t SELECT value, CAST(value AS DECIMAL(15, 2)) / 4 - 1000, CAST(value % 100 AS DECIMAL(6, 3)), "
        "CAST(value AS DECIMAL(30, 1)) * 100000000000, DATE '2024-01-01', 'w' || value FROM generate_series(1, 20000)"
    )
    await lake.rows("OPTIMIZE t")
    assert max(row_groups(tmp_path)) == 5120
    found = await lake.rows("SELECT * FROM t WHERE price = 1500.25")
    assert found == [
        (10001, Decimal("1500.25"), Decimal("1.000"), Decimal("1000100000000000.0"), dt.date(2024, 1, 1), "w10001")
    ]
    assert await lake.rows("SELECT count(*), min(price), max(price), sum(rate), max(big) FROM t") == [
        (20000, Decimal("-999.75"), Decimal("4000.00"), Decimal("990000.000"), Decimal("2000000000000000.0"))
    ]
    assert await lake.rows("SELECT count(*) FROM t WHERE price < -999 OR rate > 98.5") == [(203,)]


async def test_the_property_is_set_and_unset_by_its_short_name(lake: Lake, tmp_path: Path) -> None:
    await lake.rows("CREATE TABLE t (id BIGINT) WITH ('firn.row_group_rows' = '5000')")
    with pytest.raises(NotFoundError, match=r"firn\.lookup"):
        await lake.rows("ALTER TABLE t UNSET ('lookup')")
    with pytest.raises(InvalidError, match=r"true or false property=firn\.lookup"):
        await lake.rows("ALTER TABLE t SET (lookup = 'perhaps')")
    await lake.rows("ALTER TABLE t SET (lookup = true)")
    await lake.rows("ALTER TABLE t UNSET ('firn.row_group_rows')")
    await lake.rows("INSERT INTO t SELECT value FROM generate_series(1, 10000)")
    await lake.rows("OPTIMIZE t")
    assert sorted(row_groups(tmp_path)) == [4880, 5120]
    await lake.rows("ALTER TABLE t UNSET ('lookup')")
    await lake.rows("TRUNCATE t")
    await lake.rows("INSERT INTO t SELECT value FROM generate_series(1, 10000)")
    await lake.rows("OPTIMIZE t")
    assert 10000 in row_groups(tmp_path)
