"""The tables of one statement: what the catalog says of them, their snapshots, and what the log has beyond these.

The order makes it true. The log's folded marks are asked first, then a snapshot is loaded, then the log is read: a
record is then in the snapshot or is read from the log, whatever is folded meanwhile. An Iceberg table's snapshot is
named by its entry, which was listed earlier still, and is asked for again where the marks may have passed it. A table
that moved on in between is loaded anew. When the catalog is away, the tables that this process knew last are read as
they were.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from catalog.indexes import IndexEntry, Indexes
from catalog.tables import TableEntry, Tables
from functions.tail import TableTail, Tails
from service.snapshots import SnapshotCache
from service.statement import Receipt
from storage.errors import ConflictError, FirnlineError, NotFoundError, UnavailableError
from storage.log.access import Marks
from storage.stores import Stores
from storage.tables.snapshot import At, Snapshot
from storage.tables.watermark import watermark_of

__all__ = ["Known", "Loaded", "Loading", "TableName"]

TableName = tuple[str, str]
"""Namespace and table."""
_ATTEMPTS = 6


@dataclass
class Known:
    """What this process last heard from the catalog, for when it does not answer.

    marks_before : folded marks that were known before ``entries`` were asked for
    """

    entries: Mapping[TableName, TableEntry] | None = None
    refused: Mapping[TableName, FirnlineError] = field(default_factory=dict)
    marks_before: Mapping[int, int] = field(default_factory=dict)
    namespaces: tuple[str, ...] = ()
    indexes: Mapping[str, tuple[IndexEntry, ...]] = field(default_factory=dict)
    folded: Mapping[int, int] | None = None


@dataclass(frozen=True)
class Loaded:
    """A table as a statement reads it: ``tail`` is None where no log feeds it, or at an earlier version."""

    snapshot: Snapshot
    tail: TableTail | None = None
    entry: TableEntry | None = None


class _MissingError(NotFoundError):
    """The table's own files are not where its entry says."""


