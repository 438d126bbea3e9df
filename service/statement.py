"""What a client asks and what it gets back: the vocabulary that the engine, the executors and the fronts share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import pyarrow as pa

__all__ = ["Format", "Functions", "KeyLookup", "Limits", "Receipt", "Result", "Role", "Route", "Runner", "Statement"]

Role = Literal["reader", "writer", "admin"]
Format = Literal["json", "ndjson", "arrow", "csv", "parquet"]
Route = Literal["auto", "lookup", "scan"]
"""How a predicate that pins a key is answered: as costs less, by an index where one covers files, or never by one."""

Functions = Literal["auto", "inline", "fan-out"]
"""Whether a statement runs as tasks on workers: where that is faster, never, or wherever it can be cut."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one statement may use; 0 means no limit."""

    timeout_ms: int = 300_000
    memory_bytes: int = 0
    result_rows_max: int = 0
    result_bytes_max: int = 0
    scan_bytes_max: int = 0
    cost_usd_max: float = 0.0
    """As estimated before it runs (`service.cost`)."""


@dataclass(frozen=True, slots=True)
class KeyLookup:
    """Rows asked for by their keys.

    table : namespace and name
    keys : a value each, or for a key of several columns a sequence of values in their order; as in JSON
    by : the key's columns; empty: the primary key's, else those of the table's only index
    columns : that are wanted, in order; None: all
    """

    table: tuple[str, str]
    keys: Sequence[Any]
    by: tuple[str, ...] = ()
    columns: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Statement:
    """One SQL statement to run, or a look-up of keys, whose ``sql`` is empty.

    params : a sequence for ``$1, $2, …``, a mapping for ``:name`` (or ``$name``), or None
    idempotency_key : of a statement that writes: it takes effect once, however often it is sent with this key
    max_tasks : at once; 0: as many as the workers take
    traceparent : W3C trace context that its work belongs to, "" for none
    """

    sql: str
    statement_id: str
    params: Sequence[Any] | Mapping[str, Any] | None = None
    role: Role = "admin"
    limits: Limits = field(default_factory=Limits)
    idempotency_key: str | None = None
    route: Route = "auto"
    lookup: KeyLookup | None = None
    functions: Functions = "auto"
    max_tasks: int = 0
    traceparent: str = ""


@dataclass(slots=True)
class Receipt:
    """What an answer cost. Complete once the result's batches are exhausted."""

    statement_id: str = ""
    wall_ms: float = 0.0
    cpu_ms: float = 0.0
    planning_ms: float = 0.0
    rows: int = 0
    files_total: int = 0
    files_pruned: int = 0
    files_scanned: int = 0
    bytes_scanned: int = 0
    """Bytes read from data files by the engine (its own counters)."""
    requests: int = 0
    """Metadata requests made for this statement (log, manifests, footers, listings)."""
    gets: int = 0
    puts: int = 0
    """Requests of object stores by price, tasks' included: reads, and writes with listings. The engine counts none of
    its own: they are reckoned from what it read (`functions.engine_reads`)."""
    metadata_bytes: int = 0
    snapshots: dict[str, int] = field(default_factory=dict)
    """Table → version it was read at."""
    log: dict[str, int] = field(default_factory=dict)
    """Table → the sequence before which all records of its log were seen, in the table or behind it."""
    tail_rows: int = 0
    """Rows that were read from the log, since no table holds them yet."""
    catalog_stale: bool = False
    """The catalog did not answer: the tables are those that this process knew."""
    workers_differ: bool = False
    """The workers are of another release: what would have been tasks ran in the process that answers."""
    slow_files: int = 0
    """Files read by the slower merge-on-read reader."""
    tasks: int = 1
    retries: int = 0
    hedges: int = 0
    """Second copies of tasks that took long."""
    bytes_moved: int = 0
    """Between coordinator and workers, and through pages."""
    task_cpu_ms: float = 0.0
    task_gb_s: float = 0.0
    """Memory of the workers times the time of the tasks."""
    cost_usd: float = 0.0
    """What the tasks and all requests of object stores cost by the price list (`service.cost`)."""
    routes: dict[str, str] = field(default_factory=dict)
    """Table → how its rows were found, where an index had a say: ``lookup`` or ``scan``, and why."""
    ack: str | None = None
    """Where the rows that it wrote are: ``object`` (in the object store) or ``fsync`` (on the log host's disk)."""
    log_position: int | None = None
    """The sequence of its first record in the log; None if it wrote none."""

    def to_dict(self) -> dict[str, Any]:
        """Return the receipt as JSON-ready values."""
        # `dataclasses.asdict` copies every value deeply, which takes as long as parsing a short statement.
        found = {name: getattr(self, name) for name in self.__slots__}
        return {name: dict(value) if isinstance(value, dict) else value for name, value in found.items()}


@dataclass
class Result:
    """A running statement: its schema at once, its batches as they come, its receipt at the end."""

    schema: pa.Schema
    batches: AsyncIterator[pa.RecordBatch]
    receipt: Receipt


class Runner(Protocol):
    """Whatever runs statements: the engine in this process, or a pool of worker processes."""

    async def run(self, statement: Statement) -> Result:
        """Plan and start the statement. Raises a `storage.errors.FirnlineError`.

        Errors may also be raised while ``batches`` is iterated. Closing ``batches`` early cancels the statement.
        """
        ...

    async def close(self) -> None:
        """Stop everything that runs."""
        ...
