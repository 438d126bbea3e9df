"""Clients that append, upsert, delete, increment and read, and note what they asked and were told in a file.

The notes outlive a SIGKILL of the process that writes them: each is one write to a file, and the machine goes on. What
a killed client had asked and was not told is retried by a client of the next run, with the same idempotency key, as a
client would whose connection broke; or it is left alone, and may have happened.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from storage.errors import (
    ConflictError,
    CorruptError,
    FencedError,
    FirnlineError,
    InternalError,
    InvalidError,
    NotFoundError,
    UnavailableError,
)
from tests.support.history import Operation

__all__ = ["TABLES", "Load", "Notes", "Table", "Target", "create_tables", "load_history"]

KEYS_EACH_RUN = 6
TRIES = 15
ROOM = 100_000
"""Ids and keys of run n lie in [n·ROOM, (n + 1)·ROOM)."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table under load: without a primary key ``(id, note)``, with one ``(k, n)``."""

    name: str
    format: str
    keyed: bool

    @property
    def ddl(self) -> str:
        columns = "k BIGINT PRIMARY KEY, n BIGINT" if self.keyed else "id BIGINT, note VARCHAR"
        return f"CREATE TABLE {self.name} ({columns}) USING {self.format}"


TABLES = (
    Table("delta_rows", "delta", False),
    Table("delta_keys", "delta", True),
    Table("iceberg_rows", "iceberg", False),
    Table("iceberg_keys", "iceberg", True),
)


class Target(Protocol):
    """Whatever runs statements: an engine in this process, or a server."""

    async def sql(self, sql: str, key: str | None = None) -> list[tuple[Any, ...]]:
        """Run a statement, with an idempotency key; return its rows."""
        ...

    async def ingest(self, table: Table, rows: Sequence[dict[str, Any]], key: str) -> None:
        """Append or upsert rows without SQL."""
        ...


async def create_tables(target: Target, tables: Sequence[Table] = TABLES) -> None:
    """Create the tables under load."""
    for table in tables:
        await target.sql(table.ddl)


