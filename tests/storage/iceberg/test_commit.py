"""The Iceberg writer: what it commits is true, once, and other readers see it."""

from __future__ import annotations

import asyncio
import datetime
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.table import StaticTable

from storage.errors import ConflictError, InvalidError, NotFoundError, UnsupportedError
from storage.tables.iceberg import write_snapshot
from storage.tables.iceberg.commit import watermark_of
from storage.tables.write import Change, Watermark
from tests.support.duckdb_readers import duckdb_with
from tests.support.iceberg_write import IcebergTable, open_table

pytestmark = pytest.mark.anyio

SMALL = pa.schema([pa.field("id", pa.int64(), False), pa.field("v", pa.string())])
UTC = datetime.UTC


def row(number: int) -> dict[str, Any]:
    return {"id": number, "v": f"v{number}"}


def ids_of(rows: list[dict[str, Any]]) -> list[int]:
    return sorted(each["id"] for each in rows)


def outside(location: str) -> pa.Table:
    return StaticTable.from_metadata(location).scan().to_arrow()


ALL_TYPES = pa.schema(
    [
        ("flag", pa.bool_()), ("i", pa.int32()), ("l", pa.int64()), ("f", pa.float32()), ("d", pa.float64()),
        ("small", pa.decimal128(7, 2)), ("big", pa.decimal128(38, 10)), ("s", pa.string()), ("b", pa.binary()),
        ("day", pa.date32()), ("t", pa.timestamp("us")), ("tz", pa.timestamp("us", "UTC")),
        ("list", pa.list_(pa.int64())), ("struct", pa.struct([("x", pa.int32()), ("y", pa.list_(pa.string()))])),
        ("map", pa.map_(pa.string(), pa.float64())),
    ]
)  # fmt: skip
FULL: dict[str, Any] = {
    "flag": True, "i": -5, "l": 2**40, "f": 1.5, "d": float("-inf"), "small": Decimal("-12345.67"),
    "big": Decimal("1234567890123456789.0000000001"), "s": "ünï" * 20, "b": b"\xff" * 40,
    "day": datetime.date(1969, 1, 1), "t": datetime.datetime(1960, 5, 5, 1, 2, 3, 4),
    "tz": datetime.datetime(2200, 1, 1, tzinfo=UTC), "list": [1, None, 3], "struct": {"x": 1, "y": ["a", None]},
    "map": [("k", 1.0), ("l", None)],
}  # fmt: skip


async def test_every_offered_type_comes_back_from_us_from_pyiceberg_and_from_duckdb(tmp_path: Path) -> None:
    table = await open_table(ALL_TYPES, tmp_path)
    await table.append([FULL, dict.fromkeys(FULL)])
    assert await table.rows() == sorted([FULL, dict.fromkeys(FULL)], key=repr)
    assert sorted(outside(await table.source()).to_pylist(), key=repr) == await table.rows()
    with duckdb_with("avro", "iceberg") as connection:
        for place in (await table.source(), table.entry.location):
            plain = place.removeprefix("file://")
            # Without a catalog, the folder's version-hint.text says which metadata file is the newest.
            found = connection.execute(f"SELECT i, s, small, day FROM iceberg_scan('{plain}') ORDER BY i").fetchall()
            assert found == [(-5, "ünï" * 20, Decimal("-12345.67"), datetime.date(1969, 1, 1)), (None,) * 4]


async def test_statistics_bound_the_rows_and_are_left_out_where_a_row_group_has_none() -> None:
    table = await open_table(pa.schema([("x", pa.int64()), ("s", pa.string())]))
    await table.append([{"x": 1, "s": "b"}, {"x": None, "s": "a" * 30}])
    long = pa.Table.from_pylist([{"x": 5, "s": "z" * 20_000}, {"x": 7, "s": "b"}], table.schema)
    file = await table.file(long, row_group_size=1)
    await table.writer.commit(await table.snapshot(), Change("insert", (file,)))
    files = (await table.snapshot()).files
    x, s = files.stats("x"), files.stats("s")
    assert x is not None
    assert s is not None
    where = files.paths.index(file.location)
    assert (x.minimum[where].as_py(), x.maximum[where].as_py()) == (5, 7)
    assert s.maximum[where].as_py() is None, "one row group has no bounds: its string is too long"
    assert (x.minimum[1 - where].as_py(), x.maximum[1 - where].as_py()) == (1, 1)
    assert x.null_count[1 - where].as_py() == 1
    assert s.minimum[1 - where].as_py() <= "a" * 30
    assert s.maximum[1 - where].as_py() >= "b"


