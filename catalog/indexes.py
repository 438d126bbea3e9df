"""Indexes in the catalog: what they index, and which segments they have.

Keys: ``index/<table id>/<name>`` holds an index (JSON with a version), ``segment/<table id>/<segment id>`` a small
segment's bytes. A larger one is a blob of the lake, ``_firnline/index/<table id>/<segment id>``. Whatever is read is
compared with the checksum that the index's own entry names. ``index_skips/<table id>/<name>`` holds which files cannot
be covered, so that they are not looked at again; it is a hint that may be lost.

A small segment is written in the transaction that names it, so none is ever left over. A blob is written before; what
no index names is swept later.

An index belongs to a table's id, so it follows a table that is renamed and is not found by another of its name.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from itertools import groupby
from typing import Any, Literal

from catalog.kv import KV, TXN_KEYS_MAX, Entry, Put
from storage.clock import Clock
from storage.errors import ConflictError, CorruptError, InvalidError, NotFoundError

__all__ = [
    "INDEX_FOLDER",
    "INLINE_BYTES_MAX",
    "NAME_LENGTH_MAX",
    "PRIMARY",
    "IndexColumn",
    "IndexEntry",
    "IndexKind",
    "Indexes",
    "SegmentRef",
]

_log = logging.getLogger("firnline.catalog")
INDEX_FOLDER = "_firnline/index"
PRIMARY = "primary"
"""Name of the index of a primary key."""
NAME_LENGTH_MAX = 128

INLINE_BYTES_MAX = 64 << 10
"""A larger segment is a blob: etcd takes values up to 1.5 MiB, and every reader loads all of them."""

IndexKind = Literal["learned", "locator"]


@dataclass(frozen=True, slots=True)
class IndexColumn:
    """A column as it was when it was indexed.

    field_id : None where the format has none; then the column is known by its name in the files
    type : Arrow's own name of it, such as ``int64`` or ``decimal128(12, 2)``
    """

    name: str
    type: str
    field_id: int | None = None


@dataclass(frozen=True, slots=True)
class SegmentRef:
    """A segment of an index.

    n_files, n_keys : that it covers
    n_bytes : as stored
    checksum : of the stored bytes, sha256 in hex
    inline : whether the bytes are in the catalog
    error : of a learned model, rows; 0 for a locator
    """

    id: str
    n_files: int
    n_keys: int
    n_bytes: int
    checksum: str
    inline: bool
    error: int = 0


@dataclass(frozen=True)
class IndexEntry:
    """An index of a table.

    is_primary : of the primary key, made with the table and not dropped alone
    options : as given to CREATE INDEX
    version : of the table up to which its files were looked at, None before the first time
    skipped : why files that were looked at are not covered → how many
    request : idempotency key of the statement that made it, or ""
    revision : of the catalog's key; 0 if it is not stored yet
    """

    table_id: str
    name: str
    kind: IndexKind
    columns: tuple[IndexColumn, ...]
    created_ms: int
    is_primary: bool = False
    options: Mapping[str, str] = field(default_factory=dict)
    segments: tuple[SegmentRef, ...] = ()
    version: int | None = None
    skipped: Mapping[str, int] = field(default_factory=dict)
    request: str = ""
    revision: int = 0

    @property
    def n_keys(self) -> int:
        """Of all its segments; those of files that left the table meanwhile too."""
        return sum(each.n_keys for each in self.segments)

    @property
    def n_bytes(self) -> int:
        """Of all its segments, as stored."""
        return sum(each.n_bytes for each in self.segments)


class Indexes:
    """The catalog's view of indexes. Holds no state of its own."""

    def __init__(self, kv: KV, clock: Clock) -> None:
        self._kv, self._clock = kv, clock

    async def all(self) -> Mapping[str, tuple[IndexEntry, ...]]:
        """Return the indexes of every table by its id, in the order of their names.

        One that cannot be read is left out: without it a statement is slower, and its answer the same.
        """
        entries, _revision = await self._kv.range(_PREFIX)
        found = sorted(_readable(entries), key=lambda each: (each.table_id, each.name))
        return {table_id: tuple(each) for table_id, each in groupby(found, key=lambda entry: entry.table_id)}

    async def damaged(self) -> list[CorruptError]:
        """Return why entries that cannot be read cannot."""
        entries, _revision = await self._kv.range(_PREFIX)
        return [each for each in map(_of_entry, entries) if isinstance(each, CorruptError)]

    async def of(self, table_id: str) -> tuple[IndexEntry, ...]:
        """Return the indexes of one table, in the order of their names."""
        entries, _revision = await self._kv.range(f"{_PREFIX}{table_id}/")
        return tuple(sorted(_readable(entries), key=lambda each: each.name))

    async def create(self, entry: IndexEntry, *, if_not_exists: bool = False) -> bool:
        """Store a new index; False if one of this name exists already and may. Raises `ConflictError`."""
        if not entry.name or len(entry.name) > NAME_LENGTH_MAX or "/" in entry.name or "\x00" in entry.name:
            raise InvalidError(
                f"an index name has 1 to {NAME_LENGTH_MAX} characters and no slash", name=entry.name[:80]
            )
        key = _key(entry.table_id, entry.name)
        if (await self._kv.txn({key: 0}, [Put(key, _encode(entry))])).succeeded:
            return True
        if not if_not_exists:
            raise ConflictError("an index of this name exists already", index=entry.name)
        return False

    async def change(
        self,
        table_id: str,
        name: str,
        alter: Callable[[IndexEntry], IndexEntry],
        *,
        inline: Mapping[str, bytes] | None = None,
        skips: bytes | None = None,
    ) -> IndexEntry:
        """Bring one index forward by compare-and-swap. Raises `NotFoundError` if it is no more.

        Parameters
        ----------
        alter : may be called several times, and what it raises is raised
        inline : segment id → bytes, stored in the same transaction; segments that the index has no more go in it
        skips : what `skips` is to return from now on; None leaves it
        """
        key = _key(table_id, name)
        for attempt in range(_ATTEMPTS):
            found = await self._kv.get(key)
            if found is None:
                raise NotFoundError("no such index; it was dropped", index=name)
            old = _decode(found)
            new = replace(alter(old), revision=old.revision)
            puts = [Put(_segment_key(table_id, each), data) for each, data in (inline or {}).items()]
            if new == old and not puts and skips is None:
                return old
            puts += [Put(_segment_key(table_id, each), None) for each in _gone(old, new)]
            if skips is not None:
                puts.append(Put(_skips_key(table_id, name), skips))
            puts = [Put(key, _encode(new, found.value)), *puts[: TXN_KEYS_MAX - 1]]
            done = await self._kv.txn({key: found.revision}, puts)
            if done.succeeded:
                return replace(new, revision=done.revision)
            await asyncio.sleep(self._clock.uniform(0, min(0.002 * 2**attempt, 0.1)))
        raise ConflictError("the index's entry kept changing; try again", index=name)

    async def drop(self, table_id: str, name: str | None = None) -> tuple[IndexEntry, ...]:
        """Remove one index, or all of a table, and return what was removed; its blobs stay for a sweep."""
        removed: list[IndexEntry] = []
        names = [name] if name is not None else await self._names(table_id)
        for each in names:
            entry = await self._drop(table_id, each)
            if entry is not None:
                removed.append(entry)
        return tuple(removed)

    async def _names(self, table_id: str) -> list[str]:
        """Return the names of a table's indexes, of those too that cannot be read."""
        prefix = f"{_PREFIX}{table_id}/"
        entries, _revision = await self._kv.range(prefix)
        return [entry.key.removeprefix(prefix) for entry in entries]

    async def _drop(self, table_id: str, name: str) -> IndexEntry | None:
        key = _key(table_id, name)
        for attempt in range(_ATTEMPTS):
            found = await self._kv.get(key)
            if found is None:
                return None
            try:
                inline = [each.id for each in _decode(found).segments if each.inline]
            except CorruptError:
                inline = []
            keys = [key, _skips_key(table_id, name), *(_segment_key(table_id, each) for each in inline)]
            puts = [Put(each, None) for each in keys[:TXN_KEYS_MAX]]
            if (await self._kv.txn({key: found.revision}, puts)).succeeded:
                return _decode_or_bare(found)
            await asyncio.sleep(self._clock.uniform(0, min(0.002 * 2**attempt, 0.1)))
        raise ConflictError("the index's entry kept changing; try again", index=name)

    async def skips(self, table_id: str, name: str) -> bytes | None:
        """Return what `change` was given last."""
        found = await self._kv.get(_skips_key(table_id, name))
        return found.value if found is not None else None

    async def inline(self, table_id: str, ids: Collection[str]) -> dict[str, bytes]:
        """Return the bytes of small segments, in one request; those that are no more are left out."""
        if len(ids) == 1:
            (only,) = ids
            found = await self._kv.get(_segment_key(table_id, only))
            return {only: found.value} if found is not None else {}
        entries, _revision = await self._kv.range(_segment_key(table_id, ""))
        by_id = {entry.key.rpartition("/")[2]: entry.value for entry in entries}
        return {each: by_id[each] for each in ids if each in by_id}


