"""`connect`: a lake in this process or behind a URL, as one object with `Connection.sql`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from firnline.result import ResultStream, ResultTable
from firnline.settings import Settings, environment, is_url
from firnline.transport import Params, Transport
from storage.clock import Clock, SystemClock
from storage.errors import InvalidError

if TYPE_CHECKING:
    from firnline.appending import AppendReceipt
    from firnline.embedded import OpenRunner
    from firnline.lookup import LookupResult
    from service.progress import Progress
    from service.statement import Route

__all__ = ["Connection", "connect"]

_TABLES = """
SELECT table_schema, table_name, table_type FROM information_schema.tables
WHERE table_schema <> 'information_schema' ORDER BY table_schema, table_name
"""


class Connection:
    """A lake that answers SQL. Safe for use by several threads; a context manager that closes itself."""

    def __init__(self, transport: Transport, *, lake: str = "", clock: Clock | None = None) -> None:
        self._transport = transport
        self._clock = clock or SystemClock()
        self.lake = lake

    def sql(
        self,
        query: str,
        params: Params = None,
        *,
        timeout_ms: int | None = None,
        max_rows: int | None = None,
        route: Route = "auto",
    ) -> ResultTable:
        """Run one statement and return its rows.

        Parameters
        ----------
        params : a sequence for ``$1, $2, …``, a mapping for ``:name``
        timeout_ms : the statement's time limit; 0: none; None: the lake's default
        max_rows : most rows of the answer; one more raises `LimitError`
        route : how rows of pinned keys (``id = 7``) are found: ``auto`` as costs less, ``lookup`` by an index,
            ``scan`` never by one. The rows are the same

        Raises
        ------
        SqlError
            It does not parse or plan; ``facts`` may hold ``line`` and ``column``.
        NotFoundError
            A table or a file that it names does not exist.
        LimitError
            It passed one of its limits (`StatementTimeoutError`: its time) and was stopped.
        """
        return self.stream(query, params, timeout_ms=timeout_ms, max_rows=max_rows, route=route).read_all()

    def stream(
        self,
        query: str,
        params: Params = None,
        *,
        timeout_ms: int | None = None,
        max_rows: int | None = None,
        route: Route = "auto",
    ) -> ResultStream:
        """Start one statement and return its batches as they come, for answers larger than memory."""
        return ResultStream(self._transport.run(query, params, timeout_ms=timeout_ms, max_rows=max_rows, route=route))

    def lookup(
        self,
        table: str,
        keys: Any,
        *,
        by: str | Sequence[str] | None = None,
        columns: str | Sequence[str] | None = None,
        route: Route = "auto",
        timeout_ms: int | None = None,
    ) -> LookupResult:
        """Return the rows of many keys, in the order of the keys, and which of them were not found.

        Parameters
        ----------
        table : ``namespace.table``, or the name of one in ``default``
        keys : up to 100,000: a list of values, of tuples for a key of several columns, a NumPy array, an Arrow array or
            table, a pandas or Polars series or frame; a table's or frame's column names say by what
        by : the key's columns; None: the primary key's, else those of the table's only index. Columns that have no
            index are found by a scan
        columns : that are wanted, in order; None: the key's, then the others
        route, timeout_ms : as of `sql`

        Raises
        ------
        InvalidError
            A key is none of these columns' (``facts["key"]``, from 1), or the table has no key and ``by`` is missing.
        """
        from firnline.lookup import look_up

        return look_up(self._transport, table, keys, by=by, columns=columns, route=route, timeout_ms=timeout_ms)

    def append(
        self,
        table: str,
        data: Any,
        *,
        on_conflict: str | None = None,
        ack: str | None = None,
        idempotency_key: str | None = None,
    ) -> AppendReceipt:
        """Append rows to a table and return once they are durable.

        Up to 32 MiB of rows are stored all or none. More is stored in parts, one after another, each all or none.

        Parameters
        ----------
        table : ``namespace.table``, or the name of one in ``default``
        data : a pyarrow table, batch or reader, a pandas or Polars data frame, a dictionary of columns or a list of
            dictionaries. Columns go by name, those that are missing are null, and no value is changed to fit
        on_conflict : for a table with a primary key: what becomes of a row whose key is there. ``update`` (the
            default) replaces it, ``nothing`` keeps it, ``error`` refuses the rows
        ack : where the rows are before this returns: ``fsync``, ``object``; None: as the lake is set
        idempotency_key : a name for this data. Rows that were stored under it in the last 15 minutes are not stored
            again, whatever they were; the parts of large data get ``#1``, ``#2``, … behind it

        Raises
        ------
        InvalidError
            Rows do not fit; ``facts`` hold ``column``, and ``row``, from 1. Nothing of their part is stored, and
            ``facts["rows_stored"]`` says what the parts before it stored.
        ConflictError
            With ``on_conflict="error"``: a key is there already.
        UnavailableError
            Nothing was stored.
        IndeterminateError
            It is not known whether the rows were stored; call again with the same ``idempotency_key``.
        """
        from firnline.appending import append_data

        return append_data(
            self._transport,
            self._clock,
            table,
            data,
            on_conflict=on_conflict,
            ack=ack,
            idempotency_key=idempotency_key,
        )

    def tables(self) -> ResultTable:
        """Return the lake's tables: ``table_schema``, ``table_name``, ``table_type``."""
        return self.sql(_TABLES)

    def progress(self) -> Progress | None:
        """Return how far the statement is that was started last, if it takes long and tells; another thread may ask.

        A server tells of asynchronous statements only, in their state.
        """
        return self._transport.progress()

    def close(self) -> None:
        """Cancel what runs and release everything; closing twice is no error."""
        self._transport.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"firnline.connect({self.lake!r})"


