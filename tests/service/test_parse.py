"""Statements as the engine takes them: rewritten in place, parameters bound, hopeless ones refused."""

import contextlib
import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.lexer import place
from service.parse import SQL_BYTES_MAX, parse
from service.parsed import TableRef
from storage.errors import FirnlineError, InvalidError, SqlError, TooLargeError, UnsupportedError
from storage.tables.snapshot import At

GAPS = st.text(" \n\t", min_size=1, max_size=6)


def test_table_functions_become_names() -> None:
    parsed = parse("SELECT * FROM delta('/a') JOIN Iceberg('s3://b/c') AS i ON true, (parquet('x/*.parquet'))")
    assert list(parsed.refs.values()) == [
        TableRef(format="delta", location="/a"),
        TableRef(format="iceberg", location="s3://b/c"),
        TableRef(format="parquet", location="x/*.parquet"),
    ]
    assert " ".join(parsed.text.split()) == "SELECT * FROM _t0 JOIN _t1 AS i ON true, (_t2 )"


@pytest.mark.parametrize(
    "sql",
    ["SELECT delta('x')", "SELECT 'delta(''x'')'", "SELECT 1 -- FROM delta('x')", 'SELECT * FROM "delta"',
     "SELECT parquet FROM t"],
)  # fmt: skip
def test_text_that_only_looks_like_a_table_function_stays(sql: str) -> None:
    assert not parse(sql).refs


@pytest.mark.parametrize(
    ("clause", "at"),
    [
        ("FOR VERSION AS OF 3", At(version=3)),
        ("version as of 3", At(version=3)),
        ("FOR VERSION AS OF '3'", At(version=3)),
        ("FOR SYSTEM_VERSION AS OF 3", At(version=3)),
        ("FOR VERSION AS OF 'audit'", At(ref="audit")),
        ("FOR TIMESTAMP AS OF '1970-01-01T00:00:01Z'", At(timestamp_ms=1000)),
        ("FOR TIMESTAMP AS OF TIMESTAMP '1970-01-01 01:00:00+01:00'", At(timestamp_ms=0)),
        ("FOR SYSTEM_TIME AS OF '1970-01-02'", At(timestamp_ms=86_400_000)),
    ],
)
def test_time_travel_is_taken_out(clause: str, at: At) -> None:
    parsed = parse(f"SELECT t.x FROM ns.t {clause} WHERE x > 1")
    assert parsed.refs == {"_t0": TableRef(at, namespace="ns", name="t")}
    assert " ".join(parsed.text.split()) == 'SELECT t.x FROM _t0 AS "t" WHERE x > 1'
    assert parse(f"SELECT * FROM t {clause}").refs["_t0"] == TableRef(at, name="t")
    assert parse(f"SELECT * FROM delta('/x') {clause}").refs["_t0"] == TableRef(at, "delta", "/x")


@pytest.mark.parametrize("after", ["AS a", "a", 'AS "A"', '"A"'])
def test_an_alias_behind_time_travel_is_kept(after: str) -> None:
    text = parse(f"SELECT * FROM t FOR VERSION AS OF 1 {after} WHERE true").text
    assert " ".join(text.split()) == f"SELECT * FROM _t0 {after} WHERE true"


@pytest.mark.parametrize(
    "after", ["MINUS SELECT 1", "EXCEPT SELECT 1", "LEFT JOIN u ON true", "TABLESAMPLE (5)", ", u", ")"]
)
def test_a_keyword_behind_time_travel_is_no_alias(after: str) -> None:
    assert 'AS "t"' in parse(f"SELECT * FROM (SELECT * FROM t FOR VERSION AS OF 1 {after}").text


def test_words_of_time_travel_may_be_names() -> None:
    for sql in ("SELECT version AS of FROM t", "SELECT a.timestamp AS of FROM a", "SELECT x FROM version AS of"):
        parsed = parse(sql)
        assert parsed.text == sql
        assert not parsed.refs


@given(st.integers(-62_135_596_800_000, 253_402_300_799_999))
def test_a_timestamp_is_read_to_the_millisecond(millis: int) -> None:
    moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(milliseconds=millis)
    parsed = parse(f"SELECT * FROM t FOR TIMESTAMP AS OF '{moment.isoformat()}'")
    assert parsed.refs["_t0"].at == At(timestamp_ms=millis)


@pytest.mark.parametrize("value", ["", "-1", "1.5", "'²'", "x", "$1", "TIMESTAMP"])
def test_a_version_that_is_none_is_refused(value: str) -> None:
    if value == "'²'":
        assert parse(f"SELECT * FROM t FOR VERSION AS OF {value}").refs["_t0"].at == At(ref="²")
        return
    with pytest.raises(SqlError, match="VERSION AS OF needs"):
        parse(f"SELECT * FROM t FOR VERSION AS OF {value}")


@pytest.mark.parametrize("value", ["''", "'yesterday'", "5", "", "'2026-13-01'"])
def test_a_timestamp_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(SqlError, match=r"(?i)timestamp"):
        parse(f"SELECT * FROM t FOR TIMESTAMP AS OF {value}")


