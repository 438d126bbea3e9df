"""Namespaces and tables, over any `KV`.

Keys: ``ns/<namespace>`` holds a namespace, ``table/<namespace>/<name>`` a table; values are JSON with a version. A
table can only be created in the transaction that sees its namespace, and a namespace only dropped while it is empty.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from catalog.kv import KV, TXN_KEYS_MAX, Put
from storage.clock import Clock
from storage.errors import ConflictError, CorruptError, InvalidError, NotFoundError

__all__ = ["DEFAULT_NAMESPACE", "TableEntry", "Tables"]

DEFAULT_NAMESPACE = "default"
RESERVED = ("information_schema", "scans", "firnline")
NAME_LENGTH_MAX = 255
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class TableEntry:
    """An external table: where it lies and in which format. ``options`` are those of its CREATE statement."""

    namespace: str
    name: str
    id: str
    format: str
    location: str
    created_ms: int
    options: Mapping[str, str] = field(default_factory=dict)


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

    async def all(self) -> list[TableEntry]:
        """Return every table, by namespace and name."""
        entries, _ = await self._kv.range("table/")
        return sorted((_decode(e.key, e.value) for e in entries), key=lambda table: (table.namespace, table.name))


def _check_name(name: str, kind: str) -> None:
    if not name or len(name) > NAME_LENGTH_MAX or "/" in name or "\x00" in name:
        raise InvalidError(f"a {kind} name has 1 to {NAME_LENGTH_MAX} characters and no slash", name=name[:80])


def _encode(entry: TableEntry) -> bytes:
    document: dict[str, Any] = {
        "v": 1, "id": entry.id, "format": entry.format, "location": entry.location,
        "created_ms": entry.created_ms, "options": dict(entry.options),
    }  # fmt: skip
    return json.dumps(document).encode()


def _decode(key: str, value: bytes) -> TableEntry:
    _, namespace, name = key.split("/", 2)
    try:
        document = json.loads(value)
        if document["v"] != 1:
            raise CorruptError("a newer Firnline wrote this catalog entry; upgrade", key=key, version=document["v"])
        return TableEntry(
            namespace, name, document["id"], document["format"], document["location"],
            document["created_ms"], document["options"],
        )  # fmt: skip
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptError("a catalog entry cannot be read", key=key, reason=repr(error)) from error
