"""Pages behind one schema: the rows that decoding them gives, whatever they hold and however they were written."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from functions.exchange import encode_page
from functions.stage_rows import stream_of

COLUMNS: dict[str, pa.Array] = {
    "numbers": pa.array([1, None, 3], pa.int64()),
    "texts": pa.array(["a", None, "ü" * 100]),
    "large": pa.array(["a", None, "b"], pa.large_string()),
    "decimals": pa.array([Decimal("1.50"), None, Decimal("-2.25")], pa.decimal128(9, 2)),
    "lists": pa.array([[1, 2], None, []], pa.list_(pa.int32())),
    "structs": pa.array([{"a": 1, "b": "x"}, None, {"a": None, "b": None}]),
    "times": pa.array([1, None, 3], pa.timestamp("us", "UTC")),
    "bools": pa.array([True, None, False]),
    "nulls": pa.nulls(3),
    "views": pa.array(["a", None, "a text that is longer than twelve bytes"], pa.string_view()),
}


def read(stream: bytes) -> pa.Table:
    with pa.ipc.open_stream(pa.py_buffer(stream)) as reader:
        return pa.Table.from_batches(list(reader), reader.schema)


def page(batch: pa.RecordBatch) -> bytes:
    data = encode_page([batch], batch.schema).data
    assert data is not None
    return data


@pytest.mark.parametrize("name", COLUMNS)
def test_pages_together_have_the_rows_of_each_in_their_order(name: str) -> None:
    batch = pa.record_batch({"n": [1, 2, 3], name: COLUMNS[name]})
    schema = pa.schema([pa.field("m", pa.int64()), pa.field("other", COLUMNS[name].type)], {"told": "by the plan"})
    found = read(stream_of([page(batch), page(batch.slice(1)), page(batch.slice(2, 1))], schema))
    assert found.schema.equals(schema, check_metadata=True)
    wanted = [*batch.to_pylist(), *batch.slice(1).to_pylist(), *batch.slice(2, 1).to_pylist()]
    assert [list(row.values()) for row in found.to_pylist()] == [list(row.values()) for row in wanted]


def test_pages_are_not_taken_apart() -> None:
    batch = pa.record_batch({"n": pa.array(range(100_000), pa.int64())})
    data = page(batch)
    stream = stream_of([data, data], batch.schema)
    assert len(stream) < 2 * len(data)
    assert read(stream).num_rows == 200_000


@pytest.mark.parametrize(
    ("rows", "type_"),
    [
        (pa.array(["a", "b", "a"]).dictionary_encode(), pa.dictionary(pa.int32(), pa.string())),
        (pa.array(["a", "b", "a"]).dictionary_encode(), pa.string()),
        (pa.array(["a", "b", "a"], pa.string_view()), pa.string()),
        (pa.array([1, 2, 3], pa.int32()), pa.int64()),
    ],
)
def test_rows_of_other_types_and_dictionaries_are_written_anew(rows: Any, type_: pa.DataType) -> None:
    batch = pa.record_batch({"x": rows})
    schema = pa.schema([("x", type_)])
    found = read(stream_of([page(batch), batch], schema))
    assert found.schema == schema
    assert found.column(0).to_pylist() == rows.to_pylist() * 2


def test_no_rows_are_nothing() -> None:
    schema = pa.schema([("x", pa.int64())])
    assert stream_of([], schema) == b""
    assert stream_of([pa.RecordBatch.from_pylist([], schema)], schema) == b""
