"""Tables as text."""

import datetime as dt
from decimal import Decimal

import hypothesis.strategies as st
import pyarrow as pa
import pytest
from hypothesis import given

from firnline.show import display_width, printable, render


def test_numbers_stand_right_and_text_left() -> None:
    table = pa.table({"n": [1, 200], "price": [Decimal("1.50"), None], "name": ["a", "bcd"]})
    assert render(table).splitlines() == [
        "   n  price  name",
        " ───  ─────  ────",
        "   1   1.50  a",
        " 200   NULL  bcd",
    ]


def test_values_read_as_in_json() -> None:
    row = {
        "t": dt.datetime(2024, 2, 29, 12, tzinfo=dt.UTC),
        "d": dt.date(2024, 2, 29),
        "l": [1, None],
        "s": {"a": "x"},
        "b": b"\x00\xff",
        "f": float("nan"),
        "y": True,
    }
    assert render(pa.Table.from_pylist([row])).splitlines()[2].split("  ") == [
        " 2024-02-29T12:00:00.000000Z",
        "2024-02-29",
        "[1,null]",
        '{"a":"x"}',
        "AP8=",
        "NaN",
        "true",
    ]


def test_repeated_names_stay_apart() -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    assert render(table).splitlines()[2].split() == ["1", "2"]


def test_no_rows_still_show_the_columns() -> None:
    assert render(pa.table({"a": pa.array([], pa.int64())})).splitlines() == [" a", " ─"]
    assert render(pa.table({})) == "(0 rows without columns)"


def test_text_is_clipped_to_the_terminal_and_numbers_are_not() -> None:
    table = pa.table({"n": [123456789] * 9, "text": ["x" * 200] * 9})
    lines = render(table, width=40).splitlines()
    assert max(map(display_width, lines)) <= 40
    assert lines[2].startswith(" 123456789  xxx")
    assert lines[2].endswith("…")


def test_a_few_rows_are_broken_over_lines_rather_than_clipped() -> None:
    lines = render(pa.table({"n": [1], "text": ["x" * 50]}), width=30).splitlines()
    assert lines[2:] == [" 1  " + "x" * 26, "    " + "x" * 24]


def test_columns_that_cannot_fit_are_hidden_from_the_middle() -> None:
    table = pa.table({f"column_{number}": [number] * 9 for number in range(30)})
    text = render(table, width=60)
    assert max(map(display_width, text.splitlines())) <= 60
    assert "column_0" in text and "column_29" in text and "column_15" not in text
    assert text.endswith("of 30 columns shown)")


def test_a_few_wide_rows_are_shown_one_value_a_line() -> None:
    table = pa.table({f"column_{number}": [number] for number in range(30)})
    lines = render(table, width=60).splitlines()
    assert lines[0].startswith("── row 1 ")
    assert lines[1] == " column_0   0"
    assert len(lines) == 31


def test_line_breaks_make_a_row_higher() -> None:
    table = pa.table({"a": ["one\ntwo\n"], "n": [1]})
    assert render(table).splitlines() == [" a    n", " ───  ─", " one  1", " two"]


def test_a_cell_cannot_command_the_terminal() -> None:
    table = pa.table({"a": ["\x1b[2J\x07\u202e", "tab\there"]})
    text = render(table)
    assert "\x1b" not in text and "\x07" not in text and "\u202e" not in text
    assert r"\x1b[2J" in text and r"tab\there" in text


def test_wide_characters_count_twice() -> None:
    assert display_width("日本") == 4
    assert display_width("e\u0301") == 1
    lines = render(pa.table({"a": ["日本", "ab"], "b": ["x", "y"]})).splitlines()
    assert lines[2] == " 日本  x"
    assert lines[3] == " ab    y"


def test_colour_marks_null_and_the_header() -> None:
    text = render(pa.table({"a": pa.array([None], pa.int64())}), color=True)
    assert "\x1b[1m   a\x1b[0m" in text
    assert "\x1b[2mNULL\x1b[0m" in text


@given(st.lists(st.lists(st.text(max_size=30), min_size=3, max_size=3), min_size=1, max_size=8), st.integers(45, 120))
def test_whatever_the_cells_hold_the_table_fits(rows: list[list[str]], width: int) -> None:
    table = pa.table({name: [row[at] for row in rows] for at, name in enumerate("abc")})
    lines = render(table, width=width).splitlines()
    assert max(map(display_width, lines)) <= width


@pytest.mark.parametrize("text", ["plain", "日本", "with space", "é"])
def test_harmless_text_stays_as_it_is(text: str) -> None:
    assert printable(text) == text
