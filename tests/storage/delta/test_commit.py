"""`DeltaWriter`: what it writes, our reader, deltalake and DuckDB read; what is no longer true is not committed."""

from __future__ import annotations

import json
from pathlib import Path

import deltalake
import pyarrow as pa
import pytest

from storage.clock import SystemClock
from storage.errors import ConflictError, InvalidError
from storage.tables.delta.commit import DeltaWriter
from storage.tables.write import Change, Watermark
from tests.support.delta_read import load_folder, local_stores, multiset, read_rows
from tests.support.delta_write import data_file, make_spec

pytestmark = pytest.mark.anyio

SCHEMA = pa.schema([pa.field("id", pa.int64(), nullable=False), ("name", pa.string())])


def rows(start: int, limit: int) -> pa.Table:
    return pa.table({"id": range(start, limit), "name": [f"row {n}" for n in range(start, limit)]}, SCHEMA)


def writer_at(folder: Path) -> DeltaWriter:
    return DeltaWriter(local_stores(), f"file://{folder}", SystemClock())


async def test_a_new_table_is_read_by_us_and_by_others(tmp_path: Path) -> None:
    writer, stores = writer_at(tmp_path), local_stores()
    file = await data_file(stores, f"file://{tmp_path}", "a.parquet", rows(0, 10))
    spec = make_spec(SCHEMA, primary_key=["id"])
    done = await writer.create(spec, (file,))
    assert (done.version, done.attempts) == (0, 1)
    snapshot = await load_folder(tmp_path)
    assert snapshot.timestamp_ms == done.timestamp_ms
    assert multiset(await read_rows(stores, snapshot)) == multiset(rows(0, 10))
    table = deltalake.DeltaTable(str(tmp_path))
    assert multiset(pa.table(table.to_pyarrow_table())) == multiset(rows(0, 10))
    assert (table.protocol().min_reader_version, table.protocol().min_writer_version) == (1, 2)
    with pytest.raises(ConflictError, match="lies here already"):
        await writer.create(spec)


async def test_a_change_adds_removes_and_moves_the_watermark_in_one_commit(tmp_path: Path) -> None:
    writer, stores, where = writer_at(tmp_path), local_stores(), f"file://{tmp_path}"
    first = await data_file(stores, where, "a.parquet", rows(0, 10))
    await writer.create(make_spec(SCHEMA), (first,))
    base = await load_folder(tmp_path)
    second = await data_file(stores, where, "b.parquet", rows(5, 20))
    change = Change("fold", (second,), (first.location,), watermark=Watermark("0", 0, 17), facts={"k": "v"})
    done = await writer.commit(base, change)
    snapshot = await load_folder(tmp_path)
    assert (snapshot.version, done.version, done.attempts) == (1, 1, 1)
    assert multiset(await read_rows(stores, snapshot)) == multiset(rows(5, 20))
    assert (writer.watermark(base, "0"), writer.watermark(snapshot, "0"), writer.watermark(snapshot, "1")) == (0, 17, 0)
    table = deltalake.DeltaTable(str(tmp_path))
    assert multiset(pa.table(table.to_pyarrow_table())) == multiset(rows(5, 20))
    assert table.transaction_version("firnline-log-0") == 17
    assert table.history(1)[0]["firnline"] == {"k": "v"}
    with pytest.raises(ConflictError, match="other records of the log"):
        await writer.commit(base, change)
    with pytest.raises(ConflictError, match="part of the table already"):
        await writer.commit(snapshot, Change("insert", (second,)))
    with pytest.raises(ConflictError, match="no longer part"):
        await writer.commit(base, Change("delete", (), (first.location,)))
    with pytest.raises(InvalidError, match="adds and removes one file"):
        await writer.commit(snapshot, Change("update", (second,), (second.location,)))
    lines = (tmp_path / "_delta_log" / f"{1:020}.json").read_text().splitlines()
    assert [next(iter(json.loads(line))) for line in lines] == ["commitInfo", "txn", "remove", "add"]
