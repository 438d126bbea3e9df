"""What others need to make one row durable: the disk itself, SQLite, PostgreSQL, deltalake, pyiceberg.

Each writes below a folder of its own, all on the same disk.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

__all__ = [
    "POSTGRES",
    "delta_rows",
    "fdatasync_seconds",
    "iceberg_rows",
    "pgbench",
    "postgres_rows",
    "sqlite_rows",
    "timed",
]

POSTGRES = Path("/usr/lib/postgresql/15/bin")
"""Where Debian's package postgresql-15 has its programs."""
_INSERT = "INSERT INTO t VALUES (:id, 'row')"


def timed(act: Callable[[int], object], n: int) -> list[float]:
    """Return the seconds of each of n calls, after a tenth as many that do not count."""
    found = []
    warm = max(1, n // 10)
    for number in range(n + warm):
        started = time.perf_counter()
        act(number)
        found.append(time.perf_counter() - started)
    return found[warm:]


def fdatasync_seconds(folder: Path, n: int) -> list[float]:
    """Append 1 KB to a file and fdatasync it, n times."""
    path = folder / "fdatasync"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    kilobyte = os.urandom(1024)

    def act(_number: int) -> None:
        os.write(descriptor, kilobyte)
        os.fdatasync(descriptor)

    try:
        return timed(act, n)
    finally:
        os.close(descriptor)
        path.unlink()


def sqlite_rows(folder: Path, n: int) -> list[float]:
    """One INSERT a transaction, WAL, synchronous=FULL."""
    connection = sqlite3.connect(folder / "sqlite.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE t (id INTEGER, note TEXT)")
    try:
        return timed(lambda number: connection.execute("INSERT INTO t VALUES (?, 'row')", (number,)), n)
    finally:
        connection.close()


@contextmanager
def _postgres(folder: Path) -> Iterator[list[str]]:
    """Run a cluster of its own in ``folder``; yield the arguments that reach it. As root it runs as ``postgres``."""
    data = folder / "postgres"
    data.mkdir(parents=True)
    prefix: list[str] = []
    if os.geteuid() == 0:
        folder.chmod(0o755)
        shutil.chown(data, "postgres", "postgres")
        prefix = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    with tempfile.TemporaryDirectory(prefix="firn-pg-") as sockets:
        Path(sockets).chmod(0o777)
        run = {"cwd": sockets, "check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        initdb = [*prefix, str(POSTGRES / "initdb"), "-D", str(data), "-U", "bench", "-A", "trust", "-E", "UTF8"]
        subprocess.run(initdb, **run)  # type: ignore[call-overload]
        options = f"-k {sockets} -c listen_addresses= -c synchronous_commit=on -c fsync=on"
        control = [*prefix, str(POSTGRES / "pg_ctl"), "-D", str(data), "-w"]
        subprocess.run([*control, "-o", options, "-l", f"{sockets}/log", "start"], **run)  # type: ignore[call-overload]
        try:
            yield ["-h", sockets, "-U", "bench"]
        finally:
            subprocess.run([*control, "-m", "fast", "stop"], **run)  # type: ignore[call-overload]


def pgbench(reach: Sequence[str], statement: str, clients: int, transactions: int) -> list[float]:
    """Run a statement as prepared transactions; return the seconds of each, as pgbench's log has them."""
    with tempfile.TemporaryDirectory(prefix="firn-pgbench-") as folder:
        script = Path(folder) / "script.sql"
        script.write_text(f"\\set id random(1, 1000000000)\n{statement};\n")
        command = [str(POSTGRES / "pgbench"), *reach, "-n", "-M", "prepared", "-c", str(clients), "-j", "1"]
        command += ["-t", str(transactions), "-f", str(script), "-l", "--log-prefix", f"{folder}/log", "postgres"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        lines = [line for path in Path(folder).glob("log.*") for line in path.read_text().splitlines()]
    return [int(line.split()[2]) / 1e6 for line in lines]


def postgres_rows(folder: Path, n: int, clients: int = 1, rows: int = 1) -> tuple[list[float], float]:
    """One INSERT of ``rows`` rows a transaction by each client, n in all; the seconds of each, and rows a second.

    Raises `FileNotFoundError` where PostgreSQL 15 is not installed.
    """
    if not (POSTGRES / "initdb").exists():
        raise FileNotFoundError("apt-get install postgresql-15")
    with _postgres(folder) as reach:
        create = "CREATE TABLE t (id bigint, note text)"
        subprocess.run([str(POSTGRES / "psql"), *reach, "-q", "-c", create, "postgres"], check=True)
        statement = "INSERT INTO t VALUES " + ", ".join(["(:id, 'row')"] * rows)
        pgbench(reach, statement, clients, max(1, n // clients // 10))
        seconds = pgbench(reach, statement, clients, max(1, n // clients))
        # Every client is always in a transaction.
        return seconds, clients * rows / (sum(seconds) / len(seconds))


def delta_rows(folder: Path, n: int, rows: pa.Table | None = None) -> list[float]:
    """One `deltalake` append a row, or of ``rows``."""
    from deltalake import write_deltalake

    location = str(folder / "deltalake")
    what = rows if rows is not None else pa.table({"id": [1], "note": ["row"]})
    return timed(lambda _number: write_deltalake(location, what, mode="append"), n)


def iceberg_rows(folder: Path, n: int, rows: pa.Table | None = None) -> list[float]:
    """One pyiceberg append a row, or of ``rows``, through a SQLite catalog."""
    from pyiceberg.catalog.sql import SqlCatalog

    what = rows if rows is not None else pa.table({"id": [1], "note": ["row"]})
    warehouse = folder / "pyiceberg"
    warehouse.mkdir()
    catalog = SqlCatalog("bench", uri=f"sqlite:///{warehouse}/catalog.db", warehouse=f"file://{warehouse}")
    try:
        catalog.create_namespace("default")
        table = catalog.create_table("default.t", what.schema)
        return timed(lambda _number: table.append(what), n)
    finally:
        catalog.engine.dispose()
