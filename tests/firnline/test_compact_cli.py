"""``firn compact`` on a real lake."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest
from click.testing import CliRunner

from firnline.cli.app import firn
from tests.support.lakes import open_lake


def lake_with_rows(folder: Path) -> None:
    async def fill() -> None:
        async with open_lake(folder) as lake:
            await lake.table("CREATE TABLE t (id BIGINT, v VARCHAR)")
            await lake.table("CREATE TABLE k (id BIGINT PRIMARY KEY, v VARCHAR) USING iceberg")
            await lake.table("INSERT INTO t VALUES (1, 'a'), (2, 'b')")
            await lake.table("INSERT INTO k VALUES (1, 'a'), (2, 'b')")
            await lake.table("UPDATE k SET v = 'B' WHERE id = 2")

    anyio.run(fill)


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setenv("FIRN_COMPACT", "0")
    return CliRunner()


def test_compact_folds_everything_and_says_what_it_did(tmp_path: Path, runner: CliRunner) -> None:
    lake_with_rows(tmp_path)
    done = runner.invoke(firn, ["compact", "--lake", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["tables"]["default.t"]["rows"] == 2
    assert report["tables"]["default.k"]["rows"] == 3
    assert "default.t: 2 rows" in done.stderr
    again = runner.invoke(firn, ["compact", "--lake", str(tmp_path)])
    assert again.stdout == "nothing to fold\n"


def test_it_tells_how_far_it_is_unless_it_is_to_be_quiet(tmp_path: Path, runner: CliRunner) -> None:
    for name, quiet, told in (
        ("loud", [], ["default.t: 2 rows, +1 -0 files", "default.t: 2 of 2 files merged"]),
        ("quiet", ["--quiet"], []),
    ):
        folder = tmp_path / name
        lake_with_rows(folder)
        assert runner.invoke(firn, ["compact", "k", "--lake", str(folder)]).exit_code == 0

        async def fill(folder: Path = folder) -> None:
            async with open_lake(folder) as lake:
                await lake.table("DELETE FROM t WHERE id = 0")  # folds
                await lake.table("INSERT INTO t VALUES (3, 'c'), (4, 'd')")

        anyio.run(fill)
        done = runner.invoke(firn, ["compact", "t", "--lake", str(folder), *quiet])
        assert done.exit_code == 0
        assert "merged 2 files into 1" in done.stdout
        lines = done.stderr.splitlines()
        assert len(lines) == len(told)
        assert all(map(str.startswith, lines, told))


def test_compact_of_one_table_leaves_the_others(tmp_path: Path, runner: CliRunner) -> None:
    lake_with_rows(tmp_path)
    done = runner.invoke(firn, ["compact", "k", "--lake", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    assert list(json.loads(done.stdout)["tables"]) == ["default.k"]


def test_what_cannot_be_compacted_is_said(tmp_path: Path, runner: CliRunner) -> None:
    missing = runner.invoke(firn, ["compact", "--lake", str(tmp_path / "none")])
    assert missing.exit_code == 1
    assert "NotFoundError" in missing.stderr
    assert runner.invoke(firn, ["compact", "--lake", "http://localhost:1"]).exit_code == 1
    lake_with_rows(tmp_path)
    assert runner.invoke(firn, ["compact", "none", "--lake", str(tmp_path)]).exit_code == 1
    assert runner.invoke(firn, ["compact", "t", "--watch", "--lake", str(tmp_path)]).exit_code == 2


def test_of_an_external_table_the_indexes_are_refreshed(tmp_path: Path, runner: CliRunner) -> None:
    async def fill() -> None:
        async with open_lake(tmp_path / "lake") as lake:
            lake.write("x/a.parquet", {"v": list(range(100))})
            await lake.table(f"CREATE EXTERNAL TABLE x STORED AS parquet LOCATION '{lake.folder}/x'")
            await lake.table("CREATE INDEX i ON x (v) USING locator")
            lake.write("x/b.parquet", {"v": list(range(100, 200))})

    async def covered() -> int:
        async with open_lake(tmp_path / "lake") as lake:
            (row,) = (await lake.table("SHOW INDEXES FROM x")).to_pylist()
            return int(row["files_covered"])

    anyio.run(fill)
    assert anyio.run(covered) == 1
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "lake/x").iterdir()}
    done = runner.invoke(firn, ["compact", "x", "--lake", str(tmp_path / "lake")])
    assert done.exit_code == 0, done.output
    assert "default.x is external: its files are left as they are" in done.stderr
    assert done.stdout == "nothing to fold; 1 indexes\n"
    assert anyio.run(covered) == 2
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "lake/x").iterdir()}
    again = runner.invoke(firn, ["compact", "x", "--lake", str(tmp_path / "lake")])
    assert again.stdout == "nothing to fold\n"
