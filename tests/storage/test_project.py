"""File columns in the table's schema, against a slow projection of Python values."""

from __future__ import annotations

import datetime as dt
import decimal
import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import CorruptError
from storage.tables.project import default_of, is_direct, project_array, project_batch, source_of, with_mapped_ids
from storage.tables.snapshot import FIELD_ID, INITIAL_DEFAULT, PHYSICAL_NAME, Matching

WIDENED = {
    pa.int32(): pa.int64(), pa.float32(): pa.float64(), pa.decimal128(5, 2): pa.decimal128(9, 2),
    pa.string(): pa.string(),
    pa.date32(): pa.date32(), pa.binary(): pa.binary(), pa.bool_(): pa.bool_(),
}  # fmt: skip
VALUES: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.int32(): st.integers(-5, 5), pa.float32(): st.sampled_from([0.5, -2.0]),
    pa.string(): st.sampled_from(["", "a", "雪"]),
    pa.decimal128(5, 2): st.integers(-9, 9).map(lambda n: decimal.Decimal(n) / 100), pa.bool_(): st.booleans(),
    pa.date32(): st.integers(0, 9).map(lambda n: dt.date(2024, 1, 1 + n)), pa.binary(): st.sampled_from([b"", b"x"]),
}  # fmt: skip
Node = dict[str, Any]
"""kind: "plain" (type), "struct" (children), "list" (element) or "map" (value), with an id each; changed between
writing and reading as ``renamed`` (name in the file), ``dropped``, ``added`` and ``wide`` say."""


def structs(depth: int) -> st.SearchStrategy[Node]:
    children = st.lists(
        st.fixed_dictionaries(
            {"node": nodes(depth - 1), "renamed": st.booleans(), "dropped": st.booleans(), "added": st.booleans()}
        ),
        min_size=1,
        max_size=4,
    )
    order = st.randoms(use_true_random=False)
    return st.fixed_dictionaries({"kind": st.just("struct"), "children": children, "order": order})


def nodes(depth: int) -> st.SearchStrategy[Node]:
    plain = st.fixed_dictionaries(
        {"kind": st.just("plain"), "type": st.sampled_from(list(WIDENED)), "wide": st.booleans()}
    )
    if depth == 0:
        return plain
    inner = nodes(depth - 1)
    list_ = st.fixed_dictionaries({"kind": st.just("list"), "element": inner})
    map_ = st.fixed_dictionaries({"kind": st.just("map"), "value": inner})
    return st.one_of(plain, structs(depth), list_, map_)


def tag(name: str, type_: pa.DataType, number: int) -> pa.Field:
    return pa.field(name, type_, True, {FIELD_ID: str(number).encode()})


class Pair:
    """A node's type in the file and in the table, with the ids that link them."""

    def __init__(self) -> None:
        self.number = 0

    def next_id(self) -> int:
        self.number += 1
        return self.number

    def types(self, node: Node) -> tuple[pa.DataType, pa.DataType]:
        match node["kind"]:
            case "plain":
                return node["type"], WIDENED[node["type"]] if node["wide"] else node["type"]
            case "struct":
                stored, logical = self.children(node)
                return pa.struct(stored), pa.struct(logical)
            case "list":
                stored, logical = self.types(node["element"])
                number = self.next_id()
                return pa.list_(tag("element", stored, number)), pa.list_(tag("item", logical, number))
            case _:
                stored, logical = self.types(node["value"])
                key, number = self.next_id(), self.next_id()
                name = pa.field("key", pa.string(), False, {FIELD_ID: str(key).encode()})
                return pa.map_(name, tag("value", stored, number)), pa.map_(name, tag("value", logical, number))

    def children(self, node: Node) -> tuple[list[pa.Field], list[pa.Field]]:
        stored, logical = [], []
        for position, child in enumerate(node["children"]):
            of_file, of_table = self.types(child["node"])
            number = self.next_id()
            child["in_file"] = f"old{position}" if child["renamed"] else f"c{position}"
            child["in_table"] = f"c{position}"
            if not child["added"]:
                stored.append(tag(child["in_file"], of_file, number))
            if not child["dropped"]:
                logical.append(tag(child["in_table"], of_table, number))
        node["order"].shuffle(stored)
        return stored, logical


