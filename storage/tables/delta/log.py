"""Which files of ``_delta_log`` make up a version.

Names are ``{version:020}.json`` for commits and, for checkpoints, ``….checkpoint.parquet`` (classic),
``….checkpoint.{part:010}.{parts:010}.parquet`` (multi-part) or ``….checkpoint.{uuid}.json|parquet`` (v2).
Compacted logs, checksums and everything under ``_`` are not needed to read a table and are skipped.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import cast

from storage.blobs import BlobMeta
from storage.errors import CorruptError, NotFoundError
from storage.stores import Stores

__all__ = ["Checkpoint", "Listing", "Segment", "commit_location", "last_checkpoint_version", "list_log", "log_folder"]

_COMMIT = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint(?:\.(\d{10})\.(\d{10})|\.([^./]+))?\.(parquet|json)")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One complete checkpoint: the locations of its parts (of its top-level file for v2), in order."""

    version: int
    locations: tuple[str, ...]
    modified_ms: int
    etag: str


@dataclass(frozen=True, slots=True)
class Segment:
    """What has to be read for ``version``: a checkpoint, if there is one, and the commits after it in order."""

    version: int
    checkpoint: Checkpoint | None
    commits: tuple[int, ...]


@dataclass(frozen=True)
class Listing:
    """What the log folder of ``table`` holds from version ``start`` on."""

    table: str
    start: int
    commits: dict[int, BlobMeta] = field(default_factory=dict)
    checkpoints: dict[int, Checkpoint] = field(default_factory=dict)

    @property
    def latest(self) -> int | None:
        """The newest version, or None when there is none."""
        return max((*self.commits, *self.checkpoints), default=None)

    @property
    def earliest(self) -> int:
        """The oldest version that can still be read. Raises `CorruptError` if the log lacks its beginning."""
        if 0 in self.commits:
            return 0
        if not self.checkpoints:
            raise _gap(self.table, 0)
        return min(self.checkpoints)

    def segment(self, version: int) -> Segment:
        """Return what has to be read for ``version``. Raises `CorruptError` naming a missing version."""
        base = max((v for v in self.checkpoints if v <= version), default=None)
        commits = range(0 if base is None else base + 1, version + 1)
        for needed in commits:
            if needed not in self.commits:
                raise _gap(self.table, needed)
        return Segment(version, None if base is None else self.checkpoints[base], tuple(commits))

    def etag(self, version: int) -> str:
        """Etag of the commit that made ``version`` (of its checkpoint where the commit is gone); "" if unknown."""
        meta = self.commits.get(version) or self.checkpoints.get(version)
        return meta.etag if meta else ""

    def times_ms(self) -> dict[int, int]:
        """When each listed commit was written, moved up where it would not be later than the commit before."""
        times: dict[int, int] = {}
        previous = -1
        for version in sorted(self.commits):
            times[version] = previous = max(self.commits[version].modified_ms, previous + 1)
        return times

    def time_ms(self, version: int) -> int:
        """When ``version`` was made: by its commit, else by its checkpoint; 0 if unknown.

        Exact if the listing begins with the log, for commits before it may be younger by their file times.
        """
        checkpoint = self.checkpoints.get(version)
        return self.times_ms().get(version, checkpoint.modified_ms if checkpoint else 0)


def log_folder(table: str) -> str:
    """Location of the log of ``table``, ending in a slash."""
    return f"{table.rstrip('/')}/_delta_log/"


def commit_location(table: str, version: int) -> str:
    """Location of the commit that makes ``version``."""
    return f"{log_folder(table)}{version:020}.json"


async def list_log(stores: Stores, table: str, start: int = 0) -> Listing:
    """List the log from version ``start`` on: one listing, cut off behind the last versioned file."""
    folder = log_folder(table)
    commits: dict[int, BlobMeta] = {}
    parts: dict[tuple[int, int, str], list[tuple[int, str, BlobMeta]]] = {}
    # Names that are longer than "{start:020}" sort behind it: the listing begins with this very version.
    found = cast("AsyncGenerator[tuple[str, BlobMeta]]", stores.list(folder, start_after=f"{folder}{start:020}"))
    async with aclosing(found) as entries:
        async for location, meta in entries:
            name = location.removeprefix(folder)
            if name > ":":
                break
            if match := _COMMIT.fullmatch(name):
                commits[int(match[1])] = meta
            elif (match := _CHECKPOINT.fullmatch(name)) and meta.size > 0:
                version, part, n_parts, uid, _suffix = match.groups()
                key = (int(version), int(n_parts or 1), uid or "")
                parts.setdefault(key, []).append((int(part or 1), location, meta))
    return Listing(table, start, commits, _complete(parts))


def _complete(parts: dict[tuple[int, int, str], list[tuple[int, str, BlobMeta]]]) -> dict[int, Checkpoint]:
    """Keep the checkpoints of which every part is there; of several for one version the one in fewest files."""
    found: dict[int, Checkpoint] = {}
    for (version, n_parts, _uid), files in sorted(parts.items()):
        files.sort(key=lambda file: file[0])
        if version not in found and [number for number, _, _ in files] == list(range(1, n_parts + 1)):
            newest = max(files, key=lambda file: file[2].modified_ms)[2]
            found[version] = Checkpoint(
                version, tuple(location for _, location, _ in files), newest.modified_ms, newest.etag
            )
    return found


async def last_checkpoint_version(stores: Stores, table: str) -> int | None:
    """Return the version that ``_last_checkpoint`` names: a hint only, None when it is absent or unreadable."""
    try:
        hint = json.loads(await stores.get(log_folder(table) + "_last_checkpoint"))
    except (NotFoundError, ValueError, RecursionError):
        return None
    version = hint.get("version") if isinstance(hint, dict) else None
    return version if isinstance(version, int) and not isinstance(version, bool) and 0 <= version < 1 << 63 else None


def _gap(table: str, version: int) -> CorruptError:
    return CorruptError(
        "the delta log has a gap: a commit is missing; restore it, or read an earlier version",
        table=table,
        missing_version=version,
        file=commit_location(table, version),
    )
