"""Rows of a tail by their keys, beside a look at every row."""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.tables import Managed, TableEntry
from functions import tail_index
from functions.tail import TableTail
from functions.tail_rows import TailRows
from storage.errors import UnsupportedError
from storage.log import LogRecord, Position, Record, RecordKind
from storage.tables.snapshot import FIELD_ID
from storage.tables.write import TableSpec

APPEND, UPSERT, DELETE = RecordKind.APPEND, RecordKind.UPSERT, RecordKind.DELETE
SCHEMA = pa.schema(
    [
        pa.field("k", pa.int64(), metadata={FIELD_ID: "1"}),
        pa.field("s", pa.string(), metadata={FIELD_ID: "2"}),
        pa.field("f", pa.float64(), metadata={FIELD_ID: "3"}),
    ]
)


def entry_of(key: Sequence[str] = ()) -> TableEntry:
    spec = TableSpec("t", SCHEMA, 0, 9, tuple(key))
    return TableEntry("default", "t", "t", "delta", "file:///t", 0, managed=Managed(spec, {0: SCHEMA}))


def table_of(k: Sequence[int | None], s: Sequence[str | None], f: Sequence[float | None]) -> pa.Table:
    return pa.table({"k": pa.array(k, pa.int64()), "s": pa.array(s, pa.string()), "f": pa.array(f, pa.float64())})


def log_record(rows: pa.Table, kind: RecordKind, sequence: int) -> LogRecord:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return LogRecord(Position(1, sequence), Record("t", 0, kind, sink.getvalue()))


def tail_of(rows: TailRows) -> TableTail:
    return TableTail(SCHEMA, (1, 9), 0, rows.batches, rows.keys, rows.state, rows.n_bytes, rows)


def scanned(tail: TableTail, names: Sequence[str], keys: pa.Table) -> list[tuple[Any, ...]]:
    """What a look at every row finds."""
    asked = {tuple(row.values()) for row in keys.to_pylist() if None not in row.values()}
    return shown([row for row in tail.rows.to_pylist() if tuple(row[name] for name in names) in asked])


def shown(rows: Sequence[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return sorted((tuple(row.values()) for row in rows), key=repr)


NUMBERS = st.integers(0, 12)
ROWS = st.lists(st.tuples(NUMBERS, st.sampled_from(["", "a", "b", "long" * 9]), st.sampled_from([0.0, -0.0, 1.5])))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from([APPEND, DELETE]), ROWS),
        st.tuples(st.just("fold"), st.integers(0, 9)),
        st.tuples(st.just("find"), st.lists(NUMBERS, min_size=1)),
        st.tuples(st.just("find many"), st.just(list(range(13)))),
    ),
    max_size=14,
)