def connect(
    lake: str | os.PathLike[str] | None = None,
    *,
    token: str | None = None,
    isolated: bool = False,
    settings: Settings | None = None,
    clock: Clock | None = None,
) -> Connection:
    """Open a lake: a folder (made on first use), ``s3://bucket/prefix``, or the URL of a Firnline server.

    Parameters
    ----------
    lake : None takes ``FIRN_LAKE`` from the environment, or ``./lake``
    token : the API token for a server; None takes ``FIRN_TOKEN``
    isolated : run the statements of a local lake in a worker process, which dies with a statement that does not stop,
        crashes or passes its memory limit; answers cost a copy more
    settings : what the environment would say otherwise

    Raises
    ------
    InvalidError
        The location or a setting is wrong; the message says how to mend it.
    UnavailableError
        The lake's catalog or store does not answer. A server is first asked by the first statement.
    """
    settings = settings or environment()
    clock = clock or SystemClock()
    place = os.fspath(lake) if lake is not None else settings.lake
    transport = _transport(place, token or settings.token, isolated, settings, clock)
    return Connection(transport, lake=place, clock=clock)


def _transport(lake: str, token: str | None, isolated: bool, settings: Settings, clock: Clock) -> Transport:
    if is_url(lake):
        try:
            from firnline.http_client import HttpTransport
        except ImportError as error:
            raise InvalidError(f"a lake over HTTP needs an extra: pip install 'firnline[cli]' ({error})") from None
        return HttpTransport(lake, token=token, clock=clock, allow_http=settings.allow_http)
    from firnline.embedded import EmbeddedTransport
    from firnline.opening import engine_settings, limits, open_runner
    from service.components import open_engine, opened_catalog

    return EmbeddedTransport(
        open_runner(lake, settings, isolated=isolated),
        clock=clock,
        limits=limits(settings),
        open_writer=partial(open_engine, engine_settings(lake, settings)) if isolated else None,
        open_kv=partial(opened_catalog, engine_settings(lake, settings), clock),
    )


def connect_runner(open_runner: OpenRunner, *, clock: Clock | None = None) -> Connection:
    """Return a connection to a runner of one's own, run in this process."""
    from firnline.embedded import EmbeddedTransport

    return Connection(EmbeddedTransport(open_runner, clock=clock or SystemClock()))
