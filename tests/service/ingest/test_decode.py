"""Bodies become rows exactly, or an error that names the row, the column and the value."""

from __future__ import annotations

import datetime as dt
import gzip
import io
import json
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from service.ingest.csv_rows import CsvOptions
from service.ingest.decode import RowFormat, decode, decompress, format_of
from storage.errors import InvalidError, TooLargeError

UTC = dt.timezone.utc  # noqa: UP017
SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), False),
        ("small", pa.int8()),
        ("name", pa.string()),
        ("price", pa.decimal128(20, 4)),
        ("ratio", pa.float64()),
        ("weight", pa.float32()),
        ("ok", pa.bool_()),
        ("day", pa.date32()),
        ("at", pa.timestamp("us")),
        ("seen", pa.timestamp("us", "UTC")),
        ("raw", pa.binary()),
        ("tags", pa.list_(pa.field("element", pa.string(), False))),
        ("place", pa.struct([pa.field("x", pa.int32(), False), pa.field("y", pa.float64())])),
        ("counts", pa.map_(pa.string(), pa.int64())),
    ]
)
ROW: dict[str, Any] = {
    "id": 9223372036854775807,
    "small": -128,
    "name": "Zürich\n\"x\", ''",
    "price": "1234567890123456.7891",
    "ratio": 0.1,
    "weight": 1.5,
    "ok": True,
    "day": "2024-02-29",
    "at": "2026-01-31T12:00:00.000001",
    "seen": "2026-01-31T12:00:00+02:00",
    "raw": "AAH/",
    "tags": ["a", ""],
    "place": {"x": 1},
    "counts": {"a": 1, "": None},
}
EXPECTED = ROW | {
    "price": Decimal("1234567890123456.7891"),
    "day": dt.date(2024, 2, 29),
    "at": dt.datetime(2026, 1, 31, 12, 0, 0, 1),
    "seen": dt.datetime(2026, 1, 31, 10, tzinfo=UTC),
    "raw": b"\x00\x01\xff",
    "place": {"x": 1, "y": None},
    "counts": [("a", 1), ("", None)],
}
NULLS = {name: None for name in SCHEMA.names if name != "id"}


def rows_of(body: bytes, form: RowFormat, schema: pa.Schema = SCHEMA, options: CsvOptions | None = None) -> list[Any]:
    table = decode(body, form, schema, options).rows
    table.validate(full=True)
    assert table.schema.equals(schema, check_metadata=True)
    return table.to_pylist()


