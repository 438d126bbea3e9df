"""Statements that write, from text to what they ask for, and complaints at their place."""

import contextlib

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.cursor import Span
from service.parse import parse
from service.write.parse import parse_write
from service.write.statements import (
    AddColumn,
    AlterTable,
    AlterType,
    CopyFrom,
    CopyTo,
    CreateTable,
    Delete,
    DropTable,
    Insert,
    Merge,
    Optimize,
    Partition,
    RenameTable,
    Restore,
    SetProperties,
    Sort,
    Update,
    Vacuum,
    Write,
)
from storage.errors import FirnlineError, SqlError, UnsupportedError

TZ = pa.timestamp("us", "UTC")


def read(sql: str) -> Write:
    return parse_write(parse(sql))


def text(sql: str, span: Span | None) -> str | None:
    return None if span is None else sql[span.start : span.limit]


def test_a_table_with_every_clause() -> None:
    statement = read(
        """CREATE TABLE IF NOT EXISTS s.t (a INT PRIMARY KEY, "B c" DECIMAL(10, 2) NOT NULL, d TEXT[],
        e STRUCT<x:INT, y:
        MAP<TEXT, DATE>>, f TIMESTAMP WITH TIME ZONE) USING iceberg PARTITIONED BY (d, bucket(16, a), days(f))
        ORDER BY (a, f DESC) WITH ('k' = 'v', x.y = 5)"""
    )
    assert isinstance(statement, CreateTable)
    assert statement.columns is not None
    assert [(each.name, each.nullable) for each in statement.columns] == [
        ("a", True), ("B c", False), ("d", True), ("e", True), ("f", True),
    ]  # fmt: skip
    assert [each.type for each in statement.columns[:3]] == [
        pa.int32(), pa.decimal128(10, 2), pa.list_(pa.field("element", pa.string())),
    ]  # fmt: skip
    assert statement.columns[4].type == TZ
    assert statement.primary_key == ("a",)
    assert statement.partition_by == (Partition("d"), Partition("a", "bucket[16]"), Partition("f", "day"))
    assert statement.order_by == (Sort("a"), Sort("f", descending=True))
    assert statement.properties == {"k": "v", "x.y": "5"}
    assert statement.if_not_exists


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("boolean", pa.bool_()), ("TINYINT", pa.int8()), ("smallint", pa.int16()), ("integer", pa.int32()),
        ("BIGINT", pa.int64()), ("REAL", pa.float32()), ("double precision", pa.float64()),
        ("VARCHAR(20)", pa.string()),
        ("numeric", pa.decimal128(38, 10)), ("DECIMAL(5)", pa.decimal128(5, 0)), ("BYTEA", pa.binary()),
        ("DATE", pa.date32()), ("TIMESTAMP", pa.timestamp("us")),
        ("TIMESTAMP(6) WITHOUT TIME ZONE", pa.timestamp("us")),
        ("timestamptz", TZ), ("INT[][]", pa.list_(pa.field("element", pa.list_(pa.field("element", pa.int32()))))),
        ("ARRAY<INT>", pa.list_(pa.field("element", pa.int32()))), ("ROW(a INT)", pa.struct([("a", pa.int32())])),
        ("MAP(TEXT, INT)", pa.map_(pa.field("key", pa.string(), False), pa.field("value", pa.int32()))),
    ],
)  # fmt: skip
def test_types_have_the_names_that_people_know(name: str, kind: pa.DataType) -> None:
    statement = read(f"CREATE TABLE t (c {name})")
    assert isinstance(statement, CreateTable)
    assert statement.columns is not None
    assert statement.columns[0].type == kind


@pytest.mark.parametrize(
    "name", ["TIME", "UUID", "JSON", "UINT32", "INT UNSIGNED", "CHAR(3)", "TIMESTAMP(9)", "INTERVAL"]
)
def test_types_that_no_table_has_are_refused_by_name(name: str) -> None:
    with pytest.raises((UnsupportedError, SqlError), match=r"support|microseconds|unsigned"):
        read(f"CREATE TABLE t (c {name})")