_PREFIX = "index/"
_VERSION = 1
_ATTEMPTS = 30


def _key(table_id: str, name: str) -> str:
    return f"{_PREFIX}{table_id}/{name}"


def _segment_key(table_id: str, segment_id: str) -> str:
    return f"segment/{table_id}/{segment_id}"


def _skips_key(table_id: str, name: str) -> str:
    return f"index_skips/{table_id}/{name}"


def _gone(old: IndexEntry, new: IndexEntry) -> list[str]:
    kept = {each.id for each in new.segments}
    return [each.id for each in old.segments if each.inline and each.id not in kept]


def _encode(entry: IndexEntry, before: bytes = b"{}") -> bytes:
    """Return an index's stored form, with the fields that ``before`` has from a newer release."""
    document: dict[str, Any] = {
        "v": _VERSION, "kind": entry.kind, "columns": [asdict(each) for each in entry.columns],
        "created_ms": entry.created_ms, "is_primary": entry.is_primary, "options": dict(entry.options),
        "segments": [asdict(each) for each in entry.segments], "version": entry.version,
        "skipped": dict(entry.skipped), "request": entry.request,
    }  # fmt: skip
    return json.dumps({**json.loads(before), **document}).encode()


def _decode(entry: Entry) -> IndexEntry:
    found = _of_entry(entry)
    if isinstance(found, CorruptError):
        raise CorruptError(found.message, **found.facts)
    return found


