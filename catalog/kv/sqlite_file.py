"""The SQLite side of `SqliteKV`: schema, statements and the translation of errors. Synchronous; one thread at a time.

The file is in WAL mode with ``synchronous=FULL``: a committed transaction is fsynced, and a writer that is killed
leaves nothing half done. Every write runs in ``BEGIN IMMEDIATE``, so the revision it reads is the revision it raises,
whichever process holds the file. Keys are BLOBs of UTF-8, which SQLite orders as the contract does.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from catalog.kv import Entry, Event, Put, TxnResult
from catalog.kv.checks import prefix_limit
from catalog.kv.state import HistoryLimits
from storage.errors import (
    CorruptError,
    FirnlineError,
    IndeterminateError,
    InvalidError,
    NotFoundError,
    UnavailableError,
    UnsupportedError,
)

__all__ = ["FORMAT", "SCHEMA", "SqliteFile"]

FORMAT = 1
"""Kept in ``PRAGMA user_version``."""

SCHEMA = (
    "CREATE TABLE state (id INTEGER PRIMARY KEY CHECK (id = 1), revision INTEGER NOT NULL, floor INTEGER NOT NULL)",
    "CREATE TABLE entries (key BLOB PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL, lease INTEGER)",
    "CREATE INDEX entries_by_lease ON entries (lease) WHERE lease IS NOT NULL",
    "CREATE TABLE leases (id INTEGER PRIMARY KEY AUTOINCREMENT, ttl_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL)",
    "CREATE TABLE history (seq INTEGER PRIMARY KEY AUTOINCREMENT, revision INTEGER NOT NULL, key BLOB NOT NULL,"
    " value BLOB)",
    "CREATE INDEX history_by_revision ON history (revision)",
    "INSERT INTO state VALUES (1, 0, 1)",
)

_EVENTS_PER_READ = 256
_WAL_PAUSE_S = 0.01
_FORGET_EVERY = 64
"""Revisions between two looks at the history's limits: counting it takes about a millisecond."""

_NOT_DONE = {"SQLITE_BUSY": "another process holds the catalog file", "SQLITE_FULL": "the disk is full"}
_DAMAGED = {"SQLITE_CORRUPT", "SQLITE_NOTADB"}
_UNREACHABLE = {"SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM", "SQLITE_AUTH"}


