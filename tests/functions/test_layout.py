"""Data files as `functions.layout` writes them."""

from __future__ import annotations

import datetime as dt
import io
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from functions.layout import LayoutSettings, TableFormat, write_files
from storage.blobs.memory import MemoryBlobs
from storage.errors import InvalidError
from storage.stores import Stores
from storage.tables.write import DataFile, PartitionField, SortField, TableSpec
from tests.support.clock import ManualClock

pytestmark = pytest.mark.anyio
CLOCK = ManualClock()


def column(name: str, number: int, type_: pa.DataType, nullable: bool = True, physical: str | None = None) -> pa.Field:
    tags = {b"PARQUET:field_id": str(number).encode()}
    if physical is not None:
        tags[b"firnline.physical_name"] = physical.encode()
    return pa.field(name, type_, nullable, tags)


SCHEMA = pa.schema([column("id", 1, pa.int64(), False), column("day", 2, pa.date32()), column("word", 3, pa.string())])
ROWS = pa.table(
    {
        "id": pa.array([3, 1, 2, 5, 4], pa.int64()),
        "day": pa.array([dt.date(2024, 1, 2), dt.date(2024, 1, 1), None, dt.date(2024, 1, 1), dt.date(2024, 1, 2)]),
        "word": ["c", None, "b", "e/ä", "d"],
    },
    schema=SCHEMA,
)


def stores_of(blobs: MemoryBlobs) -> Stores:
    return Stores(lambda _root: blobs)


async def written(
    spec: TableSpec, rows: Any = ROWS, settings: LayoutSettings | None = None, table_format: TableFormat = "iceberg"
) -> list[tuple[DataFile, pa.Table]]:
    blobs = MemoryBlobs(CLOCK)
    schema = rows.schema if isinstance(rows, pa.Table) else spec.schema
    files = await write_files(
        stores_of(blobs), CLOCK, "s3://b/t", schema, spec, rows, settings, table_format=table_format
    )
    found = []
    for file in files:
        data, meta = await blobs.get(file.location.removeprefix("s3://b/"))
        assert meta.size == file.size
        found.append((file, pq.ParquetFile(io.BytesIO(data)).read()))
    return found


async def test_rows_are_sorted_by_the_primary_key_without_an_order() -> None:
    [(file, rows)] = await written(TableSpec("t", SCHEMA, primary_key=("id",)))
    assert rows.column("id").to_pylist() == [1, 2, 3, 4, 5]
    assert file.n_rows == 5
    assert rows.schema.field("id").metadata == {b"PARQUET:field_id": b"1"}
    assert not rows.schema.field("id").nullable


async def test_nulls_come_first_ascending_and_last_descending() -> None:
    up = TableSpec("t", SCHEMA, order_by=(SortField(2), SortField(1, True)))
    [(_, rows)] = await written(up)
    assert rows.column("id").to_pylist() == [2, 5, 1, 4, 3]
    [(_, rows)] = await written(TableSpec("t", SCHEMA, order_by=(SortField(3, True),)))
    assert rows.column("word").to_pylist() == ["e/ä", "d", "c", "b", None]


async def test_rows_of_a_partition_share_files_and_iceberg_keeps_the_column() -> None:
    spec = TableSpec("t", SCHEMA, primary_key=("id",), partition_by=(PartitionField(2, "day", "day_day"),))
    found = {file.partition["day_day"]: rows.column("id").to_pylist() for file, rows in await written(spec)}
    assert found == {None: [2], 19723: [1, 5], 19724: [3, 4]}


async def test_delta_leaves_identity_partition_columns_out_of_the_file() -> None:
    spec = TableSpec(
        "t", SCHEMA, partition_by=(PartitionField(3, "identity", "word"), PartitionField(1, "bucket[2]", "b"))
    )
    files = await written(spec, table_format="delta")
    assert all(rows.column_names == ["id", "day"] for _file, rows in files)
    assert {file.partition["word"] for file, _rows in files} == {None, "b", "c", "d", "e/ä"}
    folders = {file.location.removeprefix("s3://b/t/").partition("/")[0] for file, _rows in files}
    assert folders == {"word=__HIVE_DEFAULT_PARTITION__", "word=b", "word=c", "word=d", "word=e%2F%C3%A4"}
    assert all(file.location.split("/")[-2] == f"b={file.partition['b']}" for file, _rows in files)


async def test_columns_have_their_physical_names_at_every_level() -> None:
    inner = pa.list_(pa.field("element", pa.struct([column("x", 5, pa.int32(), physical="col-5")])))
    schema = pa.schema([column("a", 1, pa.int64(), physical="col-1"), column("n", 2, inner, physical="col-2")])
    rows = pa.table({"a": [1, 2], "n": [[{"x": 1}], None]}, schema=schema)
    [(_, stored)] = await written(TableSpec("t", schema), rows, table_format="delta")
    assert stored.to_pylist() == [{"col-1": 1, "col-2": [{"col-5": 1}]}, {"col-1": 2, "col-2": None}]
    assert stored.schema.field("col-2").type.value_type.field(0).metadata == {b"PARQUET:field_id": b"5"}


