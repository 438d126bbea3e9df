"""`append_data`: rows of any size through a transport, a bounded part at a time, and what became of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from firnline.chunks import chunks_of
from firnline.transport import Transport
from service.ingest.ingest import Asked, Ingested, OnConflict
from storage.clock import Clock
from storage.errors import FirnlineError, InvalidError
from storage.log import AckMode

__all__ = ["AppendReceipt", "append_data", "asked_of", "part_key"]

_KEY_LENGTH_MAX = 255
_ON_CONFLICT: tuple[OnConflict, ...] = ("update", "nothing", "error")


@dataclass(frozen=True, slots=True)
class AppendReceipt:
    """Rows that are durable.

    rows : how many were stored now; with ``on_conflict="nothing"`` those that were new
    ack : where they are: ``object``, ``fsync``; None if there were none, or an earlier call had stored all of them
    position : in the log, of the first row of the last part
    parts : how many appends it took, each of which was stored whole
    replayed : how many of them an earlier call with this idempotency key had stored already
    """

    table: str
    rows: int
    ack: str | None
    position: int | None
    parts: int
    replayed: int
    wall_ms: float


def append_data(
    transport: Transport,
    clock: Clock,
    table: str,
    data: Any,
    *,
    on_conflict: str | None,
    ack: str | None,
    idempotency_key: str | None,
) -> AppendReceipt:
    """See `firnline.connection.Connection.append`."""
    asked = asked_of(on_conflict, ack, idempotency_key)
    return append_parts(transport, clock, table, chunks_of(data), asked)


def append_parts(
    transport: Transport, clock: Clock, table: str, parts: Iterable[pa.Table], asked: Asked
) -> AppendReceipt:
    """Append the parts one after another. An error's facts say how many rows were stored before, if any."""
    started_s = clock.monotonic_s()
    told: list[Ingested] = []
    n_before = 0
    for index, part in enumerate(parts):
        key = part_key(asked.idempotency_key, index)
        try:
            told.append(transport.append(table, part, Asked(asked.ack, asked.on_conflict, key)))
        except FirnlineError as error:
            raise _placed(error, n_before, sum(each.rows for each in told), index) from None
        n_before += part.num_rows
    last = next((each for each in reversed(told) if each.ack is not None), None)
    return AppendReceipt(
        told[0].table if told else table,
        sum(each.rows for each in told),
        last.ack.value if last and last.ack else None,
        last.position if last else None,
        len(told),
        sum(each.replay for each in told),
        (clock.monotonic_s() - started_s) * 1000,
    )


def part_key(key: str | None, index: int) -> str | None:
    """Return the idempotency key of a part: the caller's for the first, with ``#1``, ``#2``, … for the others."""
    return key if key is None or index == 0 else f"{key}#{index}"


def asked_of(on_conflict: str | None, ack: str | None, idempotency_key: str | None) -> Asked:
    """Return what is asked, checked. Raises `InvalidError`."""
    choice = next((each for each in _ON_CONFLICT if each == on_conflict), None)
    if on_conflict is not None and choice is None:
        raise InvalidError(f"on_conflict must be one of {', '.join(_ON_CONFLICT)}", on_conflict=on_conflict[:80])
    if ack not in (None, "object", "fsync"):
        raise InvalidError("ack must be object or fsync", ack=str(ack)[:80])
    key = idempotency_key
    if key is not None and not (0 < len(key) <= _KEY_LENGTH_MAX and key.isascii() and key.isprintable()):
        raise InvalidError(f"an idempotency key has 1 to {_KEY_LENGTH_MAX} printable ASCII characters")
    return Asked(AckMode(ack) if ack else None, choice, key)


def _placed(error: FirnlineError, n_rows_before: int, n_stored: int, index: int) -> FirnlineError:
    """Return the error of a part with its row counted from the data's first, and what was stored before it."""
    if index == 0:
        return error
    facts = dict(error.facts)
    if isinstance(facts.get("row"), int):
        facts["row"] += n_rows_before
    return type(error)(error.message, **facts, rows_stored=n_stored)
