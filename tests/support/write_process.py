"""A process that works on a lake until it is killed: clients under load, or a compactor, or both.

Started by a fork server that has imported everything, so a start takes milliseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import pyarrow as pa

from catalog.tables import TableEntry
from functions.append import append_rows
from functions.fold_log import fold_all
from service.components import open_engine
from service.engine import Engine
from service.executor import InlineExecutor
from service.settings import EngineSettings
from service.statement import Limits, Statement
from storage.errors import FirnlineError
from storage.log import RecordKind
from tests.support.write_load import TABLES, Load, Notes, Table, load_history

__all__ = ["EngineTarget", "Job", "fold_for_ever", "fork_server", "kill", "open_target", "start"]

READY = b"ready\n"
_LAZY = (
    "catalog.kv.sqlite",
    "service.write.dispatch",
    "service.write.insert",
    "service.write.mutate",
    "storage.tables.delta.write_checkpoint",
    "storage.tables.delta.commit",
    "storage.tables.iceberg.attempt",
    "storage.tables.iceberg.commit",
    "storage.tables.iceberg.write_files",
)
"""What the first statements and the first fold of a process would import."""


@dataclass(frozen=True)
class Job:
    """What a process does.

    clients : of the load; 0: none
    fold : whether it folds the log all the time
    """

    lake: Path
    run: int
    seed: int
    clients: int = 4
    fold: bool = True
    tables: Sequence[Table] = TABLES
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def notes(self) -> Path:
        return self.lake.with_suffix(".notes")


@dataclass
class EngineTarget:
    """A `tests.support.write_load.Target` over an engine in this process."""

    engine: Engine
    name: str
    entries: dict[str, TableEntry] = field(default_factory=dict)
    count: int = 0
    timeout_ms: int = 30_000

    async def sql(self, sql: str, key: str | None = None) -> list[tuple[Any, ...]]:
        self.count += 1
        name = f"{self.name}-{self.count}"
        statement = Statement(sql, name, limits=Limits(timeout_ms=self.timeout_ms), idempotency_key=key)
        result = await InlineExecutor(self.engine, self.engine.clock).run(statement)
        batches = [batch async for batch in result.batches]
        columns = [column.to_pylist() for column in pa.Table.from_batches(batches, result.schema).columns]
        return list(zip(*columns, strict=True))

    async def ingest(self, table: Table, rows: Sequence[dict[str, Any]], key: str) -> None:
        if table.name not in self.entries:
            self.entries[table.name] = await self.engine.tables.get("default", table.name)
        entry = self.entries[table.name]
        assert entry.managed is not None
        log = await self.engine.logs.log(entry.managed.shard)
        batch = pa.Table.from_pylist(list(rows), schema=entry.managed.spec.schema)
        kind = RecordKind.UPSERT if table.keyed else RecordKind.APPEND
        await append_rows(log, entry, batch, kind=kind, idempotency_key=key)


@asynccontextmanager
async def open_target(lake: Path | str, name: str = "t", **settings: Any) -> AsyncIterator[EngineTarget]:
    """Open the lake, a folder or a location, in this process."""
    async with open_engine(EngineSettings(lake=str(lake), **settings)) as engine:
        yield EngineTarget(engine, name)


async def fold_for_ever(engine: Engine, notes: Notes, pause_s: float = 0.02) -> None:
    """Fold what is in the object store, again and again."""
    while True:
        try:
            report = await fold_all(engine.stores, engine.logs, engine.tables, engine.clock)
        except FirnlineError as error:
            notes.write("failure", f"fold: {type(error).__name__}: {error}"[:200])
        else:
            for table, error in report.errors.items():
                notes.write("failure", f"fold of {table}: {type(error).__name__}: {error}"[:200])
        await asyncio.sleep(pause_s)


async def _work(job: Job, ready: int) -> None:
    notes = Notes(job.notes)
    async with open_target(job.lake, f"r{job.run}", **job.settings) as target:
        os.write(ready, READY)
        async with asyncio.TaskGroup() as group:
            if job.fold:
                group.create_task(fold_for_ever(target.engine, notes))
            if job.clients:
                retry = load_history(job.notes).pending
                load = Load(target, notes, job.run, job.seed, job.tables, retry)
                group.create_task(load.work(job.clients))


def _main(job: Job, ready: Any) -> None:
    # Dies with the process that asked for it, however that ends.
    with contextlib.suppress(OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    try:
        asyncio.run(_work(job, ready.fileno()))
    except BaseException:
        notes = Notes(job.notes)
        notes.write("problem", f"the process ended: {traceback.format_exc()[-1500:]}")
        raise


def fork_server() -> ForkServerContext:
    """Return the context whose processes are forked from one that has imported all this."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *_LAZY])
    return context


@dataclass
class Started:
    """A process that runs, and the moment when it was ready."""

    process: ForkServerProcess
    ready: Any

    def wait_ready(self, timeout_s: float = 30.0) -> bool:
        """Wait until it has opened the lake; False if it ended before."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.ready.poll(0.05):
                try:
                    return os.read(self.ready.fileno(), len(READY)) == READY
                except OSError:
                    return False
            if not self.process.is_alive():
                return False
        return False


def start(context: ForkServerContext, job: Job) -> Started:
    """Start a process on the job."""
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_main, args=(job, writer), daemon=True)
    process.start()
    writer.close()
    return Started(process, reader)


def kill(started: Started) -> None:
    """SIGKILL, and wait until it is gone."""
    started.process.kill()
    started.process.join()
    started.ready.close()