async def test_files_end_at_the_target_size_and_have_a_page_index_and_a_sort_order() -> None:
    rows = pa.table({"id": range(20_000), "day": [None] * 20_000, "word": map(str, range(20_000))}, schema=SCHEMA)
    settings = LayoutSettings(target_file_bytes=15_000, row_group_rows=1000, bloom_columns=("word",))
    files = await written(TableSpec("t", SCHEMA, primary_key=("id",)), rows, settings)
    assert len(files) > 3
    assert sum(file.n_rows for file, _rows in files) == 20_000
    group = files[0][0].metadata.row_group(0)
    assert group.num_rows == 1000
    assert group.column(0).has_offset_index
    assert group.sorting_columns[0].column_index == 0
    assert group.column(0).compression == "ZSTD"


async def test_more_rows_than_are_sorted_at_once_are_written_in_runs() -> None:
    async def batches() -> AsyncIterator[pa.RecordBatch]:
        for start in range(10):
            ids = pa.array(range(start * 100, start * 100 + 100), pa.int64())
            yield pa.record_batch([ids, pa.nulls(100, pa.date32()), pa.nulls(100, pa.string())], schema=SCHEMA)

    files = await written(TableSpec("t", SCHEMA), batches(), LayoutSettings(sort_bytes_max=2000))
    assert len(files) > 1
    assert sorted(n for _file, rows in files for n in rows.column("id").to_pylist()) == list(range(1000))


async def test_no_rows_make_no_file() -> None:
    assert await written(TableSpec("t", SCHEMA), ROWS.slice(0, 0)) == []


async def test_a_null_where_none_may_be_is_refused_naming_the_column() -> None:
    rows = pa.table([pa.array([1, None]), pa.nulls(2, pa.date32()), pa.nulls(2, pa.string())], schema=SCHEMA)
    with pytest.raises(InvalidError, match="column=id"):
        await written(TableSpec("t", SCHEMA), rows)


async def test_table_properties_steer_the_layout() -> None:
    spec = TableSpec("t", SCHEMA, properties={"firn.row_group_rows": "2"})
    [(file, _rows)] = await written(spec)
    assert file.metadata.num_row_groups == 3
    with pytest.raises(InvalidError, match=r"firn\.target_file_bytes"):
        await written(TableSpec("t", SCHEMA, properties={"firn.target_file_bytes": "-1"}))


async def test_a_partition_value_too_long_for_a_name_has_no_folder() -> None:
    rows = pa.table({"id": [1], "day": [None], "word": ["x" * 300]}, schema=SCHEMA)
    spec = TableSpec("t", SCHEMA, partition_by=(PartitionField(3, "identity", "word"),))
    [(file, _rows)] = await written(spec, rows)
    assert file.location.startswith("s3://b/t/data/part-")


def lookup_rows(n_rows: int) -> pa.Table:
    """Rows of 3 columns: a key, long strings that repeat, and strings that do not."""
    schema = pa.schema([column("id", 1, pa.int64()), column("kind", 2, pa.string()), column("word", 3, pa.string())])
    kinds = [f"a rather long name of a kind of which there are few {i % 3}" for i in range(n_rows)]
    return pa.table([pa.array(range(n_rows)), pa.array(kinds), pa.array(map(str, range(n_rows)))], schema=schema)


async def test_files_for_lookups_have_small_row_groups_of_plain_values() -> None:
    rows = lookup_rows(20_000)
    [(file, stored)] = await written(TableSpec("t", rows.schema, properties={"firn.lookup": "true"}), rows)
    assert stored.to_pydict() == rows.to_pydict()
    assert [file.metadata.row_group(i).num_rows for i in range(4)] == [5120, 5120, 5120, 4640]
    key, kind, word = (file.metadata.row_group(0).column(i) for i in range(3))
    assert [each.has_dictionary_page for each in (key, kind, word)] == [False, True, False]
    assert key.has_offset_index and key.statistics.max == 5119


async def test_files_for_lookups_have_shorter_row_groups_of_wide_rows() -> None:
    rows = lookup_rows(10_000)
    blobs = pa.array(map(np.random.default_rng(1).bytes, [500] * 10_000), pa.binary())
    rows = rows.append_column(column("blob", 4, pa.binary()), blobs)
    spec = TableSpec("t", rows.schema, properties={"firn.lookup": "true"})
    [(file, stored)] = await written(spec, rows)
    sizes = [file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups)]
    assert all(size < 1.1 * (1 << 20) for size in sizes) and len(sizes) > 4
    assert stored.column("blob").to_pylist() == blobs.to_pylist()
    [(file, _)] = await written(
        TableSpec("t", rows.schema, properties={"firn.lookup": "true", "firn.row_group_rows": "9000"}), rows
    )
    assert [file.metadata.row_group(i).num_rows for i in range(2)] == [9000, 1000]
