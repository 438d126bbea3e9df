"""Files that may hold the tail's keys, by their statistics."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.tail_files import key_values, may_hold
from storage.tables.snapshot import ColumnStats, FileSet, Snapshot

DAY = dt.date(2026, 1, 1)
KINDS = {
    "int32": pa.int32(),
    "double": pa.float64(),
    "date": pa.date32(),
    "instant": pa.timestamp("us", "UTC"),
    "text": pa.string(),
    "decimal": pa.decimal128(10, 2),
}


def value(kind: str, number: int) -> Any:
    match kind:
        case "date":
            return DAY + dt.timedelta(number)
        case "instant":
            return dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + dt.timedelta(number)
        case "text":
            return f"{number:04}"
        case "decimal":
            return Decimal(number)
        case _:
            return number


def snapshot_of(columns: dict[str, tuple[pa.DataType, list[tuple[Any, Any]]]]) -> Snapshot:
    n = len(next(iter(columns.values()))[1])
    stats = {
        name: ColumnStats(
            pa.array([low for low, _ in bounds], kind), pa.array([high for _, high in bounds], kind),
            pa.nulls(n, pa.int64()),
        )
        for name, (kind, bounds) in columns.items()
    }  # fmt: skip
    files = FileSet([f"f{i}" for i in range(n)], np.ones(n, np.int64), np.ones(n, np.int64), stats=stats.get)
    schema = pa.schema([pa.field(name, kind) for name, (kind, _) in columns.items()])
    return Snapshot("delta", "file:///t", 0, 0, schema, files)


@pytest.mark.parametrize("kind", KINDS)
@given(
    files=st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=3), min_size=1, max_size=6),
    keys=st.lists(st.integers(0, 50), min_size=1, max_size=5),
)
def test_a_file_that_holds_a_key_is_never_left_out(kind: str, files: list[list[int]], keys: list[int]) -> None:
    bounds = [(value(kind, min(each)), value(kind, max(each))) for each in files]
    snapshot = snapshot_of({"k": (KINDS[kind], bounds)})
    batch = pa.record_batch({"k": pa.array([value(kind, key) for key in keys], KINDS[kind])})
    held = may_hold(snapshot, [key_values(batch)])
    for kept, each in zip(held, files, strict=True):
        assert kept or not set(each) & set(keys)
        if kind not in ("text", "decimal"):
            assert kept == any(min(each) <= key <= max(each) for key in keys)


def test_files_without_bounds_are_kept_and_all_columns_of_a_key_must_meet() -> None:
    snapshot = snapshot_of(
        {
            "a": (pa.int64(), [(0, 9), (0, 9), (None, None), (20, 29)]),
            "b": (pa.float64(), [(0.0, 1.0), (5.0, 6.0), (0.0, 1.0), (0.0, 1.0)]),
            "c": (pa.binary(), [(None, None)] * 4),
        }
    )
    batch = pa.record_batch({"a": [3], "b": [0.5], "c": pa.array([b"x"], pa.binary())})
    assert may_hold(snapshot, [key_values(batch)]).tolist() == [True, False, True, False]
    nan = float("nan")
    odd = snapshot_of({"b": (pa.float64(), [(nan, 1.0), (0.0, nan), (nan, nan)])})
    assert may_hold(odd, [key_values(pa.record_batch({"b": [7.5]}))]).all()