@pytest.mark.parametrize(
    ("type_", "named"),
    [(pa.int8(), "int"), (pa.int16(), "int"), (pa.uint32(), "uint32"), (pa.timestamp("ns"), "microseconds"),
     (pa.time64("us"), "time64"), (pa.list_(pa.float16()), "halffloat"), (pa.timestamp("us", "Europe/Oslo"), "UTC")],
)  # fmt: skip
async def test_other_types_are_refused_by_name(type_: pa.DataType, named: str) -> None:
    with pytest.raises(UnsupportedError, match=named) as caught:
        await open_table(pa.schema([("wrong", type_)]))
    assert str(caught.value.facts["column"]).startswith("wrong")


async def test_operations_and_counts_are_told_as_iceberg_has_them() -> None:
    table = await open_table(SMALL)
    first = await table.append([row(1), row(2)])
    second = await table.append([row(3)])
    both = await table.file([row(1), row(2), row(3)])
    await table.writer.commit(
        second, Change("optimize", (both,), tuple(second.files.paths), data_change=False, facts={"who": "me"})
    )
    third = await table.snapshot()
    await table.writer.commit(third, Change("truncate", remove=tuple(third.files.paths)))
    await table.writer.commit(await table.snapshot(), Change("insert", (await table.file([row(9)]),)))
    metadata = StaticTableOf(await table.stores.get(await table.source()))
    told = [(s.summary.operation.value, s.summary["firnline.operation"]) for s in metadata.snapshots]
    assert told == [
        ("append", "insert"), ("append", "insert"), ("replace", "optimize"), ("delete", "truncate"),
        ("append", "insert"),
    ]  # fmt: skip
    counts = [(s.summary["total-records"], s.summary["total-data-files"]) for s in metadata.snapshots]
    assert counts == [("2", "1"), ("3", "2"), ("3", "1"), ("0", "0"), ("1", "1")]
    assert metadata.snapshots[2].summary["who"] == "me"
    assert first.version == metadata.snapshots[1].parent_snapshot_id
    assert ids_of(await table.rows()) == [9]


def StaticTableOf(data: bytes) -> Any:  # noqa: N802 - reads like the class it stands for
    from pyiceberg.table.metadata import TableMetadataUtil

    return TableMetadataUtil.parse_raw(data.decode())


async def test_a_change_that_is_no_longer_true_is_refused() -> None:
    table = await open_table(SMALL)
    base = await table.append([row(1)])
    gone = tuple(base.files.paths)
    await table.writer.commit(base, Change("delete", remove=gone))
    with pytest.raises(ConflictError, match="gone already"):
        await table.writer.commit(base, Change("update", (await table.file([row(2)]),), gone))
    now = await table.snapshot()
    await table.writer.commit(now, Change("fold", watermark=Watermark("0", 0, 7)))
    with pytest.raises(ConflictError, match="watermark"):
        await table.writer.commit(now, Change("fold", watermark=Watermark("0", 0, 9)))
    assert table.writer.watermark(await table.snapshot(), "0") == 7
    assert table.writer.watermark(await table.snapshot(), "1") == 0
    assert await table.rows() == []


async def test_a_fold_and_its_watermark_are_one_commit() -> None:
    table = await open_table(SMALL)
    base = await table.snapshot()
    done = await table.writer.commit(
        base, Change("fold", (await table.file([row(1)]),), watermark=Watermark("3", 0, 5))
    )
    after = await table.snapshot()
    assert (after.version, after.properties["firnline.log.3"]) == (done.version, "5")
    assert watermark_of(after.properties, "3") == 5
    # Rows that others append leave it alone, and so does a watermark that moves without rows.
    await table.append([row(2)])
    moved = await table.writer.commit(await table.snapshot(), Change("fold", watermark=Watermark("3", 5, 8)))
    assert moved.version == (await table.snapshot()).version
    assert table.writer.watermark(await table.snapshot(), "3") == 8


async def test_of_many_writers_at_once_none_loses_a_row() -> None:
    table = await open_table(SMALL)

    async def write(number: int) -> int:
        view = table.seen_through()
        attempts = 0
        for step in range(5):
            file = await view.file([row(number * 100 + step)])
            attempts += (await view.writer.commit(await view.snapshot(), Change("insert", (file,)))).attempts
        return attempts

    attempts = await asyncio.gather(*(write(number) for number in range(8)))
    assert ids_of(await table.rows()) == sorted(n * 100 + step for n in range(8) for step in range(5))
    assert sum(attempts) > 40, "the race was real"
    kept = {place async for place, _meta in table.stores.list(f"{table.entry.location}/metadata/")}
    assert len([place for place in kept if place.endswith(".metadata.json")]) == 41, "tries that lost left nothing"


