"""Rows of partitioned tables come in the order that is asked for, the partition's column among others."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.settings import FunctionAccess
from tests.support.lakes import open_lake

pytestmark = pytest.mark.anyio

ROWS = sorted((float(value), value % 3) for value in range(400))
BY_BOTH = "SELECT c.h, c.k FROM a JOIN c ON a.k = c.k ORDER BY 1, 2"


async def test_a_join_with_a_partitioned_table_is_ordered_by_its_partitions_too(tmp_path: Path) -> None:
    async with open_lake(tmp_path, target_partitions=2, functions=FunctionAccess(place="inline")) as lake:
        await lake.table("CREATE TABLE a (k BIGINT)")
        await lake.table("CREATE TABLE c (k BIGINT, h DOUBLE) PARTITIONED BY (k)")
        await lake.table("INSERT INTO a SELECT value FROM generate_series(0, 2)")
        await lake.table("INSERT INTO c SELECT value % 3, value FROM generate_series(0, 399)")
        for table in "ac":
            await lake.table(f"OPTIMIZE {table}")
        assert await lake.rows(BY_BOTH) == ROWS
        assert await lake.rows(f"{BY_BOTH} LIMIT 5") == ROWS[:5]
        assert await lake.rows("SELECT h, k FROM c ORDER BY k DESC, h") == sorted(
            ROWS, key=lambda row: (-row[1], row[0])
        )
        assert await lake.rows(BY_BOTH) == ROWS, "what was planned before changes nothing"
