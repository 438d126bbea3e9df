"""`firn import`: files of every format into a table, once, and wrong rows named."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from click.testing import CliRunner, Result

import firnline
from firnline.cli.app import firn
from firnline.cli.progress import bar
from firnline.connection import Connection
from firnline.importing import blocks
from service.server import ServeSettings
from service.settings import EngineSettings
from tests.support.serving import serving

ROWS = [{"id": number, "name": f"n{number}" if number % 3 else None, "x": number / 4} for number in range(50)]
TEXT = "id,name,x\n" + "".join(f"{row['id']},{row['name'] or ''},{row['x']}\n" for row in ROWS)
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def run(lake: str | Path, *arguments: str | Path, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(firn, ["import", "--lake", str(lake), *map(str, arguments)], input=stdin)


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "lake"
    with firnline.connect(folder) as connection:
        connection.sql("CREATE TABLE t (id BIGINT NOT NULL, name VARCHAR, x DOUBLE) USING delta")
        connection.sql("CREATE TABLE k (id BIGINT NOT NULL, name VARCHAR, x DOUBLE, PRIMARY KEY (id)) USING delta")
    yield folder


def table(lake: str | Path, name: str = "t") -> list[dict[str, Any]]:
    with firnline.connect(lake) as connection:
        return connection.sql(f"SELECT * FROM {name} ORDER BY id").to_pylist()


def write_all(folder: Path) -> list[Path]:
    arrow = pa.Table.from_pylist(ROWS)
    (folder / "a.csv").write_text(TEXT)
    (folder / "b.tsv").write_text(TEXT.replace(",", "\t"))
    (folder / "c.json").write_text(json.dumps(ROWS))
    (folder / "d.ndjson").write_text(LINES)
    (folder / "e.jsonl.gz").write_bytes(gzip.compress(LINES.encode()))
    (folder / "f.csv.zst").write_bytes(zstandard.compress(TEXT.encode()))
    pq.write_table(arrow, folder / "g.parquet")
    with pa.ipc.new_file(str(folder / "h.arrow"), arrow.schema) as writer:
        writer.write_table(arrow)
    with pa.ipc.new_stream(str(folder / "i.arrows"), arrow.schema) as writer:
        writer.write_table(arrow)
    return sorted(folder.iterdir())


def test_every_format_brings_the_same_rows_and_a_second_run_brings_none(lake: Path, tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    n_files = len(write_all(files))
    done = run(lake, f"{files}/*", "--into", "t")
    assert done.exit_code == 0, done.output
    assert f"stored {50 * n_files:,} rows in t, {n_files} files" in done.stderr
    assert table(lake) == [row for row in ROWS for _ in range(n_files)]
    again = run(lake, f"{files}/*", "--into", "default.t", "--json")
    assert again.exit_code == 0
    # The name of the table is part of what is asked, and the key counts for the table itself.
    again = run(lake, f"{files}/*", "--into", "t", "--json")
    told = json.loads(again.stdout)
    assert (told["rows"], told["replayed"], told["complete"]) == (50 * n_files, 50 * n_files, True)
    assert len(table(lake)) == 50 * n_files


def test_standard_input_needs_its_format(lake: Path) -> None:
    assert run(lake, "-", "--into", "t", stdin=TEXT).exit_code == 1
    assert run(lake, "-", "--into", "t", "--format", "csv", stdin=TEXT).exit_code == 0
    assert table(lake) == ROWS


def test_a_wrong_row_stops_the_import_with_its_place(lake: Path, tmp_path: Path) -> None:
    file = tmp_path / "wrong.csv"
    file.write_text('id,name,x\n1,"two\nlines",1\n\n2,b,2\nthree,c,3\n4,d,4\n')
    done = run(lake, file, "--into", "t", "--batch-rows", "2")
    assert done.exit_code == 1
    for fact in (f"file={file}", "row=3", "line=6", "column=id", "rows_stored=2", "whole number"):
        assert fact in done.stderr
    assert "stopped: stored 2 rows in t" in done.stderr
    assert [row["id"] for row in table(lake)] == [1, 2]
    file.write_text('id,name,x\n1,"two\nlines",1\n\n2,b,2\n3,c,3\n4,d,4\n')
    assert run(lake, file, "--into", "t").exit_code == 0


@pytest.mark.parametrize("form", ["csv", "ndjson", "parquet"])
def test_wrong_rows_are_left_out_and_reported(lake: Path, tmp_path: Path, form: str) -> None:
    rows: list[dict[str, Any]] = [{"id": number, "x": 1.5} for number in range(3000)]
    wrong = {0, 1, 700, 2999}
    for number in wrong:
        rows[number]["id"] = None
    file, report = tmp_path / f"rows.{form}", tmp_path / "report.csv"
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif form == "csv":
        file.write_text("id,x\n" + "".join(f"{'' if row['id'] is None else row['id']},1.5\n" for row in rows))
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run(lake, file, "--into", "t", "--on-error", "skip", "--report", report, "--json")
    assert done.exit_code == 0, done.output
    assert (json.loads(done.stdout)["rows"], json.loads(done.stdout)["skipped"]) == (2996, 4)
    assert [row["id"] for row in table(lake)] == [number for number in range(3000) if number not in wrong]
    with report.open(newline="") as lines:
        found = list(csv.DictReader(lines))
    assert {int(row["row"]) - 1 for row in found} == wrong
    assert {row["column"] for row in found} == {"id"}
    offset = {"csv": 1, "ndjson": 0}.get(form)
    for row in found:
        assert row["line"] == ("" if offset is None else str(int(row["row"]) + offset))


def test_large_text_is_cut_at_records(lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_BLOCK_BYTES", 100)
    file = tmp_path / "rows.csv"
    cells = [f'{number},"a ""quoted"" cell,\n\nof several lines {number}",' for number in range(200)]
    file.write_text("id,name,x\n" + "\n".join(cells))
    done = run(lake, file, "--into", "t")
    assert done.exit_code == 0, done.output
    found = table(lake)
    assert [row["id"] for row in found] == list(range(200))
    assert found[7]["name"] == 'a "quoted" cell,\n\nof several lines 7'
    file.write_text("id,name,x\n" + "\n".join([*cells[:150], "x,y,z", *cells[151:]]))
    done = run(lake, file, "--into", "t")
    assert "row=151 line=452" in done.stderr


def test_a_table_with_a_key_takes_the_rows_as_asked(lake: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "1.csv", tmp_path / "2.csv"
    first.write_text("id,name\n1,a\n2,b\n")
    second.write_text("id,name\n2,B\n3,c\n")
    assert run(lake, first, second, "--into", "k").exit_code == 0
    assert [row["name"] for row in table(lake, "k")] == ["a", "B", "c"]
    assert run(lake, first, "--into", "k", "--on-conflict", "nothing").exit_code == 0
    assert [row["name"] for row in table(lake, "k")] == ["a", "B", "c"]
    assert run(lake, first, "--into", "k", "--on-conflict", "error").exit_code == 1


def test_create_makes_the_table_of_the_first_file(tmp_path: Path) -> None:
    lake, files = tmp_path / "lake", tmp_path / "files"
    files.mkdir()
    for number, path in enumerate(write_all(files)):
        done = run(lake, path, "--into", f"t{number}", "--create", "--primary-key", "id")
        assert done.exit_code == 0, done.output
        assert table(lake, f"t{number}") == ROWS
    (files / "odd.csv").write_text("when,at,n\n2026-01-31 10:00:00,10:30,\n")
    assert run(lake, files / "odd.csv", "--into", "odd", "--create").exit_code == 0
    with firnline.connect(lake) as connection:
        types = [str(field.type) for field in connection.sql("SELECT * FROM odd").schema]
    assert types == ["timestamp[us]", "string", "string"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.csv", None, "no such file"),
        ("rows.txt", b"x", "--format"),
        ("rows.csv", b"id,nam\n1,a\n", 'did you mean "name"'),
        ("rows.csv.gz", gzip.compress(TEXT.encode())[:-9], "cannot be read"),
        ("rows.csv.zst", zstandard.compress(TEXT.encode())[:-5], "cut off"),
        ("rows.parquet", b"PAR1 no", "cannot be read"),
        ("rows.arrow", b"ARROW1 no", "cannot be read"),
        ("rows.json", b'[{"id": 1},', "JSON"),
    ],
)
def test_a_wrong_file_is_a_message_and_stores_nothing(
    lake: Path, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    done = run(lake, tmp_path / name, "--into", "t")
    assert done.exit_code == 1
    assert message in done.stderr
    assert "Traceback" not in done.output
    assert table(lake) == []


def test_a_server_takes_files_too(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(TEXT)
    with serving(ServeSettings(EngineSettings(lake=str(tmp_path / "lake")), port=0)) as url:
        done = run(url, tmp_path / "rows.csv", "--into", "t", "--create", "--json")
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["ack"] == "fsync"
        assert table(url) == ROWS


def test_an_interrupted_import_says_what_is_stored_and_goes_on(
    lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "rows.csv"
    file.write_text(TEXT)
    append, calls = Connection.append, []

    def interrupted(self: Connection, *arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return append(self, *arguments, **options)

    monkeypatch.setattr(Connection, "append", interrupted)
    done = run(lake, file, "--into", "t", "--batch-rows", "10")
    assert done.exit_code == 130
    assert "stopped: stored 20 rows in t" in done.stderr
    done = run(lake, file, "--into", "t", "--batch-rows", "10")
    assert "stored 50 rows in t, 20 of them by an earlier run" in done.stderr
    assert table(lake) == ROWS


def test_the_bar_says_how_far_it_is() -> None:
    assert bar(1000, 50, 100, 2.0) == "████████████░░░░░░░░░░░░  50%  1,000 rows  0 MB  500 rows/s  2 s left"
    assert "left out" in bar(1, 1, 0, 0, 3)