class Notes:
    """What was asked and told: one JSON line each, in a file that only grows."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def write(self, *note: Any) -> None:
        """Add a note, whole."""
        data = json.dumps(note).encode() + b"\n"
        assert os.write(self._descriptor, data) == len(data)

    def close(self) -> None:
        os.close(self._descriptor)


@dataclass
class Story:
    """The notes read back.

    operations : by id
    pending : asked and not told, of the latest run: id → (kind, table, key, value)
    problems : what no client should ever be told
    """

    operations: dict[str, Operation] = field(default_factory=dict)
    asked: dict[str, tuple[str, str, int, Any]] = field(default_factory=dict)
    pending: dict[str, tuple[str, str, int, Any]] = field(default_factory=dict)
    problems: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    latest_run: int = 0

    @property
    def n_acknowledged(self) -> int:
        """Writes that were acknowledged."""
        return sum(op.outcome == "ok" and op.kind not in ("read", "scan") for op in self.operations.values())


def load_history(path: Path) -> Story:
    """Read the notes. A line that was cut off is none."""
    story = Story()
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    for line in lines:
        what, *rest = json.loads(line)
        if what == "ask":
            name, kind, table, key, value, at = rest
            story.operations[name] = Operation(kind, (table, key), value, at)
            story.asked[name] = story.pending[name] = (kind, table, key, value)
        elif what == "told":
            name, outcome, value, at = rest
            story.pending.pop(name, None)
            op = story.operations[name]
            op.end, op.outcome = at if outcome != "unknown" else op.end, outcome
            if op.kind in ("read", "scan"):
                op.value = value
        elif what == "run":
            story.latest_run = rest[0]
        elif what == "failure":
            story.failures[rest[0]] += 1
        else:
            story.problems[rest[0]] += 1
    return story


@dataclass
class Load:
    """The clients of one run.

    Parameters
    ----------
    run : from 1; each has ids and keys of its own, so that no history grows long
    retry : of what the run before was not told
    pause_s : between two requests of a client
    clock : monotonic, the same for all processes of this machine
    """

    target: Target
    notes: Notes
    run: int
    seed: int
    tables: Sequence[Table] = TABLES
    retry: dict[str, tuple[str, str, int, Any]] = field(default_factory=dict)
    pause_s: float = 0.0
    clock: Callable[[], float] = time.monotonic
    n_asked: int = 0

    async def work(self, n_clients: int, stop: asyncio.Event | None = None) -> None:
        """Run the clients until ``stop`` is set; None: for ever."""
        self.notes.write("run", self.run)
        chance = random.Random(f"{self.seed}-{self.run}-retry")
        retried = [name for name in self.retry if chance.random() < 0.8]
        async with asyncio.TaskGroup() as group:
            for name in retried:
                kind, table, key, value = self.retry[name]
                group.create_task(self._ask(name, kind, self._table(table), key, value, again=True))
            for number in range(n_clients):
                group.create_task(self._client(number, stop))

    def _table(self, name: str) -> Table:
        return next(table for table in self.tables if table.name == name)

    async def _client(self, number: int, stop: asyncio.Event | None) -> None:
        chance = random.Random(f"{self.seed}-{self.run}-{number}")
        count = 0
        while stop is None or not stop.is_set():
            count += 1
            table = chance.choice(self.tables)
            name = f"{self.run}.{number}.{count}"
            value = self.run * ROOM + number * 1000 + count
            if not table.keyed:
                kind = chance.choices(["append", "scan"], [8, 1])[0]
                await self._request(name, kind, table, self.run, value)
            else:
                kind = chance.choices(["write", "increment", "delete", "read"], [4, 3, 1, 3])[0]
                key = self.run * ROOM + chance.randrange(KEYS_EACH_RUN)
                await self._request(name, kind, table, key, value if kind == "write" else None)
            await asyncio.sleep(self.pause_s)

    async def _request(self, name: str, kind: str, table: Table, key: int, value: Any) -> None:
        self.notes.write("ask", name, kind, table.name, key, value, self.clock())
        await self._ask(name, kind, table, key, value)

    async def _ask(self, name: str, kind: str, table: Table, key: int, value: Any, *, again: bool = False) -> None:
        """Send until it is known whether it happened, at most a few times; ``again``: it was sent before."""
        for attempt in range(TRIES):
            self.n_asked += 1
            try:
                answer = await self._send(name, kind, table, key, value, by_sql=hash_of(name) % 2 == 0)
            except (FirnlineError, OSError, asyncio.IncompleteReadError) as error:
                goes_on = self._goes_on(name, error, first=attempt == 0 and not again)
                await asyncio.sleep(min(0.05 * 2**attempt, 0.5))
                if goes_on:
                    continue
                return
            self.notes.write("told", name, "ok", answer, self.clock())
            return

    def _goes_on(self, name: str, error: Exception, *, first: bool) -> bool:
        """Note an error; tell whether to ask again with the same key."""
        wrong = InvalidError | NotFoundError | CorruptError | InternalError
        self.notes.write("problem" if isinstance(error, wrong) else "failure", f"{type(error).__name__}: {error}"[:200])
        passing = isinstance(error, ConnectionRefusedError | UnavailableError | FencedError)
        if passing and not first:
            # An earlier try, whose answer was lost, may have happened: go on until that is known.
            return True
        if passing or isinstance(error, InvalidError | NotFoundError | ConflictError):
            self.notes.write("told", name, "failed" if first else "unknown", None, self.clock())
            return False
        return True

    async def _send(self, name: str, kind: str, table: Table, key: int, value: Any, *, by_sql: bool) -> Any:
        t, sql = table.name, self.target.sql
        if kind == "scan":
            low, high = key * ROOM, (key + 1) * ROOM
            return [row[0] for row in await sql(f"SELECT id FROM {t} WHERE id >= {low} AND id < {high}")]
        if kind == "read":
            rows = await sql(f"SELECT n FROM {t} WHERE k = {key}")
            if len(rows) > 1:
                self.notes.write("problem", f"a key is there {len(rows)} times")
            return rows[0][0] if rows else None
        if kind == "append" and by_sql:
            await sql(f"INSERT INTO {t} VALUES ({value}, 'row {value}')", name)
        elif kind == "append":
            await self.target.ingest(table, [{"id": value, "note": f"row {value}"}], name)
        elif kind == "write" and by_sql:
            upsert = f"INSERT INTO {t} VALUES ({key}, {value}) ON CONFLICT (k) DO UPDATE SET n = EXCLUDED.n"
            await sql(upsert, name)
        elif kind == "write":
            await self.target.ingest(table, [{"k": key, "n": value}], name)
        elif kind == "increment":
            await sql(f"UPDATE {t} SET n = n + 1 WHERE k = {key}", name)
        else:
            await sql(f"DELETE FROM {t} WHERE k = {key}", name)
        return None


def hash_of(name: str) -> int:
    """A number that is the same for the same name in every process."""
    return sum(name.encode())