class SqliteFile:
    """One connection to the catalog's file, made on first use."""

    def __init__(self, path: Path, busy_timeout_s: float, limits: HistoryLimits) -> None:
        self._path = path
        self._busy_timeout_s = busy_timeout_s
        self._limits = limits
        self._connection: sqlite3.Connection | None = None
        self._is_reading = False

    @contextmanager
    def one_moment(self) -> Iterator[None]:
        """Do the reads within as of one moment."""
        with self._reading():
            self._is_reading = True
            try:
                yield
            finally:
                self._is_reading = False

    def get(self, key: bytes) -> Entry | None:
        """Return the entry, or None."""
        with self._translated("read"):
            row = self._open().execute("SELECT key, value, revision FROM entries WHERE key = ?", (key,)).fetchone()
        return None if row is None else _entry(row)

    def range(self, prefix: bytes) -> tuple[list[Entry], int]:
        """Return the entries under ``prefix`` and the revision, of one moment."""
        bound, values = _under(prefix)
        with self._reading() as connection:
            revision, _floor = _state(connection)
            sql = f"SELECT key, value, revision FROM entries WHERE {bound} ORDER BY key"
            return [_entry(row) for row in connection.execute(sql, values)], revision

    def has_expired(self, now_ms: int) -> bool:
        """Whether a lease has run out and nobody has deleted its keys yet."""
        with self._translated("read"):
            sql = "SELECT EXISTS (SELECT 1 FROM leases WHERE expires_ms <= ?)"
            return bool(self._open().execute(sql, (now_ms,)).fetchone()[0])

    def events(self, prefix: bytes, start_revision: int, after_seq: int) -> tuple[list[Event], int, int]:
        """Return some changes under ``prefix``, and from which revision and after which change to go on.

        Changes count from ``start_revision`` and behind ``after_seq``. Raises `NotFoundError` when the history no
        longer reaches back to ``start_revision``.
        """
        bound, values = _under(prefix)
        with self._reading() as connection:
            revision, floor = _state(connection)
            if start_revision < floor:
                raise NotFoundError(
                    "the changes since this revision are no longer held; read the range again",
                    start_revision=start_revision,
                    oldest=floor,
                )
            sql = (
                f"SELECT seq, revision, key, value FROM history WHERE revision >= ? AND seq > ? AND {bound}"
                f" ORDER BY seq LIMIT {_EVENTS_PER_READ}"
            )
            rows = connection.execute(sql, (start_revision, after_seq, *values)).fetchall()
        events = [Event(key.decode(), value, at) for _seq, at, key, value in rows]
        if len(rows) < _EVENTS_PER_READ:
            return events, max(start_revision, revision + 1), after_seq
        return events, rows[-1][1], rows[-1][0]

    def txn(self, compares: Mapping[str, int], puts: Sequence[Put], now_ms: int) -> TxnResult:
        """Apply ``puts`` if every compare holds; committed and fsynced on return."""
        with self._writing(now_ms) as connection:
            revision, _floor = _state(connection)
            for key, expected in compares.items():
                row = connection.execute("SELECT revision FROM entries WHERE key = ?", (key.encode(),)).fetchone()
                if (row[0] if row else 0) != expected:
                    return TxnResult(False, revision)
            for put in puts:
                if put.lease is not None and put.value is not None:
                    _lease_ttl_ms(connection, put.lease)
            return TxnResult(True, self._change(connection, puts))

    def expire(self, now_ms: int) -> None:
        """Delete the keys of leases that have run out."""
        with self._writing(now_ms):
            pass

    def lease_grant(self, ttl_ms: int, now_ms: int) -> int:
        """Return the id of a new lease."""
        with self._writing(now_ms) as connection:
            sql = "INSERT INTO leases (ttl_ms, expires_ms) VALUES (?, ?)"
            return connection.execute(sql, (ttl_ms, now_ms + ttl_ms)).lastrowid or 0

    def lease_keepalive(self, lease: int, now_ms: int) -> None:
        """Start the lease's time anew. Raises `NotFoundError`."""
        with self._writing(now_ms) as connection:
            ttl_ms = _lease_ttl_ms(connection, lease)
            connection.execute("UPDATE leases SET expires_ms = ? WHERE id = ?", (now_ms + ttl_ms, lease))

    def lease_revoke(self, lease: int, now_ms: int) -> None:
        """Delete the lease and its keys."""
        with self._writing(now_ms) as connection:
            self._end_leases(connection, [lease])

    def close(self) -> None:
        """Close the connection if there is one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=self._busy_timeout_s, isolation_level=None, check_same_thread=False
        )
        try:
            self._use_wal(connection)
            connection.execute("PRAGMA synchronous = FULL")
            if _format(connection) == 0:
                _create(connection)
            if _format(connection) != FORMAT:
                raise UnsupportedError(
                    "the catalog file is of another format version; use the release that wrote it",
                    path=str(self._path),
                    version=_format(connection),
                    known=FORMAT,
                )
        except BaseException:
            connection.close()
            raise
        return connection

    def _use_wal(self, connection: sqlite3.Connection) -> None:
        """SQLite does not wait for others who open a new file at the same moment: it says busy at once, so we wait."""
        for n_left in reversed(range(max(1, int(self._busy_timeout_s / _WAL_PAUSE_S)))):
            try:
                connection.execute("PRAGMA busy_timeout = 0")
                connection.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError as error:
                if not n_left or not error.sqlite_errorname.startswith("SQLITE_BUSY"):
                    raise
                time.sleep(_WAL_PAUSE_S)
        connection.execute(f"PRAGMA busy_timeout = {int(self._busy_timeout_s * 1000)}")

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """One moment of the file, whatever others commit meanwhile."""
        if self._is_reading:
            with self._translated("read"):
                yield self._open()
            return
        with self._translated("read"):
            connection = self._open()
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                connection.execute("ROLLBACK")

    @contextmanager
    def _writing(self, now_ms: int) -> Iterator[sqlite3.Connection]:
        """A transaction in which no lease is past its time; committed at the end, rolled back on an error."""
        with self._translated("write"):
            connection = self._open()
            connection.execute("BEGIN IMMEDIATE")
            try:
                expired = connection.execute("SELECT id FROM leases WHERE expires_ms <= ?", (now_ms,)).fetchall()
                self._end_leases(connection, [lease for (lease,) in expired])
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            self._commit(connection)

    def _commit(self, connection: sqlite3.Connection) -> None:
        try:
            with self._translated("commit"):
                connection.execute("COMMIT")
        except FirnlineError:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    @contextmanager
    def _translated(self, act: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise _translate(error, self._path, act) from error

    def _change(self, connection: sqlite3.Connection, puts: Sequence[Put]) -> int:
        """Write ``puts`` and their history under the next revision; return the revision that now stands."""
        current, _floor = _state(connection)
        revision = current + 1
        n_changes = sum(_put(connection, put, revision) for put in puts)
        if n_changes == 0:
            return current
        connection.execute("UPDATE state SET revision = ?", (revision,))
        if revision % _FORGET_EVERY == 0:
            self._forget(connection, revision)
        return revision

    def _end_leases(self, connection: sqlite3.Connection, leases: Sequence[int]) -> None:
        keys: list[Put] = []
        for lease in leases:
            rows = connection.execute("SELECT key FROM entries WHERE lease = ?", (lease,))
            keys += [Put(key.decode(), None) for (key,) in rows]
            connection.execute("DELETE FROM leases WHERE id = ?", (lease,))
        self._change(connection, keys)

    def _forget(self, connection: sqlite3.Connection, revision: int) -> None:
        """Drop the oldest whole revisions past the history's limits; the newest one always stays."""
        n_bytes = 0
        newest_first = connection.execute("SELECT revision, length(value) FROM history ORDER BY seq DESC")
        for n_events, (at, size) in enumerate(newest_first, 1):
            n_bytes += size or 0
            if at < revision and (n_events > self._limits.events_max or n_bytes > self._limits.bytes_max):
                connection.execute("DELETE FROM history WHERE revision <= ?", (at,))
                connection.execute("UPDATE state SET floor = ?", (at + 1,))
                return