@dataclass
class Loading:
    """Loads the tables of one statement. ``names_gets`` is `service.engine.Engine.names_gets`."""

    tables: Tables
    indexes: Indexes
    snapshots: SnapshotCache
    tails: Tails
    known: Known
    stores: Stores
    receipt: Receipt
    entries: Mapping[TableName, TableEntry] = field(default_factory=dict)
    namespaces: tuple[str, ...] = ()
    names_gets: int = 0
    refused: Mapping[TableName, FirnlineError] = field(default_factory=dict)
    """Tables whose entries cannot be read here, and why."""
    _named: bool = False
    _marks_before: Mapping[int, int] = field(default_factory=dict)
    _folded: asyncio.Task[Mapping[int, int]] | None = None
    _before: Snapshot | None = None
    """The newest snapshot of the table that `begin` was told, as it was known before the marks were asked for."""

    async def names(self) -> None:
        """Load what the catalog lists, once. Raises `UnavailableError` if it is away and was never heard."""
        if self._named:
            return
        marks = self.known.folded or {}
        self.stores.count.gets += self.names_gets
        try:
            listed, namespaces, indexes = await asyncio.gather(
                self.tables.listed(), self.tables.namespaces(), self.indexes.all()
            )
        except UnavailableError:
            if self.known.entries is None:
                raise
            self.receipt.catalog_stale = True
        else:
            self.known.entries = {(entry.namespace, entry.name): entry for entry in listed.entries}
            self.known.refused = {(each.namespace, each.name): each.error for each in listed.refused}
            self.known.namespaces, self.known.marks_before = tuple(namespaces), marks
            self.known.indexes = indexes
        self.entries, self.namespaces = self.known.entries, self.known.namespaces
        self.refused = self.known.refused
        self._marks_before = self.known.marks_before
        self._named = True

    def entry(self, name: TableName) -> TableEntry | None:
        """Return a table's entry, once `names` has run; None: there is no such table. Raises why it cannot be read."""
        if name in self.refused:
            raise self.refused[name]
        return self.entries.get(name)

    def begin(self, name: TableName) -> None:
        """Ask for the log's marks already, at the same time as for the names, if a log feeds the table."""
        entry = (self.known.entries or {}).get(name)
        if entry is not None and entry.managed is not None and self._folded is None:
            self._before = self.snapshots.known(entry.format, entry.source)
            self._folded = asyncio.create_task(self._ask_folded())
            # Nobody asks how it ended if the names cannot be had.
            self._folded.add_done_callback(lambda task: task.cancelled() or task.exception())

    def indexes_of(self, loaded: Loaded) -> tuple[IndexEntry, ...]:
        """Return the indexes of a table of the catalog, as they were when its names were loaded."""
        return self.known.indexes.get(loaded.entry.id, ()) if loaded.entry is not None else ()

    def guess(self, entry: TableEntry) -> Loaded | None:
        """Return a table of an object store as this process knew it last, without its tail; None where that is unknown
        or saves nothing. It may be read while `load` asks what is new, which is a request of its own."""
        if entry.source.startswith("file://") or "://" not in entry.source or entry.options:
            return None
        known = self.snapshots.known(entry.format, entry.source)
        return Loaded(known, None, entry) if known is not None else None

    async def load(self, entry: TableEntry, at: At | None = None, *, tail: bool = True) -> Loaded:
        """Return a table of the catalog; with its tail, unless a version is asked for.

        Raises `ConflictError` if it kept moving on while it was loaded, and what the format and the log raise.
        """
        at = at or At()
        if entry.managed is None or at != At() or not tail:
            return Loaded(await self._resolve(entry, at), None, entry)
        folded, known = await self._folded_before(), self._marks_before
        moved: Exception | None = None
        for _ in range(_ATTEMPTS):
            try:
                return await self._load_managed(entry, folded, known)
            except (NotFoundError, ConflictError) as error:
                if self.receipt.catalog_stale:
                    raise
                moved = error
            folded = known = await self.tails.folded()
            newer = await self.tables.get(entry.namespace, entry.name)
            if newer.managed is None:
                return await self.load(newer)
            if newer == entry and isinstance(moved, _MissingError):
                raise NotFoundError(moved.message, **moved.facts) from moved
            entry = newer
        raise ConflictError(
            "the table kept moving on while it was loaded; try again",
            table=f"{entry.namespace}.{entry.name}", reason=str(moved),
        )  # fmt: skip

    async def _load_managed(self, entry: TableEntry, folded: Mapping[int, int], known: Mapping[int, int]) -> Loaded:
        """Load the snapshot and the tail; ``known`` are the marks that were told before ``entry`` was asked for.

        Raises `NotFoundError` or `ConflictError` if the table moved on.
        """
        assert entry.managed is not None
        snapshot = await self._newest(entry)
        watermark = watermark_of(snapshot, str(entry.managed.shard))
        mark = folded.get(entry.managed.shard, 0)
        named = entry.managed.metadata_location is not None
        if named and mark > max(watermark, known.get(entry.managed.shard, 0)):
            # The entry may be from before the fold that the mark tells of, and name a snapshot without its rows.
            entry = await self.tables.get(entry.namespace, entry.name)
            if entry.managed is None:
                raise ConflictError("another table has this name now", table=f"{entry.namespace}.{entry.name}")
            snapshot = await self._newest(entry)
            watermark = watermark_of(snapshot, str(entry.managed.shard))
        # Table and log as they were when the marks were asked for, if the table did not change since.
        quiet = None
        if snapshot is self._before and isinstance(folded, Marks):
            assert entry.managed is not None
            quiet = folded.quiet.get(entry.managed.shard)
        if quiet is None:
            self._count_one()
        return Loaded(snapshot, await self.tails.of(entry, snapshot, watermark, folded, quiet), entry)

    async def _newest(self, entry: TableEntry) -> Snapshot:
        try:
            return await self._resolve(entry, At())
        except NotFoundError as error:
            raise _MissingError(error.message, **error.facts) from error

    async def _resolve(self, entry: TableEntry, at: At) -> Snapshot:
        return await self.snapshots.resolve(self.stores, entry.format, entry.source, at, entry.options)

    async def _folded_before(self) -> Mapping[int, int]:
        """Return the marks, asked once for the statement and before any snapshot that needs them."""
        if self._folded is None:
            self._folded = asyncio.create_task(self._ask_folded())
        return await asyncio.shield(self._folded)

    def _count_one(self) -> None:
        """Count a question to the catalog about the log, if those are priced."""
        self.stores.count.gets += bool(self.names_gets)

    async def _ask_folded(self) -> Mapping[int, int]:
        self._count_one()
        try:
            self.known.folded = await self.tails.folded()
        except UnavailableError:
            if self.known.folded is None:
                raise
            self.receipt.catalog_stale = True
            return dict(self.known.folded)  # without what was quiet then
        return self.known.folded
