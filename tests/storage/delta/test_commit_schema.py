"""ALTER on a Delta table: columns keep their values under every name, and other readers agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pytest

from storage.clock import SystemClock
from storage.errors import ConflictError, InvalidError, UnsupportedError
from storage.tables.delta.commit import DeltaWriter
from storage.tables.delta.schema import physical_name
from storage.tables.snapshot import FIELD_ID, Snapshot
from storage.tables.write import Change
from tests.support.delta_read import load_folder, local_stores, multiset, read_rows
from tests.support.delta_write import data_file, make_spec
from tests.support.duckdb_readers import duckdb_with

pytestmark = pytest.mark.anyio

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        ("name", pa.string()),
        ("part", pa.string()),
        ("inner", pa.struct([("x", pa.int64()), ("tags", pa.list_(pa.field("element", pa.string())))])),
    ]
)
ROW = {"id": 1, "name": "a", "part": "p", "inner": {"x": 7, "tags": ["t"]}}


class Altered:
    """A table under ALTERs, with what it should hold."""

    def __init__(self, path: Path, schema: pa.Schema = SCHEMA, **options: Any) -> None:
        self.path, self.where, self.stores = path, f"file://{path}", local_stores()
        self.writer = DeltaWriter(self.stores, self.where, SystemClock())
        self.spec = make_spec(schema, **options)
        self.n_files = 0

    async def load(self) -> Snapshot:
        return await load_folder(self.path)

    async def insert(self, *rows: dict[str, Any]) -> None:
        """Write a data file with the columns' physical names, partition columns left out."""
        snapshot = await self.load()
        table = pa.Table.from_pylist(list(rows), snapshot.schema)
        names = {name: table.column(name)[0].as_py() for name in snapshot.partition_columns}
        table = table.drop_columns(list(names))
        fields = [_physical(field) for field in table.schema]
        table = pa.Table.from_batches([_cast(table, fields)])
        partition = {part.name: names[self._name(part.column_id)] for part in self.spec.partition_by}
        self.n_files += 1
        file = await data_file(self.stores, self.where, f"{self.n_files}.parquet", table)
        await self.writer.commit(snapshot, Change("insert", (replace(file, partition=partition),)))

    def _name(self, column_id: int) -> str:
        return next(f.name for f in self.spec.schema if int(f.metadata[FIELD_ID]) == column_id)

    async def alter(self, fields: Sequence[pa.Field], properties: dict[str, str] | None = None) -> None:
        """Make these the columns; one without an id is new."""
        last, made = self.spec.last_column_id, []
        for field in fields:
            if FIELD_ID not in (field.metadata or {}):
                last += 1
                field = field.with_metadata({FIELD_ID: b"%d" % last})
            made.append(field)
        spec = replace(self.spec, schema=pa.schema(made), schema_id=self.spec.schema_id + 1, last_column_id=last)
        if properties is not None:
            spec = replace(spec, properties=properties)
        await self.writer.commit(await self.load(), Change("alter", spec=spec))
        self.spec = spec

    async def holds(self, *rows: dict[str, Any], others: bool = True) -> None:
        snapshot = await self.load()
        expected = multiset(pa.Table.from_pylist(list(rows), snapshot.schema))
        assert multiset(await read_rows(self.stores, snapshot)) == expected
        if others:
            table = deltalake.DeltaTable(str(self.path))
            answer = deltalake.QueryBuilder().register("t", table).execute("SELECT * FROM t").read_all()
            assert multiset(pa.table(answer)) == expected
            answer = duckdb_with("delta").sql(f"FROM delta_scan('{self.path}')").to_arrow_table()
            assert multiset(answer) == expected


def _physical(field: pa.Field) -> pa.Field:
    kind = field.type
    if pa.types.is_struct(kind):
        kind = pa.struct([_physical(child) for child in kind])
    return pa.field(physical_name(field), kind, field.nullable)


def _cast(table: pa.Table, fields: list[pa.Field]) -> pa.RecordBatch:
    arrays = []
    for column, field in zip(table.columns, fields, strict=True):
        array = column.combine_chunks()
        if pa.types.is_struct(field.type):
            array = pa.StructArray.from_arrays(array.flatten(), fields=list(field.type), mask=array.is_null())
        arrays.append(array)
    return pa.record_batch(arrays, pa.schema(fields))


