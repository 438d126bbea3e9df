"""The part of the catalog that a job on one table needs, as values that travel in a task.

A worker has no access to the catalog. What a task brings is what the coordinator saw; nothing is written back.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any

from catalog.kv import KV, Put
from catalog.kv.memory import MemoryKV
from catalog.tables import TableEntry
from storage.clock import Clock
from storage.errors import InvalidError

__all__ = ["catalog_part", "open_part"]

_BY_TABLE = ("index/", "segment/")


async def catalog_part(kv: KV, entry: TableEntry) -> dict[str, str]:
    """Return the catalog's entries of a table and its indexes, small segments included: key → base64."""
    key = f"table/{entry.namespace}/{entry.name}"
    found = await kv.get(key)
    entries = [found] if found is not None else []
    for prefix in _BY_TABLE:
        entries += (await kv.range(f"{prefix}{entry.id}/"))[0]
    return {each.key: b64encode(each.value).decode("ascii") for each in entries}


async def open_part(part: Any, clock: Clock) -> KV:
    """Return a catalog of its own that holds the part. Raises `InvalidError` if it is none."""
    kv = MemoryKV(clock)
    if not isinstance(part, Mapping):
        raise InvalidError("the task brings no part of the catalog")
    for key, value in part.items():
        try:
            await kv.txn({}, [Put(key, b64decode(value, validate=True))])
        except (TypeError, ValueError):
            raise InvalidError("the task's part of the catalog is damaged", key=str(key)[:200]) from None
    return kv
