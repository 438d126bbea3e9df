"""A statement that a client sends again while the first is still at work."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.parse import parse
from service.statement import Receipt, Statement
from service.write.context import Work
from service.write.insert import insert_rows, source_rows
from service.write.parse import parse_write
from service.write.statements import Insert
from storage.errors import ConflictError
from tests.support.lakes import Lake, open_lake

pytestmark = pytest.mark.anyio


def _work(lake: Lake, sql: str, key: str) -> Work:
    statement = Statement(sql, "s", idempotency_key=key)
    return Work(lake.engine, parse(sql), statement, Receipt(), lake.engine.stores)


async def test_an_insert_that_meets_its_own_rows_says_that_it_is_done(tmp_path: Path) -> None:
    async with open_lake(tmp_path / "lake") as lake:
        await lake.rows("CREATE TABLE k (id INT PRIMARY KEY, n INT)")
        sql = "INSERT INTO k VALUES (1, 0)"
        entry = await lake.engine.tables.get("default", "k")
        # Both asked whether it was done before, and it was not.
        first, again, other = _work(lake, sql, "a"), _work(lake, sql, "a"), _work(lake, sql, "b")
        write = parse_write(first.parsed)
        assert isinstance(write, Insert)
        rows = await source_rows(first, entry, write)
        assert (await insert_rows(first, entry, write, rows)).rows == 1
        assert (await insert_rows(again, entry, write, rows)).status.startswith("done before")
        assert again.receipt.log_position == first.receipt.log_position
        with pytest.raises(ConflictError, match="exists already"):
            await insert_rows(other, entry, write, rows)
        assert await lake.value("SELECT count(*) FROM k") == 1
