"""Whole statements while what they stand on fails: the object store, the disk, the catalog, the log's own bytes."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.http_server import Request
from benchmarks.s3_facade import S3Facade, serve
from service.settings import LogAccess
from storage.blobs.s3_options import S3Options
from storage.clock import SystemClock
from storage.errors import CorruptError, FirnlineError, UnavailableError
from storage.log import AckMode
from storage.log.settings import LogSettings
from tests.support.etcd import etcd_server_or_skip
from tests.support.write_load import TABLES, Load, Notes, create_tables, load_history
from tests.support.write_process import EngineTarget, fold_for_ever, open_target
from tests.support.write_verdict import judge

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

ROWS = next(table for table in TABLES if table.name == "delta_rows")


# The object store


@dataclass
class Faults:
    """Answers one request in so many with a fault, by a seeded coin, while it is on."""

    seed: int
    p: float = 0.06
    on: bool = False
    n: int = 0

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)

    def __call__(self, request: Request) -> str | None:
        if not self.on or self._chance.random() > self.p:
            return None
        self.n += 1
        kinds = ["503 SlowDown", "500 InternalError", "drop before"]
        if request.method == "PUT":
            kinds += ["drop after", "after 500 InternalError"]
        return self._chance.choice(kinds)


@pytest.mark.parametrize("ack", list(AckMode), ids=lambda ack: ack.value)
async def test_a_store_that_fails_and_loses_replies_loses_and_doubles_nothing(ack: AckMode, tmp_path: Path) -> None:
    faults = Faults(seed=20261121)
    (tmp_path / "s3" / "bucket").mkdir(parents=True)
    facade = S3Facade(tmp_path / "s3", SystemClock(), fault=faults)
    notes_path = tmp_path / "notes"
    async with serve(facade) as url:
        s3 = S3Options(endpoint=url, region="us-east-1", access_key_id="x", secret_access_key="x")
        journal = str(tmp_path / "journal") if ack is AckMode.FSYNC else None
        log = LogAccess(ack=ack, journal=journal, writer=LogSettings(flush_interval_ms=20))
        catalog = f"sqlite://{tmp_path}/catalog.db"
        async with open_target("s3://bucket/lake", "s3", s3=s3, log=log, catalog=catalog) as target:
            await create_tables(target)
            notes, stop = Notes(notes_path), asyncio.Event()
            faults.on = True
            folding = asyncio.create_task(fold_for_ever(target.engine, notes, 0.2))
            working = asyncio.create_task(Load(target, notes, 1, 1).work(4, stop))
            await asyncio.sleep(6)
            stop.set()
            await working
            folding.cancel()
            faults.on = False
            story = load_history(notes_path)
            verdict = await judge(story, target, TABLES)
    assert faults.n > 10
    assert verdict.problems == {}
    assert verdict.faults == []
    assert verdict.found == verdict.acknowledged > 10


# The disk


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own in memory; skips where it cannot be mounted."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], check=False)
    if mounted.returncode != 0:
        pytest.skip("mounting a small file system needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_a_full_disk_refuses_in_words_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "6m") as disk:
        lake = disk / "lake"
        acknowledged: list[int] = []
        async with open_target(lake, "full") as target:
            await create_tables(target, [ROWS])
            filler = disk / "filler"
            with filler.open("wb") as file, pytest.raises(OSError, match="No space"):
                while True:
                    file.write(os.urandom(1 << 16))
                    file.flush()
            errors: list[FirnlineError] = []
            for n in range(60):
                note = os.urandom(2000).hex()
                try:
                    await target.ingest(ROWS, [{"id": n, "note": note}], f"k{n}")
                except FirnlineError as error:
                    errors.append(error)
                else:
                    acknowledged.append(n)
            assert errors
            for error in errors:
                assert isinstance(error, UnavailableError), error
                assert any(words in str(error) for words in ("No space left", "disk is full", "retry")), error
            filler.unlink()
            await _until_stored(target, 1000)
            found = [row[0] for row in await target.sql("SELECT id FROM delta_rows")]
            assert sorted(found) == [*acknowledged, 1000]
        async with open_target(lake, "again") as target:
            assert sorted(row[0] for row in await target.sql("SELECT id FROM delta_rows")) == [*acknowledged, 1000]


async def _until_stored(target: EngineTarget, n: int) -> None:
    """Append one row, again and again until it is taken."""
    for _ in range(50):
        try:
            await target.ingest(ROWS, [{"id": n, "note": "room"}], f"k{n}")
        except UnavailableError:
            await asyncio.sleep(0.1)
        else:
            return
    raise AssertionError("the log did not recover")


# The log's own bytes


@pytest.mark.parametrize("at", [4, 30, 70, 90, -20])
async def test_a_flipped_bit_in_a_segment_is_named_and_never_served(at: int, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    async with open_target(lake, "before") as target:
        await create_tables(target, [ROWS])
        for n in range(5):
            await target.ingest(ROWS, [{"id": n, "note": "row"}], f"k{n}")
    segments = sorted((lake / "_firnline" / "log" / "0" / "segments").iterdir())
    victim = next(path for path in segments if path.stat().st_size > 100)
    data = bytearray(victim.read_bytes())
    data[at] ^= 0x04
    victim.write_bytes(data)
    async with open_target(lake, "after") as target:
        with pytest.raises(CorruptError) as caught:
            await target.sql("SELECT * FROM delta_rows")
    assert victim.name in str(caught.value)


# The catalog


async def test_while_etcd_is_away_known_tables_are_read_and_writes_refuse_and_then_all_goes_on(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    with etcd_server_or_skip() as etcd:
        log = LogAccess(lease_ttl_s=2, wait_s=2)
        async with open_target(lake, "etcd", catalog=f"etcd://{etcd.endpoint}", log=log) as target:
            await create_tables(target, [ROWS])
            await target.ingest(ROWS, [{"id": 1, "note": "before"}], "k1")
            assert await target.sql("SELECT id FROM delta_rows") == [(1,)]
            etcd.kill()
            started_s = time.monotonic()
            assert await target.sql("SELECT id FROM delta_rows") == [(1,)]
            took_s = time.monotonic() - started_s
            print(f"NOTE: the first read after etcd was killed took {took_s:.2f} s")
            assert took_s < 5
            # The owner goes on to the end of its lease, and refuses behind it.
            await asyncio.sleep(3)
            with pytest.raises(FirnlineError) as caught:
                await target.ingest(ROWS, [{"id": 2, "note": "away"}], "k2")
            assert isinstance(caught.value, UnavailableError)
            # That took the catalog's whole deadline; from now on it is known to be away.
            started_s = time.monotonic()
            assert await target.sql("SELECT id FROM delta_rows") == [(1,)]
            assert time.monotonic() - started_s < 8
            with pytest.raises(FirnlineError):
                await target.sql("CREATE TABLE other (x INT)")
            etcd.start()
            etcd.wait()
            await _until_stored(target, 3)
            assert sorted(await target.sql("SELECT id FROM delta_rows")) == [(1,), (3,)]
            await target.sql("CREATE TABLE other (x INT)")
