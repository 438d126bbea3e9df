"""Properties of namespaces: strings beside a namespace's own entry (`catalog.tables`)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from catalog.kv import KV, Put
from catalog.tables import DEFAULT_NAMESPACE
from storage.errors import ConflictError, CorruptError, NotFoundError

__all__ = ["Changed", "change_properties", "namespace_properties"]

_ATTEMPTS = 10


@dataclass(frozen=True, slots=True)
class Changed:
    """Names of properties that were removed and set, and of those to be removed that were not there."""

    removed: tuple[str, ...]
    updated: tuple[str, ...]
    missing: tuple[str, ...]


async def namespace_properties(kv: KV, name: str) -> dict[str, str]:
    """Return the properties of a namespace. Raises `NotFoundError`."""
    document, _revision = await _read(kv, name)
    return dict(document.get("properties") or {})


async def change_properties(
    kv: KV, name: str, removals: Iterable[str] = (), updates: Mapping[str, str] | None = None
) -> Changed:
    """Remove and set properties, in one transaction. Raises `NotFoundError`."""
    updates, removals = updates or {}, sorted(set(removals))
    for _ in range(_ATTEMPTS):
        document, revision = await _read(kv, name)
        before = dict(document.get("properties") or {})
        after = {key: value for key, value in before.items() if key not in removals} | dict(updates)
        changed = Changed(
            tuple(key for key in removals if key in before),
            tuple(updates),
            tuple(key for key in removals if key not in before),
        )
        if after == before:
            return changed
        value = json.dumps(document | {"properties": after}).encode()
        if (await kv.txn({f"ns/{name}": revision}, [Put(f"ns/{name}", value)])).succeeded:
            return changed
    raise ConflictError("the namespace kept changing; try again", namespace=name)


async def _read(kv: KV, name: str) -> tuple[dict[str, Any], int]:
    entry = await kv.get(f"ns/{name}")
    if entry is None:
        if name != DEFAULT_NAMESPACE:
            raise NotFoundError("no such namespace", namespace=name)
        # It exists without an entry of its own.
        return {"v": 1, "created_ms": 0}, 0
    try:
        document: dict[str, Any] = json.loads(entry.value)
        if document["v"] != 1:
            raise CorruptError("a newer Firnline wrote this catalog entry; upgrade", key=entry.key)
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptError("a catalog entry cannot be read", key=entry.key, reason=repr(error)) from error
    return document, entry.revision