def ipc(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return sink.getvalue()


def parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def test_every_type_comes_through_json_and_ndjson_exactly() -> None:
    other = {"id": 1, "name": None}
    assert rows_of(json.dumps([ROW, other]).encode(), "json") == [EXPECTED, {"id": 1} | NULLS]
    assert rows_of(json.dumps(other).encode(), "json") == [{"id": 1} | NULLS]
    lines = b"\xef\xbb\xbf" + json.dumps(ROW).encode() + b"\r\n\n" + json.dumps(other).encode()
    assert rows_of(lines, "ndjson") == [EXPECTED, {"id": 1} | NULLS]
    assert rows_of(b"[]", "json") == rows_of(b"", "ndjson") == []


def test_every_type_comes_through_csv_exactly() -> None:
    cells = {name: json.dumps(value) if isinstance(value, list | dict) else str(value) for name, value in ROW.items()}
    quoted = ",".join('"' + cell.replace('"', '""') + '"' for cell in cells.values())
    body = ",".join(SCHEMA.names) + "\r\n" + quoted + "\r\n2" + "," * (len(SCHEMA.names) - 1)
    assert rows_of(body.encode(), "csv") == [EXPECTED, {"id": 2} | NULLS]


def test_arrow_and_parquet_come_through_exactly_whatever_their_encoding() -> None:
    table = decode(json.dumps([ROW, {"id": 1}]).encode(), "json", SCHEMA).rows
    for body in (ipc(table), ipc(table, compression="zstd"), ipc(table, compression="lz4")):
        assert rows_of(body, "arrow") == table.to_pylist()
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    assert rows_of(sink.getvalue(), "arrow") == table.to_pylist()
    assert rows_of(parquet(table), "parquet") == table.to_pylist()


def test_numbers_of_decimals_are_read_digit_by_digit() -> None:
    body = b'[{"id":1,"price":1234567890123456.7891,"ratio":0.1},{"id":2,"price":5e2}]'
    first, second = rows_of(body, "json")
    assert (first["price"], first["ratio"]) == (Decimal("1234567890123456.7891"), 0.1)
    assert second["price"] == 500


def test_large_json_is_read_in_blocks_with_the_same_errors() -> None:
    rows = [{"id": n, "name": "x" * 50} for n in range(40_000)]
    body = json.dumps(rows).encode()
    assert decode(body, "json", SCHEMA).rows.column("id").to_pylist() == list(range(40_000))
    rows[30_000]["id"] = "no"
    with pytest.raises(InvalidError) as raised:
        decode(json.dumps(rows).encode(), "json", SCHEMA)
    assert (raised.value.facts["row"], raised.value.facts["column"]) == (30_001, "id")
    for broken in (body[:-1], body + b"x", body[:-1] + b",]", body.replace(b"}, {", b"} {", 1), body[1:-1]):
        with pytest.raises(InvalidError, match="JSON"):
            decode(broken, "json", SCHEMA)


WRONG_JSON = [
    ('{"id": "7"}', "id", "whole number"),
    ('{"id": 1.0}', "id", "whole number"),
    ('{"id": true}', "id", "whole number"),
    ('{"id": 9223372036854775808}', "id", "fit into int64"),
    ('{"id": null}', "id", "NOT NULL"),
    ('{"name": "x"}', "id", "NOT NULL"),
    ('{"id": 1, "small": 128}', "small", "fit into int8"),
    ('{"id": 1, "name": 5}', "name", "string"),
    ('{"id": 1, "name": "\\ud800"}', "name", "surrogate"),
    ('{"id": 1, "price": 1.23456}', "price", "without loss"),
    ('{"id": 1, "price": "1e1000000000"}', "price", "without loss"),
    ('{"id": 1, "price": 1e400}', "price", "without loss"),
    ('{"id": 1, "price": "NaN"}', "price", "decimal"),
    ('{"id": 1, "ratio": 1e400}', "ratio", "fit into a float"),
    ('{"id": 1, "ratio": "1.5"}', "ratio", "number"),
    ('{"id": 1, "weight": 1e39}', "weight", "fit into float"),
    ('{"id": 1, "ok": 1}', "ok", "boolean"),
    ('{"id": 1, "day": "2026-02-30"}', "day", "date"),
    ('{"id": 1, "day": "20260131"}', "day", "date"),
    ('{"id": 1, "at": "2026-01-31T12:00:00Z"}', "at", "no zone"),
    ('{"id": 1, "at": "2026-01-31T12:00:00.0000001"}', "at", "microseconds"),
    ('{"id": 1, "at": 5}', "at", "string"),
    ('{"id": 1, "seen": "2026-01-31T25:00:00Z"}', "seen", "timestamp"),
    ('{"id": 1, "raw": "not base64"}', "raw", "base64"),
    ('{"id": 1, "tags": "a"}', "tags", "array"),
    ('{"id": 1, "tags": ["a", null]}', "tags[]", "NOT NULL"),
    ('{"id": 1, "tags": ["a", 5]}', "tags[]", "string"),
    ('{"id": 1, "place": {"y": 1}}', "place.x", "NOT NULL"),
    ('{"id": 1, "place": {"x": 1, "z": 1}}', "place.z", "no such member"),
    ('{"id": 1, "counts": {"a": "b"}}', "counts{}", "whole number"),
    ('{"id": 1, "nam": 1}', "nam", 'did you mean "name"'),
    ("[1]", None, "object"),
]


@pytest.mark.parametrize(("wrong", "column", "message"), WRONG_JSON)
def test_a_wrong_value_is_named_by_row_column_and_line(wrong: str, column: str | None, message: str) -> None:
    body = f'[{{"id": 1}}, {{"id": 2}}, {wrong}, {{"id": "later"}}]'
    with pytest.raises(InvalidError, match=message) as raised:
        decode(body.encode(), "json", SCHEMA)
    assert (raised.value.facts["row"], raised.value.facts.get("column")) == (3, column)
    with pytest.raises(InvalidError, match=message) as raised:
        decode(f'{{"id": 1}}\n\n{{"id": 2}}\n{wrong}\n{{"id": "later"}}'.encode(), "ndjson", SCHEMA)
    assert (raised.value.facts["row"], raised.value.facts["line"]) == (3, 4)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", "not JSON"),
        ("5", "array of objects"),
        ('[{"id": 1}', "not JSON"),
        ('[{"id": 1, "id": 2}]', "twice"),
        ('[{"id": 1, "place": {"x": 1, "x": 1}}]', "twice"),
        ('[{"id": NaN}]', "NaN"),
        ("[" * 100_000, "deeply"),
        ('[{"id": ' + "1" * 5000 + "}]", "not JSON"),
        ('[{"id": 1}] x', "not JSON"),
    ],
)
def test_json_that_is_none_is_refused(body: str, message: str) -> None:
    with pytest.raises(InvalidError, match=message):
        decode(body.encode(), "json", SCHEMA)


