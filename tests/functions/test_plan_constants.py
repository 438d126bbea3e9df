"""Constants of plans: equal values are equal in whatever form the engine leaves them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datafusion import SessionContext

from functions.plan_constants import NULL, constant_of
from functions.plan_proto import Kind, decode, fields_of


def expressions(tmp_path: Path, sql: str) -> list[bytes]:
    """Return what the first column of a scan is, as the engine writes it where it is pushed down and where not."""
    pq.write_table(pa.table({"w": [1, 2]}), tmp_path / "w.parquet")
    context = SessionContext()
    context.register_parquet("t", str(tmp_path / "w.parquet"))
    found = []
    for query in (f"SELECT {sql} AS k, w FROM t", f"SELECT {sql} AS k, w FROM t WHERE w > 1"):
        plan = decode(context.sql(query).execution_plan().to_bytes(context))
        for node in plan.walk():
            if node.kind == Kind.PROJECTION:
                found.append(node.data(2)[0])
                break
            if node.kind == Kind.PARQUET_SCAN:
                [projected] = [value for field, value in fields_of(node.data(1)[0]) if field == 13]
                assert isinstance(projected, bytes)
                first = next(value for field, value in fields_of(projected) if field == 1)
                assert isinstance(first, bytes)
                expression = dict(fields_of(first))[2]
                assert isinstance(expression, bytes)
                found.append(expression)
                break
    assert len(found) == 2
    return found


@pytest.mark.parametrize(
    ("sql", "constant"),
    [
        ("CAST(0 AS BIGINT)", ("integer", 0)),
        ("arrow_cast('-7', 'Int32')", ("integer", -7)),
        ("arrow_cast('200', 'UInt8')", ("integer", 200)),
        ("arrow_cast('x', 'Utf8')", ("text", b"x")),
        ("'x'", ("text", b"x")),
        ("arrow_cast('1969-12-30', 'Date32')", ("date", -2)),
        ("true", ("bool", True)),
        ("arrow_cast(NULL, 'Int64')", NULL),
        ("arrow_cast('0', 'Float64')", None),
        ("-0.0", None),
        ("w + 1", None),
        ("w", None),
    ],
)
def test_constants_are_values(tmp_path: Path, sql: str, constant: object) -> None:
    assert {constant_of(each) for each in expressions(tmp_path, sql)} == {constant}


def test_a_cast_that_the_engine_left_is_the_value_that_it_gives() -> None:
    text, integer, date = b"\x0a\x06\x12\x04\x12\x02", b"\x12\x02R\x00", b"\x12\x03\x8a\x01\x00"
    assert constant_of(b"J" + bytes([len(text) + 2 + len(integer)]) + text + b"17" + integer) == ("integer", 17)
    day = b"\x0a\x0e\x12\x0c\x12\x0a" + b"1970-01-03"
    assert constant_of(b"J" + bytes([len(day) + len(date)]) + day + date) == ("date", 2)
