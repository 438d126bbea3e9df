"""A data file of ours says which of its float columns hold no NaN, and only of itself."""

from __future__ import annotations

import io
import json
import math
import struct
from pathlib import Path

import deltalake
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.tables.known_nan import KEY, without_nan
from tests.support.iceberg_build import File, IcebergBuilder, Manifest, column, with_ids
from tests.support.lakes import Lake, open_lake
from tests.support.managed import append, fold, make_table

pytestmark = pytest.mark.anyio

SCHEMA = pa.schema([("k", pa.int64()), ("whole", pa.float64()), ("holed", pa.float32()), ("text", pa.string())])
ROWS = {"k": [1, 2, 3], "whole": [1.5, None, -0.0], "holed": [math.nan, 1.0, 2.0], "text": ["a", "b", None]}


async def data_files(lake: Lake) -> list[Path]:
    return sorted((lake.folder / "tables").rglob("*.parquet"))


@pytest.mark.parametrize("format_", ["delta", "iceberg"])
async def test_files_of_ours_say_which_columns_hold_no_nan(tmp_path: Path, format_: str) -> None:
    async with open_lake(tmp_path) as lake:
        entry = await make_table(lake, "t", SCHEMA, format_, properties={"firn.row_group_rows": "2"})
        await append(lake, entry, ROWS)
        await fold(lake)
        (path,) = await data_files(lake)
        assert without_nan(pq.read_metadata(path)) == {"whole"}


@pytest.mark.parametrize("format_", ["delta", "iceberg"])
async def test_row_groups_without_nan_are_still_pruned(tmp_path: Path, format_: str) -> None:
    n = 40_000
    async with open_lake(tmp_path) as lake:
        entry = await make_table(lake, "t", SCHEMA, format_, properties={"firn.row_group_rows": "1000"})
        floats = [number / 2 for number in range(n)]
        holed = [math.nan if number == 17 else number / 2 for number in range(n)]
        await append(lake, entry, {"k": range(n), "whole": floats, "holed": holed, "text": ["x"] * n})
        await fold(lake)
        # Of a table of one small file filters are not looked at before it is read.
        await append(lake, entry, {"k": [0], "whole": [0.0], "holed": [0.0], "text": ["x"]})
        await fold(lake)
        above, between = {}, {}
        for column, expected in (("whole", 2), ("holed", 3)):
            assert await lake.value(f"SELECT count(*) FROM t WHERE {column} > {(n - 3) / 2}") == expected
            above[column] = lake.receipt.bytes_scanned
            assert await lake.value(f"SELECT count(*) FROM t WHERE {column} BETWEEN 300 AND 301") == 3
            between[column] = lake.receipt.bytes_scanned
        assert above["whole"] < above["holed"] / 4, (above, between)
        assert max(between.values()) < above["holed"] / 4, (above, between)


@pytest.mark.parametrize("format_", ["delta", "iceberg"])
async def test_files_are_pruned_by_columns_that_are_known_to_hold_no_nan(tmp_path: Path, format_: str) -> None:
    async with open_lake(tmp_path) as lake:
        properties = {"delta.checkpointInterval": "2"} if format_ == "delta" else {}
        entry = await make_table(lake, "t", SCHEMA, format_, properties=properties)
        for start in (0, 100, 200):
            values = [float(start + number) for number in range(100)]
            holed = [math.nan if value == 7 else value for value in values]
            await append(lake, entry, {"k": range(100), "whole": values, "holed": holed, "text": ["x"] * 100})
            await fold(lake)
    async with open_lake(tmp_path) as lake:
        for condition, n_rows, n_pruned in [
            ("whole > 250", 49, 2), ("whole < 150", 150, 1), ("holed > 250", 50, 1), ("holed < 150", 149, 1),
            ("whole > 299", 0, 3), ("holed > 299", 1, 2),
        ]:  # fmt: skip
            assert await lake.value(f"SELECT count(*) FROM t WHERE {condition}") == n_rows, condition
            assert lake.receipt.files_pruned == n_pruned, condition


async def test_deltas_other_readers_have_the_upper_bounds_of_columns_without_nan(tmp_path: Path) -> None:
    async with open_lake(tmp_path) as lake:
        entry = await make_table(lake, "t", SCHEMA)
        await append(lake, entry, ROWS)
        await fold(lake)
        table = deltalake.DeltaTable(entry.location.removeprefix("file://"))
        (bounds,) = pa.table(table.get_add_actions(flatten=True)).to_pylist()
        assert (bounds["min.whole"], bounds["max.whole"]) == (-0.0, 1.5)
        assert bounds["max.holed"] is None
        assert table.to_pyarrow_table().sort_by("k").column("whole").to_pylist() == ROWS["whole"]


async def test_files_of_other_writers_are_pruned_where_their_manifests_count_no_nan(tmp_path: Path) -> None:
    builder = IcebergBuilder(tmp_path / "other", [column(1, "whole", "double"), column(2, "holed", "double")])
    files = []
    for part in range(2):
        whole = [part * 40_000 + number / 2 for number in range(80_000)]
        holed = [math.nan if number == 17 else value for number, value in enumerate(whole)]
        path = builder.folder / "data" / f"{part}.parquet"
        pq.write_table(with_ids(pa.table({"whole": whole, "holed": holed}), [1, 2]), path, row_group_size=1000)
        low, high = (struct.pack("<d", bound) for bound in (whole[0], whole[-1]))
        files.append(
            File(
                builder.url(path.name), path.stat().st_size, len(whole), lower={1: low, 2: low},
                upper={1: high, 2: high}, nans={1: 0, 2: 1},
            )
        )  # fmt: skip
    table = f"iceberg('{builder.commit(Manifest(files))}')"
    async with open_lake(tmp_path / "lake") as lake:
        assert await lake.value(f"SELECT count(*) FROM {table} WHERE whole > 79998") == 3
        assert lake.receipt.files_pruned == 1
        few = lake.receipt.bytes_scanned
        assert await lake.value(f"SELECT count(*) FROM {table} WHERE holed > 79998") == 5
        assert lake.receipt.files_pruned == 0
        assert few < lake.receipt.bytes_scanned / 4


def test_what_was_copied_to_another_file_says_nothing_of_it() -> None:
    rows = pa.table({"f": pa.array(range(1000), pa.float64())})
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, rows.schema, compression="zstd", store_schema=False) as writer:
        writer.write_table(rows)
        writer.add_key_value_metadata({KEY: json.dumps({"columns": ["f"], "end": sink.tell()})})
    assert without_nan(pq.read_metadata(sink)) == {"f"}
    read = pq.read_table(sink)
    changed = read.set_column(0, "f", pa.array([math.nan, *range(1, 1000)], pa.float64()))
    assert KEY.encode() in changed.schema.metadata
    copy = io.BytesIO()
    pq.write_table(changed, copy, compression="zstd")
    assert KEY.encode() in pq.read_metadata(copy).metadata
    assert without_nan(pq.read_metadata(copy)) == frozenset()


@pytest.mark.parametrize("said", ["", "{", "[]", "null", '{"columns": 3, "end": 0}', '{"columns": ["f"]}'])
def test_a_note_that_cannot_be_read_says_nothing(said: str) -> None:
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, pa.schema([("f", pa.float64())])) as writer:
        writer.add_key_value_metadata({KEY: said})
    assert without_nan(pq.read_metadata(sink)) == frozenset()
