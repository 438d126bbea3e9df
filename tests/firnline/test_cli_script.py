"""Scripts cut into statements, errors with their place, options."""

import click
import pytest

from firnline.cli.meta import Meta, parse_meta, quoted_name
from firnline.cli.options import Duration, parse_params
from firnline.cli.report import report
from firnline.cli.script import Piece, is_complete, split
from storage.errors import InvalidError, LimitError, SqlError


def test_semicolons_end_statements() -> None:
    assert split("SELECT 1;\n  SELECT\n2 ;;") == [Piece("SELECT 1", 1, 1), Piece("SELECT\n2", 2, 3)]


@pytest.mark.parametrize(
    "text",
    [
        "SELECT ';'",
        "SELECT 'it''s; fine'",
        'SELECT ";"',
        "SELECT 1 /* ; /* ; */ ; */",
        "SELECT 1 -- ;",
        "SELECT $$;$$",
        "SELECT `;`",
    ],
)
def test_semicolons_inside_of_something_do_not(text: str) -> None:
    assert [piece.text for piece in split(f"{text}\n; SELECT 2")] == [
        text.partition(" --")[0].partition(" /*")[0],
        "SELECT 2",
    ]


def test_comments_and_blanks_are_no_statements() -> None:
    assert split("  -- nothing\n;; /* nothing */ ;") == []


def test_an_unclosed_string_says_where() -> None:
    with pytest.raises(SqlError) as caught:
        split("SELECT 1;\nSELECT 'x")
    assert (caught.value.facts["line"], caught.value.facts["column"]) == (2, 8)


@pytest.mark.parametrize("text", ["SELECT 1;", "SELECT 1; -- done", "SELECT ';';"])
def test_a_text_that_ends_a_statement_is_complete(text: str) -> None:
    assert is_complete(text)


@pytest.mark.parametrize("text", ["SELECT 1", "SELECT ';", "SELECT 1 /* ;", "", "SELECT 1; SELECT 2", "-- ;"])
def test_a_text_that_does_not_is_not(text: str) -> None:
    assert not is_complete(text)


def test_an_error_shows_its_line_as_numbered_in_the_script() -> None:
    error = SqlError("no such column: x", line=2, column=8)
    assert report(error, Piece("SELECT\n  a,   x\nFROM t", line=10)).splitlines() == [
        "SqlError: no such column: x",
        "  line 11:   a,   x",
        "                  ^",
    ]


def test_a_long_line_is_shown_around_its_error() -> None:
    text = "SELECT " + "a, " * 200 + "x FROM t"
    lines = report(SqlError("no", line=1, column=text.index("x") + 1), Piece(text)).splitlines()
    assert max(map(len, lines)) < 120
    assert lines[1][lines[2].index("^")] == "x"


@pytest.mark.parametrize("facts", [{}, {"line": 7, "column": 1}, {"line": "x"}, {"line": 1, "column": 99}])
def test_a_place_that_is_not_there_draws_no_caret(facts: dict[str, object]) -> None:
    assert "^" not in report(SqlError("no", **facts), Piece("SELECT 1"))


def test_facts_follow_the_message() -> None:
    assert report(LimitError("too many rows", max_rows=5)) == "LimitError: too many rows max_rows=5"


def test_an_error_cannot_command_the_terminal() -> None:
    assert "\x1b" not in report(SqlError("no \x1b[2J", line=1, column=1), Piece("\x1b[2J"))


def test_parameters_by_name_and_by_position() -> None:
    assert parse_params(()) is None
    assert parse_params(("a=1", "b=x=y", "c=null")) == {"a": 1, "b": "x=y", "c": None}
    assert parse_params(("1", "text", "[1, 2]", "1=2")) == [1, "text", [1, 2], "1=2"]
    with pytest.raises(click.UsageError):
        parse_params(("a=1", "2"))


@pytest.mark.parametrize(
    ("text", "ms"), [("30s", 30_000), ("500ms", 500), ("2m", 120_000), ("1.5", 1500), ("1h", 3_600_000)]
)
def test_durations(text: str, ms: int) -> None:
    assert Duration().convert(text, None, None) == ms


@pytest.mark.parametrize("text", ["", "soon", "5 fortnights", "0", "-1s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(click.BadParameter):
        Duration().convert(text, None, None)


def test_backslash_commands_are_read() -> None:
    assert parse_meta(r"\d orders;") == Meta(r"\d", "orders")
    assert parse_meta(r"\dt") == Meta(r"\d", "")
    with pytest.raises(InvalidError, match="lists them"):
        parse_meta(r"\nonsense")


def test_odd_table_names_are_quoted() -> None:
    assert quoted_name("orders") == "orders"
    assert quoted_name("ns.my table") == '"ns"."my table"'
    assert quoted_name('"My Table"') == '"My Table"'
