"""Schemas, protocols and column mapping: read exactly, or refused by name."""

import contextlib
import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import CorruptError, FirnlineError, UnsupportedError
from storage.tables.delta.protocol import READER_FEATURES
from storage.tables.delta.schema import read_schema
from storage.tables.snapshot import FIELD_ID, PHYSICAL_NAME
from tests.support.delta_build import Action, Lake, add, column, metadata, names, protocol

pytestmark = pytest.mark.anyio


async def schema_of(*columns: Action) -> pa.Schema:
    lake = Lake()
    await lake.commit(0, protocol(), metadata(*columns))
    return (await lake.load()).schema


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("string", pa.string()),
        ("long", pa.int64()),
        ("integer", pa.int32()),
        ("short", pa.int16()),
        ("byte", pa.int8()),
        ("float", pa.float32()),
        ("double", pa.float64()),
        ("boolean", pa.bool_()),
        ("binary", pa.binary()),
        ("date", pa.date32()),
        ("timestamp", pa.timestamp("us", "UTC")),
        ("timestamp_ntz", pa.timestamp("us")),
        ("decimal(38,18)", pa.decimal128(38, 18)),
        ("decimal(5, 0)", pa.decimal128(5, 0)),
        ("decimal", pa.decimal128(10, 0)),
        ("varchar(20)", pa.string()),
        ("char(3)", pa.string()),
        ("void", pa.null()),
        (
            {"type": "array", "elementType": "long", "containsNull": False},
            pa.list_(pa.field("element", pa.int64(), False)),
        ),
        (
            {"type": "map", "keyType": "string", "valueType": "date", "valueContainsNull": True},
            pa.map_(pa.string(), pa.field("value", pa.date32(), True)),
        ),
        ({"type": "udt", "class": "x", "sqlType": "double"}, pa.float64()),
    ],
)
async def test_every_type_has_its_arrow_type(kind: Any, expected: pa.DataType) -> None:
    schema = await schema_of(column("x", kind), column("y", kind, nullable=False))
    assert schema.field("x").type == expected
    assert (schema.field("x").nullable, schema.field("y").nullable) == (True, kind == "void")


@pytest.mark.parametrize("kind", ["interval day", "variant", "geometry(4326)", "calendarinterval", {"type": "tensor"}])
async def test_a_type_that_is_not_read_is_refused_with_its_column(kind: Any) -> None:
    nested = {"type": "struct", "fields": [column("deep", kind)]}
    with pytest.raises(UnsupportedError, match=r"column=deep type='\w"):
        await schema_of(column("x", nested))


@pytest.mark.parametrize("kind", ["decimal(39,0)", "decimal(3,4)", "decimal(0,0)", 5, None, {}, {"type": "array"}, []])
async def test_an_impossible_type_is_corrupt(kind: Any) -> None:
    with pytest.raises(CorruptError, match="table="):
        await schema_of(column("x", kind))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"type": "struct"}', '{"fields": [5]}', "[" * 100_000])
async def test_a_schema_that_is_none_is_corrupt(text: str) -> None:
    with pytest.raises(CorruptError, match="schema is not valid"):
        read_schema("t", text, "none")


async def test_a_column_named_twice_is_corrupt() -> None:
    with pytest.raises(CorruptError, match="twice"):
        await schema_of(column("x"), column("x", "string"))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(
                    ["type", "fields", "name", "metadata", "elementType", "keyType", "valueType", "sqlType"]
                ),
                inner,
            )
        ),
    )
)
def test_any_json_is_a_schema_or_an_error_of_ours(value: Any) -> None:
    with contextlib.suppress(FirnlineError):
        read_schema("t", json.dumps({"type": "struct", "fields": [value]}), "name")


def mapped(name: str, number: int, kind: Any = "long", **more: Any) -> Action:
    return column(
        name, kind, **{"delta.columnMapping.id": number, "delta.columnMapping.physicalName": f"col-{number}"}, **more
    )


async def mapped_lake(mode: str, *, reader: int = 2) -> Lake:
    deep = {"type": "struct", "fields": [mapped("inner", 3)]}
    array = {"type": "array", "elementType": deep, "containsNull": True}
    table = {"type": "map", "keyType": "string", "valueType": array, "valueContainsNull": True}
    ids = {"delta.columnMapping.nested.ids": {"col-2.key": 7, "col-2.value": 8, "col-2.value.element": 9}}
    lake = Lake()
    first = protocol(reader, 7, ["columnMapping"] if reader == 3 else None)
    stats = {"numRecords": 2, "minValues": {"col-1": 4}, "maxValues": {"col-1": 6}, "nullCount": {"col-1": 0}}
    columns = [mapped("id", 1), mapped("nested", 2, table, **ids), mapped("part", 4, "date")]
    configuration = {"delta.columnMapping.mode": mode}
    await lake.commit(0, first, metadata(*columns, partitions=["part"], configuration=configuration))
    await lake.commit(1, add("a", stats=stats, values={"col-4": "2024-02-29"}))
    return lake


