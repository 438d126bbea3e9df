"""Tables that pyiceberg writes: evolution, partitioning, nesting, branches; its own scan is the oracle."""

import datetime as dt
import decimal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.conversions import from_bytes, to_bytes
from pyiceberg.expressions import EqualTo
from pyiceberg.io.pyarrow import _pyarrow_to_schema_without_ids
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema, assign_fresh_schema_ids
from pyiceberg.table import Table
from pyiceberg.transforms import (
    BucketTransform,
    DayTransform,
    HourTransform,
    IdentityTransform,
    MonthTransform,
    Transform,
    TruncateTransform,
    VoidTransform,
    YearTransform,
)
from pyiceberg.types import (
    DoubleType,
    FloatType,
    IntegerType,
    ListType,
    LongType,
    MapType,
    NestedField,
    StringType,
    StructType,
)

from storage.tables.iceberg import load
from storage.tables.snapshot import At, Snapshot
from tests.support.delta_read import multiset
from tests.support.iceberg_build import IcebergBuilder, Manifest
from tests.support.iceberg_read import local_stores, read_table

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:Delete operation did not match any records"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[SqlCatalog]:
    made = SqlCatalog("default", uri=f"sqlite:///{tmp_path}/c.db", warehouse=f"file://{tmp_path}/w")
    made.create_namespace("ns")
    yield made
    made.engine.dispose()


async def resolve(table: Table, at: At = At()) -> Snapshot:  # noqa: B008
    return await load(local_stores(), table.metadata_location, at, None)


async def assert_same(table: Table, at: At = At(), snapshot_id: int | None = None) -> Snapshot:  # noqa: B008
    """Our rows are pyiceberg's, and every bound holds."""
    snapshot = await resolve(table, at)
    rows = await read_table(local_stores(), snapshot)
    theirs = table.scan(snapshot_id=snapshot_id).to_arrow()
    assert rows.column_names == theirs.column_names
    assert multiset(rows) == multiset(theirs)
    return snapshot


EVENTS = pa.table(
    {
        "id": pa.array([1, 2, 3, 4], pa.int64()),
        "at": pa.array([dt.datetime(2024, 1, day, 5) for day in (1, 1, 2, 3)], pa.timestamp("us")),
        "day": pa.array([dt.date(1969, 12, 30), dt.date(1970, 1, 1), None, dt.date(2024, 2, 29)]),
        "name": ["alpha", "beta", None, "ä/ö %20=x"],
        "price": pa.array([decimal.Decimal("1.10"), None, decimal.Decimal("-2.25"), decimal.Decimal("0.00")]).cast(
            pa.decimal128(9, 2)
        ),
        "n": pa.array([5, -5, None, 12], pa.int32()),
        "raw": pa.array([b"\x00\xff", b"", None, b"abc"], pa.binary()),
        "flag": [True, False, None, True],
    }
)


@pytest.mark.parametrize("name", ["id", "name", "price", "flag", "raw", "day", "at"])
async def test_identity_partitions_read_back_in_their_column_type(catalog: SqlCatalog, name: str) -> None:
    table = catalog.create_table("ns.t", EVENTS.schema)
    with table.update_spec() as update:
        update.add_identity(name)
    table.append(EVENTS)
    snapshot = await assert_same(table)
    assert snapshot.partition_columns == (name,)
    assert snapshot.files.partitions[name].type == snapshot.schema.field(name).type


TRANSFORMS: list[tuple[str, Transform[Any, Any], Any]] = [
    ("at", YearTransform(), "int"), ("at", MonthTransform(), "int"), ("at", HourTransform(), "int"),
    ("at", DayTransform(), {"type": "int", "logicalType": "date"}), ("day", YearTransform(), "int"),
    ("day", MonthTransform(), "int"), ("day", DayTransform(), {"type": "int", "logicalType": "date"}),
    ("id", BucketTransform(4), "int"), ("name", BucketTransform(3), "int"), ("n", TruncateTransform(10), "int"),
    ("name", TruncateTransform(2), "string"), ("id", VoidTransform(), "long"),
    (
        "price", TruncateTransform(50),
        {"type": "fixed", "name": "d4", "size": 4, "logicalType": "decimal", "precision": 9, "scale": 2},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "transform", "avro"), TRANSFORMS, ids=[f"{t}-{n}" for n, t, _ in TRANSFORMS])
