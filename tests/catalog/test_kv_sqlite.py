"""SqliteKV among processes: what one file promises when several hold it, and when one is killed."""

import asyncio
import hashlib
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import closing
from itertools import chain
from pathlib import Path

import pytest

from catalog.kv import Put
from catalog.kv.sqlite import SqliteKV
from catalog.kv.sqlite_file import FORMAT, SCHEMA, SqliteFile
from catalog.kv.state import HistoryLimits
from storage.clock import SystemClock
from storage.errors import CorruptError, InvalidError, NotFoundError, UnavailableError, UnsupportedError
from tests.support.clock import ManualClock

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]

INCREMENT = """
import asyncio, sys
from pathlib import Path
from catalog.kv import Put
from catalog.kv.sqlite import SqliteKV
from storage.clock import SystemClock

async def main(path, n):
    kv = SqliteKV(Path(path), SystemClock())
    done = 0
    while done < n:
        entry = await kv.get("n")
        value = b"%d" % (int(entry.value if entry else b"0") + 1)
        result = await kv.txn({"n": entry.revision if entry else 0}, [Put("n", value)])
        if result.succeeded:
            done += 1
            print(result.revision, flush=True)
    await kv.close()

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def incrementer(path: Path, n: int) -> subprocess.Popen[str]:
    """A process that increments ``n`` times and prints the revision of each transaction once it is acknowledged."""
    command = [sys.executable, "-c", INCREMENT, str(path), str(n)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalog.sqlite"


@pytest.fixture
async def kv(path: Path) -> AsyncIterator[SqliteKV]:
    opened = SqliteKV(path, SystemClock())
    yield opened
    await opened.close()


async def test_processes_that_create_and_increment_at_once_lose_nothing(path: Path, kv: SqliteKV) -> None:
    n_each = 40
    processes = [incrementer(path, n_each) for _ in range(4)]
    outputs = [await asyncio.to_thread(process.communicate, timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, [stderr for _stdout, stderr in outputs]
    revisions = [[int(line) for line in stdout.split()] for stdout, _stderr in outputs]
    assert all(own == sorted(own) for own in revisions)
    assert sorted(chain.from_iterable(revisions)) == list(range(1, 4 * n_each + 1))
    entry = await kv.get("n")
    assert entry is not None and int(entry.value) == 4 * n_each
    watched = [event async for event in first(kv, 4 * n_each)]
    assert watched == [b"%d" % number for number in range(1, 4 * n_each + 1)]


async def first(kv: SqliteKV, n: int) -> AsyncIterator[bytes | None]:
    watch = kv.watch("n", 1)
    for _ in range(n):
        yield (await anext(watch)).value
    await watch.aclose()


async def test_what_a_killed_writer_had_acknowledged_is_there(path: Path, kv: SqliteKV) -> None:
    process = incrementer(path, 1_000_000)
    assert process.stdout is not None
    acknowledged = 0
    for _ in range(60):
        acknowledged = int(await asyncio.to_thread(process.stdout.readline))
    process.send_signal(signal.SIGKILL)
    rest, _stderr = process.communicate()
    acknowledged = max([acknowledged, *(int(line) for line in rest.split("\n")[:-1])])
    entry = await kv.get("n")
    assert entry is not None
    assert int(entry.value) in (acknowledged, acknowledged + 1)
    assert (await kv.txn({"n": entry.revision}, [Put("n", b"on")])).succeeded
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_a_watch_sees_what_another_process_writes(path: Path, kv: SqliteKV) -> None:
    watch = kv.watch("n", 1)
    process = incrementer(path, 5)
    async with asyncio.timeout(30):
        assert [(await anext(watch)).value for _ in range(5)] == [b"1", b"2", b"3", b"4", b"5"]
    await watch.aclose()
    await asyncio.to_thread(process.communicate)


async def test_a_file_held_by_another_is_unavailable_in_bounded_time_and_still_read(path: Path) -> None:
    kv = SqliteKV(path, SystemClock(), busy_timeout_s=3.0)
    await kv.txn({}, [Put("a", b"1")])
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    started = time.monotonic()
    writing = asyncio.create_task(kv.txn({}, [Put("a", b"2")]))
    entry = await kv.get("a")
    assert entry is not None and entry.value == b"1"
    assert time.monotonic() - started < 2.5, "a read waits for a writer"
    with pytest.raises(UnavailableError, match="another process holds the catalog file"):
        await writing
    assert time.monotonic() - started < 15
    holder.execute("ROLLBACK")
    holder.close()
    entry = await kv.get("a")
    assert entry is not None and entry.value == b"1"
    assert (await kv.txn({}, [Put("a", b"3")])).succeeded
    await kv.close()


async def test_a_blocked_write_does_not_block_the_event_loop(path: Path) -> None:
    kv = SqliteKV(path, SystemClock(), busy_timeout_s=0.5)
    await kv.txn({}, [Put("a", b"1")])
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    writing = asyncio.create_task(kv.txn({}, [Put("a", b"2")]))
    n_turns = 0
    while not writing.done():
        await asyncio.sleep(0.01)
        n_turns += 1
    assert n_turns > 10
    with pytest.raises(UnavailableError):
        await writing
    holder.close()
    await kv.close()


async def test_the_file_is_in_wal_mode_and_of_format_1(path: Path, kv: SqliteKV) -> None:
    await kv.txn({}, [Put("a", b"1")])
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA user_version").fetchone() == (FORMAT,) == (1,)
    connection.close()


async def test_a_file_that_version_1_wrote_is_still_read(path: Path, kv: SqliteKV) -> None:
    connection = sqlite3.connect(path)
    for statement in SCHEMA:
        connection.execute(statement)
    connection.execute("INSERT INTO entries VALUES (?, ?, 7, NULL)", ("ns/é".encode(), b"\x00v"))
    connection.execute("INSERT INTO history VALUES (1, 7, ?, ?)", ("ns/é".encode(), b"\x00v"))
    connection.execute("UPDATE state SET revision = 7, floor = 7")
    connection.execute("PRAGMA user_version = 1")
    connection.commit()
    connection.close()
    entry = await kv.get("ns/é")
    assert entry is not None and (entry.value, entry.revision) == (b"\x00v", 7)
    assert (await kv.txn({"ns/é": 7}, [Put("ns/é", b"w")])).revision == 8
    watch = kv.watch("", 7)
    assert [(await anext(watch)).value for _ in range(2)] == [b"\x00v", b"w"]
    await watch.aclose()
    with pytest.raises(NotFoundError):
        await anext(kv.watch("", 6))


async def test_the_schema_of_version_1_does_not_change() -> None:
    digest = hashlib.sha256("\n".join(SCHEMA).encode()).hexdigest()
    assert (FORMAT, digest[:16]) == (1, "edbbf635ffb1483a"), "a stored format changes with its version only"


async def test_a_file_of_a_later_format_is_refused_by_name(path: Path, kv: SqliteKV) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 9")
    connection.close()
    with pytest.raises(UnsupportedError, match="version=9 known=1"):
        await kv.get("a")


@pytest.fixture
def no_database(path: Path) -> None:
    path.write_bytes(b"PAR1" * 1000)


@pytest.mark.usefixtures("no_database")
async def test_a_file_that_is_no_database_is_corrupt(kv: SqliteKV) -> None:
    with pytest.raises(CorruptError, match="no SQLite file"):
        await kv.get("a")
    with pytest.raises(CorruptError):
        await kv.txn({}, [Put("a", b"1")])


async def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    kv = SqliteKV(tmp_path / "no" / "catalog.sqlite", SystemClock())
    with pytest.raises(InvalidError, match=r"its folder exists.*no/catalog\.sqlite"):
        await kv.get("a")
    await kv.close()


async def test_a_lease_outlives_the_handle_that_took_it_and_runs_out_by_the_clock(path: Path) -> None:
    clock = ManualClock()
    first_kv = SqliteKV(path, clock)
    lease = await first_kv.lease_grant(10)
    await first_kv.txn({}, [Put("a", b"1", lease)])
    await first_kv.close()
    second = SqliteKV(path, clock)
    clock.advance(9_999)
    assert await second.get("a") is not None
    clock.advance(1)
    assert await second.get("a") is None
    assert (await second.range(""))[0] == []
    await second.close()


async def test_a_closed_kv_leaves_no_thread_behind(path: Path) -> None:
    before = threading.active_count()
    kv = SqliteKV(path, SystemClock())
    await kv.txn({}, [Put("a", b"1")])
    await kv.get("a")
    assert threading.active_count() > before
    await kv.close()
    await asyncio.sleep(0.05)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("firn-kv")]


def test_many_who_open_a_new_file_at_once_all_get_it(tmp_path: Path) -> None:
    failed: list[Exception] = []

    def look(file: SqliteFile) -> None:
        try:
            file.has_expired(0)
        except Exception as error:
            failed.append(error)

    for n in range(40):
        files = [SqliteFile(tmp_path / f"{n}.db", 10.0, HistoryLimits()) for _ in range(6)]
        threads = [threading.Thread(target=look, args=(file,)) for file in files]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for file in files:
            file.close()
    assert failed == []


async def test_reads_of_one_turn_go_together_and_fail_alone(path: Path) -> None:
    kv = SqliteKV(path, ManualClock())
    await kv.txn({}, [Put("a", b"1"), Put("b", b"2")])
    future = kv.watch("a", 1 << 60)
    late = asyncio.ensure_future(anext(future))
    cancelled = asyncio.ensure_future(kv.get("a"))
    reads = asyncio.gather(kv.get("a"), kv.range(""), kv.get("c"), anext(kv.watch("", 1)), return_exceptions=True)
    await asyncio.sleep(0)
    cancelled.cancel()
    one, (every, _revision), none, event = await reads
    assert one is not None and one.value == b"1"
    assert [entry.key for entry in every] == ["a", "b"]
    assert none is None and event.key == "a"
    late.cancel()
    await asyncio.wait([late, cancelled])
    assert cancelled.cancelled()
    await kv.close()


@pytest.fixture
def damaged(path: Path) -> Path:
    path.write_bytes(b"no SQLite file" * 1_000)
    return path


async def test_a_damaged_file_fails_every_read_of_a_turn(damaged: Path) -> None:
    kv = SqliteKV(damaged, ManualClock())
    found = await asyncio.gather(kv.get("a"), kv.range(""), return_exceptions=True)
    assert [type(each) for each in found] == [CorruptError, CorruptError]
    await kv.close()
