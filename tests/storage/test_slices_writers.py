"""Slices of Parquet files that others wrote: DuckDB, Polars, arrow-rs (by deltalake), pyiceberg, golden tables."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.tables.slices import BLOCK_ROWS, FileLayout, Slice
from tests.storage.test_slices import blocks, layout_of, layout_or_reason, read_back

pytestmark = pytest.mark.anyio

N = 50_000
TABLE = pa.table(
    {
        "id": pa.array(range(N), pa.int64()),
        "name": [f"name {i % 997}" if i % 5 else None for i in range(N)],
        "far": [f"{i * 7919 % N:032x}" for i in range(N)],
        "x": [i / 3 for i in range(N)],
        "day": pa.array([i % 20_000 for i in range(N)], pa.int32()).cast(pa.date32()),
        "at": pa.array([i * 1_000_003 for i in range(N)], pa.timestamp("us", "UTC")),
        "ok": [i % 3 == 0 for i in range(N)],
        "tags": pa.array([[f"t{i % 7}"] * (i % 3) if i % 4 else None for i in range(N)], pa.list_(pa.string())),
        "at_place": pa.array([{"a": i, "b": f"{i % 11}"} for i in range(N)]),
    }
)


def duckdb_file(path: Path) -> None:
    import duckdb

    data = TABLE
    assert len(data) == N
    duckdb.sql(f"COPY data TO '{path / 'out.parquet'}' (FORMAT parquet, ROW_GROUP_SIZE 20480)")


def duckdb_v2_file(path: Path) -> None:
    import duckdb

    data = TABLE
    assert len(data) == N
    duckdb.sql(f"COPY data TO '{path / 'out.parquet'}' (FORMAT parquet, PARQUET_VERSION v2, CODEC 'zstd')")


def polars_file(path: Path) -> None:
    import polars

    frame = polars.from_arrow(TABLE)
    assert isinstance(frame, polars.DataFrame)
    frame.write_parquet(path / "out.parquet", row_group_size=30_000, data_page_size=20_000)


def deltalake_file(path: Path) -> None:
    import deltalake

    properties = deltalake.WriterProperties(data_page_size_limit=10_000, max_row_group_size=40_000, compression="ZSTD")
    deltalake.write_deltalake(path, TABLE, writer_properties=properties)


def pyiceberg_file(path: Path) -> None:
    from pyiceberg.catalog.sql import SqlCatalog

    catalog = SqlCatalog("c", uri="sqlite:///:memory:", warehouse=f"file://{path}")
    catalog.create_namespace("n")
    catalog.create_table("n.t", TABLE.schema).append(TABLE)
    catalog.close()


def files_of(root: Path) -> list[Path]:
    return [path for path in sorted(root.rglob("*.parquet")) if "_delta_log" not in path.parts]


WRITERS: list[Callable[[Path], None]] = [duckdb_file, duckdb_v2_file, polars_file, deltalake_file, pyiceberg_file]


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
async def test_files_of_other_writers_are_read(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path)
    for path in files_of(tmp_path):
        data = path.read_bytes()
        layout = await layout_of(data)
        read_back(data, layout, blocks(layout), TABLE.column_names)
        some = [Slice(10, 11), Slice(layout.n_rows // 2, layout.n_rows // 2 + 100)]
        read_back(data, layout, some, TABLE.column_names)
        read_back(data, layout, some, ["id"])


async def test_pages_of_arrow_rs_are_blocks(tmp_path: Path) -> None:
    deltalake_file(tmp_path)
    [path] = files_of(tmp_path)
    layout = await layout_of(path.read_bytes())
    assert layout.block_rows.tolist()[:3] == [0, BLOCK_ROWS, 2 * BLOCK_ROWS]


@pytest.mark.golden
async def test_every_data_file_of_the_golden_tables_is_read(golden_dir: Path) -> None:
    n_files = 0
    for path in files_of(golden_dir):
        data = path.read_bytes()
        layout, _requests = await layout_or_reason(data)
        if isinstance(layout, str):
            with pytest.raises(pa.ArrowInvalid):
                pq.read_table(io.BytesIO(data))
            continue
        assert isinstance(layout, FileLayout)
        n_files += 1
        if layout.n_rows:
            read_back(data, layout, blocks(layout), layout.schema.names)
    assert n_files > 0