async def test_every_transform_partitions_and_bounds_its_column(
    tmp_path: Path, name: str, transform: Transform[Any, Any], avro: Any
) -> None:
    schema = assign_fresh_schema_ids(_pyarrow_to_schema_without_ids(EVENTS.schema))
    build = IcebergBuilder(tmp_path / "t", schema.model_dump()["fields"])
    source = schema.find_field(name)
    spec = {"name": "p", "transform": str(transform), "source-id": source.field_id, "field-id": 1000}
    build.specs = [{"spec-id": 0, "fields": [spec]}]
    apply = transform.transform(source.field_type)
    files = []
    for row in range(EVENTS.num_rows):
        alone = EVENTS.slice(row, 1)
        value = alone.column(name)[0].as_py()
        value = None if value is None else from_bytes(source.field_type, to_bytes(source.field_type, value))
        files.append(build.parquet(f"{row}.parquet", alone, range(1, 9), partition={"p": apply(value)}))
    location = build.commit(Manifest(files, partition={("p", 1000): avro}))
    snapshot = await load(local_stores(), location, At(), None)
    assert multiset(await read_table(local_stores(), snapshot)) == multiset(EVENTS)
    assert snapshot.partition_columns == ()
    stats = snapshot.files.stats(name)
    assert stats is not None
    for value, low, high in zip(EVENTS.column(name), stats.minimum, stats.maximum, strict=True):
        assert not value.is_valid or not low.is_valid or low.as_py() <= value.as_py()
        assert not value.is_valid or not high.is_valid or value.as_py() <= high.as_py()
    says_nothing = isinstance(transform, BucketTransform | VoidTransform)
    assert (stats.minimum.null_count == len(files)) == says_nothing


async def test_partitioning_may_change_and_end(catalog: SqlCatalog) -> None:
    spec = PartitionSpec(PartitionField(1, 1000, IdentityTransform(), "id"))
    schema = Schema(NestedField(1, "id", LongType()), NestedField(2, "name", StringType()))
    table = catalog.create_table("ns.t", schema, partition_spec=spec, properties={"format-version": "1"})
    rows = EVENTS.select(["id", "name"])
    table.append(rows)
    with table.update_spec() as update:
        update.remove_field("id")
        update.add_identity("name")
    table.append(rows)
    with table.update_spec() as update:
        update.remove_field("name")
    table.append(rows)
    snapshot = await assert_same(table)
    assert snapshot.files.partitions == {}
    assert snapshot.files.absent["id"][1].sum() == snapshot.files.absent["name"][1].sum() == 4


async def test_columns_may_be_renamed_reordered_dropped_added_and_widened(catalog: SqlCatalog) -> None:
    inner = StructType(NestedField(5, "a", IntegerType()), NestedField(6, "b", StringType()))
    schema = Schema(
        NestedField(1, "id", IntegerType()),
        NestedField(2, "x", FloatType()),
        NestedField(3, "gone", StringType()),
        NestedField(4, "s", inner),
    )
    table = catalog.create_table("ns.t", schema)
    struct = pa.struct([("a", pa.int32()), ("b", pa.string())])
    table.append(
        pa.table(
            {
                "id": pa.array([1, 2], pa.int32()), "x": pa.array([0.5, None], pa.float32()), "gone": ["g", "g"],
                "s": pa.array([{"a": 1, "b": "x"}, None], struct),
            }
        )
    )  # fmt: skip
    first = table.current_snapshot()
    with table.update_schema() as update:
        update.rename_column("id", "key")
        update.update_column("id", LongType())
        update.update_column("x", DoubleType())
        update.delete_column("gone")
        update.add_column("gone", IntegerType())
        update.add_column(("s", "c"), DoubleType())
        update.rename_column("s.a", "z")
        update.move_first("x")
    struct = pa.struct([("z", pa.int32()), ("b", pa.string()), ("c", pa.float64())])
    table.append(
        pa.table(
            {
                "x": [1.5], "key": pa.array([1 << 40], pa.int64()),
                "s": pa.array([{"z": 2, "b": "y", "c": 0.5}], struct), "gone": pa.array([7], pa.int32()),
            }
        )
    )  # fmt: skip
    snapshot = await assert_same(table)
    stats = snapshot.files.stats("key")
    assert stats is not None
    assert sorted(zip(stats.minimum.to_pylist(), stats.maximum.to_pylist(), strict=True)) == [
        (1, 2),
        (1 << 40, 1 << 40),
    ]
    gone = snapshot.files.stats("gone")
    assert gone is not None
    assert sorted(gone.null_count.to_pylist(), key=str) == [0, None]
    assert first is not None
    old = await assert_same(table, At(version=first.snapshot_id), first.snapshot_id)
    assert old.schema.names == ["id", "x", "gone", "s"]


