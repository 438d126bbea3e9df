"""Rows become records: split by size, without metadata, with the hashes of their keys."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from catalog.tables import Managed, TableEntry
from functions.append import RECORD_BYTES, append_rows, bare_schema
from functions.keys import key_hashes
from storage.blobs.memory import MemoryBlobs
from storage.clock import SystemClock
from storage.errors import InvalidError, TooLargeError
from storage.log import AckMode, LogRecord, Receipt, Record, RecordKind
from storage.log.access import LogRange, Touched
from storage.log.reader import replay
from storage.log.writer import LogWriter
from storage.tables.write import TableSpec
from tests.support.logs import LOG, open_test_log

pytestmark = pytest.mark.anyio

ID = b"PARQUET:field_id"
SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), False, {ID: b"1"}),
        pa.field("name", pa.string(), True, {ID: b"2"}),
        pa.field("tags", pa.list_(pa.field("element", pa.string(), True, {ID: b"4"})), True, {ID: b"3"}),
    ]
)


def entry_of(*key: str, schema: pa.Schema = SCHEMA) -> TableEntry:
    spec = TableSpec("0" * 32, schema, 3, 4, key)
    return TableEntry("default", "t", "0" * 32, "delta", "file:///t", 0, {}, Managed(spec, {3: schema}))


def rows_of(n: int, text: str = "x") -> pa.Table:
    return pa.table({"id": range(n), "name": [text] * n, "tags": [["a"]] * n}, schema=SCHEMA)


class WriterLog:
    """A `Log` for appending over a writer; keeps what the appends touched."""

    def __init__(self, writer: LogWriter) -> None:
        self._writer = writer
        self.touched: list[Touched | None] = []

    async def append(
        self, records: Sequence[Record], *, ack: AckMode | None = None, touched: Touched | None = None
    ) -> Receipt:
        self.touched.append(touched)
        return await self._writer.append(records, ack=ack)

    async def find(self, table_id: str, idempotency_key: str) -> Receipt | None:
        raise NotImplementedError

    async def read(self, start: int, *, bytes_max: int = 0) -> LogRange:
        raise NotImplementedError

    async def flush(self) -> int:
        raise NotImplementedError


async def stored(blobs: MemoryBlobs) -> list[LogRecord]:
    return [item async for item in replay(blobs, LOG)]


async def test_rows_are_read_back_from_their_record_without_field_ids() -> None:
    blobs = MemoryBlobs(SystemClock())
    async with await open_test_log(blobs, 1) as writer:
        rows = rows_of(10)
        receipt = await append_rows(WriterLog(writer), entry_of(), rows, kind=RecordKind.APPEND, idempotency_key="k")
    assert (receipt.n_records, receipt.ack) == (1, AckMode.OBJECT)
    (found,) = [item.record for item in await stored(blobs)]
    assert (found.table_id, found.schema_id, found.kind, found.idempotency_key) == ("0" * 32, 3, RecordKind.APPEND, "k")
    table = pa.ipc.open_stream(found.body).read_all()
    assert table.schema.equals(bare_schema(SCHEMA), check_metadata=True)
    assert table.to_pylist() == rows.to_pylist()


async def test_many_bytes_are_split_into_records_of_one_append() -> None:
    blobs = MemoryBlobs(SystemClock())
    async with await open_test_log(blobs, 1) as writer:
        rows = pa.concat_tables([rows_of(1000, "x" * 5000)] * 5 + [rows_of(1, "y" * (3 * RECORD_BYTES))])
        receipt = await append_rows(WriterLog(writer), entry_of(), rows, kind=RecordKind.APPEND)
    records = await stored(blobs)
    assert receipt.n_records == len(records) > 4
    assert sum(len(item.record.body) > 2 * RECORD_BYTES for item in records) == 1  # the large row, nearly alone
    read = pa.concat_tables([pa.ipc.open_stream(item.record.body).read_all() for item in records])
    assert read.equals(rows.cast(bare_schema(SCHEMA)))


async def test_a_row_larger_than_a_record_may_be_is_refused_and_nothing_is_stored() -> None:
    blobs = MemoryBlobs(SystemClock())
    async with await open_test_log(blobs, 1) as writer:
        rows = pa.concat_tables([rows_of(3), rows_of(1, "y" * (65 << 20))])
        with pytest.raises(TooLargeError, match="row"):
            await append_rows(WriterLog(writer), entry_of(), rows, kind=RecordKind.APPEND)
    assert await stored(blobs) == []


async def test_upserts_and_deletes_say_which_keys_they_touch() -> None:
    blobs = MemoryBlobs(SystemClock())
    async with await open_test_log(blobs, 1) as writer:
        log, entry, rows = WriterLog(writer), entry_of("id"), rows_of(3)
        await append_rows(log, entry, rows, kind=RecordKind.UPSERT)
        await append_rows(log, entry, rows.select(["id"]), kind=RecordKind.DELETE, since=(1, 7))
    first, second = log.touched
    assert first is not None
    assert second is not None
    assert np.array_equal(first.keys, key_hashes(rows, ["id"]))
    assert np.array_equal(first.keys, second.keys)
    assert (first.since, second.since) == (None, (1, 7))
    assert [item.record.kind for item in await stored(blobs)] == [RecordKind.UPSERT, RecordKind.DELETE]


async def test_no_rows_are_no_append(tmp_path: Path) -> None:
    blobs = MemoryBlobs(SystemClock())
    async with await open_test_log(blobs, 1, tmp_path / "journal") as writer:
        receipt = await append_rows(WriterLog(writer), entry_of(), rows_of(0), kind=RecordKind.APPEND)
    assert receipt.n_records == 0
    assert await stored(blobs) == []


@pytest.mark.parametrize(
    ("entry", "kind"),
    [
        (entry_of("id"), RecordKind.APPEND),
        (entry_of(), RecordKind.UPSERT),
        (entry_of(), RecordKind.DELETE),
        (TableEntry("default", "t", "1", "delta", "file:///t", 0), RecordKind.APPEND),
    ],
)
async def test_a_table_takes_only_its_own_kinds(entry: TableEntry, kind: RecordKind) -> None:
    blobs = MemoryBlobs(SystemClock())
    async with await open_test_log(blobs, 1) as writer:
        with pytest.raises(InvalidError):
            await append_rows(WriterLog(writer), entry, rows_of(1), kind=kind)
    with pytest.raises(InvalidError, match="columns"):
        await append_rows(WriterLog(writer), entry_of(), rows_of(1).select(["id"]), kind=RecordKind.APPEND)