async def made(path: Path, **options: Any) -> Altered:
    table = Altered(path, **options)
    await table.writer.create(table.spec)
    await table.insert(ROW)
    return table


def renamed(schema: pa.Schema, old: str, new: str) -> list[pa.Field]:
    return [field.with_name(new) if field.name == old else field for field in schema]


async def test_an_added_column_is_null_in_older_rows_and_changes_no_protocol(tmp_path: Path) -> None:
    table = await made(tmp_path)
    await table.alter([*table.spec.schema, pa.field("more", pa.float64())])
    second = ROW | {"id": 2, "more": 1.5}
    await table.insert(second)
    await table.holds(ROW | {"more": None}, second)
    assert deltalake.DeltaTable(str(tmp_path)).protocol().min_reader_version == 1
    with pytest.raises(InvalidError, match="NOT NULL cannot come"):
        await table.alter([*table.spec.schema, pa.field("never", pa.int64(), nullable=False)])


async def test_a_renamed_column_keeps_its_values_and_its_statistics(tmp_path: Path) -> None:
    table = await made(tmp_path)
    await table.alter(renamed(table.spec.schema, "name", "title"))
    second = {"id": 2, "title": "b", "part": "q", "inner": None}
    await table.insert(second)
    await table.holds({"id": 1, "title": "a", "part": "p", "inner": ROW["inner"]}, second)
    snapshot = await table.load()
    assert snapshot.matching == "physical_name"
    assert [field.metadata[FIELD_ID] for field in snapshot.schema] == [f.metadata[FIELD_ID] for f in table.spec.schema]
    assert sorted(snapshot.files.stats("title").minimum.to_pylist()) == ["a", "b"]
    protocol = deltalake.DeltaTable(str(tmp_path)).protocol()
    assert (protocol.min_reader_version, protocol.min_writer_version) == (2, 5)
    await table.alter(renamed(table.spec.schema, "title", "name"))
    await table.holds(ROW, {"id": 2, "name": "b", "part": "q", "inner": None})


async def test_a_column_that_is_dropped_and_added_again_has_no_old_values(tmp_path: Path) -> None:
    table = await made(tmp_path)
    await table.alter([field for field in table.spec.schema if field.name != "name"])
    await table.holds({name: value for name, value in ROW.items() if name != "name"})
    await table.alter([*table.spec.schema, pa.field("name", pa.int32())])
    second = {**ROW, "id": 2, "name": 5}
    await table.insert(second)
    await table.holds(ROW | {"name": None}, second)


async def test_columns_that_swap_their_names_swap_nothing_else(tmp_path: Path) -> None:
    table = await made(tmp_path)
    names = {"name": "part", "part": "name"}
    await table.alter([field.with_name(names.get(field.name, field.name)) for field in table.spec.schema])
    await table.holds({**ROW, "name": "p", "part": "a"})


async def test_a_field_within_a_struct_is_renamed_too(tmp_path: Path) -> None:
    table = await made(tmp_path)
    inner = table.spec.schema.field("inner")
    fields = [child.with_name("y") if child.name == "x" else child for child in inner.type]
    await table.alter([*list(table.spec.schema)[:3], inner.with_type(pa.struct(fields))])
    await table.insert({**ROW, "id": 2, "inner": {"y": 8, "tags": None}})
    await table.holds({**ROW, "inner": {"y": 7, "tags": ["t"]}}, {**ROW, "id": 2, "inner": {"y": 8, "tags": None}})


async def test_a_partition_column_is_renamed_and_never_dropped(tmp_path: Path) -> None:
    table = await made(tmp_path, partition_by=["part"])
    await table.alter(renamed(table.spec.schema, "part", "region"))
    second = {"id": 2, "name": "b", "region": "q/%", "inner": None}
    await table.insert(second)
    await table.holds({"id": 1, "name": "a", "region": "p", "inner": ROW["inner"]}, second)
    assert (await table.load()).partition_columns == ("region",)
    with pytest.raises(InvalidError, match=r"cannot be dropped|names a column"):
        await table.alter([field for field in table.spec.schema if field.name != "region"])


