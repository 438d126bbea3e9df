"""Tables that the delta-rs library writes, step by step, read as it reads them itself."""

import datetime as dt
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest

from storage.tables.snapshot import At
from tests.support.delta_read import load_folder, local_stores, multiset, read_rows

deltalake = pytest.importorskip("deltalake")
pytestmark = pytest.mark.anyio


def rows(start: int, limit: int) -> pa.Table:
    numbers = range(start, limit)
    return pa.table(
        {
            "id": pa.array(numbers, pa.int64()),
            "part": pa.array([None if n % 7 == 0 else f"a/b={n % 3} %é" for n in numbers], pa.string()),
            "day": pa.array([dt.date(1900, 1, 1) + dt.timedelta(days=n % 2) for n in numbers], pa.date32()),
            "text": pa.array([f"row {n}" for n in numbers]),
            "price": pa.array([Decimal(n) / 4 for n in numbers], pa.decimal128(20, 2)),
            "at": pa.array([n * 1_000_001 for n in numbers], pa.timestamp("us", "UTC")),
            "ratio": pa.array([n / 3 for n in numbers], pa.float32()),
        }
    )


async def test_every_version_of_a_written_table_reads_as_the_writer_reads_it(tmp_path: Path) -> None:
    where = str(tmp_path / "t")
    deltalake.write_deltalake(where, rows(0, 50), partition_by=["part", "day"])
    known = await load_folder(tmp_path / "t")
    table = deltalake.DeltaTable(where)
    steps = [
        lambda: deltalake.write_deltalake(where, rows(50, 80), mode="append"),
        lambda: table.delete("id % 5 = 0"),
        lambda: table.update(updates={"text": "'changed'"}, predicate="id > 60"),
        lambda: table.create_checkpoint(),
        lambda: deltalake.write_deltalake(where, rows(80, 90), mode="append"),
        lambda: table.optimize.compact(),
        lambda: table.create_checkpoint(),
        lambda: table.delete(),
        lambda: deltalake.write_deltalake(where, rows(0, 5), mode="overwrite"),
        lambda: table.restore(3),
    ]
    for step in steps:
        step()
        table.update_incremental()
        known = await load_folder(tmp_path / "t", known=known)
        assert known.version == table.version()
    for version in range(table.version() + 1):
        table.load_as_version(version)
        snapshot = await load_folder(tmp_path / "t", At(version=version))
        found = await read_rows(local_stores(), snapshot)
        assert multiset(found) == multiset(pa.table(table.to_pyarrow_table()))
        assert snapshot.timestamp_ms > 0
    assert multiset(await read_rows(local_stores(), known)) == multiset(found)


async def test_statistics_that_delta_rs_writes_hold(tmp_path: Path) -> None:
    deltalake.write_deltalake(str(tmp_path / "t"), rows(0, 100))
    snapshot = await load_folder(tmp_path / "t")
    assert snapshot.files.n_rows.tolist() == [100]
    for name in ("id", "text", "price", "at", "ratio", "day"):
        column, stats = rows(0, 100).column(name).to_pylist(), snapshot.files.stats(name)
        assert stats.minimum[0].as_py() <= min(column), name
        assert stats.maximum[0].as_py() >= max(column), name
        assert stats.null_count.to_pylist() == [0]
    assert snapshot.files.stats("part").null_count.to_pylist() == [15]