def test_pieces_of_dml_are_what_the_user_wrote() -> None:
    sql = (
        'UPDATE s.t AS x SET a = CASE WHEN b THEN (1) END, (c, "D") = (x.c + 1, DEFAULT) '
        "FROM delta('y') AS y WHERE x.a = y.from"
    )
    found = read(sql)
    assert isinstance(found, Update)
    assert (found.table, found.alias) == (("s", "t"), "x")
    assert [(each.column, text(sql, each.value)) for each in found.assignments] == [
        ("a", "CASE WHEN b THEN (1) END"), ("c", "x.c + 1"), ("D", None),
    ]  # fmt: skip
    assert text(sql, found.source) == "delta('y') AS y"
    assert text(sql, found.where) == "x.a = y.from"

    sql = "DELETE FROM t USING u, v WHERE t.a IN (SELECT a FROM w WHERE true)"
    gone = read(sql)
    assert isinstance(gone, Delete)
    assert (text(sql, gone.source), text(sql, gone.where)) == ("u, v", "t.a IN (SELECT a FROM w WHERE true)")

    sql = "INSERT INTO t (a, b) (SELECT 1, 2 FROM x JOIN y ON x.a = y.a) ON CONFLICT (a) DO UPDATE SET b = 1 WHERE c"
    put = read(sql)
    assert isinstance(put, Insert)
    assert put.columns == ("a", "b")
    assert text(sql, put.source) == "(SELECT 1, 2 FROM x JOIN y ON x.a = y.a)"
    assert put.on_conflict is not None
    assert put.on_conflict.columns == ("a",)
    assert text(sql, put.on_conflict.where) == "c"