async def test_nested_types_carry_ids_at_every_level(catalog: SqlCatalog) -> None:
    rows = pa.table(
        {
            "l": pa.array([[{"v": 1}], [], None], pa.list_(pa.struct([("v", pa.int32())]))),
            "m": pa.array([[("k", [1.5])], [], None], pa.map_(pa.string(), pa.list_(pa.float64()))),
        }
    )
    table = catalog.create_table("ns.t", rows.schema)
    table.append(rows)
    snapshot = await assert_same(table)
    ids = table.schema()
    element = snapshot.schema.field("l").type.value_field
    pairs = snapshot.schema.field("m").type
    expected = {
        "l.element": element, "l.element.v": element.type.field("v"), "m.key": pairs.key_field,
        "m.value": pairs.item_field, "m.value.element": pairs.item_field.type.value_field,
    }  # fmt: skip
    for name, field in expected.items():
        assert int(field.metadata[b"PARQUET:field_id"]) == ids.find_field(name).field_id, name
    assert isinstance(ids.find_type("l"), ListType)
    assert isinstance(ids.find_type("m"), MapType)
    assert snapshot.files.stats("l") is None


async def test_copy_on_write_deletes_and_overwrites_are_followed(catalog: SqlCatalog) -> None:
    table = catalog.create_table("ns.t", EVENTS.schema)
    table.append(EVENTS)
    table.append(EVENTS)
    table.delete(EqualTo("id", 2))
    await assert_same(table)
    table.overwrite(EVENTS.slice(0, 1))
    await assert_same(table)
    table.delete("id = 1")
    snapshot = await assert_same(table)
    assert len(snapshot.files) == 0
    assert snapshot.version != 0


async def test_branches_tags_and_history_are_found(catalog: SqlCatalog) -> None:
    table = catalog.create_table("ns.t", EVENTS.schema)
    table.append(EVENTS.slice(0, 1))
    first = table.current_snapshot()
    assert first is not None
    table.manage_snapshots().create_tag(first.snapshot_id, "t").create_branch(first.snapshot_id, "b").commit()
    table.append(EVENTS.slice(1, 1))
    table.append(EVENTS.slice(2, 1), branch="b")
    for at, number in ((At(), 2), (At(ref="t"), 1), (At(ref="b"), 2), (At(ref="main"), 2)):
        assert sum((await resolve(table, at)).files.n_rows) == number
    for entry in table.history():
        found = await resolve(table, At(timestamp_ms=entry.timestamp_ms))
        assert found.version == entry.snapshot_id
    ids = (await read_table(local_stores(), await resolve(table, At(ref="b")))).column("id").to_pylist()
    assert sorted(ids) == [1, 3]


async def test_statistics_cover_every_type_of_column(catalog: SqlCatalog) -> None:
    table = catalog.create_table("ns.t", EVENTS.schema)
    table.append(EVENTS)
    snapshot = await resolve(table)
    for name in EVENTS.column_names:
        stats = snapshot.files.stats(name)
        assert stats is not None
        values = [value for value in EVENTS.column(name).to_pylist() if value is not None]
        assert stats.minimum.type == snapshot.schema.field(name).type
        assert stats.minimum[0].as_py() == min(values), name
        assert stats.maximum[0].as_py() == max(values), name
        assert stats.null_count.to_pylist() == [EVENTS.column(name).null_count]


async def test_bounds_of_floats_are_used_only_without_nan(catalog: SqlCatalog) -> None:
    rows = pa.table({"x": pa.array([1.0, float("nan"), None])})
    table = catalog.create_table("ns.t", rows.schema)
    table.append(rows)
    stats = (await resolve(table)).files.stats("x")
    assert stats is not None
    assert (stats.minimum.to_pylist(), stats.maximum.to_pylist()) == ([None], [None])
