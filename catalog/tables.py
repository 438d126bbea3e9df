"""Namespaces and tables, over any `KV`.

Keys: ``ns/<namespace>`` holds a namespace, ``table/<namespace>/<name>`` a table; values are JSON with a version. A
table can only be created in the transaction that sees its namespace, and a namespace only dropped while it is empty.

A *managed* table is one that we write: its entry also has the table's shape, the schemas that records of the log may
have, and for Iceberg the location of the current metadata file, which is what makes a commit (`Tables.change`).

Releases meet in a catalog while a deployment is upgraded. What a newer one adds to an entry is kept when it is changed
here (`Tables.change`, `Tables.rename`); an entry of a form that is not known is refused alone (`Tables.listed`), and no
other table suffers for it.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Any

import pyarrow as pa

from catalog.kv import KV, TXN_KEYS_MAX, Put
from storage.clock import Clock
from storage.errors import (
    ConflictError,
    CorruptError,
    FirnlineError,
    InvalidError,
    NotFoundError,
    UnsupportedError,
)
from storage.tables.write import PartitionField, SortField, TableSpec

__all__ = ["DEFAULT_NAMESPACE", "Listed", "Managed", "Refused", "TableEntry", "Tables"]

DEFAULT_NAMESPACE = "default"
RESERVED = ("information_schema", "scans", "firnline")
NAME_LENGTH_MAX = 255
_ATTEMPTS = 5
_CHANGE_ATTEMPTS = 30


@dataclass(frozen=True)
class Managed:
    """What the catalog knows of a table that we write.

    spec : its shape now
    schemas : schema id → schema, of every schema that a record of the log may still have; the spec's own too
    shard : of the log that its rows go through
    metadata_location : of an Iceberg table's current metadata file; None for Delta
    """

    spec: TableSpec
    schemas: Mapping[int, pa.Schema]
    shard: int = 0
    metadata_location: str | None = None


@dataclass(frozen=True)
class TableEntry:
    """A table: where it lies and in which format. ``options`` are those of its CREATE EXTERNAL TABLE statement.

    location : of its folder; also of a managed Iceberg table
    managed : None for an external table, which is only read
    """

    namespace: str
    name: str
    id: str
    format: str
    location: str
    created_ms: int
    options: Mapping[str, str] = field(default_factory=dict)
    managed: Managed | None = None

    @property
    def source(self) -> str:
        """Where to load it from: its folder, or the metadata file that the catalog names."""
        if self.managed is not None and self.managed.metadata_location is not None:
            return self.managed.metadata_location
        return self.location


@dataclass(frozen=True)
class Refused:
    """A table whose entry cannot be read here: a newer release wrote it, or it is damaged; ``error`` says which.

    id : None if not even that can be read
    """

    namespace: str
    name: str
    id: str | None
    error: FirnlineError


@dataclass(frozen=True)
class Listed:
    """What the catalog lists, by namespace and name: tables, and those that cannot be read here."""

    entries: Sequence[TableEntry]
    refused: Sequence[Refused] = ()

    def refused_as(self, table_id: str) -> Refused | None:
        """Return a table that cannot be read and has this id, or may have it; None if there is none."""
        return next((each for each in self.refused if each.id in (table_id, None)), None)


class Tables:
    """The catalog's view of namespaces and tables. Holds no state of its own."""

    def __init__(self, kv: KV, clock: Clock) -> None:
        self._kv, self._clock = kv, clock

    async def namespaces(self) -> list[str]:
        """Return all namespaces in order; ``default`` always exists."""
        entries, _ = await self._kv.range("ns/")
        return sorted({DEFAULT_NAMESPACE, *(entry.key.removeprefix("ns/") for entry in entries)})

    async def create_namespace(self, name: str, *, if_not_exists: bool = False) -> bool:
        """Create a namespace; False if it exists already and may.

        Raises `ConflictError` if it exists, `InvalidError` for a reserved name.
        """
        _check_name(name, "namespace")
        if name in RESERVED:
            raise InvalidError("this namespace name is reserved", namespace=name)
        if name == DEFAULT_NAMESPACE:
            created = False
        else:
            value = json.dumps({"v": 1, "created_ms": self._clock.now_ms()}).encode()
            created = (await self._kv.txn({f"ns/{name}": 0}, [Put(f"ns/{name}", value)])).succeeded
        if not created and not if_not_exists:
            raise ConflictError("the namespace exists already", namespace=name)
        return created

    async def drop_namespace(self, name: str, *, if_exists: bool = False, cascade: bool = False) -> None:
        """Drop a namespace; its tables too with ``cascade``, whose files stay where they are."""
        if name == DEFAULT_NAMESPACE:
            raise InvalidError("the default namespace cannot be dropped")
        failures = 0
        while failures < _ATTEMPTS:
            entry = await self._kv.get(f"ns/{name}")
            if entry is None:
                if if_exists:
                    return
                raise NotFoundError("no such namespace", namespace=name)
            tables, _ = await self._kv.range(f"table/{name}/")
            if tables and not cascade:
                raise ConflictError("the namespace is not empty; add CASCADE", namespace=name, tables=len(tables))
            # A transaction names a hundred keys at most, so a large namespace is emptied first, a hundred at a time.
            rest = len(tables) >= TXN_KEYS_MAX
            doomed = tables[:TXN_KEYS_MAX] if rest else [entry, *tables]
            compares = {each.key: each.revision for each in doomed}
            if not (await self._kv.txn(compares, [Put(key, None) for key in compares])).succeeded:
                failures += 1
            elif not rest:
                return
        raise ConflictError("the namespace kept changing while it was dropped; try again", namespace=name)

    async def create(self, entry: TableEntry, *, if_not_exists: bool = False) -> bool:
        """Register a table; False if the name is taken already and may be.

        Raises `ConflictError` if the name is taken, `NotFoundError` without its namespace.
        """
        _check_name(entry.name, "table")
        key = f"table/{entry.namespace}/{entry.name}"
        compares = {key: 0}
        puts = [Put(key, _encode(entry))]
        for _ in range(_ATTEMPTS):
            if entry.namespace != DEFAULT_NAMESPACE:
                space = await self._kv.get(f"ns/{entry.namespace}")
                if space is None:
                    raise NotFoundError("no such namespace; CREATE SCHEMA makes one", namespace=entry.namespace)
                # Writing the namespace anew makes a concurrent drop lose its comparison.
                compares[space.key] = space.revision
                puts = [puts[0], Put(space.key, space.value)]
            if (await self._kv.txn(compares, puts)).succeeded:
                return True
            if await self._kv.get(key) is not None:
                if if_not_exists:
                    return False
                raise ConflictError("the table exists already", table=f"{entry.namespace}.{entry.name}")
        raise ConflictError("the namespace kept changing; try again", namespace=entry.namespace)

    async def drop(self, namespace: str, name: str, *, if_exists: bool = False) -> None:
        """Forget a table; its files stay where they are. Raises `NotFoundError`."""
        key = f"table/{namespace}/{name}"
        for _ in range(_ATTEMPTS):
            found = await self._kv.get(key)
            if found is None:
                if if_exists:
                    return
                raise NotFoundError("no such table", table=f"{namespace}.{name}")
            if (await self._kv.txn({key: found.revision}, [Put(key, None)])).succeeded:
                return
        raise ConflictError("the table kept changing while it was dropped; try again", table=f"{namespace}.{name}")

    async def get(self, namespace: str, name: str) -> TableEntry:
        """Return one table. Raises `NotFoundError`."""
        key = f"table/{namespace}/{name}"
        found = await self._kv.get(key)
        if found is None:
            raise NotFoundError("no such table", table=f"{namespace}.{name}")
        return _decode(key, found.value)

    async def change(
        self, namespace: str, name: str, table_id: str, alter: Callable[[TableEntry], TableEntry]
    ) -> TableEntry:
        """Replace the table's entry by what ``alter`` makes of it, atomically, and return the new one.

        ``alter`` may be called several times, and what it raises is raised. Raises `NotFoundError` if the table is no
        more, or another one has its name.
        """
        key = f"table/{namespace}/{name}"
        for attempt in range(_CHANGE_ATTEMPTS):
            found = await self._kv.get(key)
            entry = _decode(key, found.value) if found else None
            if found is None or entry is None or entry.id != table_id:
                raise NotFoundError("no such table", table=f"{namespace}.{name}")
            altered = alter(entry)
            if altered == entry:
                return altered
            put = Put(key, _encode(altered, found.value))
            if (await self._kv.txn({key: found.revision}, [put])).succeeded:
                return altered
            await asyncio.sleep(self._clock.uniform(0, min(0.002 * 2**attempt, 0.1)))
        raise ConflictError("the table's entry kept changing; try again", table=f"{namespace}.{name}")

    async def rename(self, old: tuple[str, str], new: tuple[str, str]) -> None:
        """Give a table another name. Raises `NotFoundError`, `ConflictError` if the new name is taken."""
        _check_name(new[1], "table")
        old_key, new_key = f"table/{old[0]}/{old[1]}", f"table/{new[0]}/{new[1]}"
        for _ in range(_ATTEMPTS):
            found = await self._kv.get(old_key)
            if found is None:
                raise NotFoundError("no such table", table=f"{old[0]}.{old[1]}")
            moved = replace(_decode(old_key, found.value), namespace=new[0], name=new[1])
            compares = {old_key: found.revision, new_key: 0}
            puts = [Put(old_key, None), Put(new_key, _encode(moved, found.value))]
            if new[0] != DEFAULT_NAMESPACE:
                space = await self._kv.get(f"ns/{new[0]}")
                if space is None:
                    raise NotFoundError("no such namespace; CREATE SCHEMA makes one", namespace=new[0])
                compares[space.key] = space.revision
                puts.append(Put(space.key, space.value))
            if (await self._kv.txn(compares, puts)).succeeded:
                return
            if await self._kv.get(new_key) is not None:
                raise ConflictError("the table exists already", table=f"{new[0]}.{new[1]}")
        raise ConflictError("the table kept changing while it was renamed; try again", table=f"{old[0]}.{old[1]}")

    async def all(self) -> list[TableEntry]:
        """Return every table, by namespace and name.

        Raises why, if one cannot be read: whoever takes a table that is not listed for dropped must know them all.
        """
        listed = await self.listed()
        for each in listed.refused:
            raise each.error
        return list(listed.entries)

    async def listed(self) -> Listed:
        """Return every table that can be read, and why others cannot."""
        found, _ = await self._kv.range("table/")
        entries: list[TableEntry] = []
        refused: list[Refused] = []
        for each in sorted(found, key=lambda each: each.key.split("/", 2)):
            try:
                entries.append(_decode(each.key, each.value))
            except FirnlineError as error:
                _, namespace, name = each.key.split("/", 2)
                refused.append(Refused(namespace, name, _id_of(each.value), error))
        return Listed(entries, refused)


