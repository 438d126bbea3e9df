"""A sound lake has no findings, and each kind of damage is named."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake

from catalog.kv import KV
from catalog.kv.memory import MemoryKV
from catalog.logs import LogCatalog
from catalog.tables import Managed, TableEntry, Tables
from functions.check import JournalFile, Report, check
from storage.blobs.local import LocalBlobs
from storage.blobs.open import open_blobs
from storage.blobs.s3_options import S3Options
from storage.clock import SystemClock
from storage.log import Position, Record, RecordKind
from storage.log.reader import end_of
from storage.log.settings import LogSettings
from storage.log.sweep import sweep
from storage.log.writer import open_log
from storage.stores import Stores
from storage.tables.write import TableSpec
from tests.support.logs import FAST, TestLease

pytestmark = pytest.mark.anyio

CLOCK = SystemClock()
ROWS = pa.table({"k": [1, 2, 3], "v": ["a", "b", "c"]})
LOG = "_firnline/log/0"


@dataclass
class Lake:
    """A lake with a log, and a Delta table that holds some of its records."""

    folder: Path
    kv: KV
    tables: Tables
    entry: TableEntry

    @property
    def table(self) -> Path:
        return Path(self.entry.location.removeprefix("file://"))

    @property
    def slots(self) -> list[Path]:
        return sorted((self.folder / LOG / "segments").iterdir())

    async def check(self, **options: Any) -> Report:
        def open_(root: str) -> Any:
            return open_blobs(root, s3=S3Options(), clock=CLOCK)

        stores = Stores(open_)
        journal = JournalFile(self.folder / LOG / "journal", LOG)
        try:
            return await check(
                stores, self.kv, CLOCK, f"file://{self.folder}", journals=lambda _shard, _state: journal, **options
            )
        finally:
            await stores.close()

    async def only_error(self, **options: Any) -> str:
        """Return the one error as text."""
        errors = [each for each in (await self.check(**options)).findings if each.severity == "error"]
        assert len(errors) == 1, errors
        return f"{errors[0].where} | {errors[0].what}"

    def data_file(self) -> Path:
        return next(path for path in self.table.rglob("*.parquet"))


def ipc(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return bytes(sink.getvalue())


@asynccontextmanager
async def writer_of(folder: Path, epoch: int, journal: bool = False) -> AsyncIterator[Any]:
    blobs = LocalBlobs(folder, CLOCK)
    path = folder / LOG / "journal" if journal else None
    async with await open_log(blobs, LOG, TestLease(epoch), FAST, CLOCK, path) as writer:
        yield writer


@pytest.fixture
async def lake(tmp_path: Path) -> Lake:
    """Two epochs of three appends each; the table has the first four, and the catalog says so."""
    for epoch in (1, 2):
        async with writer_of(tmp_path, epoch) as writer:
            for _ in range(3):
                await writer.append([Record("t1", 0, RecordKind.APPEND, ipc(ROWS))])
    location = tmp_path / "tables" / "default" / "t-12345678"
    done = CommitProperties(app_transactions=[Transaction("firnline-log-0", 4)])
    write_deltalake(str(location), pa.concat_tables([ROWS] * 4), commit_properties=done)
    kv = MemoryKV(CLOCK)
    tables = Tables(kv, CLOCK)
    spec = TableSpec("t1", ROWS.schema)
    entry = TableEntry("default", "t", "t1", "delta", f"file://{location}", 1, managed=Managed(spec, {0: ROWS.schema}))
    await tables.create(entry)
    await LogCatalog(kv, CLOCK).raise_folded(0, 4)
    return Lake(tmp_path, kv, tables, entry)


async def test_it_tells_what_it_looks_at(lake: Lake) -> None:
    told: list[str] = []
    await lake.check(progress=told.append)
    assert told == ["table 1 of 1: default.t", "table 1 of 1: default.t: 1 of 1 files", "log 0", "indexes"]


async def test_a_sound_lake_has_no_findings(lake: Lake) -> None:
    for deep in (False, True):
        report = await lake.check(deep=deep)
        assert [each for each in report.findings if each.severity != "warning"] == []
        assert report.sound
    assert report.counts["tables"] == 1
    assert report.counts["files"] == 1
    assert report.counts["rows"] == 12
    assert (report.counts["segments"], report.counts["seals"], report.counts["records"]) == (6, 2, 6)


async def test_a_swept_log_is_sound(lake: Lake) -> None:
    blobs = LocalBlobs(lake.folder, CLOCK)
    settings = LogSettings(idempotency_window_ms=0)
    swept = await sweep(blobs, LOG, Position(0, 4), settings, CLOCK)
    assert swept.n_segments > 0
    assert (await lake.check()).sound
    assert (await end_of(blobs, LOG)).sequence == 6


async def test_a_lake_without_anything_is_sound(tmp_path: Path) -> None:
    kv = MemoryKV(CLOCK)
    entry = TableEntry("default", "t", "t1", "delta", "", 0)
    report = await Lake(tmp_path, kv, Tables(kv, CLOCK), entry).check()
    assert report.sound
    assert report.findings == ()


# The log


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize("at", [3, 20, 60, 75, -10])
async def test_a_flipped_bit_in_a_segment_is_named(lake: Lake, at: int) -> None:
    victim = next(
        path for path in lake.slots if path.name.endswith("-00000000000000000001") and path.stat().st_size > 80
    )
    flip(victim, at)
    assert victim.name in await lake.only_error()


async def test_a_truncated_segment_is_named(lake: Lake) -> None:
    victim = lake.slots[-1]
    victim.write_bytes(victim.read_bytes()[:-5])
    said = await lake.only_error()
    assert victim.name in said
    assert "truncated" in said


async def test_a_missing_segment_is_a_gap(lake: Lake) -> None:
    victim = next(path for path in lake.slots if path.name.endswith("-00000000000000000001"))
    victim.unlink()
    said = await lake.only_error()
    assert victim.name in said
    assert "gap" in said


async def test_every_missing_seal_is_named(lake: Lake) -> None:
    seals = [path for path in lake.slots if path.stat().st_size == 72]
    assert len(seals) == 2
    for seal in seals:
        data = seal.read_bytes()
        seal.unlink()
        assert seal.name in await lake.only_error()
        seal.write_bytes(data)
    assert (await lake.check()).sound


async def test_a_foreign_blob_among_the_segments_is_named(lake: Lake) -> None:
    (lake.folder / LOG / "segments" / "notes.txt").write_text("x")
    assert "notes.txt" in await lake.only_error()


async def test_a_damaged_base_is_named(lake: Lake) -> None:
    (lake.folder / LOG / "base").write_bytes(b"FIRNBASE" + bytes(16))
    assert f"{LOG}/base" in await lake.only_error()


async def test_an_epoch_that_the_catalog_does_not_know_is_a_warning(lake: Lake) -> None:
    (finding,) = (await lake.check()).findings
    assert finding.severity == "warning"
    assert "epoch is 2, the catalog's 0" in finding.what


async def test_a_body_that_is_no_arrow_stream_is_found_when_asked_to_look_deep(lake: Lake) -> None:
    async with writer_of(lake.folder, 3) as writer:
        await writer.append([Record("t1", 0, RecordKind.APPEND, b"no arrow")])
    assert (await lake.check()).sound
    assert "record 6" in await lake.only_error(deep=True)


async def test_a_damaged_journal_is_named_and_a_good_one_extends_the_log(lake: Lake) -> None:
    async with writer_of(lake.folder, 3, journal=True) as writer:
        await writer.append([Record("t1", 0, RecordKind.APPEND, ipc(ROWS))])
    assert (await lake.check()).sound
    journal = lake.folder / LOG / "journal"
    flip(journal, 10)
    assert str(journal) in await lake.only_error()


# The marks


async def test_a_folded_mark_past_a_tables_records_is_an_error(lake: Lake) -> None:
    await LogCatalog(lake.kv, CLOCK).raise_folded(0, 6)
    said = await lake.only_error()
    assert said.startswith("default.t")
    assert "2 records from 4 on are not seen" in said


async def test_a_folded_mark_past_the_logs_end_is_an_error(lake: Lake) -> None:
    await lake.tables.drop("default", "t")
    await LogCatalog(lake.kv, CLOCK).raise_folded(0, 7)
    assert "the log ends at 6" in await lake.only_error()


async def test_a_watermark_past_the_logs_end_is_an_error(lake: Lake) -> None:
    done = CommitProperties(app_transactions=[Transaction("firnline-log-0", 9)])
    write_deltalake(str(lake.table), ROWS, mode="append", commit_properties=done)
    assert "holds records before 9 of log 0, which ends at 6" in await lake.only_error()


async def test_records_that_were_swept_before_they_were_folded_are_an_error(lake: Lake) -> None:
    await sweep(LocalBlobs(lake.folder, CLOCK), LOG, Position(0, 5), LogSettings(idempotency_window_ms=0), CLOCK)
    assert "records [4, 5) were swept" in await lake.only_error()


async def test_a_record_of_an_unknown_schema_is_an_error(lake: Lake) -> None:
    async with writer_of(lake.folder, 3) as writer:
        await writer.append([Record("t1", 5, RecordKind.APPEND, ipc(ROWS))])
    assert "does not know: [5]" in await lake.only_error()


# The tables


async def test_a_missing_file_is_named(lake: Lake) -> None:
    path = lake.data_file()
    path.unlink()
    said = await lake.only_error()
    assert path.name in said
    assert "the file is missing" in said


async def test_a_truncated_file_is_named(lake: Lake) -> None:
    path = lake.data_file()
    path.write_bytes(path.read_bytes()[:-100])
    said = await lake.only_error()
    assert path.name in said
    assert "bytes, the table says" in said


async def test_a_damaged_footer_is_named(lake: Lake) -> None:
    path = lake.data_file()
    data = path.read_bytes()
    path.write_bytes(data[:-4] + b"XXXX")
    said = await lake.only_error()
    assert path.name in said
    assert "does not end as Parquet does" in said


async def test_a_damaged_page_is_found_when_asked_to_look_deep(lake: Lake) -> None:
    path = lake.data_file()
    offset = pq.ParquetFile(path).metadata.row_group(0).column(1).data_page_offset
    data = bytearray(path.read_bytes())
    data[offset : offset + 12] = b"\xff" * 12
    path.write_bytes(data)
    assert (await lake.check()).sound
    assert path.name in await lake.only_error(deep=True)


async def test_a_missing_entry_of_the_delta_log_is_named(lake: Lake) -> None:
    for _ in range(2):
        write_deltalake(str(lake.table), ROWS, mode="append")
    assert DeltaTable(str(lake.table)).version() == 2
    (lake.table / "_delta_log" / f"{1:020d}.json").unlink()
    said = await lake.only_error()
    assert "default.t" in said
    assert f"{1:020d}.json" in said or "version=1" in said or "1" in said


async def test_a_pointer_to_metadata_that_is_not_there_is_named(lake: Lake) -> None:
    assert lake.entry.managed is not None
    where = f"file://{lake.folder}/tables/default/i-1/metadata/00001-x.metadata.json"
    managed = replace(lake.entry.managed, metadata_location=where)
    entry = replace(lake.entry, name="i", id="i1", format="iceberg", managed=managed)
    await lake.tables.create(entry)
    said = await lake.only_error()
    assert said.startswith("default.i")
    assert "00001-x.metadata.json" in said


async def test_a_schema_that_differs_from_the_catalogs_is_a_warning(lake: Lake) -> None:
    wider = pa.table({"k": [4], "v": ["d"], "w": [1.0]})
    write_deltalake(str(lake.table), wider, mode="append", schema_mode="merge")
    report = await lake.check()
    assert report.sound
    assert any("differ in the columns w" in each.what for each in report.findings)


async def test_files_of_older_versions_and_of_unknown_tables_are_noted(lake: Lake) -> None:
    write_deltalake(str(lake.table), ROWS, mode="overwrite")
    stranger = lake.folder / "tables" / "default" / "gone-87654321" / "part.parquet"
    stranger.parent.mkdir()
    stranger.write_bytes(b"x")
    report = await lake.check()
    assert report.sound
    notes = [f"{each.where} {each.what}" for each in report.findings if each.severity == "note"]
    assert any("default.t 1 files" in note for note in notes)
    assert any("gone-87654321" in note for note in notes)


async def test_a_broken_catalog_entry_is_named(lake: Lake) -> None:
    from catalog.kv import Put

    await lake.kv.txn({}, [Put("table/default/t", json.dumps({"v": 2}).encode())])
    assert "table/default/t" in await lake.only_error()
