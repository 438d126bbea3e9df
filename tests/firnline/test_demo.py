"""The guided first minute, from an empty folder to a lake of three formats."""

import shutil
import time
from pathlib import Path

import pytest

import firnline
from tests.support.firn import firn

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("tpchgen-cli") is None, reason="tpchgen-cli is not installed (extra: demo)"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


def test_the_demo_makes_queries_and_says_how_to_go_on(folder: Path) -> None:
    done = firn("demo", "--scale", "0.01", cwd=folder)
    shown = done.stdout.decode()
    assert (done.returncode, done.stderr) == (0, b""), done.stderr
    for expected in ("parquet", "delta", "iceberg", "FOR VERSION AS OF 0", "1 of 7 files", "files=1 of 7 (6 pruned)"):
        assert expected in shown.replace("\n                 ", "")
    for expected in ("firn serve --lake demo-lake", "curl -s http://127.0.0.1:8080/v1/sql", "firnline.connect("):
        assert expected in shown


def test_the_demo_runs_again_on_what_it_made(folder: Path) -> None:
    note = folder / "demo-lake" / "data" / "demo.json"
    before = note.stat().st_mtime_ns
    done = firn("demo", "--scale", "0.01", cwd=folder)
    assert done.returncode == 0
    assert b"making" not in done.stdout
    assert note.stat().st_mtime_ns == before


def test_its_answers_are_right(folder: Path) -> None:
    with firnline.connect(folder / "demo-lake") as lake:
        found = lake.sql(
            "SELECT (SELECT count(*) FROM orders FOR VERSION AS OF 1) AS before,"
            " (SELECT count(*) FROM orders) AS after, (SELECT count(*) FROM customer) AS customers,"
            " (SELECT count(*) FROM lineitem) AS lines"
        ).to_pylist()
        forgotten = lake.sql("SELECT count(*) AS n FROM orders FOR VERSION AS OF 1 WHERE o_custkey = 1").to_pylist()
    assert found[0]["before"] == 15_000
    assert found[0]["after"] == 15_000 - forgotten[0]["n"] < 15_000
    assert found[0]["customers"] == 1_500
    assert found[0]["lines"] == 60_175


def test_a_half_made_lake_is_made_anew(folder: Path) -> None:
    note = folder / "demo-lake" / "data" / "demo.json"
    note.write_text('{"demo": 1, "state": "being made"}')
    started = time.monotonic()
    assert b"making" in firn("demo", "--scale", "0.01", cwd=folder).stdout
    assert time.monotonic() - started < 60


def test_a_folder_of_someone_elses_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "precious").write_text("x")
    done = firn("demo", "--lake", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith(b"InvalidError: this folder was not made by the demo")
    assert (tmp_path / "data" / "precious").read_text() == "x"
