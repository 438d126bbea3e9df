"""Indexes in the catalog: what they index, and which segments they have.

Keys: ``index/<table id>/<name>`` holds an index (JSON with a version), ``segment/<table id>/<segment id>`` a small
segment's bytes. A larger one is a blob of the lake, ``_firnline/index/<table id>/<segment id>``. Whatever is read is
compared with the checksum that the index's own entry names.

An index belongs to a table's id, so it follows a table that is renamed and is not found by another of its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from catalog.kv import KV
from storage.clock import Clock

__all__ = ["INLINE_BYTES_MAX", "IndexColumn", "IndexEntry", "IndexKind", "Indexes", "SegmentRef"]

INLINE_BYTES_MAX = 64 << 10
"""A larger segment is a blob: etcd takes values up to 1.5 MiB, and every reader loads all of them."""

IndexKind = Literal["learned", "locator"]


@dataclass(frozen=True, slots=True)
class IndexColumn:
    """A column as it was when it was indexed.

    field_id : None where the format has none; then the column is known by its name
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
    revision: int = 0


class Indexes:
    """The catalog's view of indexes. Holds no state of its own."""

    def __init__(self, kv: KV, clock: Clock) -> None:
        self._kv, self._clock = kv, clock

    async def all(self) -> Mapping[str, tuple[IndexEntry, ...]]:
        """Return the indexes of every table by its id, in the order of their names."""
        raise NotImplementedError

    async def of(self, table_id: str) -> tuple[IndexEntry, ...]:
        """Return the indexes of one table, in the order of their names."""
        raise NotImplementedError

    async def create(self, entry: IndexEntry, *, if_not_exists: bool = False) -> bool:
        """Store a new index; False if one of this name exists already and may. Raises `ConflictError`."""
        raise NotImplementedError

    async def change(self, table_id: str, name: str, alter: Callable[[IndexEntry], IndexEntry]) -> IndexEntry:
        """Bring one index forward by compare-and-swap. Raises `NotFoundError` if it is no more."""
        raise NotImplementedError

    async def drop(self, table_id: str, name: str | None = None) -> tuple[IndexEntry, ...]:
        """Remove one index, or all of a table, and return what was removed; its blobs stay for a sweep."""
        raise NotImplementedError
