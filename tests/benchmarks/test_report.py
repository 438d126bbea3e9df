"""Verdicts come from the numbers, and pages and terminals show them."""

import pytest

from benchmarks.options import SMOKE
from benchmarks.query import main, page_of, run_sections
from benchmarks.report import Goal, Section, Table, markdown_of, text_of


def test_a_goal_is_met_up_to_its_limit_and_missed_beyond() -> None:
    assert Goal("p50", 3.0, 3, " ms").met
    assert Goal("p50", 3.01, 3, " ms").verdict == "p50: 3.01 ms, goal ≤ 3 ms: MISSED"


def test_a_goal_that_was_not_measured_is_missed() -> None:
    goal = Goal("total", None, 1, "×")
    assert not goal.met
    assert goal.verdict == "total: not measured, goal ≤ 1×: MISSED"


def test_a_smoke_run_says_that_its_numbers_are_not_official() -> None:
    assert "smoke run" in Goal("total", 0.5, 1, "×", official=False).verdict


def test_a_section_shows_its_tables_notes_and_verdicts_in_both_forms() -> None:
    table = Table(["", "ms"], [["ours", "1.00"], ["a | b", "22.0"]], "Time")
    section = Section("x", "A thing", ["How."], [table], [Goal("fast", 2, 1, "×")], ["a note"])
    text, page = text_of(section), markdown_of(section)
    assert "  ours     1.00\n  a | b    22.0".replace("    ", "  ") in text.replace("    ", "  ")
    assert "→ fast: 2×, goal ≤ 1×: MISSED" in text
    assert "| a \\| b | 22.0 |" in page
    assert "* fast: 2×, goal ≤ 1×: **MISSED**" in page
    assert "* a note" in page


def test_the_page_names_what_was_missed_first() -> None:
    section = Section("x", "A thing", goals=[Goal("fast", 2, 1), Goal("small", 1, 1)])
    page = page_of(["Machine: this one."], [section])
    assert "1 of 2 goals met." in page
    assert page.index("* MISSED: fast") < page.index("## A thing")


def test_a_section_that_fails_is_reported_as_missed_and_does_not_stop_the_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = run_sections(["no_such_section"], SMOKE)
    assert [section.title for section in found] == ["no_such_section: failed"]
    assert not found[0].goals[0].met
    assert "MISSED" in capsys.readouterr().out


def test_an_unknown_section_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "tcph"])
    assert "choose from tpch" in capsys.readouterr().err
