"""SQL text as tokens."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.lexer import TOKENS_MAX, Token, place, split_statements, tokenize
from storage.errors import SqlError, TooLargeError

PIECES = st.sampled_from(
    ["a", "SELECT", '"q""q"', "'s''s'", "E'e\\'e'", "$$d'd$$", "$t$d$$d$t$", "`b`", "1", ".5e-3", "$1", "$name", "::",
     ":", "<=", "||", "->>", "(", ")", ",", ";", "x$y", "@v", "é", "雪", "-- c\n", "/* /* ; */ ' */", "\n",
     "\t", "X'00'"]
)  # fmt: skip


def kinds(sql: str) -> list[tuple[str, str]]:
    return [(token.kind, token.text) for token in tokenize(sql)]


@given(st.lists(PIECES, max_size=30))
def test_tokens_lie_in_order_where_they_say(pieces: list[str]) -> None:
    sql = " ".join(pieces)
    position = 0
    for token in tokenize(sql):
        assert token.start >= position
        assert token.limit > token.start
        between = sql[position : token.start]
        assert not tokenize(between)
        assert tokenize(sql[token.start : token.limit]) == [
            Token(token.kind, token.text, 0, token.limit - token.start),
        ]
        position = token.limit
    assert not tokenize(sql[position:])


@given(st.text(max_size=60))
def test_any_text_gives_tokens_or_an_error_of_ours(sql: str) -> None:
    try:
        tokens = tokenize(sql)
    except SqlError as error:
        assert error.facts["line"] >= 1
        assert error.facts["column"] >= 1
    else:
        assert all(sql[t.start : t.limit] for t in tokens)


@given(st.lists(PIECES.filter(lambda piece: piece not in (";", "-- c\n", "\n", "\t", "/* /* ; */ ' */")), min_size=1))
def test_a_script_is_split_at_its_own_semicolons_only(pieces: list[str]) -> None:
    one = " ".join(pieces)
    assert split_statements(f"{one} ; -- a ; comment\n ; {one};") == [one, one]


def test_strings_are_read_as_the_engine_reads_them() -> None:
    assert kinds("'it''s'") == [("string", "it's")]
    assert kinds(r"E'it\'s\n'") == [("string", "it's\n")]
    assert kinds(r"r'\'") == [("string", "\\")]
    assert kinds(r"'\'") == [("string", "\\")]
    assert kinds("$$it's$$ $tag$a$$b$tag$") == [("string", "it's"), ("string", "a$$b")]
    assert kinds("name'x'") == [("word", "name"), ("string", "x")]


def test_names_may_hold_signs_that_the_engine_allows() -> None:
    assert kinds("a$b @v #t _x é") == [("word", name) for name in ("a$b", "@v", "#t", "_x", "é")]
    assert kinds('"a""b" `c d`') == [("quoted", 'a"b'), ("quoted", "c d")]


def test_a_name_is_folded_unless_quoted() -> None:
    word, quoted = tokenize('Name "Name"')
    assert (word.name, quoted.name) == ("name", "Name")
    assert word.is_word("NAME")
    assert not quoted.is_word("NAME")


@pytest.mark.parametrize(
    ("sql", "line", "column"),
    [("SELECT 'abc", 1, 8), ('SELECT\n "abc', 2, 2), ("/* /* */", 1, 1), ("x\n\n  $$abc$", 3, 3), ("`x", 1, 1)],
)
def test_what_is_not_closed_is_named_with_its_place(sql: str, line: int, column: int) -> None:
    with pytest.raises(SqlError, match="not closed") as caught:
        tokenize(sql)
    assert caught.value.facts == {"line": line, "column": column}


def test_places_count_from_one() -> None:
    assert place("ab\ncd", 0) == {"line": 1, "column": 1}
    assert place("ab\ncd", 4) == {"line": 2, "column": 2}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("piece", ["''", "'", "$a$ $b$ ", "/*", '""', "E'", "\\'", "$", "1e", "--", "::"])
def test_hostile_text_is_read_in_linear_time(piece: str) -> None:
    for opening in ("", "'", '"', "E'", "$x$"):
        with contextlib.suppress(SqlError):
            tokenize(opening + piece * 100_000)


def test_more_tokens_than_memory_should_hold_are_refused() -> None:
    with pytest.raises(TooLargeError, match="too long"):
        tokenize("(" * (TOKENS_MAX + 1))