@pytest.mark.parametrize(("mode", "matching"), [("name", "physical_name"), ("id", "field_id")])
@pytest.mark.parametrize("reader", [2, 3])
async def test_column_mapping_tags_fields_at_every_level(mode: str, matching: str, reader: int) -> None:
    snapshot = await (await mapped_lake(mode, reader=reader)).load()
    assert snapshot.matching == matching
    nested = snapshot.schema.field("nested")
    item = nested.type.item_field
    element = item.type.value_field
    inner = element.type.field("inner")
    assert nested.metadata == {PHYSICAL_NAME: b"col-2", FIELD_ID: b"2"}
    assert inner.metadata == {PHYSICAL_NAME: b"col-3", FIELD_ID: b"3"}
    assert [one.metadata[FIELD_ID] for one in (nested.type.key_field, item, element)] == [b"7", b"8", b"9"]


async def test_partition_values_and_statistics_are_found_by_physical_name() -> None:
    files = (await (await mapped_lake("name")).load()).files
    assert files.partitions["part"].cast(pa.string()).to_pylist() == ["2024-02-29"]
    assert files.stats("id").minimum.to_pylist() == [4]
    assert files.stats("part").maximum.cast(pa.string()).to_pylist() == ["2024-02-29"]
    assert files.stats("nested") is None


async def test_a_mapping_mode_without_its_protocol_is_not_in_force() -> None:
    lake = Lake()
    await lake.commit(0, protocol(1, 2), metadata(configuration={"delta.columnMapping.mode": "name"}))
    snapshot = await lake.load()
    assert snapshot.matching == "name"
    assert snapshot.schema.field("id").metadata is None


async def test_a_column_without_its_mapping_is_corrupt_and_an_unknown_mode_is_refused() -> None:
    lake = Lake()
    await lake.commit(0, protocol(2, 5), metadata(configuration={"delta.columnMapping.mode": "name"}))
    with pytest.raises(CorruptError, match="column=id"):
        await lake.load()
    await lake.commit(1, metadata(configuration={"delta.columnMapping.mode": "sideways"}))
    with pytest.raises(UnsupportedError, match="mode=sideways"):
        await lake.load()


@pytest.mark.parametrize("feature", sorted(READER_FEATURES))
async def test_a_known_reader_feature_is_read(feature: str) -> None:
    lake = Lake()
    await lake.commit(0, protocol(3, 7, [feature]), metadata(), add("a"))
    assert names(await lake.load()) == ["a"]


@pytest.mark.parametrize(
    "feature",
    ["catalogManaged", "catalogOwned-preview", "geospatial", "neverHeardOf"],
)
async def test_any_other_reader_feature_is_refused_by_name(feature: str) -> None:
    lake = Lake()
    await lake.commit(0, protocol(3, 7, ["deletionVectors", feature]), metadata(), add("a"))
    with pytest.raises(UnsupportedError, match=f"table=s3://lake/t feature={feature}$"):
        await lake.load()


async def test_a_feature_of_writers_does_not_matter() -> None:
    lake = Lake()
    first = protocol(3, 7, [])
    first["protocol"]["writerFeatures"] = ["collations", "domainMetadata", "neverHeardOf"]
    await lake.commit(0, first, metadata(), add("a"))
    assert names(await lake.load()) == ["a"]


@pytest.mark.parametrize(
    ("body", "error", "match"),
    [
        ({"minReaderVersion": 4, "minWriterVersion": 7}, UnsupportedError, "reader_version=4"),
        ({"minReaderVersion": 0, "minWriterVersion": 7}, CorruptError, "reader_version=0"),
        ({"minReaderVersion": 3, "minWriterVersion": 7}, CorruptError, "no reader features"),
    ],
)
async def test_reader_versions_are_checked(body: Action, error: type[FirnlineError], match: str) -> None:
    lake = Lake()
    await lake.commit(0, {"protocol": body}, metadata(), add("a"))
    with pytest.raises(error, match=match):
        await lake.load()


async def test_data_files_that_are_not_parquet_are_refused() -> None:
    lake = Lake()
    orc = metadata()
    orc["metaData"]["format"]["provider"] = "orc"
    await lake.commit(0, protocol(), orc, add("a"))
    with pytest.raises(UnsupportedError, match="provider='orc'"):
        await lake.load()