async def test_manifests_are_merged_and_removed_files_leave_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_snapshot, "MERGE_AT", 5)
    table = await open_table(SMALL)
    for number in range(23):
        await table.append([row(number)])
    snapshot = await table.snapshot()
    assert snapshot.state is not None
    assert len(snapshot.state.manifests) <= 6
    doomed = [path for path, n in zip(snapshot.files.paths, range(99), strict=False) if n % 3 == 0]
    await table.writer.commit(snapshot, Change("delete", remove=tuple(doomed)))
    after = await table.snapshot()
    assert sorted(after.files.paths) == sorted(set(snapshot.files.paths) - set(doomed))
    # A change that was computed before the manifests were rewritten still finds its files.
    await table.writer.commit(snapshot, Change("delete", remove=(after.files.paths[0],)))
    for number in range(100, 107):
        await table.append([row(number)])
    assert len(ids_of(await table.rows())) == 23 - len(doomed) - 1 + 7


async def test_partitions_of_every_transform_are_read_by_pyiceberg_with_its_own_pruning(tmp_path: Path) -> None:
    schema = pa.schema([("id", pa.int64()), ("s", pa.string()), ("t", pa.timestamp("us", "UTC"))])
    table = await open_table(
        schema, tmp_path, partition_by=[("s", "identity"), ("s", "truncate[1]"), ("t", "day"), ("id", "bucket[4]")]
    )
    from pyiceberg.transforms import BucketTransform
    from pyiceberg.types import LongType

    bucket = BucketTransform(4).transform(LongType())
    odd = ["", "a/b c=%", "ünï", None]
    for number, text in enumerate(odd):
        when = datetime.datetime(2024, 1, 1 + number, 5, tzinfo=UTC)
        values = {
            "s_identity": text, "s_truncate": text[:1] if text is not None else None,
            "t_day": (when.date() - datetime.date(1970, 1, 1)).days, "id_bucket": bucket(number),
        }  # fmt: skip
        await table.append([{"id": number, "s": text, "t": when}], **values)
    assert sorted(outside(await table.source()).to_pylist(), key=repr) == await table.rows()
    static = StaticTable.from_metadata(await table.source())
    for number, text in enumerate(odd[:3]):
        found = static.scan(row_filter=f"id = {number}").plan_files()
        assert [task.file.record_count for task in found] == [1]
        assert static.scan(row_filter=f"s = '{text}'").to_arrow()["id"].to_pylist() == [number]
    with pytest.raises(InvalidError, match="other partition fields"):
        await table.append([{"id": 1}], s_identity="x")


async def test_a_dropped_table_takes_no_commit() -> None:
    table = await open_table(SMALL)
    base = await table.snapshot()
    file = await table.file([row(1)])
    await table.tables.drop("default", "t")
    with pytest.raises(NotFoundError, match="no such table"):
        await table.writer.commit(base, Change("insert", (file,)))


async def test_a_taken_name_is_a_conflict_and_harms_nothing() -> None:
    from catalog.writers import create_table
    from tests.support.iceberg_write import make_entry

    table = await open_table(SMALL)
    await table.append([row(1)])
    other = make_entry(SMALL, table.clock)
    with pytest.raises(ConflictError, match="exists already"):
        await create_table(other, table.stores, table.tables, table.clock)
    assert await create_table(other, table.stores, table.tables, table.clock, if_not_exists=True) is None
    assert ids_of(await table.rows()) == [1]


async def test_a_table_made_with_rows_has_them_at_once() -> None:
    from catalog.writers import create_table
    from tests.support.iceberg_write import make_entry

    table: IcebergTable = await open_table(SMALL)
    entry = make_entry(SMALL, table.clock, name="made", primary_key=["id"], order_by=["id"])
    table.entry = entry
    file = await table.file([row(1), row(2)])
    made = await create_table(entry, table.stores, table.tables, table.clock, files=(file,), facts={"key": "k"})
    assert made is not None
    table.known = None
    assert Counter(ids_of(await table.rows())) == {1: 1, 2: 1}
    metadata = StaticTableOf(await table.stores.get(await table.source()))
    assert metadata.schema().identifier_field_ids == [1]
    assert [field.source_id for field in metadata.sort_order().fields] == [1]
    assert metadata.snapshots[0].summary["key"] == "k"