def _check_name(name: str, kind: str) -> None:
    if not name or len(name) > NAME_LENGTH_MAX or "/" in name or "\x00" in name:
        raise InvalidError(f"a {kind} name has 1 to {NAME_LENGTH_MAX} characters and no slash", name=name[:80])


def _encode(entry: TableEntry, before: bytes = b"{}") -> bytes:
    """Return an entry's stored form, with what the form ``before`` has and this release does not know."""
    document: dict[str, Any] = {
        "v": 1, "id": entry.id, "format": entry.format, "location": entry.location,
        "created_ms": entry.created_ms, "options": dict(entry.options),
    }  # fmt: skip
    if entry.managed is not None:
        document |= {"v": 2, "managed": _encode_managed(entry.managed)}
    old = json.loads(before)
    if entry.managed is not None and "managed" in old:
        document["managed"] = {**_unknown(old["managed"], _MANAGED), **document["managed"]}
    return json.dumps({**_unknown(old, _FIELDS), **document}).encode()


_FIELDS = frozenset(("v", "id", "format", "location", "created_ms", "options", "managed"))
_MANAGED = frozenset(("table_id", "schema_id", "last_column_id", "primary_key", "partition_by", "order_by",
                      "properties", "schemas", "shard", "metadata_location"))  # fmt: skip