@settings(deadline=None)
@given(steps=STEPS, key=st.sampled_from([(), ("k",), ("s", "k")]), fresh=st.sampled_from([0, 2, 4_096]))
def test_a_tail_answers_as_a_look_at_every_row_does_in_each_of_its_states(
    steps: list[Any], key: tuple[str, ...], fresh: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tail_index, "_FRESH_ROWS", fresh)
        patch.setattr(tail_index, "_SPARE_ROWS", fresh)
        entry, states = entry_of(key), [TailRows.empty(entry_of(key), SCHEMA)]
        for sequence, (what, with_) in enumerate(steps):
            if what == "fold":
                states.append(states[-1].since(with_))
            elif what in ("find", "find many"):
                for rows in (states[-1], states[len(states) // 2]):
                    check(tail_of(rows), with_, key)
            elif key or what is APPEND:
                rows = table_of(*zip(*with_, strict=True)) if with_ else table_of([], [], [])
                kind = what if what is DELETE or not key else UPSERT
                rows = rows.select(key) if kind is DELETE else rows
                states.append(states[-1].then([log_record(rows, kind, sequence)], entry))
        for rows in states:
            check(tail_of(rows), [0, 3, 3, 12], key)


def check(tail: TableTail, numbers: Sequence[int], key: tuple[str, ...]) -> None:
    strings = (["a", "b", "", "long" * 9, "none"] * len(numbers))[: len(numbers)]
    for names in (("k",), ("s", "k"), ("f",)):
        columns = {"k": pa.array(numbers, pa.int64()), "s": pa.array(strings), "f": pa.array(map(float, numbers))}
        keys = pa.table({name: columns[name] for name in names})
        hits = tail_index.find(tail, names, keys)
        assert hits.rows.schema.equals(tail.rows.schema)
        assert shown(hits.rows.to_pylist()) == scanned(tail, names, keys)
        touched = set()
        if names == key:
            touched = {tuple(row.values()) for batch in tail.keys or () for row in batch.to_pylist()}
        assert hits.touched.tolist() == [tuple(row.values()) in touched for row in keys.to_pylist()]


def test_a_deleted_key_is_touched_and_has_no_row() -> None:
    entry = entry_of(("k",))
    rows = TailRows.empty(entry, SCHEMA).then(
        [
            log_record(table_of([1, 2], ["a", "b"], [0, 0]), UPSERT, 0),
            log_record(pa.table({"k": pa.array([2, 3], pa.int64())}), DELETE, 1),
        ],
        entry,
    )
    hits = tail_index.find(tail_of(rows), ["k"], pa.table({"k": pa.array([1, 2, 3, 4], pa.int64())}))
    assert hits.rows.column("k").to_pylist() == [1]
    assert hits.touched.tolist() == [True, True, True, False]


def test_null_keys_are_found_by_nothing() -> None:
    rows = TailRows.empty(entry_of(), SCHEMA)
    rows = rows.then([log_record(table_of([None, 0], [None, ""], [None, 0.0]), APPEND, 0)], entry_of())
    for name, value in (("k", 0), ("s", ""), ("f", 0.0)):
        keys = pa.table({name: pa.array([value, None], SCHEMA.field(name).type)})
        assert tail_index.find(tail_of(rows), [name], keys).rows.num_rows == 1


def test_a_column_that_cannot_be_a_key_is_refused() -> None:
    schema = pa.schema([pa.field("l", pa.list_(pa.int64()), metadata={FIELD_ID: "1"})])
    spec = TableSpec("t", schema, 0, 9, ())
    entry = TableEntry("default", "t", "t", "delta", "file:///t", 0, managed=Managed(spec, {0: schema}))
    new = pa.table({"l": pa.array([[1]], pa.list_(pa.int64()))})
    rows = TailRows.empty(entry, schema).then([log_record(new, APPEND, 0)], entry)
    tail = TableTail(schema, (1, 1), 0, rows.batches, None, rows.state, 0, rows)
    with pytest.raises(UnsupportedError, match="column=l"):
        tail_index.find(tail, ["l"], new)


def test_statements_on_earlier_and_later_states_share_an_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail_index, "_FRESH_ROWS", 50)
    monkeypatch.setattr(tail_index, "_SPARE_ROWS", 50)
    entry, random = entry_of(("k",)), np.random.default_rng(6)
    states: list[tuple[TailRows, dict[int, str]]] = [(TailRows.empty(entry, SCHEMA), {})]
    for sequence in range(60):
        rows, last = states[-1]
        numbers = random.permutation(400)[:60]
        new = table_of(numbers, [f"{sequence}"] * len(numbers), [0.0] * len(numbers))
        states.append(
            (
                rows.then([log_record(new, UPSERT, sequence)], entry),
                last | dict.fromkeys(numbers.tolist(), f"{sequence}"),
            )
        )
    asked = pa.table({"k": pa.array(range(0, 500, 7), pa.int64())})

    def ask(number: int) -> None:
        rows, last = states[number]
        hits = tail_index.find(tail_of(rows), ["k"], asked)
        found = dict(zip(hits.rows.column("k").to_pylist(), hits.rows.column("s").to_pylist(), strict=True))
        assert found == {k: last[k] for k in range(0, 500, 7) if k in last}

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(ask, random.integers(0, len(states), 600).tolist()))


def test_an_index_is_brought_forward_over_many_states_of_a_large_tail() -> None:
    entry = entry_of(("k",))
    rows = TailRows.empty(entry, SCHEMA)
    random = np.random.default_rng(4)
    last: dict[int, str] = {}
    for sequence in range(40):
        numbers = random.permutation(20_000)[:3_000]
        new = table_of(numbers, [f"{sequence}"] * len(numbers), [0.0] * len(numbers))
        rows = rows.then([log_record(new, UPSERT, sequence)], entry)
        last |= dict.fromkeys(numbers.tolist(), f"{sequence}")
        asked = random.permutation(22_000)[:500]
        hits = tail_index.find(tail_of(rows), ["k"], pa.table({"k": asked}))
        found = dict(zip(hits.rows.column("k").to_pylist(), hits.rows.column("s").to_pylist(), strict=True))
        assert found == {k: last[k] for k in asked.tolist() if k in last}
        assert hits.touched.tolist() == [k in last for k in asked.tolist()]


@pytest.mark.anyio
async def test_an_index_that_was_prepared_is_the_one_that_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail_index, "_HERE_ROWS", 5_000)
    new = table_of(range(6_000), ["x"] * 6_000, [0.0] * 6_000)
    rows = TailRows.empty(entry_of(), SCHEMA).then([log_record(new, APPEND, 0)], entry_of())
    await tail_index.prepare(tail_of(rows), ["k"])
    prepared = rows.line.indexes[("k",)]
    check(tail_of(rows), [0, 5_999, 6_000], ())
    assert rows.line.indexes[("k",)] is prepared
    await tail_index.prepare(tail_of(TailRows.empty(entry_of(), SCHEMA)), ["k"])