def values_of(draw: st.DrawFn, node: Node, *, null: bool = True) -> Any:
    if null and draw(st.integers(0, 4)) == 0:
        return None
    match node["kind"]:
        case "plain":
            return draw(VALUES[node["type"]])
        case "struct":
            return {c["in_file"]: values_of(draw, c["node"]) for c in node["children"] if not c["added"]}
        case "list":
            return [values_of(draw, node["element"]) for _ in range(draw(st.integers(0, 3)))]
        case _:
            return [(f"k{n}", values_of(draw, node["value"])) for n in range(draw(st.integers(0, 2)))]


def projected(node: Node, value: Any) -> Any:
    if value is None or node["kind"] == "plain":
        return value
    match node["kind"]:
        case "struct":
            return {
                c["in_table"]: None if c["added"] else projected(c["node"], value[c["in_file"]])
                for c in node["children"]
                if not c["dropped"]
            }
        case "list":
            return [projected(node["element"], item) for item in value]
        case _:
            return [(key, projected(node["value"], item)) for key, item in value]


@settings(deadline=None, max_examples=200)
@given(st.data(), structs(3), st.integers(0, 3), st.integers(0, 3))
def test_a_batch_is_projected_as_its_values_would_be(data: st.DataObject, root: Node, start: int, cut: int) -> None:
    stored, logical = Pair().children(root)
    rows = [values_of(data.draw, root, null=False) for _ in range(data.draw(st.integers(0, 6)))]
    whole = pa.RecordBatch.from_pylist(rows, pa.schema(stored))
    batch = whole.slice(start, max(0, whole.num_rows - start - cut))
    if not stored or not logical:
        return
    found = project_batch(batch, pa.schema(logical), "field_id", {})
    found.validate(full=True)
    assert found.schema.equals(pa.schema(logical))
    assert found.to_pylist() == [projected(root, row) for row in rows[start : start + batch.num_rows]]


@settings(deadline=None, max_examples=100)
@given(structs(3))
def test_a_column_that_is_direct_is_the_same_column(root: Node) -> None:
    stored, logical = Pair().children(root)
    for field in logical:
        source = source_of(field, stored, "field_id")
        if source is not None and is_direct(field, source, "field_id"):
            assert source.type.equals(field.type)


@pytest.mark.parametrize(
    "type_",
    [pa.large_list(pa.int64()), pa.list_(pa.float32(), 3), pa.large_string(), pa.dictionary(pa.int32(), pa.string()),
     pa.struct([("a", pa.large_list(pa.int8()))]), pa.map_(pa.string(), pa.list_(pa.int8(), 2))],
)  # fmt: skip
def test_the_same_type_is_direct_whatever_it_is(type_: pa.DataType) -> None:
    assert is_direct(pa.field("x", type_), pa.field("x", type_), "name")


@pytest.mark.parametrize(
    ("stored", "logical"),
    [(pa.list_(pa.int32(), 2), pa.list_(pa.int64())), (pa.large_list(pa.int32()), pa.list_(pa.int64()))],
)
def test_lists_of_every_layout_become_lists(stored: pa.DataType, logical: pa.DataType) -> None:
    array = pa.array([[9, 9], None, [1, 2], [3, 4]], stored).slice(1)
    found = project_array(array, pa.field("x", stored), pa.field("x", logical), "name")
    found.validate(full=True)
    assert found.type == logical
    assert found.to_pylist() == [None, [1, 2], [3, 4]]


def test_a_null_struct_stays_null_and_its_hidden_values_stay_hidden() -> None:
    stored = pa.StructArray.from_arrays([pa.array([1, 2, 3])], names=["a"], mask=pa.array([False, True, False]))
    field = pa.field("x", pa.struct([("b", pa.string()), ("a", pa.int64())]))
    found = project_array(stored, pa.field("x", stored.type), field, "name")
    assert found.to_pylist() == [{"b": None, "a": 1}, None, {"b": None, "a": 3}]


def test_a_struct_left_without_fields_keeps_its_nulls() -> None:
    stored = pa.array([{"a": 1}, None])
    found = project_array(stored, pa.field("x", stored.type), pa.field("x", pa.struct([])), "name")
    assert found.to_pylist() == [{}, None]


def ided(name: str, number: int | None = None, physical: str | None = None) -> pa.Field:
    metadata = {}
    if number is not None:
        metadata[FIELD_ID] = str(number).encode()
    if physical is not None:
        metadata[PHYSICAL_NAME] = physical.encode()
    return pa.field(name, pa.int64(), True, metadata or None)


