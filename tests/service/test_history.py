"""SHOW HISTORY and ``firn history``: a table's commits and what is not folded yet."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import deltalake
import pyarrow as pa
import pytest
from click.testing import CliRunner

from firnline.cli.app import firn
from storage.errors import NotFoundError, SqlError, UnsupportedError
from tests.support.lakes import Lake, open_lake
from tests.support.managed import append, delete, fold, make_table

PLAIN = pa.schema([pa.field("k", pa.int64(), False), pa.field("v", pa.string())])


@pytest.fixture
async def lake(tmp_path: Path) -> AsyncIterator[Lake]:
    async with open_lake(tmp_path / "lake", create=True) as opened:
        yield opened


@pytest.mark.anyio
@pytest.mark.parametrize("format_", ["delta", "iceberg"])
async def test_commits_are_listed_newest_first_after_what_the_log_has(lake: Lake, format_: str) -> None:
    entry = await make_table(lake, "t", PLAIN, format_, key=["k"])
    await append(lake, entry, {"k": [1, 2], "v": ["a", "b"]})
    await fold(lake)
    await append(lake, entry, {"k": [2, 3, 4], "v": ["x", "y", "z"]})
    await delete(lake, entry, {"k": [1]})
    rows = (await lake.table("SHOW HISTORY FROM t")).to_pylist()
    assert (rows[0]["version"], rows[0]["operation"], rows[0]["rows_added"]) == (None, "unfolded", 3)
    assert json.loads(rows[0]["facts"]) | {"bytes": 0} == {"log_start": 1, "log_limit": 3, "keys": 4, "bytes": 0}
    assert (rows[1]["operation"].lower(), rows[1]["files_added"], rows[1]["rows_added"]) == ("fold", 1, 2)
    assert rows[1]["timestamp"] is not None
    await lake.rows("SELECT * FROM t")
    assert rows[1]["version"] == lake.receipt.snapshots["default.t"]
    await fold(lake)
    rows = (await lake.table('SHOW HISTORY FOR "default"."t" LIMIT 1')).to_pylist()
    assert [row["operation"].lower() for row in rows] == ["fold"]


@pytest.mark.anyio
async def test_an_outside_table_has_the_history_that_its_writers_left(lake: Lake, tmp_path: Path) -> None:
    where = str(tmp_path / "outside")
    deltalake.write_deltalake(where, pa.table({"k": [1, 2]}))
    deltalake.DeltaTable(where).delete("k = 1")
    await lake.rows(f"CREATE EXTERNAL TABLE t STORED AS delta LOCATION '{where}'")
    rows = (await lake.table("SHOW HISTORY t")).to_pylist()
    assert [(row["version"], row["operation"]) for row in rows] == [(1, "DELETE"), (0, "WRITE")]


@pytest.mark.anyio
async def test_a_table_without_versions_or_without_existence_has_no_history(lake: Lake) -> None:
    await lake.rows(f"CREATE EXTERNAL TABLE p STORED AS parquet LOCATION '{lake.write('p.parquet', {'x': [1]})}'")
    with pytest.raises(UnsupportedError, match="no history"):
        await lake.rows("SHOW HISTORY FROM p")
    with pytest.raises(NotFoundError, match=r"table=default\.nothing"):
        await lake.rows("SHOW HISTORY FROM nothing")
    with pytest.raises(SqlError, match="end of the statement"):
        await lake.rows("SHOW HISTORY FROM p 7")


def test_the_command_shows_the_history(tmp_path: Path) -> None:
    where = str(tmp_path / "outside")
    deltalake.write_deltalake(where, pa.table({"k": [1, 2]}))
    deltalake.write_deltalake(where, pa.table({"k": [3]}), mode="append")
    arguments = ["--lake", str(tmp_path / "lake")]
    runner = CliRunner()
    made = runner.invoke(firn, ["sql", *arguments, f"CREATE EXTERNAL TABLE t STORED AS delta LOCATION '{where}'"])
    assert made.exit_code == 0, made.output
    shown = runner.invoke(firn, ["history", "default.t", "--json", "-n", "1", *arguments])
    assert shown.exit_code == 0, shown.output
    assert '"WRITE"' in shown.output
    missing = runner.invoke(firn, ["history", "nothing", *arguments])
    assert missing.exit_code != 0
