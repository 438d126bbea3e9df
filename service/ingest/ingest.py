"""One request's rows, from bytes to acknowledged: the table's entry, decoding, the keys, the append.

A table with a primary key gets upserts: a row replaces the one of its key, the last row of a key in a request wins.
What needs a look at the rows that are there, ``nothing`` and ``error``, is a statement (`service.ingest.staged`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, Protocol

import pyarrow as pa

from catalog.tables import TableEntry
from functions.append import append_rows
from functions.keys import check_keys, last_of_each
from functions.partition_values import check_partition_values
from service.ingest.columns import Decoded
from service.ingest.csv_rows import CsvOptions
from service.ingest.decode import RowFormat, decode
from service.statement import Runner, Statement
from storage.clock import Clock
from storage.errors import InvalidError
from storage.log import AckMode, Receipt, RecordKind
from storage.log.access import Log, Logs
from storage.stores import Stores

__all__ = [
    "Asked",
    "IngestContext",
    "Ingested",
    "OnConflict",
    "decoded_rows",
    "ingest_body",
    "ingest_table",
    "managed_table",
]

OnConflict = Literal["update", "nothing", "error"]
_HERE_BYTES = 64 << 10
"""Bodies of fewer bytes are decoded on the event loop; a thread would cost more than it frees."""


class Entries(Protocol):
    """What finds a table: `catalog.tables.Tables`, or `service.ingest.entries.SharedEntries`."""

    async def get(self, namespace: str, name: str) -> TableEntry:
        """Return one table as it is now. Raises `NotFoundError`."""
        ...


class IngestContext(Protocol):
    """What of `service.engine.Engine` an append needs."""

    @property
    def tables(self) -> Entries:
        """The catalog's entries."""
        ...

    logs: Logs
    stores: Stores
    clock: Clock
    lake: str


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client asks beside the rows.

    ack : None is the log's own mode
    on_conflict : what becomes of a row whose key is there already; None where the table has no primary key, or the
        default, ``update``
    """

    ack: AckMode | None = None
    on_conflict: OnConflict | None = None
    idempotency_key: str | None = None
    csv: CsvOptions = field(default_factory=CsvOptions)


@dataclass(frozen=True, slots=True)
class Ingested:
    """Rows that are durable.

    rows : how many the client sent; 0 for a replay, which is told before the rows are looked at
    ack, position : None if nothing had to be stored
    replay : an earlier request with this idempotency key had stored its rows; these were not stored again
    """

    table: str
    rows: int
    ack: AckMode | None = None
    position: int | None = None
    replay: bool = False


async def ingest_body(
    context: IngestContext, namespace: str, name: str, body: bytes, form: RowFormat, asked: Asked
) -> Ingested:
    """Store the body's rows, all or none, and return once they are durable.

    Raises
    ------
    NotFoundError, InvalidError, TooLargeError : nothing was stored; mend the request
    OverloadedError, UnavailableError : nothing was stored; retry
    IndeterminateError : may have been stored; retry with the idempotency key
    """
    entry = await managed_table(context, namespace, name)
    log = await _log(context, entry)
    known = await _replayed(log, entry, asked)
    if known is not None:
        return known
    if len(body) <= _HERE_BYTES:
        checked = _decoded(body, form, entry, asked)
    else:
        checked = await asyncio.to_thread(_decoded, body, form, entry, asked)
    return await _append(log, entry, checked, asked)


async def ingest_table(
    context: IngestContext,
    namespace: str,
    name: str,
    rows: pa.Table,
    asked: Asked,
    runner: Runner,
    statement: Statement,
) -> Ingested:
    """Store Arrow rows of any types that fit; as `ingest_body`.

    ``runner`` runs the INSERT of what needs one, within the limits of ``statement``.
    """
    # Imported here: what only takes small bodies does not need it.
    from service.ingest.conform import conform

    entry = await managed_table(context, namespace, name)
    log = await _log(context, entry)
    known = await _replayed(log, entry, asked)
    if known is not None:
        return known
    assert entry.managed is not None
    spec = entry.managed.spec
    if asked.on_conflict in (None, "update"):
        checked = await asyncio.to_thread(lambda: _checked(Decoded(conform(rows, spec.schema)), entry))
        return await _append(log, entry, checked, asked)
    from service.ingest.staged import insert_staged

    fitted = await asyncio.to_thread(conform, rows, spec.schema)
    _check_keys(Decoded(fitted), spec.primary_key)
    return await insert_staged(runner, context.stores, context.clock, context.lake, entry, fitted, asked, statement)


def decoded_rows(body: bytes, form: RowFormat, entry: TableEntry, asked: Asked) -> pa.Table:
    """Return the body's rows, checked, for an INSERT; keys that are there twice stay, for it to refuse."""
    assert entry.managed is not None
    spec = entry.managed.spec
    if not spec.primary_key:
        raise _no_key(entry)
    decoded = decode(body, form, spec.schema, asked.csv)
    _check_keys(decoded, spec.primary_key)
    return decoded.rows


