"""Append rows of a table to its log: rows become records of a few MiB, all stored or none.

A record's body is an Arrow IPC stream of one batch. Field ids and other metadata stay out of it: the record names its
schema by number, and for a single row they would outweigh the row.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from catalog.tables import TableEntry
from functions.by_identity import by_identity
from functions.keys import key_hashes
from functions.partition_values import check_partition_values
from storage.errors import InvalidError, TooLargeError
from storage.log import BODY_BYTES_MAX, AckMode, Position, Receipt, Record, RecordKind
from storage.log.access import Log, Touched
from storage.tables.write import TableSpec

__all__ = ["RECORD_BYTES", "append_changes", "append_rows", "bare_schema"]

RECORD_BYTES = 8 << 20
"""A record's body has about this many bytes at most, unless one row alone has more."""
_END = b"\xff\xff\xff\xff\0\0\0\0"
"""What ends an Arrow IPC stream."""
_HERE_BYTES = 64 << 10
"""Rows of fewer bytes are encoded on the event loop: a thread would cost more than it frees."""


async def append_rows(
    log: Log,
    entry: TableEntry,
    rows: pa.Table,
    *,
    kind: RecordKind,
    ack: AckMode | None = None,
    idempotency_key: str | None = None,
    since: tuple[int, int] | None = None,
) -> Receipt:
    """Store the rows in the table's log, all or none, and return once they are durable.

    Parameters
    ----------
    entry : of a managed table
    rows : with the columns and types of the table's schema, in its order; for `RecordKind.DELETE` the primary key's
        columns only. Their values are right, and no key is there twice: callers have checked
    since : (epoch, limit) of the log's range that the statement read, if what it writes depends on what it read

    Returns
    -------
    Receipt
        Of no records, at position (0, 0), if there are no rows.

    Raises
    ------
    ConflictError : nothing was stored; a row that was read with ``since`` has changed, begin anew
    InvalidError, TooLargeError : nothing was stored; mend the request
    OverloadedError, UnavailableError : nothing was stored; retry
    IndeterminateError : may have been stored; retry with the idempotency key
    """
    return await append_changes(log, entry, [(kind, rows)], ack=ack, idempotency_key=idempotency_key, since=since)


async def append_changes(
    log: Log,
    entry: TableEntry,
    parts: Sequence[tuple[RecordKind, pa.Table]],
    *,
    ack: AckMode | None = None,
    idempotency_key: str | None = None,
    since: tuple[int, int] | None = None,
) -> Receipt:
    """Store upserts and deletions together, all or none; see `append_rows`. No key is in two of the parts."""
    for kind, rows in parts:
        names = _shape(entry, kind).names
        if rows.column_names != names:
            raise InvalidError("the rows do not have the table's columns", columns=rows.column_names, wanted=names)
    for kind, rows in parts:
        if kind is not RecordKind.DELETE:
            check_partition_values(entry, rows)
    if not any(rows.num_rows for _kind, rows in parts):
        return Receipt(Position(0, 0), 0, ack or AckMode.OBJECT)
    assert entry.managed is not None
    # An upper bound, and quicker to tell than how many bytes there are.
    if sum(rows.get_total_buffer_size() for _kind, rows in parts) <= _HERE_BYTES:
        bodies, touched = _encode(parts, entry, since)
    else:
        bodies, touched = await asyncio.to_thread(_encode, parts, entry, since)
    schema_id = entry.managed.spec.schema_id
    records = [Record(entry.id, schema_id, kind, body, idempotency_key) for kind, body in bodies]
    return await log.append(records, ack=ack, touched=touched)


def bare_schema(schema: pa.Schema) -> pa.Schema:
    """Return the schema without metadata, at any depth."""
    return pa.schema([_bare_field(field) for field in schema])


def _shape(entry: TableEntry, kind: RecordKind) -> _Bare:
    if entry.managed is None:
        raise InvalidError("rows go to tables that CREATE TABLE made; this one is external", table=entry.name)
    spec = entry.managed.spec
    if (kind is RecordKind.APPEND) == bool(spec.primary_key):
        wanted = "upserts and deletes" if spec.primary_key else "appends"
        raise InvalidError(f"this table takes {wanted} only", table=entry.name, kind=kind.name.lower())
    return _bare_key(spec) if kind is RecordKind.DELETE else _bare(spec.schema)


@dataclass(frozen=True)
class _Bare:
    """A schema without metadata, its names, and the message that begins a stream of it."""

    schema: pa.Schema
    names: list[str]
    message: bytes


@by_identity
def _bare(schema: pa.Schema) -> _Bare:
    bare = bare_schema(schema)
    return _Bare(bare, bare.names, bare.serialize().to_pybytes())


@by_identity
def _bare_key(spec: TableSpec) -> _Bare:
    return _bare(pa.schema([spec.schema.field(name) for name in spec.primary_key]))


def _bare_field(field: pa.Field) -> pa.Field:
    return pa.field(field.name, _bare_type(field.type), field.nullable)


def _bare_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_struct(kind):
        return pa.struct([_bare_field(kind.field(index)) for index in range(kind.num_fields)])
    if pa.types.is_list(kind):
        return pa.list_(_bare_field(kind.value_field))
    if pa.types.is_map(kind):
        return pa.map_(_bare_field(kind.key_field), _bare_field(kind.item_field))
    return kind


def _encode(
    parts: Sequence[tuple[RecordKind, pa.Table]], entry: TableEntry, since: tuple[int, int] | None
) -> tuple[list[tuple[RecordKind, bytes]], Touched | None]:
    assert entry.managed is not None
    key = entry.managed.spec.primary_key
    bodies, hashes = [], []
    for kind, given in parts:
        if key:
            hashes.append(key_hashes(given, key))
        bare = _shape(entry, kind)
        # The same types, without metadata.
        rows = pa.Table.from_arrays(given.columns, schema=bare.schema)
        bodies += [(kind, body) for body in _bodies(rows, bare.message)]
    return bodies, Touched(np.concatenate(hashes), since) if key else None


def _bodies(rows: pa.Table, begin: bytes) -> list[bytes]:
    if rows.get_total_buffer_size() <= _HERE_BYTES:
        return _bodies_of(rows, begin) if rows.num_rows else []
    step = max(1, RECORD_BYTES * rows.num_rows // max(rows.nbytes, 1))
    found: list[bytes] = []
    for start in range(0, rows.num_rows, step):
        found += _bodies_of(rows.slice(start, step), begin)
    return found


def _bodies_of(part: pa.Table, begin: bytes) -> list[bytes]:
    """Return the part as one body, or as several where its rows are much larger than the others."""
    batches = part.to_batches() if part.column(0).num_chunks == 1 else part.combine_chunks().to_batches()
    body = b"".join([begin, *(batch.serialize().to_pybytes() for batch in batches), _END])
    if len(body) <= 2 * RECORD_BYTES or part.num_rows == 1:
        if len(body) > BODY_BYTES_MAX:
            raise TooLargeError("a row is too large for the log", bytes=len(body), bytes_max=BODY_BYTES_MAX)
        return [body]
    half = part.num_rows // 2
    return [*_bodies_of(part.slice(0, half), begin), *_bodies_of(part.slice(half), begin)]