"""Fields of the forms that this release writes."""


def _unknown(document: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in known}


def _id_of(value: bytes) -> str | None:
    """Return the id in an entry that cannot be read otherwise; None if that cannot be either."""
    try:
        found = json.loads(value)["id"]
    except (ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) and found else None


def _encode_managed(managed: Managed) -> dict[str, Any]:
    spec = managed.spec
    return {
        "table_id": spec.table_id,
        "schema_id": spec.schema_id,
        "last_column_id": spec.last_column_id,
        "primary_key": list(spec.primary_key),
        "partition_by": [asdict(each) for each in spec.partition_by],
        "order_by": [asdict(each) for each in spec.order_by],
        "properties": dict(spec.properties),
        "schemas": {
            str(number): base64.b64encode(schema.serialize()).decode() for number, schema in managed.schemas.items()
        },
        "shard": managed.shard,
        "metadata_location": managed.metadata_location,
    }


def _decode_managed(document: Mapping[str, Any]) -> Managed:
    schemas = {
        int(number): pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))
        for number, text in document["schemas"].items()
    }
    spec = TableSpec(
        document["table_id"],
        schemas[document["schema_id"]],
        document["schema_id"],
        document["last_column_id"],
        tuple(document["primary_key"]),
        tuple(PartitionField(**each) for each in document["partition_by"]),
        tuple(SortField(**each) for each in document["order_by"]),
        document["properties"],
    )
    return Managed(spec, schemas, document["shard"], document["metadata_location"])


@lru_cache(maxsize=1024)
def _decode(key: str, value: bytes) -> TableEntry:
    _, namespace, name = key.split("/", 2)
    try:
        document = json.loads(value)
        if document["v"] not in (1, 2):
            raise UnsupportedError(
                "a newer Firnline wrote this catalog entry; upgrade", table=f"{namespace}.{name}", key=key,
                version=str(document["v"])[:20],
            )  # fmt: skip
        return TableEntry(
            namespace, name, document["id"], document["format"], document["location"],
            document["created_ms"], document["options"],
            _decode_managed(document["managed"]) if "managed" in document else None,
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise CorruptError("a catalog entry cannot be read", key=key, reason=repr(error)) from error