def test_a_merge_has_its_clauses_in_order() -> None:
    sql = """MERGE INTO t USING (SELECT 1) AS s (id) ON t.id = s.id
        WHEN MATCHED AND CASE WHEN a THEN b END THEN UPDATE SET x = s.id, y = 2
        WHEN MATCHED THEN DELETE
        WHEN NOT MATCHED BY TARGET THEN INSERT (id, x) VALUES (s.id, DEFAULT)
        WHEN NOT MATCHED BY SOURCE AND x > 1 THEN DO NOTHING"""
    found = read(sql)
    assert isinstance(found, Merge)
    assert found.source_alias == "s"
    assert text(sql, found.source) == "(SELECT 1) AS s (id)"
    assert text(sql, found.on) == "t.id = s.id"
    assert [(each.when, each.action, text(sql, each.condition)) for each in found.clauses] == [
        ("matched", "update", "CASE WHEN a THEN b END"), ("matched", "delete", None), ("not matched", "insert", None),
        ("not matched by source", "nothing", "x > 1"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("sql", "statement"),
    [
        ("DROP TABLE IF EXISTS a.b PURGE", DropTable(("a", "b"), True, True)),
        ("DROP EXTERNAL TABLE t", DropTable(("default", "t"))),
        ("ALTER TABLE t ADD c INT", AlterTable(("default", "t"), AddColumn(pa.field("c", pa.int32())))),
        ("ALTER TABLE t ALTER COLUMN c SET DATA TYPE BIGINT", AlterTable(("default", "t"), AlterType("c", pa.int64()))),
        ("ALTER TABLE s.t RENAME TO u", AlterTable(("s", "t"), RenameTable(("s", "u")))),
        ("ALTER TABLE s.t RENAME TO v.u", AlterTable(("s", "t"), RenameTable(("v", "u")))),
        ("ALTER TABLE t SET ('a.b' = '1')", AlterTable(("default", "t"), SetProperties({"a.b": "1"}))),
        ("ALTER TABLE t UNSET TBLPROPERTIES (a.b)", AlterTable(("default", "t"), SetProperties({}, ("a.b",)))),
        ("OPTIMIZE t", Optimize(("default", "t"))),
        ("VACUUM t RETAIN 1.5 HOURS DRY RUN", Vacuum(("default", "t"), 1.5, True)),
        ("RESTORE TABLE t TO VERSION AS OF 5", Restore(("default", "t"), version=5)),
        ("RESTORE TABLE t TO TIMESTAMP '1970-01-01T00:00:01Z'", Restore(("default", "t"), timestamp_ms=1000)),
        (
            "COPY t (a) FROM '/x' WITH (FORMAT csv, HEADER)",
            CopyFrom(("default", "t"), ("a",), "/x", {"format": "csv", "header": "true"}),
        ),
        ("COPY t TO '/x.csv'", CopyTo(None, ("default", "t"), "/x.csv")),
    ],
)  # fmt: skip
def test_short_statements(sql: str, statement: Write) -> None:
    assert read(sql) == statement


@pytest.mark.parametrize(
    ("sql", "column"),
    [
        ("INSERT t VALUES (1)", 8), ("INSERT INTO t", 14), ("INSERT INTO t VALUES (1) ON CONFLICT DO", 40),
        ("UPDATE t a = 1", 12), ("UPDATE t SET a", 15), ("UPDATE t SET a = WHERE x", 18), ("DELETE t", 8),
        ("MERGE INTO t USING s ON a = b", 30), ("MERGE INTO t USING (SELECT 1) ON true WHEN MATCHED THEN DELETE", 31),
        ("CREATE TABLE t", 15), ("CREATE TABLE t (a)", 18), ("CREATE TABLE t (a NOPE)", 19), ("ALTER TABLE t FLY", 15),
        ("TRUNCATE t x", 12), ("VACUUM t RETAIN x HOURS", 17), ("RESTORE TABLE t TO 5", 20), ("COPY t '/x'", 8),
        ("CREATE TABLE t (a INT, a INT)", 26), ("CREATE TABLE t (a DECIMAL(50, 2))", 26),
        ("UPDATE t SET a = 1, a = 2", 26),
    ],
)  # fmt: skip
def test_a_malformed_write_is_blamed_at_its_place(sql: str, column: int) -> None:
    with pytest.raises(SqlError) as caught:
        read(sql)
    assert caught.value.facts == {"line": 1, "column": column}


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("CREATE OR REPLACE TABLE t AS SELECT 1", "OR REPLACE"), ("INSERT OR IGNORE INTO t VALUES (1)", "ON CONFLICT"),
        ("DELETE FROM t RETURNING *", "RETURNING"), ("INSERT INTO t VALUES (1) RETURNING a", "RETURNING"),
        ("CREATE TABLE t (a INT DEFAULT 1)", "DEFAULT"), ("CREATE TABLE t (a INT UNIQUE)", "UNIQUE"),
        ("CREATE TABLE t (a INT) LOCATION 'x'", "LOCATION"), ("CREATE TABLE t (a INT) USING orc", "format"),
        ("ALTER TABLE t ADD c INT NOT NULL", "NOT NULL"), ("UPDATE t SET a.b = 1", "struct"),
        ("EXPLAIN ANALYZE DELETE FROM t", "ANALYZE"), ("OPTIMIZE t ZORDER BY (a)", "ZORDER"),
        ("INSERT OVERWRITE t VALUES (1) ON CONFLICT DO NOTHING", "OVERWRITE"),
    ],
)  # fmt: skip
def test_what_is_understood_and_not_supported_is_refused_by_name(sql: str, words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        read(sql)


def test_parameters_count_in_every_piece_and_types_have_none() -> None:
    parsed = parse("UPDATE t SET a = $a WHERE b = :b", {"a": 1, "b": 2})
    assert (parsed.kind, parsed.params) == ("write", {"a": 1, "b": 2})
    assert parse("CREATE TABLE t (s STRUCT<a:INT,b:TEXT>)").kind == "write"
    assert parse("CREATE TABLE t AS SELECT :a AS x", {"a": 1}).params == {"a": 1}
    assert parse("EXPLAIN INSERT INTO t VALUES (1)").kind == "write"
    with pytest.raises(FirnlineError, match="param"):
        parse("DELETE FROM t WHERE a = $1 AND b = $2", [1])


LINE = """INSERT INTO UPDATE DELETE MERGE CREATE TABLE ALTER COPY t a ( ) , . = SET FROM WHERE VALUES SELECT 1 'x' ON
USING WHEN MATCHED NOT THEN AS BY CASE END ADD DROP COLUMN INT PRIMARY KEY CONFLICT DO NOTHING $1 * OVERWRITE TO"""
WORDS = st.sampled_from(LINE.split())


@given(st.lists(WORDS, max_size=25))
def test_any_words_are_parsed_or_refused(words: list[str]) -> None:
    with contextlib.suppress(FirnlineError):
        parsed = parse(" ".join(words), [1] if "$1" in words else None)
        if parsed.kind == "write":
            parse_write(parsed)
