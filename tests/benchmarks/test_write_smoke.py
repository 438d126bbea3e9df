"""The write path's benchmarks run on tiny data, and each run replaces its own part of the page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.page import with_part
from benchmarks.query import run_sections
from benchmarks.report import Goal
from benchmarks.write_options import SMOKE_WRITES, WriteOptions
from benchmarks.write_peers import fdatasync_seconds, sqlite_rows


@pytest.fixture
def tiny(tmp_path: Path) -> WriteOptions:
    return replace(
        SMOKE_WRITES, singles=10, slow_singles=2, seconds=0.2, bulk_rows=4_000, batch_rows=2_000, build=tmp_path
    )


def test_a_part_of_the_page_is_replaced_and_the_other_stays() -> None:
    page = with_part("# Old page\n\nread 1\n", "write", "write 1")
    assert page == "<!-- part: read -->\n\n# Old page\n\nread 1\n\n<!-- part: write -->\n\nwrite 1\n"
    page = with_part(page, "read", "read 2")
    assert with_part(page, "write", "write 2") == "<!-- part: read -->\n\nread 2\n\n<!-- part: write -->\n\nwrite 2\n"


def test_a_goal_may_be_the_other_way_round() -> None:
    assert Goal("rows/s", 20_001, 20_000, at_least=True).met
    missed = Goal("rows/s", 19_999, 20_000, at_least=True)
    assert not missed.met
    assert missed.verdict == "rows/s: 19,999, goal ≥ 20,000: MISSED"
    assert not Goal("rows/s", None, 0, at_least=True).met


def test_the_disk_and_sqlite_are_timed(tmp_path: Path) -> None:
    assert len(fdatasync_seconds(tmp_path, 10)) == 10
    assert min(sqlite_rows(tmp_path, 10)) > 0
    assert not (tmp_path / "fdatasync").exists()


@pytest.mark.parametrize("section", ["tail", "size", "object"])
def test_a_section_in_process_runs(section: str, tiny: WriteOptions) -> None:
    (found,) = run_sections([section], tiny, prefix="write_")
    assert not found.title.endswith(": failed"), found.notes
    assert found.tables[0].rows


@pytest.mark.slow
@pytest.mark.parametrize("section", ["single", "clients", "bulk", "contention"])
def test_a_section_with_a_server_runs_and_loses_nothing(section: str, tiny: WriteOptions) -> None:
    (found,) = run_sections([section], tiny, prefix="write_")
    assert not found.title.endswith(": failed"), found.notes
    wrong = [goal.verdict for goal in found.goals if ("lost" in goal.name or "lacks" in goal.name) and not goal.met]
    assert wrong == []