@pytest.mark.parametrize(
    ("field", "stored", "matching", "found"),
    [
        (ided("a"), [ided("b"), ided("a")], "name", 1),
        (ided("a"), [ided("A")], "name", 0),
        (ided("a"), [ided("A"), ided("a")], "name", 1),
        (ided("a", physical="col-1"), [ided("a"), ided("col-1")], "physical_name", 1),
        (ided("a", physical="col-1"), [ided("a")], "physical_name", None),
        (ided("a", 1), [ided("a", 2), ided("b", 1)], "field_id", 1),
        (ided("a", 1), [ided("a", 2)], "field_id", None),
        (ided("a"), [ided("a", 2)], "field_id", None),
        (ided("a", 1), [ided("b"), ided("a")], "field_id", 1),
        (ided("a", 1), [ided("a", -1)], "field_id", 0),
    ],
)  # fmt: skip
def test_a_field_is_found_as_its_format_says(
    field: pa.Field, stored: list[pa.Field], matching: Matching, found: int | None
) -> None:
    source = source_of(field, stored, matching)
    assert source is (None if found is None else stored[found])


def test_a_name_mapping_reaches_every_level() -> None:
    schema = pa.schema(
        [("a", pa.struct([("b", pa.list_(pa.struct([("c", pa.int64())])))])), ("m", pa.map_(pa.string(), pa.int64()))]
    )
    names = {"a": 1, "a.b": 2, "a.b.element": 3, "a.b.element.c": 4, "m": 5, "m.key": 6, "m.value": 7}
    mapped = with_mapped_ids(schema, names)

    def ids(field: pa.Field) -> list[str]:
        own = [(field.metadata or {}).get(FIELD_ID, b"-").decode()]
        children = [field.type.key_field, field.type.item_field] if pa.types.is_map(field.type) else []
        if pa.types.is_struct(field.type) or pa.types.is_list(field.type):
            children = [field.type.field(position) for position in range(field.type.num_fields)]
        return own + [number for child in children for number in ids(child)]

    assert [number for field in mapped for number in ids(field)] == ["1", "2", "3", "4", "5", "6", "7"]


@pytest.mark.parametrize(
    ("type_", "value", "expected"),
    [
        (pa.int64(), 5, 5), (pa.string(), "x", "x"), (pa.bool_(), True, True), (pa.float64(), 1.5, 1.5),
        (pa.decimal128(9, 2), "14.20", decimal.Decimal("14.20")), (pa.date32(), "2017-11-16", dt.date(2017, 11, 16)),
        (pa.time64("us"), "22:31:08.123456", dt.time(22, 31, 8, 123456)),
        (pa.timestamp("us"), "2017-11-16T22:31:08.123456", dt.datetime(2017, 11, 16, 22, 31, 8, 123456)),
        (pa.timestamp("us", "UTC"), "2017-11-16T22:31:08.123456+00:00",
         dt.datetime(2017, 11, 16, 22, 31, 8, 123456, tzinfo=dt.UTC)),
        (pa.binary(16), "f79c3e09-677c-4bbd-a479-3f349cb785e7", bytes.fromhex("f79c3e09677c4bbda4793f349cb785e7")),
        (pa.binary(3), "00010f", b"\x00\x01\x0f"), (pa.binary(), "00010f", b"\x00\x01\x0f"), (pa.int64(), None, None),
        (pa.list_(pa.int64()), [1, 2], [1, 2]),
        (pa.map_(pa.string(), pa.int64()), {"keys": ["a"], "values": [1]}, [("a", 1)]),
        (pa.struct([ided("a", 1), ided("b", 2)]), {"1": 7}, {"a": 7, "b": None}),
    ],
)  # fmt: skip
def test_a_column_takes_its_default_in_files_written_before_it(type_: pa.DataType, value: Any, expected: Any) -> None:
    field = pa.field("x", type_, True, {INITIAL_DEFAULT: json.dumps(value).encode()})
    assert default_of(field).as_py() == expected
    batch = pa.RecordBatch.from_pydict({"y": [1, 2]})
    found = project_batch(batch, pa.schema([field]), "name", {})
    assert found.column(0).to_pylist() == [expected] * 2
    assert found.schema.field(0).type == type_


def test_a_value_that_does_not_fit_is_corrupt_and_names_its_column() -> None:
    batch = pa.RecordBatch.from_pydict({"x": ["a"]})
    with pytest.raises(CorruptError, match="column=x"):
        project_batch(batch, pa.schema([("x", pa.int64())]), "name", {})
