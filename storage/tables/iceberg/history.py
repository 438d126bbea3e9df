"""What happened to a table: its snapshots with their facts, and which files a snapshot added and removed.

Read from the metadata file alone where possible, and without pyiceberg: statements ask for it.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from storage.errors import CorruptError, NotFoundError
from storage.stores import Stores
from storage.tables.iceberg.reader import load
from storage.tables.snapshot import At, Snapshot

__all__ = ["SnapshotChanges", "TableCommit", "changes_of", "find_fact", "history"]

_OPERATION = "firnline.operation"


@dataclass(frozen=True)
class TableCommit:
    """One snapshot in a table's history.

    operation : our own word for it, or Iceberg's for another writer's commit
    facts : the snapshot's whole summary
    """

    version: int
    parent: int | None
    timestamp_ms: int
    operation: str
    facts: Mapping[str, str] = field(default_factory=dict)

    def count(self, name: str) -> int:
        """Return a count of the summary, such as ``added-records``; 0 where it is not told."""
        text = self.facts.get(name, "0")
        return int(text) if text.isdigit() else 0


@dataclass(frozen=True)
class SnapshotChanges:
    """What one snapshot did to the files.

    added, removed : locations of data files
    masked : locations of files that are in both, of which other rows are deleted
    data_change : False if the rows are the same as before (small files merged)
    before, after : the snapshots themselves; ``before`` is None for the first
    """

    commit: TableCommit
    added: tuple[str, ...]
    removed: tuple[str, ...]
    masked: tuple[str, ...]
    data_change: bool
    before: Snapshot | None
    after: Snapshot


async def history(stores: Stores, metadata_location: str, limit: int = 0) -> list[TableCommit]:
    """Return the snapshots that led to the current one, newest first; 0 means all that have not expired."""
    document = await _document(stores, metadata_location)
    commits = []
    for commit in _lineage(document):
        commits.append(commit)
        if len(commits) == limit:
            break
    return commits


async def find_fact(
    stores: Stores, metadata_location: str, name: str, value: str, snapshots_max: int = 1000
) -> TableCommit | None:
    """Return the newest snapshot whose facts hold ``name`` with ``value``, among the last ``snapshots_max``."""
    for commit in await history(stores, metadata_location, snapshots_max):
        if commit.facts.get(name) == value:
            return commit
    return None


async def changes_of(stores: Stores, metadata_location: str, version: int) -> SnapshotChanges:
    """Return what snapshot ``version`` did.

    Raises `NotFoundError` if it, or the snapshot before it, has expired.
    """
    document = await _document(stores, metadata_location)
    commit = next((each for each in _commits(document) if each.version == version), None)
    if commit is None:
        raise NotFoundError("the table has no such snapshot; it may have expired", version=version)
    before = None
    if commit.parent is not None:
        before = await load(stores, metadata_location, At(version=commit.parent), None)
    after = await load(stores, metadata_location, At(version=version), before)
    old, new = _deletes(before), _deletes(after)
    return SnapshotChanges(
        commit=commit,
        added=tuple(path for path in new if path not in old),
        removed=tuple(path for path in old if path not in new),
        masked=tuple(path for path in new if path in old and new[path] != old[path]),
        data_change=commit.facts.get("operation") != "replace",
        before=before,
        after=after,
    )


def _deletes(snapshot: Snapshot | None) -> dict[str, Any]:
    """Return the location of each data file, and where its delete information is."""
    if snapshot is None:
        return {}
    files = snapshot.files
    return {path: files.deletes.get(index) for index, path in enumerate(files.paths)}


async def _document(stores: Stores, metadata_location: str) -> dict[str, Any]:
    data = await stores.get(metadata_location)
    try:
        document: dict[str, Any] = json.loads(zlib.decompress(data, 31) if data[:2] == b"\x1f\x8b" else data)
    except (ValueError, zlib.error) as error:
        raise CorruptError(
            "not a readable iceberg metadata file", file=metadata_location, reason=repr(error)
        ) from error
    return document


def _commits(document: Mapping[str, Any]) -> Iterator[TableCommit]:
    for each in document.get("snapshots") or ():
        facts = {str(key): str(value) for key, value in (each.get("summary") or {}).items()}
        yield TableCommit(
            version=int(each["snapshot-id"]),
            parent=each.get("parent-snapshot-id"),
            timestamp_ms=int(each["timestamp-ms"]),
            operation=facts.get(_OPERATION) or facts.get("operation", ""),
            facts=facts,
        )


def _lineage(document: Mapping[str, Any]) -> Iterator[TableCommit]:
    known = {commit.version: commit for commit in _commits(document)}
    current = known.pop(document.get("current-snapshot-id") or -1, None)
    while current is not None:
        yield current
        current = known.pop(current.parent, None) if current.parent is not None else None