def _format(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _create(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        if _format(connection) == 0:
            for statement in SCHEMA:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {FORMAT}")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _state(connection: sqlite3.Connection) -> tuple[int, int]:
    revision, floor = connection.execute("SELECT revision, floor FROM state").fetchone()
    return revision, floor


def _entry(row: tuple[bytes, bytes, int]) -> Entry:
    return Entry(row[0].decode(), row[1], row[2])


def _under(prefix: bytes) -> tuple[str, tuple[bytes, ...]]:
    limit = prefix_limit(prefix)
    return ("key >= ?", (prefix,)) if limit is None else ("key >= ? AND key < ?", (prefix, limit))


def _lease_ttl_ms(connection: sqlite3.Connection, lease: int) -> int:
    row = connection.execute("SELECT ttl_ms FROM leases WHERE id = ?", (lease,)).fetchone()
    if row is None:
        raise NotFoundError("the lease has expired or was revoked", lease=lease)
    return int(row[0])


def _put(connection: sqlite3.Connection, put: Put, revision: int) -> int:
    """Write one key and its history; return 1, or 0 for the deletion of an absent key."""
    key = put.key.encode()
    if put.value is None:
        if connection.execute("DELETE FROM entries WHERE key = ?", (key,)).rowcount == 0:
            return 0
    else:
        connection.execute(
            "INSERT INTO entries VALUES (?1, ?2, ?3, ?4)"
            " ON CONFLICT (key) DO UPDATE SET value = ?2, revision = ?3, lease = ?4",
            (key, put.value, revision, put.lease),
        )
    connection.execute("INSERT INTO history (revision, key, value) VALUES (?, ?, ?)", (revision, key, put.value))
    return 1


def _translate(error: sqlite3.Error, path: Path, act: str) -> FirnlineError:
    name = getattr(error, "sqlite_errorname", "") or ""
    primary = "_".join(name.split("_")[:2])
    facts = {"path": str(path), "cause": str(error), "code": name or type(error).__name__}
    if primary in _NOT_DONE:
        return UnavailableError(f"{_NOT_DONE[primary]}; try again", **facts)
    if primary in _DAMAGED:
        return CorruptError("the catalog file is damaged or is no SQLite file", **facts)
    if primary in _UNREACHABLE:
        return InvalidError("cannot open the catalog file; see that its folder exists and is writable", **facts)
    if act == "commit":
        return IndeterminateError("the catalog file may or may not hold the last change", **facts)
    return UnavailableError("the catalog file did not answer; nothing was changed", **facts)
