"""`SharedEntries`: requests that come at the same time read a table's entry together.

A request gets what was read after it came, never before: rows follow the schema of an ALTER that had returned.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from catalog.tables import TableEntry
from service.ingest.ingest import Entries, IngestContext
from storage.errors import FirnlineError

__all__ = ["SharedContext", "SharedEntries"]

_Key = tuple[str, str]


class SharedEntries:
    """At most one read of an entry runs, and at most one waits for it to end. Used by the tasks of one event loop."""

    def __init__(self, tables: Entries) -> None:
        self._tables = tables
        self._running: dict[_Key, asyncio.Task[TableEntry]] = {}
        self._waiting: dict[_Key, asyncio.Task[TableEntry]] = {}

    async def get(self, namespace: str, name: str) -> TableEntry:
        """Return one table as it is now. Raises `NotFoundError`."""
        key = namespace, name
        task = self._waiting.get(key)
        if task is None:
            before = self._running.get(key)
            task = asyncio.create_task(self._read(key, before))
            if before is not None:
                self._waiting[key] = task
            else:
                self._running[key] = task
        # Whoever goes away leaves the others their read.
        return await asyncio.shield(task)

    async def _read(self, key: _Key, before: asyncio.Task[TableEntry] | None) -> TableEntry:
        if before is not None:
            with suppress(FirnlineError):
                await asyncio.shield(before)
            self._running[key] = self._waiting.pop(key)
        try:
            return await self._tables.get(*key)
        finally:
            if self._running.get(key) is asyncio.current_task():
                del self._running[key]


class SharedContext:
    """An `IngestContext` whose entries are read together."""

    def __init__(self, context: IngestContext) -> None:
        self.tables = SharedEntries(context.tables)
        self.logs, self.stores = context.logs, context.stores
        self.clock, self.lake = context.clock, context.lake
