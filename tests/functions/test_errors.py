"""The engine's errors in our own tree, from the engine itself."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datafusion import RuntimeEnvBuilder, SessionContext
from datafusion.catalog import Table

from functions.errors import ReadError, translate
from functions.merge_scan import MergeScan
from storage.errors import (
    CorruptError,
    FirnlineError,
    InternalError,
    InvalidError,
    LimitError,
    NotFoundError,
    SqlError,
    UnsupportedError,
)


def error_of(
    context: SessionContext, sql: str, tables: tuple[str, ...] = ("default.g", "default.other")
) -> FirnlineError:
    with pytest.raises(Exception) as caught:
        context.sql(sql).collect()
    return translate(caught.value, sql, tables)


@pytest.fixture
def context() -> SessionContext:
    made = SessionContext()
    made.from_arrow(pa.table({"x": list(range(100)), "name": [f"n{i}" for i in range(100)]}), name="g")
    return made


@pytest.mark.parametrize(
    ("sql", "kind", "words", "place"),
    [
        ("SELEC 1", SqlError, "found: SELEC", (1, 1)),
        ("SELECT\n 1 FRM g", SqlError, "expected: end of statement", (2, 8)),
        ("SELECT (1", SqlError, "the end of the statement", (1, 10)),
        ("SELECT '\"' FRM g", SqlError, "expected: end of statement", (1, 16)),
        ("SELECT\n nope FROM g", SqlError, "the columns are g.x, g.name", (2, 2)),
        ("SELECT nam FROM g", SqlError, "did you mean", (1, 8)),
        ('SELECT "X" FROM g', SqlError, "no such column", (1, 9)),
        ("SELECT foo(1)", SqlError, "Invalid function 'foo'", (1, 8)),
        ("SELECT x + name FROM g", SqlError, "cannot coerce", None),
        ("SELECT sum(name) FROM g", SqlError, "sum", None),
        ("SELECT x FROM g LIMIT -1", SqlError, "LIMIT", None),
        ("SELECT 1 UNION SELECT 1, 2", SqlError, "different number of columns", None),
        ("SELECT * FROM g WHERE x = 'abc'", InvalidError, "'abc'", None),
        ("SELECT 1 / (x - x) FROM g", InvalidError, "divide by zero", None),
        ("SELECT regexp_like('a', '(')", InvalidError, "unclosed group", None),
        ("SELECT (SELECT x FROM g)", InvalidError, "more than one row", None),
        ("SELECT b'x'", (SqlError, UnsupportedError), "nsupported", None),
    ],
)  # fmt: skip
def test_an_error_is_told_by_its_kind_and_place(
    context: SessionContext, sql: str, kind: type[FirnlineError], words: str, place: tuple[int, int] | None
) -> None:
    error = error_of(context, sql)
    assert isinstance(error, kind)
    assert words in str(error)
    assert "caused by" not in str(error)
    assert "DataFusion" not in str(error)
    if place is not None:
        assert (error.facts["line"], error.facts["column"]) == place


def test_a_missing_table_gets_the_nearest_names(context: SessionContext) -> None:
    error = translate(
        ValueError("Error during planning: table 'firnline.default.othr' not found"),
        "SELECT * FROM othr",
        ["default.other"],
    )
    assert isinstance(error, NotFoundError)
    assert "no such table: othr; did you mean other?" in error.message
    assert error.facts == {"line": 1, "column": 15}
    assert isinstance(error_of(context, "SELECT * FROM nope"), NotFoundError)


def test_a_quoted_name_may_hold_an_apostrophe() -> None:
    error = translate(ValueError("Error during planning: table 'firnline.a'b.t' not found"), 'SELECT * FROM "a\'b".t')
    assert isinstance(error, NotFoundError)
    assert "a'b.t" in error.message


@pytest.mark.parametrize(
    "word",
    ["EOF", "not supported", "not implemented", "AccessDenied", "403 Forbidden", "CorruptError: x",
     "ParserError(\"x\")",
     "Parquet error: x", "Resources exhausted", "table 'a.b.c' not found", "No field named x.",
     "Object at location x not found",
     "Error during planning: x", "Internal error: x", "type_coercion"],
)  # fmt: skip
def test_words_of_the_statement_do_not_decide(context: SessionContext, word: str) -> None:
    quoted = word.replace("'", "''")
    error = error_of(context, f"SELECT CAST('{quoted}' AS INT)")
    assert type(error) is InvalidError
    assert "cannot cast" in error.message


def test_names_that_a_rewrite_generated_are_not_shown() -> None:
    error = translate(
        ValueError('Schema error: No field named _t0.nope.\nValid fields are _t0.a, "_t1".b, t.c.'), "SELECT nope"
    )
    assert "_t0" not in str(error)
    assert "no such column: nope" in str(error)


def test_memory_is_a_limit() -> None:
    small = SessionContext(None, RuntimeEnvBuilder().with_fair_spill_pool(100_000))
    small.from_arrow(pa.table({"x": list(range(100_000))}), name="g")
    error = error_of(small, "SELECT a.x FROM g a JOIN g b ON a.x = b.x + 1 ORDER BY a.x DESC")
    assert isinstance(error, LimitError)
    assert "memory" in error.message


@pytest.mark.parametrize("damage", ["cut", "data", "footer"])
def test_a_damaged_file_is_corrupt(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"s": [f"some text {i}" for i in range(5_000)]}), path)
    data = bytearray(path.read_bytes())
    if damage == "cut":
        data = data[: len(data) // 2]
    else:
        for position in range(60, 2_000, 7) if damage == "data" else range(len(data) - 200, len(data) - 20, 7):
            data[position] ^= 0xFF
    path.write_bytes(data)
    context = SessionContext()
    try:
        context.sql(f"CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{path}'")
        context.sql("SELECT max(s || s) FROM t").collect()
    except Exception as error:
        assert isinstance(translate(error), ReadError)
    else:
        pytest.fail("read a damaged file")


def test_errors_of_the_merge_on_read_reader_keep_their_class() -> None:
    def error_from(raised: Exception) -> FirnlineError:
        def read(index: int, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
            raise raised
            yield

        context = SessionContext()
        context.register_table("m", Table(MergeScan(pa.schema([("x", pa.int64())]), [0], read, 2)))
        return error_of(context, "SELECT * FROM m")

    error = error_from(CorruptError("a data file cannot be read", file="file:///a/b.parquet"))
    assert type(error) is CorruptError
    assert "file:///a/b.parquet" in str(error)
    assert type(error_from(ValueError("CorruptError: no"))) is InternalError


def test_an_interval_that_pyarrow_lacks_is_refused_in_words() -> None:
    assert isinstance(translate(KeyError(22)), UnsupportedError)