async def managed_table(context: IngestContext, namespace: str, name: str) -> TableEntry:
    """Return the entry of a table that takes rows. Raises `NotFoundError`, `InvalidError` for an external one."""
    entry = await context.tables.get(namespace, name)
    if entry.managed is None:
        raise InvalidError(
            "this table is external and is only read; CREATE TABLE … AS SELECT makes one that takes rows",
            table=f"{namespace}.{name}",
        )
    return entry


async def _log(context: IngestContext, entry: TableEntry) -> Log:
    assert entry.managed is not None
    return await context.logs.log(entry.managed.shard)


async def _replayed(log: Log, entry: TableEntry, asked: Asked) -> Ingested | None:
    assert entry.managed is not None
    if asked.on_conflict is not None and not entry.managed.spec.primary_key:
        raise _no_key(entry)
    if asked.idempotency_key is None:
        return None
    found = await log.find(entry.id, asked.idempotency_key)
    return None if found is None else _told(entry, 0, found, replay=True)


def _decoded(body: bytes, form: RowFormat, entry: TableEntry, asked: Asked) -> tuple[pa.Table, int]:
    assert entry.managed is not None
    return _checked(decode(body, form, entry.managed.spec.schema, asked.csv), entry)


def _checked(decoded: Decoded, entry: TableEntry) -> tuple[pa.Table, int]:
    """Check the keys; return the last row of each, and how many rows there were."""
    assert entry.managed is not None
    key = entry.managed.spec.primary_key
    n_rows = decoded.rows.num_rows
    with _named_rows(decoded):
        check_partition_values(entry, decoded.rows)
    if not key or not n_rows:
        return decoded.rows, n_rows
    _check_keys(decoded, key)
    return last_of_each(decoded.rows, key), n_rows


def _check_keys(decoded: Decoded, key: tuple[str, ...]) -> None:
    with _named_rows(decoded):
        check_keys(decoded.rows, key)


@contextmanager
def _named_rows(decoded: Decoded) -> Iterator[None]:
    """Let an error name the row as its sender counts, and the line."""
    try:
        yield
    except InvalidError as error:
        row = error.facts.get("row")
        if isinstance(row, int):
            facts = error.facts | {"row": row + 1, "line": decoded.line_of(row)}
            raise InvalidError(error.message, **facts) from None
        raise


def _no_key(entry: TableEntry) -> InvalidError:
    return InvalidError("on_conflict is for tables with a primary key; this one has none", table=_name(entry))


async def _append(log: Log, entry: TableEntry, checked: tuple[pa.Table, int], asked: Asked) -> Ingested:
    rows, n_rows = checked
    assert entry.managed is not None
    kind = RecordKind.UPSERT if entry.managed.spec.primary_key else RecordKind.APPEND
    receipt = await append_rows(log, entry, rows, kind=kind, ack=asked.ack, idempotency_key=asked.idempotency_key)
    return _told(entry, n_rows, receipt)


def _told(entry: TableEntry, n_rows: int, receipt: Receipt, *, replay: bool = False) -> Ingested:
    if not receipt.n_records:
        return Ingested(_name(entry), n_rows)
    return Ingested(_name(entry), n_rows, receipt.ack, receipt.position.sequence, replay)


def _name(entry: TableEntry) -> str:
    return f"{entry.namespace}.{entry.name}"
