"""Python's database API, version 2.0 (PEP 249), over `firnline.connect`.

Parameters are ``:name`` with a mapping (``paramstyle`` is "named"); ``$1, $2, …`` with a sequence work too. Every
statement commits itself: `Connection.commit` does nothing and `Connection.rollback` is not supported. Threads may share
the module and connections, not cursors. Beyond PEP 249, a cursor gives its rows as Arrow: `Cursor.fetch_arrow_table`,
`Cursor.fetch_record_batch`.

::

    Error                          from the tree in `storage.errors`, which is the ``__cause__``
    ├── InterfaceError             this module was used wrongly, a connection or cursor is closed
    └── DatabaseError
        ├── DataError
        ├── OperationalError       limits, cancellation, unreachable or denied stores, corrupt files
        ├── IntegrityError
        ├── InternalError          InternalError
        ├── ProgrammingError       SqlError, NotFoundError, ConflictError, InvalidError
        └── NotSupportedError      UnsupportedError
"""

from __future__ import annotations

import datetime as dt
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import pyarrow as pa

from firnline import connection as _connection
from firnline.result import ResultStream
from firnline.rows import python_rows
from storage import errors as tree

__all__ = [
    "BINARY",
    "DATETIME",
    "NUMBER",
    "ROWID",
    "STRING",
    "Binary",
    "Connection",
    "Cursor",
    "DataError",
    "DatabaseError",
    "Date",
    "DateFromTicks",
    "Error",
    "IntegrityError",
    "InterfaceError",
    "InternalError",
    "NotSupportedError",
    "OperationalError",
    "ProgrammingError",
    "Time",
    "TimeFromTicks",
    "Timestamp",
    "TimestampFromTicks",
    "Warning",
    "apilevel",
    "connect",
    "paramstyle",
    "threadsafety",
]

apilevel = "2.0"
threadsafety = 2
paramstyle = "named"

Row = tuple[Any, ...]
Column = tuple[str, pa.DataType, None, None, int | None, int | None, bool]
T = TypeVar("T")


class Warning(Exception):  # noqa: N818 (PEP 249 names it)
    """Never raised."""


class Error(Exception):
    """Root of the module's errors."""


class InterfaceError(Error):
    """The module was used wrongly."""


class DatabaseError(Error):
    """The lake said no."""


class DataError(DatabaseError):
    """A value cannot be handled."""


class OperationalError(DatabaseError):
    """Not the statement's fault: limits, stores, servers."""


class IntegrityError(DatabaseError):
    """Never raised: there are no constraints."""


class InternalError(DatabaseError):
    """A defect of Firnline's own."""


class ProgrammingError(DatabaseError):
    """The statement is wrong."""


class NotSupportedError(DatabaseError):
    """Understood and not supported."""


_KINDS: tuple[tuple[type[tree.FirnlineError], type[Error]], ...] = (
    (tree.UnsupportedError, NotSupportedError),
    (tree.UnauthenticatedError, OperationalError),
    (tree.ForbiddenError, OperationalError),
    (tree.InvalidError, ProgrammingError),
    (tree.NotFoundError, ProgrammingError),
    (tree.ConflictError, ProgrammingError),
    (tree.InternalError, InternalError),
    (tree.FirnlineError, OperationalError),
)
"""The first class that fits decides."""


def _translated(work: Callable[[], T]) -> T:
    try:
        return work()
    except tree.FirnlineError as error:
        kind = next(ours for theirs, ours in _KINDS if isinstance(error, theirs))
        raise kind(str(error)) from error


class _Type:
    """A PEP 249 type object: equal to every Arrow type that its test accepts."""

    def __init__(self, name: str, *tests: Callable[[pa.DataType], bool]) -> None:
        self._name = name
        self._tests = tests

    def __eq__(self, other: object) -> bool:
        if isinstance(other, pa.DataType):
            return any(test(other) for test in self._tests)
        return self is other

    def __hash__(self) -> int:
        return hash(self._name)

    def __repr__(self) -> str:
        return self._name


_t = pa.types
STRING = _Type("STRING", _t.is_string, _t.is_large_string, _t.is_string_view)
BINARY = _Type("BINARY", _t.is_binary, _t.is_large_binary, _t.is_binary_view, _t.is_fixed_size_binary)
NUMBER = _Type("NUMBER", _t.is_integer, _t.is_floating, _t.is_decimal, _t.is_boolean)
DATETIME = _Type("DATETIME", _t.is_temporal)
ROWID = _Type("ROWID")

Date, Time, Timestamp, Binary = dt.date, dt.time, dt.datetime, bytes


def DateFromTicks(ticks: float) -> dt.date:  # noqa: N802 (PEP 249 names it)
    """Return the local date of a time in seconds since 1970."""
    return dt.datetime.fromtimestamp(ticks).date()


def TimeFromTicks(ticks: float) -> dt.time:  # noqa: N802
    """Return the local time of a time in seconds since 1970."""
    return dt.datetime.fromtimestamp(ticks).time()


def TimestampFromTicks(ticks: float) -> dt.datetime:  # noqa: N802
    """Return the local date and time of a time in seconds since 1970."""
    return dt.datetime.fromtimestamp(ticks)