def _readable(entries: Sequence[Entry]) -> list[IndexEntry]:
    return [each for each in map(_of_entry, entries) if isinstance(each, IndexEntry)]


def _of_entry(entry: Entry) -> IndexEntry | CorruptError:
    return _decoded(entry.key, entry.value, entry.revision)


def _decode_or_bare(entry: Entry) -> IndexEntry:
    """An entry that cannot be read can be dropped all the same."""
    try:
        return _decode(entry)
    except CorruptError:
        _prefix, table_id, name = entry.key.split("/", 2)
        return IndexEntry(table_id, name, "locator", (), 0)


@lru_cache(maxsize=4096)
def _decoded(key: str, value: bytes, revision: int) -> IndexEntry | CorruptError:
    """Remembered, so that each state of an entry is decoded once, and complained of once."""
    _prefix, table_id, name = key.split("/", 2)
    try:
        document = json.loads(value)
        if document["v"] != _VERSION:
            return _complaint("a newer Firnline wrote this index's entry; upgrade", key, f"version {document['v']}")
        return IndexEntry(
            table_id, name, document["kind"], tuple(IndexColumn(**each) for each in document["columns"]),
            document["created_ms"], document["is_primary"], document["options"],
            tuple(SegmentRef(**each) for each in document["segments"]), document["version"], document["skipped"],
            document["request"], revision,
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return _complaint("an index's entry cannot be read; drop the index and create it anew", key, repr(error))


def _complaint(message: str, key: str, reason: str) -> CorruptError:
    error = CorruptError(message, key=key, reason=reason)
    _log.warning("%s", error)
    return error
