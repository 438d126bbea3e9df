"""The catalog's tables as an Iceberg client sees and changes them: what the routes call, without HTTP.

pyiceberg is imported when a table is made or committed to, never to load one: its metadata file is passed on as it is.
"""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from catalog.kv import KV
from catalog.logs import shard_of
from catalog.pointers import CatalogPointer
from catalog.tables import Managed, TableEntry, Tables
from service.iceberg_rest.errors import AlreadyExistsError, CommitFailedError
from storage.clock import Clock
from storage.errors import (
    ConflictError,
    CorruptError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    UnsupportedError,
)
from storage.stores import Stores, join, normalize
from storage.tables.iceberg.commit import IcebergWriter, MemoryPointer, commit_attempts
from storage.tables.iceberg.locate import resolve
from storage.tables.write import TableSpec

__all__ = ["IcebergCatalog", "LoadedTable"]

_FORMAT = "iceberg"


@dataclass(frozen=True)
class LoadedTable:
    """A table's metadata as JSON, and where it lies; no location for a table that is only staged."""

    metadata: dict[str, Any]
    metadata_location: str | None


@dataclass(frozen=True)
class IcebergCatalog:
    """The Iceberg tables of one lake.

    stores : reach the lake and the allowed prefixes, nothing else
    lake : normalized location, where tables come to lie that name no other place
    table_config : told to clients with each table, such as how to reach the store; may hold credentials
    """

    kv: KV
    tables: Tables
    stores: Stores
    clock: Clock
    lake: str
    table_config: Mapping[str, str] = field(default_factory=dict, repr=False)

    async def check_namespace(self, namespace: str) -> None:
        """Raise `NotFoundError` if there is no such namespace."""
        if namespace not in await self.tables.namespaces():
            raise NotFoundError("no such namespace", namespace=namespace)

    async def names(self, namespace: str) -> list[str]:
        """Return the names of a namespace's Iceberg tables, in order."""
        await self.check_namespace(namespace)
        entries = (await self.tables.listed()).entries
        return sorted(entry.name for entry in entries if entry.namespace == namespace and entry.format == _FORMAT)

    async def entry(self, namespace: str, name: str) -> TableEntry:
        """Return a table's entry. Raises `NotFoundError`, for a table of another format too."""
        entry = await self.tables.get(namespace, name)
        if entry.format != _FORMAT:
            raise NotFoundError("the table is not an iceberg table", table=f"{namespace}.{name}", format=entry.format)
        return entry

    async def location_of(self, entry: TableEntry) -> str:
        """Return where a table's current metadata file is."""
        if any(key.startswith("catalog.") for key in entry.options):
            raise UnsupportedError("the table lies in another catalog; ask that one", table=entry.name)
        return (await resolve(self.stores, normalize(entry.source), None)).location

    async def load(self, entry: TableEntry) -> LoadedTable:
        """Return a table's metadata."""
        location = await self.location_of(entry)
        return LoadedTable(_document(await self.stores.get(location), location), location)

    async def create(self, namespace: str, document: Mapping[str, Any]) -> LoadedTable:
        """Make the table that a body describes, or only tell what it would be (``stage-create``)."""
        from storage.tables.iceberg.outside import created_table

        name = _name(document)
        await self.check_namespace(namespace)
        await self._check_free(namespace, name)
        location = await self._location(namespace, name, document.get("location"))
        attempt, spec = await asyncio.to_thread(created_table, document, location, self.clock)
        if document.get("stage-create"):
            return LoadedTable(json.loads(attempt.files[attempt.metadata_location]), None)
        await self._publish(namespace, name, location, attempt, spec)
        return LoadedTable(json.loads(attempt.files[attempt.metadata_location]), attempt.metadata_location)

    async def register(self, namespace: str, document: Mapping[str, Any]) -> LoadedTable:
        """Name a table that lies there already."""
        from storage.tables.iceberg.outside import registered_table

        name, given = _name(document), document.get("metadata-location")
        if not isinstance(given, str):
            raise InvalidError('the body needs the member "metadata-location", a string')
        if document.get("overwrite"):
            raise UnsupportedError("a registered table is not replaced; drop it first", table=f"{namespace}.{name}")
        await self.check_namespace(namespace)
        await self._check_free(namespace, name)
        attempt, spec, location = await registered_table(self.stores, normalize(given), self.clock)
        await self._check_apart(location)
        await self._publish(namespace, name, location, attempt, spec)
        return await self.load(await self.entry(namespace, name))

    async def commit(self, namespace: str, name: str, document: Mapping[str, Any]) -> LoadedTable:
        """Make the commit that a body asks for.

        Raises
        ------
        CommitFailedError
            a requirement does not hold
        AlreadyExistsError
            a table that was staged exists by now
        """
        from storage.tables.iceberg.outside import outside_attempt, parse_commit

        asked = await asyncio.to_thread(parse_commit, document)
        if asked.creates:
            return await self._commit_staged(namespace, name, asked)
        entry = await self.entry(namespace, name)
        if entry.managed is None:
            raise ForbiddenError("the table is external; it is only read", table=f"{namespace}.{name}")
        writer = IcebergWriter(self.stores, entry.location, self.clock, CatalogPointer(self.tables, entry))

        async def make(metadata_location: str) -> Any:
            return await outside_attempt(self.stores, entry.location, self.clock, metadata_location, asked)

        try:
            await commit_attempts(writer, make)
        except ConflictError as error:
            raise CommitFailedError(error.message, **error.facts) from error
        return await self.load(await self.entry(namespace, name))

    async def _commit_staged(self, namespace: str, name: str, asked: Any) -> LoadedTable:
        from storage.tables.iceberg.outside import staged_table

        await self.check_namespace(namespace)
        await self._check_free(namespace, name)
        attempt, spec, location = await asyncio.to_thread(staged_table, asked, self.stores, self.clock)
        await self._check_apart(location)
        await self._publish(namespace, name, location, attempt, spec)
        return LoadedTable(json.loads(attempt.files[attempt.metadata_location]), attempt.metadata_location)

    async def drop(self, namespace: str, name: str, *, purge: bool) -> None:
        """Forget a table; with ``purge`` delete the files under its location."""
        entry = await self.entry(namespace, name)
        if purge and entry.managed is None:
            raise ForbiddenError("the table is external; its files stay", table=f"{namespace}.{name}")
        await self.tables.drop(namespace, name)
        if purge:
            async for place, _meta in self.stores.list(entry.location.rstrip("/") + "/"):
                blobs, key = self.stores.resolve(place)
                await blobs.delete(key)

    async def rename(self, old: tuple[str, str], new: tuple[str, str]) -> None:
        """Give a table another name. Raises `AlreadyExistsError` if it is taken."""
        await self.entry(*old)
        await self.check_namespace(new[0])
        await self._check_free(*new)
        try:
            await self.tables.rename(old, new)
        except ConflictError as error:
            raise AlreadyExistsError(error.message, **error.facts) from error

    async def _check_free(self, namespace: str, name: str) -> None:
        try:
            await self.tables.get(namespace, name)
        except NotFoundError:
            return
        raise AlreadyExistsError("the table exists already", table=f"{namespace}.{name}")

    async def _location(self, namespace: str, name: str, asked: Any) -> str:
        if asked is None:
            folder = f"{_plain(name)}-{self.clock.new_id()[:8]}"
            return join(self.lake, "tables", _plain(namespace), folder)
        if not isinstance(asked, str):
            raise InvalidError('"location" must be a string')
        location = normalize(asked)
        await self._check_apart(location)
        return location

    async def _check_apart(self, location: str) -> None:
        """Raise unless a table may lie there: in reach, and neither in another table nor around one."""
        self.stores.policy.check(location)
        if _overlap(location, join(self.lake, "_firnline")):
            raise ForbiddenError("no table lies there; name a folder of its own", location=location)
        for entry in await self.tables.all():
            if entry.managed is not None and _overlap(location, entry.location):
                raise ForbiddenError(
                    "another table lies there; name a folder of its own",
                    location=location, table=f"{entry.namespace}.{entry.name}",
                )  # fmt: skip

    async def _publish(self, namespace: str, name: str, location: str, attempt: Any, spec: TableSpec) -> None:
        """Write a first metadata file, then name the table with it."""
        table_id = self.clock.new_id()
        spec = replace(spec, table_id=table_id)
        managed = Managed(spec, {spec.schema_id: spec.schema}, await shard_of(self.kv, table_id), None)
        pointer = MemoryPointer(None)
        if attempt.files:
            await IcebergWriter(self.stores, location, self.clock, pointer).publish(attempt, None)
        managed = replace(managed, metadata_location=attempt.metadata_location)
        entry = TableEntry(namespace, name, table_id, _FORMAT, location, self.clock.now_ms(), {}, managed)
        try:
            await self.tables.create(entry)
        except ConflictError as error:
            raise AlreadyExistsError(error.message, **error.facts) from error


def _name(document: Mapping[str, Any]) -> str:
    name = document.get("name")
    if not isinstance(name, str) or not name:
        raise InvalidError('the body needs the member "name", a string')
    return name


def _plain(name: str) -> str:
    """Return the name as part of a path that every store and reader takes."""
    kept = "".join(each if each.isalnum() or each in "_-" else "_" for each in name)
    return kept.encode()[:80].decode(errors="ignore") or "_"


def _overlap(one: str, other: str) -> bool:
    one, other = one.rstrip("/") + "/", other.rstrip("/") + "/"
    return one.startswith(other) or other.startswith(one)


def _document(data: bytes, location: str) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(zlib.decompress(data, 31) if data[:2] == b"\x1f\x8b" else data)
    except (ValueError, zlib.error) as error:
        raise CorruptError("not a readable iceberg metadata file", file=location, reason=repr(error)) from error
    return document