@given(st.tuples(GAPS, GAPS, GAPS, GAPS, GAPS))
def test_what_stands_behind_a_rewrite_keeps_its_line_and_column(gaps: tuple[str, ...]) -> None:
    a, b, c, d, e = gaps
    sql = (
        f"SELECT{a}:p{b}FROM{c}delta({d}'x{b}'{e}){a}FOR{b}VERSION{c}AS{d}OF{e}1{a}JOIN{b}t{c}VERSION AS OF 2{d}marker"
    )
    parsed = parse(sql, {"p": 1})
    assert place(parsed.text, parsed.text.index("marker")) == place(sql, sql.index("marker"))
    assert place(parsed.text, parsed.text.index("JOIN")) == place(sql, sql.index("JOIN"))


def test_generated_names_avoid_those_of_the_statement() -> None:
    parsed = parse("SELECT * FROM _t0, delta('a'), \"_t1\", delta('b')")
    assert list(parsed.refs) == ["_t2", "_t3"]


def test_explain_knows_where_its_query_begins() -> None:
    for head in ("EXPLAIN ", "explain analyze ", "EXPLAIN ANALYZE VERBOSE ", "EXPLAIN FORMAT TREE "):
        parsed = parse(head + "SELECT 1")
        assert parsed.text[parsed.explained :] == "SELECT 1"
    assert parse("SELECT 1").explained == 0


# Parameters


def test_parameters_are_bound_by_position_and_by_name() -> None:
    assert parse("SELECT $1, $2", [7, "x"]).params == {"1": 7, "2": "x"}
    for names in ({"a": 1, "b": 2}, {":a": 1, "$b": 2}):
        parsed = parse("SELECT :a + $b + :a", names)
        assert parsed.params == {"a": 1, "b": 2}
        assert parsed.text == "SELECT $a + $b + $a"


@pytest.mark.parametrize(
    "sql",
    ["SELECT a[1:b]", "SELECT a[x:b]", "SELECT a[f(x):b]", "SELECT {'k':b}", "SELECT map {'k' :b}", "SELECT x::b",
     "SELECT ':b', \":b\" /* :b */"],
)  # fmt: skip
def test_a_colon_that_separates_is_no_parameter(sql: str) -> None:
    parsed = parse(sql + " + :b" if sql.endswith("]") else sql + ", :b", {"b": 1})
    assert parsed.text.startswith(sql)
    assert parsed.text.endswith("$b")


def test_a_parameter_may_be_a_part_of_a_slice_or_a_struct() -> None:
    assert parse("SELECT a[:b]", {"b": 1}).text == "SELECT a[$b]"
    assert parse("SELECT a[1::b]", {}).text == "SELECT a[1::b]"
    assert parse("SELECT {'k': :b}, [:b, :b], [CASE WHEN :b THEN :b END]", {"b": 1}).text.count("$b") == 5


@pytest.mark.parametrize(
    ("sql", "params"),
    [
        ("SELECT $1", None), ("SELECT $1, $3", [1, 2, 3]), ("SELECT $1", [1, 2]), ("SELECT :a", {"b": 1}),
        ("SELECT :a", None), ("SELECT 1", {"a": 1}), ("SELECT $1", "x"), ("SELECT $1", b"x"), ("SELECT $a", [1]),
    ],
)  # fmt: skip
def test_parameters_that_do_not_fit_are_refused(sql: str, params: object) -> None:
    with pytest.raises(InvalidError, match="param"):
        parse(sql, params)  # type: ignore[arg-type]


# What is refused


@pytest.mark.parametrize("sql", ["", " ", ";", ";;", "-- nothing", "/* nothing */;"])
def test_an_empty_statement_is_refused(sql: str) -> None:
    with pytest.raises(SqlError, match="empty"):
        parse(sql)


def test_a_second_statement_is_refused_with_its_place() -> None:
    with pytest.raises(SqlError, match="more than one") as caught:
        parse("SELECT 1;\n  SELECT 2")
    assert caught.value.facts == {"line": 2, "column": 3}
    assert parse("SELECT 1 ; -- the end\n;").text == "SELECT 1"


def test_a_misspelt_statement_gets_a_suggestion() -> None:
    with pytest.raises(SqlError, match="did you mean SELECT"):
        parse("SELCT 1")


@pytest.mark.parametrize("word", ["BEGIN", "COMMIT", "SET", "PREPARE", "grant"])
def test_a_statement_of_another_kind_is_refused_by_name(word: str) -> None:
    with pytest.raises(UnsupportedError, match=word.upper()):
        parse(f"{word} something")


def test_a_statement_past_its_length_is_refused() -> None:
    with pytest.raises(TooLargeError):
        parse("SELECT '" + "x" * SQL_BYTES_MAX + "'")
    with pytest.raises(TooLargeError):
        parse("SELECT '" + "雪" * (SQL_BYTES_MAX // 3) + "'")


@given(st.text(alphabet="SELECTFROMdelta(')[]{}:$1;,.\"`-*/ \n\\FORVERSIONASOF", max_size=50))
def test_any_text_is_parsed_or_refused(sql: str) -> None:
    with contextlib.suppress(FirnlineError):
        parse(sql)
