"""Differences of tables against a model that counts rows."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from functions.row_diff import CHANGE_TYPE, changed_rows

_KINDS = {
    "k": pa.int64(),
    "s": pa.string(),
    "f": pa.float64(),
    "l": pa.list_(pa.int32()),
    "p": pa.struct([("x", pa.int32()), ("y", pa.string())]),
}
_row = st.fixed_dictionaries(
    {
        "k": st.integers(0, 2),
        "s": st.sampled_from(["a", "b", None]),
        "f": st.sampled_from([0.0, -0.0, 1.5, float("nan"), None]),
        "l": st.sampled_from([None, [], [1], [1, None]]),
        "p": st.sampled_from([None, {"x": 1, "y": None}, {"x": None, "y": None}, {"x": 1, "y": "z"}]),
    }
)


def table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=pa.schema(list(_KINDS.items())))


def shown(row: dict[str, Any]) -> str:
    return repr([row[name] for name in _KINDS])


@given(st.lists(_row, max_size=12), st.lists(_row, max_size=12))
def test_what_changed_is_what_is_there_more_often(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> None:
    old, new = Counter(map(shown, before)), Counter(map(shown, after))
    changes = changed_rows(table(before), table(after))
    found = {word: Counter[str]() for word in ("insert", "delete")}
    for row in changes.to_pylist():
        found[row.pop(CHANGE_TYPE)][shown(row)] += 1
    assert found == {"insert": new - old, "delete": old - new}


@given(st.dictionaries(st.integers(0, 9), st.integers(0, 2)), st.dictionaries(st.integers(0, 9), st.integers(0, 2)))
def test_rows_of_one_key_are_the_two_sides_of_an_update(before: dict[int, int], after: dict[int, int]) -> None:
    def rows(values: dict[int, int]) -> pa.Table:
        return pa.table({"k": pa.array(list(values), pa.int64()), "v": pa.array(list(values.values()), pa.int64())})

    found = changed_rows(rows(before), rows(after), ["k"]).to_pylist()
    updated = sorted(k for k in before.keys() & after.keys() if before[k] != after[k])
    assert sorted(row["k"] for row in found if row[CHANGE_TYPE] == "delete") == sorted(before.keys() - after.keys())
    assert sorted(row["k"] for row in found if row[CHANGE_TYPE] == "insert") == sorted(after.keys() - before.keys())
    pairs = [row for row in found if row[CHANGE_TYPE].startswith("update")]
    assert sorted(row["k"] for row in pairs[::2]) == updated
    for pre, post in zip(pairs[::2], pairs[1::2], strict=True):
        assert (pre[CHANGE_TYPE], post[CHANGE_TYPE]) == ("update_preimage", "update_postimage")
        assert pre["k"] == post["k"]
        assert (pre["v"], post["v"]) == (before[pre["k"]], after[pre["k"]])


def test_keys_that_are_there_twice_are_paired_once_each() -> None:
    found = changed_rows(pa.table({"k": [1, 1], "v": [1, 2]}), pa.table({"k": [1], "v": [3]}), ["k"]).to_pylist()
    assert [(row[CHANGE_TYPE], row["v"]) for row in found] == [
        ("delete", 2), ("update_preimage", 1), ("update_postimage", 3),
    ]  # fmt: skip
