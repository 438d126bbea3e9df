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
from storage.tables.iceberg.subset import restricted
from storage.tables.snapshot import At, Snapshot

__all__ = ["SnapshotChanges", "TableCommit", "changed_snapshots", "changes_of", "find_fact", "history"]

_OPERATION = "firnline.operation"


@dataclass(frozen=True)
class TableCommit:
    """One snapshot in a table's history.

    operation : our own word for it, or Iceberg's for another writer's commit
    engine : who wrote it, as far as it said so
    facts : the snapshot's whole summary
    data_change : False if the rows are the same as before (small files merged)
    """

    version: int
    parent: int | None
    timestamp_ms: int
    operation: str
    engine: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    n_files_added: int = 0
    n_files_removed: int = 0
    n_rows_added: int = 0
    n_rows_removed: int = 0
    data_change: bool = True


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
) -> int | None:
    """Return the newest snapshot whose facts hold ``name`` with ``value``, among the last ``snapshots_max``."""
    commits = await history(stores, metadata_location, snapshots_max)
    return next((commit.version for commit in commits if commit.facts.get(name) == value), None)


async def changes_of(
    stores: Stores, metadata_location: str, version: int, known: Snapshot | None = None
) -> SnapshotChanges:
    """Return what snapshot ``version`` did.

    Raises `NotFoundError` if it, or the snapshot before it, has expired.
    """
    document = await _document(stores, metadata_location)
    commit = next((each for each in _commits(document) if each.version == version), None)
    if commit is None:
        raise NotFoundError("the table has no such snapshot; it may have expired", version=version)
    before = None
    if commit.parent is not None:
        before = await load(stores, metadata_location, At(version=commit.parent), known)
    after = await load(stores, metadata_location, At(version=version), before or known)
    old, new = _deletes(before), _deletes(after)
    return SnapshotChanges(
        commit=commit,
        added=tuple(path for path in new if path not in old),
        removed=tuple(path for path in old if path not in new),
        masked=tuple(path for path in new if path in old and new[path] != old[path]),
        data_change=commit.data_change,
        before=before,
        after=after,
    )


async def changed_snapshots(
    stores: Stores, metadata_location: str, version: int, known: Snapshot | None = None
) -> tuple[Snapshot | None, Snapshot]:
    """Return (before, after): the files that ``version`` removed as they were, and those that it added.

    A file of which it deleted rows is in both. Their rows, deletes applied, tell the rows that the version changed:
    what only one side has was deleted or inserted. None for the side before the table's first snapshot; both have no
    files if the rows stayed the same. ``known`` is of any version of the table and saves reading.
    """
    changes = await changes_of(stores, metadata_location, version, known)
    old = {*changes.removed, *changes.masked} if changes.data_change else set()
    new = {*changes.added, *changes.masked} if changes.data_change else set()
    before = None if changes.before is None else _only(changes.before, old, f"removed-by-{version}")
    return before, _only(changes.after, new, f"added-by-{version}")


def _only(snapshot: Snapshot, paths: set[str], tag: str) -> Snapshot:
    return restricted(snapshot, [row for row, path in enumerate(snapshot.files.paths) if path in paths], tag)


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
            engine=facts.get("engine-name") or facts.get("app-id", ""),
            facts=facts,
            n_files_added=_count(facts, "added-data-files"),
            n_files_removed=_count(facts, "deleted-data-files"),
            n_rows_added=_count(facts, "added-records"),
            n_rows_removed=_count(facts, "deleted-records"),
            data_change=facts.get("operation") != "replace",
        )


def _count(facts: Mapping[str, str], name: str) -> int:
    text = facts.get(name, "0")
    return int(text) if text.isdigit() else 0


def _lineage(document: Mapping[str, Any]) -> Iterator[TableCommit]:
    known = {commit.version: commit for commit in _commits(document)}
    current = known.pop(document.get("current-snapshot-id") or -1, None)
    while current is not None:
        yield current
        current = known.pop(current.parent, None) if current.parent is not None else None