def connect(
    lake: str | os.PathLike[str] | None = None, *, token: str | None = None, timeout_ms: int | None = None
) -> Connection:
    """Open a lake, see `firnline.connect`. ``timeout_ms`` limits each statement."""
    return Connection(_translated(lambda: _connection.connect(lake, token=token)), timeout_ms=timeout_ms)


class Connection:
    """A lake as PEP 249 sees it. Leaving a ``with`` block closes it."""

    Warning = Warning
    Error = Error
    InterfaceError = InterfaceError
    DatabaseError = DatabaseError
    DataError = DataError
    OperationalError = OperationalError
    IntegrityError = IntegrityError
    InternalError = InternalError
    ProgrammingError = ProgrammingError
    NotSupportedError = NotSupportedError

    def __init__(self, lake: _connection.Connection, *, timeout_ms: int | None = None) -> None:
        self._lake: _connection.Connection | None = lake
        self._timeout_ms = timeout_ms

    def cursor(self) -> Cursor:
        """Return a new cursor. Raises `InterfaceError` on a closed connection."""
        self._open()
        return Cursor(self)

    def commit(self) -> None:
        """Do nothing: every statement has committed itself. Raises `InterfaceError` on a closed connection."""
        self._open()

    def rollback(self) -> None:
        """Raise `NotSupportedError`: there are no transactions."""
        self._open()
        raise NotSupportedError("there are no transactions: every statement commits itself")

    def close(self) -> None:
        """Close the lake; closing twice is no error."""
        lake, self._lake = self._lake, None
        if lake is not None:
            lake.close()

    def start(self, sql: str, params: Any) -> ResultStream:
        """Start a statement; what `Cursor.execute` calls."""
        lake = self._open()
        return _translated(lambda: lake.stream(sql, params, timeout_ms=self._timeout_ms))

    def _open(self) -> _connection.Connection:
        if self._lake is None:
            raise InterfaceError("the connection is closed")
        return self._lake

    def __enter__(self) -> Connection:
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Cursor:
    """Runs statements and gives their rows, which are read as they are asked for."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.arraysize = 1
        self.description: list[Column] | None = None
        self.rowcount = -1
        """Of the last statement once its rows are all read, until then -1."""
        self._stream: ResultStream | None = None
        self._rows: Iterator[Row] = iter(())
        self._n_rows = 0
        self._closed = False

    def execute(self, operation: str, parameters: Sequence[Any] | Mapping[str, Any] | None = None) -> Cursor:
        """Run a statement and return this cursor."""
        self._check()
        self._end()
        self._stream = self.connection.start(operation, parameters or None)
        self.description = [_column(field) for field in self._stream.schema]
        self._rows = self._read(self._stream)
        return self

    def executemany(self, operation: str, seq_of_parameters: Sequence[Sequence[Any] | Mapping[str, Any]]) -> Cursor:
        """Run a statement once for each set of parameters; the last one's rows can be fetched."""
        self._check()
        for parameters in seq_of_parameters:
            self.execute(operation, parameters)
        return self

    def fetchone(self) -> Row | None:
        """Return the next row, or None at the end."""
        self._answer()
        return _translated(lambda: next(self._rows, None))

    def fetchmany(self, size: int | None = None) -> list[Row]:
        """Return up to ``size`` rows, by default `arraysize`."""
        self._answer()
        return _translated(lambda: list(itertools.islice(self._rows, self.arraysize if size is None else size)))

    def fetchall(self) -> list[Row]:
        """Return the rows that are left."""
        self._answer()
        return _translated(lambda: list(self._rows))

    def fetch_arrow_table(self) -> pa.Table:
        """Return all rows as an Arrow table; to be called instead of the other fetches."""
        stream = self._answer()
        table = _translated(lambda: stream.read_all().arrow())
        self.rowcount = table.num_rows
        return table

    def fetch_record_batch(self) -> pa.RecordBatchReader:
        """Return an Arrow reader of the rows; to be called instead of the other fetches."""
        return self._answer().reader()

    def close(self) -> None:
        """Cancel what still runs; the cursor cannot be used afterwards."""
        self._end()
        self._closed = True

    def setinputsizes(self, sizes: Sequence[Any]) -> None:
        """Do nothing, as PEP 249 allows."""

    def setoutputsize(self, size: int, column: int | None = None) -> None:
        """Do nothing, as PEP 249 allows."""

    def _read(self, stream: ResultStream) -> Iterator[Row]:
        for batch in stream:
            for row in python_rows(batch):
                self._n_rows += 1
                yield row
        self.rowcount = self._n_rows

    def _end(self) -> None:
        if self._stream is not None:
            self._stream.close()
        self._stream, self.description, self._rows = None, None, iter(())
        self.rowcount, self._n_rows = -1, 0

    def _check(self) -> None:
        if self._closed:
            raise InterfaceError("the cursor is closed")

    def _answer(self) -> ResultStream:
        self._check()
        if self._stream is None:
            raise InterfaceError("nothing to fetch: execute a statement first")
        return self._stream

    def __iter__(self) -> Iterator[Row]:
        return self

    def __next__(self) -> Row:
        row = self.fetchone()
        if row is None:
            raise StopIteration
        return row

    def __enter__(self) -> Cursor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _column(field: pa.Field) -> Column:
    kind = field.type
    precision, scale = (kind.precision, kind.scale) if pa.types.is_decimal(kind) else (None, None)
    return (field.name, kind, None, None, precision, scale, field.nullable)