@pytest.mark.parametrize(
    ("body", "line", "column", "message"),
    [
        (b'id,name\n1,"a\nb"\nx,c\n', 4, "id", "whole number"),
        (b"id,name\n1,a\n\n2,3,4\n", 4, None, "expected 2 columns"),
        (b"id,nam\n1,a\n", 1, "nam", "did you mean"),
        (b"id,id\n1,1\n", 1, "id", "twice"),
        (b'id,name\n1,"a\n', 2, None, "quote"),
        (b"id,name\n1,\xff\n", 2, None, "utf8"),
        (b"name\na\n", 2, "id", "NOT NULL"),
        (b"id\n1\n\n2\n", 3, "id", "NOT NULL"),
        (b"id\n0x1F\n", 2, "id", "whole number"),
        (b"id,ratio\n1,1e400\n", 2, "ratio", "fit into double"),
        (b"id,weight\n1,inf\n2,1e39\n", 3, "weight", "fit into float"),
        (b"id,ok\n1,1\n", 2, "ok", "boolean"),
        (b'id,tags\n1,"[1"\n', 2, "tags", "JSON"),
        (b"", None, None, "empty"),
    ],
)
def test_a_wrong_csv_is_refused_with_its_line(body: bytes, line: int | None, column: str | None, message: str) -> None:
    with pytest.raises(InvalidError, match=message) as raised:
        decode(body, "csv", SCHEMA)
    assert (raised.value.facts.get("line"), raised.value.facts.get("column")) == (line, column)


def test_csv_knows_null_from_the_empty_string_and_takes_other_separators() -> None:
    schema = pa.schema([("a", pa.string()), ("b", pa.string())])
    assert rows_of(b'a,b\n"",\n', "csv", schema) == [{"a": "", "b": None}]
    assert rows_of(b'b;a\nNA;"NA"\n', "csv", schema, CsvOptions(";", "NA")) == [{"a": "NA", "b": None}]
    assert rows_of(b"a,b", "csv", schema) == []
    long = b"a,b\n" + b"x" * (3 << 20) + b",y\n1,2\n"
    assert [len(row["a"]) for row in rows_of(long, "csv", schema)] == [3 << 20, 1]
    with pytest.raises(InvalidError, match="delimiter"):
        CsvOptions("::")


def test_arrow_types_are_taken_where_no_value_changes() -> None:
    given = pa.table(
        {
            "id": pa.array([1, 2], pa.uint8()),
            "name": pa.array(["a", "b"]).dictionary_encode(),
            "price": pa.array([Decimal("1.50"), None], pa.decimal128(5, 2)),
            "ratio": pa.array([1, 2], pa.int32()),
            "day": pa.array([dt.date(2026, 1, 1), None], pa.date64()),
            "at": pa.array(["2026-01-01T00:00:00", None]),
            "seen": pa.array([1_000, None], pa.timestamp("ns", "Europe/Zurich")),
            "tags": pa.array([["x"], None], pa.large_list(pa.string_view())),
            "place": pa.array([{"y": None, "x": 5}, None], pa.struct([("y", pa.null()), ("x", pa.int64())])),
            "counts": pa.array([[("a", 1)], None], pa.map_(pa.large_string(), pa.int32())),
            "raw": pa.array([b"abc", None], pa.binary(3)),
        }
    )
    chunked = pa.concat_tables([given.slice(1), given.slice(0, 1)])
    second, first = rows_of(ipc(chunked), "arrow")
    assert second == {"id": 2} | NULLS | {"name": "b", "ratio": 2.0}
    assert (first["name"], first["price"], first["seen"].microsecond) == ("a", Decimal("1.5"), 1)
    assert (first["place"], first["counts"], first["tags"]) == ({"x": 5, "y": None}, [("a", 1)], ["x"])


