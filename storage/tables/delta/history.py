"""What the log tells of the past: commits, the files that one changed, tombstones, and where a fact was committed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from storage.errors import NotFoundError
from storage.stores import Stores
from storage.tables.delta.actions import FileKey
from storage.tables.delta.load import load
from storage.tables.delta.log import Listing, list_log
from storage.tables.delta.raw_log import key_of, read_checkpoint, read_commits
from storage.tables.delta.snapshot import DeltaSnapshot, build_snapshot
from storage.tables.delta.stats import FileStats
from storage.tables.delta.vectors import DeletionVector, vector_location
from storage.tables.snapshot import At, Snapshot

__all__ = [
    "CommitFiles",
    "LoggedCommit",
    "Tombstone",
    "changed_snapshots",
    "commit_actions",
    "find_fact",
    "history",
    "tombstones",
]


@dataclass(frozen=True)
class LoggedCommit:
    """One commit. Files and rows are None where its writer did not say.

    operation : as its writer calls it, such as ``FOLD`` or ``WRITE``; "" if it said nothing
    engine : who wrote it
    facts : of `storage.tables.write.Change`
    n_rows_added : physical rows of the added files
    """

    version: int
    timestamp_ms: int
    operation: str
    engine: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    n_files_added: int = 0
    n_files_removed: int = 0
    n_rows_added: int | None = None
    transactions: Mapping[str, int] = field(default_factory=dict)
    data_change: bool = True


@dataclass(frozen=True)
class CommitFiles:
    """The files that one commit added and removed with a change of data (merging small files is none).

    has_feed : it came with files of Delta's own change data feed, which tell its changed rows more exactly
    """

    version: int
    timestamp_ms: int
    operation: str
    added: frozenset[FileKey]
    removed: frozenset[FileKey]
    has_feed: bool = False


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A file that was removed. ``deleted_ms`` is 0 where its writer did not say."""

    location: str
    deleted_ms: int


async def history(stores: Stores, location: str, limit: int, *, before: int | None = None) -> list[LoggedCommit]:
    """Return up to ``limit`` commits, newest first, of versions below ``before``. Raises `NotFoundError`: no table."""
    listing = await _list(stores, location)
    versions = sorted((v for v in listing.commits if before is None or v < before), reverse=True)[:limit]
    commits = await read_commits(stores, location, versions)
    times_ms = listing.times_ms()
    return [_logged(version, times_ms[version], actions) for version, actions in zip(versions, commits, strict=True)]


async def commit_actions(stores: Stores, location: str, version: int) -> CommitFiles:
    """Return what one version did to the table's files. Raises `NotFoundError` if its commit is gone."""
    listing = await list_log(stores, location, version)
    if version not in listing.commits:
        raise NotFoundError("the delta table has no such commit (any more)", table=location, version=version)
    (actions,) = await read_commits(stores, location, [version])
    logged = _logged(version, listing.times_ms()[version], actions)
    keys: dict[str, set[FileKey]] = {"add": set(), "remove": set()}
    for action in actions:
        for kind, found in keys.items():
            if kind in action and action[kind].get("dataChange", True):
                found.add(key_of(location, action[kind]))
    return CommitFiles(
        version,
        logged.timestamp_ms,
        logged.operation,
        frozenset(keys["add"]),
        frozenset(keys["remove"]),
        any("cdc" in action for action in actions),
    )


async def changed_snapshots(
    stores: Stores, location: str, version: int, known: Snapshot | None = None
) -> tuple[Snapshot | None, Snapshot]:
    """Return (before, after): the files that ``version`` removed as they were, and those that it added.

    Their rows, deletion vectors applied, tell the rows that the version changed: what only one side has was deleted
    or inserted. None for the side before the table's first version. ``known`` of an earlier version saves reading.
    """
    changed = await commit_actions(stores, location, version)
    older = await load(stores, location, At(version=version - 1), known) if version else None
    newer = await load(stores, location, At(version=version), older)
    before = None if older is None else _restricted(older, changed.removed)
    return before, _restricted(newer, changed.added)


def _restricted(snapshot: Snapshot, keys: frozenset[FileKey]) -> Snapshot:
    assert isinstance(snapshot, DeltaSnapshot)
    batches = tuple(kept for batch in snapshot.state.batches if len(kept := batch.only(keys)))
    return build_snapshot(snapshot.location, replace(snapshot.state, batches=batches))


async def find_fact(stores: Stores, location: str, name: str, value: str, commits_max: int = 100) -> int | None:
    """Return the version whose commit has this fact, among the last ``commits_max``; None if none has."""
    for commit in await history(stores, location, commits_max):
        if commit.facts.get(name) == value:
            return commit.version
    return None


async def tombstones(stores: Stores, location: str) -> list[Tombstone]:
    """Return the removed files that the log still remembers, their deletion vectors' files too.

    A file that was added again since is not among them. Checkpoints forget tombstones that are past the table's
    retention (`storage.tables.delta.write_checkpoint.tombstone_retention_ms`), and so may their files be.
    """
    listing = await _list(stores, location)
    segment = listing.segment(listing.latest or 0)
    found: dict[FileKey, dict[str, Any] | None] = {}
    if segment.checkpoint is not None:
        base = await read_checkpoint(stores, segment.checkpoint)
        for body in (row for array in base.removes for row in array.to_pylist()):
            found[key_of(location, body)] = body
    for actions in await read_commits(stores, location, segment.commits):
        for action in actions:
            for kind in ("add", "remove"):
                if kind in action:
                    found[key_of(location, action[kind])] = action[kind] if kind == "remove" else None
    return [
        Tombstone(where, int(body.get("deletionTimestamp") or 0))
        for key, body in found.items()
        if body is not None
        for where in _files_of(location, key, body)
    ]


def _files_of(table: str, key: FileKey, body: Mapping[str, Any]) -> list[str]:
    vector = body.get("deletionVector") or {}
    if vector.get("storageType") not in ("u", "p"):
        return [key.location]
    stored = DeletionVector(vector["storageType"], vector["pathOrInlineDv"], vector.get("offset"), 0, 0)
    return [key.location, vector_location(table, stored)]


async def _list(stores: Stores, location: str) -> Listing:
    listing = await list_log(stores, location)
    if listing.latest is None:
        raise NotFoundError("there is no delta table here: the folder has no _delta_log", table=location)
    return listing


def _logged(version: int, modified_ms: int, actions: Sequence[Mapping[str, Any]]) -> LoggedCommit:
    info: Mapping[str, Any] = next((action["commitInfo"] for action in actions if "commitInfo" in action), {})
    adds = [action["add"] for action in actions if "add" in action]
    removes = [action["remove"] for action in actions if "remove" in action]
    facts = info.get("firnline")
    stamp = info.get("inCommitTimestamp")
    changes = [body.get("dataChange", True) for body in (*adds, *removes)]
    return LoggedCommit(
        version,
        stamp if isinstance(stamp, int) else modified_ms,
        str(info.get("operation") or ""),
        str(info.get("engineInfo") or ""),
        {str(name): str(value) for name, value in facts.items()} if isinstance(facts, dict) else {},
        len(adds),
        len(removes),
        _n_rows(adds),
        {action["txn"]["appId"]: action["txn"]["version"] for action in actions if "txn" in action},
        any(changes) or not changes,
    )


def _n_rows(adds: Sequence[Mapping[str, Any]]) -> int | None:
    texts = [add.get("stats") if isinstance(add.get("stats"), str) else None for add in adds]
    counts = FileStats(pa.array(texts, pa.string()), None, len(texts)).n_rows
    return None if (counts < 0).any() else int(counts.sum())
