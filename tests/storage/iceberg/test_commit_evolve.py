"""Columns and properties of an Iceberg table change; its history, restore and expiry."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.table import StaticTable

from storage.errors import ConflictError, InvalidError, NotFoundError, UnsupportedError
from storage.tables.iceberg.expire import expire
from storage.tables.iceberg.history import changed_snapshots, changes_of, find_fact, history
from storage.tables.iceberg.reach import reached
from storage.tables.iceberg.write_schema import spec_of
from storage.tables.snapshot import FIELD_ID, At
from storage.tables.write import Change, PartitionField, SortField, TableSpec, Watermark
from tests.support.clock import ManualClock
from tests.support.iceberg_read import read_table
from tests.support.iceberg_write import IcebergTable, open_table

pytestmark = pytest.mark.anyio

SCHEMA = pa.schema([pa.field("id", pa.int32(), False), pa.field("v", pa.string()), pa.field("n", pa.decimal128(5, 2))])


def column(name: str, number: int, type_: pa.DataType, nullable: bool = True) -> pa.Field:
    return pa.field(name, type_, nullable, {FIELD_ID: str(number).encode()})


async def alter(table: IcebergTable, *fields: pa.Field, **changes: Any) -> None:
    await table.source()
    assert table.entry.managed is not None
    old = table.entry.managed.spec
    last = max([old.last_column_id, *(int(field.metadata[FIELD_ID]) for field in fields)])
    schema = pa.schema(fields) if fields else old.schema
    number = old.schema_id + (1 if fields else 0)
    spec = replace(old, schema=schema, schema_id=number, last_column_id=last, **changes)
    await table.writer.commit(await table.snapshot(), Change("alter", spec=spec))
    await table.source()


def spec_in(table: IcebergTable) -> TableSpec:
    assert table.entry.managed is not None
    return table.entry.managed.spec


async def test_columns_are_added_dropped_renamed_and_widened_and_old_files_follow(tmp_path: Path) -> None:
    table = await open_table(SCHEMA, tmp_path)
    await table.append([{"id": 1, "v": "a", "n": None}])
    await alter(
        table,
        column("id", 1, pa.int64(), False), column("word", 2, pa.string()), column("n", 3, pa.decimal128(9, 2)),
        column("more", 4, pa.list_(pa.field("element", pa.int64(), metadata={FIELD_ID: b"5"}))),
    )  # fmt: skip
    await table.append([{"id": 2**40, "word": "b", "n": None, "more": [1]}])
    await alter(table, column("id", 1, pa.int64(), False), column("word", 2, pa.string()))
    await table.append([{"id": 3, "word": "c"}])
    assert [(each["id"], each["word"]) for each in await table.rows()] == [(1, "a"), (2**40, "b"), (3, "c")]
    assert spec_in(table).schema_id == 2
    assert table.entry.managed is not None
    assert sorted(table.entry.managed.schemas) == [0, 1, 2], "records of the log may be of any of them"
    outside = StaticTable.from_metadata(await table.source()).scan().to_arrow().to_pylist()
    assert sorted(outside, key=repr) == await table.rows()
    metadata = StaticTable.from_metadata(await table.source()).metadata
    assert metadata.last_column_id == 5
    assert spec_of(metadata, "x").schema.equals((await table.snapshot()).schema, check_metadata=True)


@pytest.mark.parametrize(
    ("fields", "error", "named"),
    [
        ([column("id", 1, pa.int32(), False), column("v", 2, pa.int64())], UnsupportedError, "widens"),
        ([column("id", 1, pa.int32(), False), column("v", 2, pa.string(), False)], InvalidError, "NOT NULL"),
        ([column("id", 1, pa.int32(), False), column("new", 4, pa.string(), False)], InvalidError, "must allow NULL"),
        ([column("id", 1, pa.int32(), False), column("n", 3, pa.decimal128(4, 2))], UnsupportedError, "widens"),
    ],
)
async def test_a_change_that_old_rows_cannot_follow_is_refused(
    fields: list[pa.Field], error: type[Exception], named: str
) -> None:
    table = await open_table(SCHEMA)
    with pytest.raises(error, match=named):
        await alter(table, *fields)
    assert spec_in(table).schema_id == 0


async def test_a_dropped_columns_id_is_not_used_again() -> None:
    table = await open_table(SCHEMA)
    await alter(table, column("id", 1, pa.int32(), False), column("v", 2, pa.string()))
    with pytest.raises(InvalidError, match="cannot be used again"):
        await alter(table, column("id", 1, pa.int32(), False), column("n", 3, pa.string()))


async def test_rows_of_an_older_schema_are_refused_and_properties_are_set_side_by_side() -> None:
    table = await open_table(SCHEMA, properties={"a": "1", "gone": "x"})
    old = await table.snapshot()
    file = await table.file([{"id": 1}])
    await alter(table, *list(SCHEMA_FIELDS), column("w", 4, pa.int32()))
    with pytest.raises(ConflictError, match="columns have changed"):
        await table.writer.commit(old, Change("insert", (file,)))
    base = await table.snapshot()
    await table.writer.commit(base, Change("fold", watermark=Watermark("0", 0, 4)))
    spec = replace(spec_in(table), properties={"a": "2", "b": "3"})
    await table.writer.commit(base, Change("alter", spec=spec))
    assert (await table.snapshot()).properties == {"a": "2", "b": "3", "firnline.log.0": "4"}


SCHEMA_FIELDS = (column("id", 1, pa.int32(), False), column("v", 2, pa.string()), column("n", 3, pa.decimal128(5, 2)))


async def test_partitions_and_order_change_for_the_files_to_come(tmp_path: Path) -> None:
    table = await open_table(SCHEMA, tmp_path)
    await table.append([{"id": 1, "v": "a"}])
    await alter(table, partition_by=(PartitionField(2, "identity", "v"),), order_by=(SortField(1, True),))
    snapshot = await table.append([{"id": 2, "v": "b"}], v="b")
    outside = StaticTable.from_metadata(await table.source())
    assert sorted(outside.scan().to_arrow()["id"].to_pylist()) == [1, 2]
    assert str(outside.sort_order().fields[0].direction) == "DESC"
    await table.writer.commit(snapshot, Change("delete", remove=tuple(snapshot.files.paths)))
    assert await table.rows() == []


async def test_history_facts_and_the_files_of_a_change() -> None:
    table = await open_table(SCHEMA)
    first = await table.append([{"id": 1}])
    file = await table.file([{"id": 2}])
    await table.writer.commit(first, Change("update", (file,), tuple(first.files.paths), facts={"key": "k1"}))
    second = await table.snapshot()
    source = await table.source()
    told = await history(table.stores, source)
    assert [(each.operation, each.n_files_added, each.n_files_removed, each.n_rows_added) for each in told] == [
        ("update", 1, 1, 1),
        ("insert", 1, 0, 1),
    ]
    assert await history(table.stores, source, 1) == told[:1]
    assert await find_fact(table.stores, source, "key", "k1") == second.version
    assert await find_fact(table.stores, source, "key", "k2") is None
    changes = await changes_of(table.stores, source, second.version)
    assert (changes.added, changes.removed, changes.masked) == ((file.location,), tuple(first.files.paths), ())
    before, after = await changed_snapshots(table.stores, source, second.version)
    assert before is not None
    assert (await read_table(table.stores, before))["id"].to_pylist() == [1]
    assert (await read_table(table.stores, after))["id"].to_pylist() == [2]
    start, rows = await changed_snapshots(table.stores, source, first.version, second)
    assert start is None
    assert len(rows.files) == 1
    with pytest.raises(NotFoundError, match="no such snapshot"):
        await changes_of(table.stores, source, 12345)


async def test_restore_brings_back_rows_and_columns_and_keeps_the_watermark(tmp_path: Path) -> None:
    table = await open_table(SCHEMA, tmp_path)
    first = await table.append([{"id": 1, "v": "a"}])
    await alter(table, column("id", 1, pa.int32(), False), column("word", 2, pa.string()))
    base = await table.snapshot()
    file = await table.file([{"id": 2, "word": "b"}])
    await table.writer.commit(base, Change("fold", (file,), tuple(base.files.paths), watermark=Watermark("0", 0, 9)))
    done = await table.writer.restore(first.version, {"who": "me"})
    snapshot = await table.snapshot()
    assert snapshot.version == done.version
    assert await table.rows() == [{"id": 1, "v": "a", "n": None}]
    assert table.writer.watermark(snapshot, "0") == 9
    assert spec_in(table).schema.names == ["id", "v", "n"]
    assert len(await table.rows(At(version=base.version))) == 1, "time travel still works"
    told = (await history(table.stores, await table.source()))[0]
    assert (told.operation, told.n_rows_added, told.n_rows_removed, told.facts["who"]) == ("restore", 1, 1, "me")
    await table.append([{"id": 5, "v": "z"}])
    outside = StaticTable.from_metadata(await table.source()).scan().to_arrow()
    assert sorted(outside["id"].to_pylist()) == [1, 5]
    with pytest.raises(NotFoundError, match="no such snapshot"):
        await table.writer.restore(77)


async def test_expiry_removes_old_snapshots_and_names_what_only_they_had() -> None:
    clock = ManualClock()
    table = await open_table(SCHEMA, clock=clock)
    versions = []
    for number in range(4):
        clock.advance(1000)
        before = await table.snapshot()
        file = await table.file([{"id": number}])
        await table.writer.commit(before, Change("update", (file,), tuple(before.files.paths)))
        versions.append((await table.snapshot()).version)
    clock.advance(1000)
    now = clock.now_ms()
    everything = {place async for place, _meta in table.stores.list(f"{table.entry.location}/")}
    planned = await expire(
        table.stores, table.entry.location, clock, table.writer, older_than_ms=now - 1500, dry_run=True
    )
    assert (await table.snapshot()).version == versions[-1]
    done = await expire(table.stores, table.entry.location, clock, table.writer, older_than_ms=now - 1500)
    # The third was current until the fourth came, a second ago: a statement may still read it.
    assert set(done.snapshots) == set(planned.snapshots) == set(versions[:2])
    assert len([path for path in done.files if "/data/" in path]) == 2
    assert len([path for path in done.files if "/snap-" in path]) == 2
    for path in done.files:
        blobs, key = table.stores.resolve(path)
        await blobs.delete(key)
    assert [each["id"] for each in await table.rows()] == [3]
    assert [each["id"] for each in await table.rows(At(version=versions[2]))] == [2]
    with pytest.raises(NotFoundError):
        await table.rows(At(version=versions[0]))
    named = (await reached(table.stores, await table.source())).all
    left = {place async for place, _meta in table.stores.list(f"{table.entry.location}/")}
    assert left - named == {f"{table.entry.location}/metadata/version-hint.text"}
    assert set(done.files) <= everything
    again = await expire(table.stores, table.entry.location, clock, table.writer, older_than_ms=now - 1500)
    assert again.snapshots == ()