@pytest.mark.parametrize(
    ("name", "array", "row"),
    [
        ("id", pa.array([1.0, 2.0]), None),
        ("id", pa.array(["1", "2"]), None),
        ("id", pa.array([1, 2**63], pa.uint64()), 2),
        ("small", pa.array([1, 300]), 2),
        ("name", pa.array([1, 2]), None),
        ("price", pa.array([0.5, 1.5]), None),
        ("price", pa.array([Decimal("1.5"), Decimal("1.00001")]), 2),
        ("weight", pa.array([1.0, 1e39]), 2),
        ("at", pa.array([0, 1], pa.timestamp("us", "UTC")), None),
        ("at", pa.array([1000, 1], pa.timestamp("ns")), 2),
        ("ok", pa.array([1, 0]), None),
        ("day", pa.array([0, 86_400_000_000], pa.timestamp("us")), None),
        ("tags", pa.array([["a"], [None]]), 2),
        ("place", pa.array([{"x": 1}, {"x": None}]), 2),
        ("place", pa.array([{"q": 1}, {"q": None}]), None),
        ("extra", pa.array([1, 2]), None),
    ],
)
def test_arrow_values_that_would_change_are_refused(name: str, array: pa.Array, row: int | None) -> None:
    columns = {"id": pa.array([1, 2])} | {name: array}
    for body, form in ((ipc(pa.table(columns)), "arrow"), (parquet(pa.table(columns)), "parquet")):
        with pytest.raises(InvalidError) as raised:
            decode(body, form, SCHEMA)  # type: ignore[arg-type]
        assert raised.value.facts.get("row") == row
        assert raised.value.facts["column"].startswith(name)


def test_bodies_that_unfold_without_bound_are_refused_early() -> None:
    huge = pa.DictionaryArray.from_arrays(pa.array([0] * 2000, pa.int16()), pa.array(["x" * (1 << 20)]))
    table = pa.table({"id": range(2000), "name": huge})
    for body, form in ((ipc(table), "arrow"), (parquet(table), "parquet")):
        with pytest.raises(TooLargeError):
            decode(body, form, SCHEMA)  # type: ignore[arg-type]
    zeros = pa.table({"id": pa.array([0] * (1 << 20))})
    body = ipc(zeros, compression="zstd")
    size = (8 << 20).to_bytes(8, "little")
    assert body.count(size) >= 1
    with pytest.raises((TooLargeError, InvalidError)):
        decode(body.replace(size, (1 << 50).to_bytes(8, "little")), "arrow", SCHEMA)


def test_encodings_are_undone_within_a_bound() -> None:
    body = b"x" * 100_000
    for packed, name in ((gzip.compress(body), "gzip"), (zstandard.compress(body), "zstd"), (body, "identity")):
        assert decompress(packed, name, len(body)) == body
    for packed, name in ((gzip.compress(body), "gzip"), (zstandard.compress(body), "zstd")):
        with pytest.raises(TooLargeError):
            decompress(packed, name, len(body) - 1)
        with pytest.raises(InvalidError):
            decompress(b"nonsense", name, 1000)
    assert decompress(gzip.compress(b"a") + gzip.compress(b"b"), "gzip", 10) == b"ab"
    for cut in (gzip.compress(body)[:-9], gzip.compress(body)[:20]):
        with pytest.raises(InvalidError, match="cut off"):
            decompress(cut, "gzip", len(body))
    with pytest.raises(InvalidError, match="cut off"):
        decompress(zstandard.compress(body)[:-3], "zstd", len(body))
    with pytest.raises(InvalidError, match="gzip"):
        decompress(body, "br", 1000)


def test_content_types_choose_the_format() -> None:
    assert format_of("application/json; charset=utf-8") == "json"
    assert format_of("") == format_of("application/x-www-form-urlencoded") == "json"
    assert format_of("Text/CSV") == "csv"
    for wrong in ("text/html", "text/csv; charset=latin-1"):
        with pytest.raises(InvalidError):
            format_of(wrong)
    with pytest.raises(InvalidError):
        format_of("", from_a_page=True)


def test_a_decimal_of_an_absurd_scale_is_refused() -> None:
    """Arrow's cast reads beyond its table of powers and ends the process."""
    body = ipc(pa.table({"id": [1], "price": pa.array([Decimal("1.5")], pa.decimal128(20, 5))}))
    scale = (5).to_bytes(4, "little")
    places = [place for place in range(len(body) - 4) if body[place : place + 4] == scale]
    refused = 0
    for place in places:
        changed = body[:place] + (134217732).to_bytes(4, "little") + body[place + 4 :]
        with pytest.raises(InvalidError):
            decode(changed, "arrow", SCHEMA)
        refused += 1
    assert refused