async def test_a_type_changes_only_while_there_are_no_files(tmp_path: Path) -> None:
    table = Altered(tmp_path, pa.schema([("id", pa.int32()), ("at", pa.string())]))
    await table.writer.create(table.spec)
    first, second = table.spec.schema
    await table.alter([first.with_type(pa.int64()).with_name("number"), second.with_type(pa.timestamp("us"))])
    await table.insert({"number": 1, "at": None})
    await table.holds({"number": 1, "at": None})
    assert (await table.load()).matching == "name"
    with pytest.raises(UnsupportedError, match="removes all data files"):
        await table.alter([table.spec.schema.field(0).with_type(pa.float64()), table.spec.schema.field(1)])


async def test_a_bare_timestamp_that_is_added_raises_the_protocol(tmp_path: Path) -> None:
    table = await made(tmp_path)
    await table.alter([*table.spec.schema, pa.field("at", pa.timestamp("us"))])
    await table.holds({**ROW, "at": None})
    await table.alter(renamed(table.spec.schema, "name", "title"))
    protocol = deltalake.DeltaTable(str(tmp_path)).protocol()
    assert set(protocol.reader_features) == {"timestampNtz", "columnMapping"}
    assert set(protocol.writer_features) >= {"appendOnly", "invariants", "timestampNtz", "columnMapping"}


async def test_properties_are_set_checked_and_those_of_others_kept(tmp_path: Path) -> None:
    table = await made(tmp_path, properties={"owner": "me"}, primary_key=["id"], order_by=["name"])
    deltalake.DeltaTable(str(tmp_path)).alter.set_table_properties({"delta.logRetentionDuration": "interval 9 days"})
    await table.alter(list(table.spec.schema), {"owner": "you", "delta.checkpointInterval": "5"})
    assert dict((await table.load()).properties) == {
        "owner": "you",
        "delta.checkpointInterval": "5",
        "delta.logRetentionDuration": "interval 9 days",
        "firnline.primary_key": '["id"]',
        "firnline.order_by": '[{"column": "name", "descending": false}]',
    }
    for wrong in (
        {"delta.checkpointInterval": "0"},
        {"delta.enableChangeDataFeed": "true"},
        {"delta.constraints.c": "id > 0"},
        {"firnline.primary_key": "[]"},
        {"delta.enableInCommitTimestamps": "true"},
        {"delta.deletedFileRetentionDuration": "soon"},
    ):
        with pytest.raises(InvalidError, match=next(iter(wrong)).partition(".c.")[0].split("=")[0]):
            await table.alter(list(table.spec.schema), wrong)


async def test_an_alter_and_a_fold_of_the_same_version_do_not_both_commit(tmp_path: Path) -> None:
    table = await made(tmp_path)
    base = await table.load()
    file = await data_file(table.stores, table.where, "b.parquet", pa.Table.from_pylist([ROW], SCHEMA))
    await table.alter([*table.spec.schema, pa.field("more", pa.float64())])
    with pytest.raises(ConflictError, match="schema changed"):
        await table.writer.commit(base, Change("fold", (file,)))
    await table.alter(list(table.spec.schema), {"owner": "me"})
    with pytest.raises(ConflictError, match="changed meanwhile"):
        await table.writer.commit(base, Change("alter", spec=table.spec))


async def test_a_column_of_another_writer_is_known_by_its_name_and_not_guessed(tmp_path: Path) -> None:
    table = await made(tmp_path)
    more = pa.table({"id": pa.array([2], pa.int64()), "theirs": pa.array(["x"])})
    deltalake.write_deltalake(str(tmp_path), more, mode="append", schema_mode="merge")
    await table.alter([*table.spec.schema, pa.field("theirs", pa.string())])
    await table.holds(
        {**ROW, "theirs": None}, {"id": 2, "name": None, "part": None, "inner": None, "theirs": "x"}, others=False
    )
    await table.alter(renamed(table.spec.schema, "theirs", "ours"))
    await table.holds({**ROW, "ours": None}, {"id": 2, "name": None, "part": None, "inner": None, "ours": "x"})
    deltalake_adds = Altered(tmp_path / "other")
    await deltalake_adds.writer.create(deltalake_adds.spec)
    deltalake.write_deltalake(str(tmp_path / "other"), more, mode="append", schema_mode="merge")
    with pytest.raises(UnsupportedError, match="cannot be told from a new one"):
        await deltalake_adds.alter([*deltalake_adds.spec.schema, pa.field("new", pa.string())])
