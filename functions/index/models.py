"""The segments that this process uses: loaded once, bounded in memory, and matched with a snapshot's files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from catalog.indexes import IndexEntry
from catalog.kv import KV
from functions.index.segment import Segment
from storage.stores import Stores
from storage.tables.snapshot import Snapshot

__all__ = ["Coverage", "CoveredBy", "Models"]


@dataclass(frozen=True)
class CoveredBy:
    """A segment and, for each of its files, its number in the snapshot, -1 where it is not covered: int64[f]."""

    segment: Segment
    files: np.ndarray


@dataclass(frozen=True)
class Coverage:
    """What an index knows of a snapshot.

    segments : a file of the snapshot is covered by at most one of them
    covered : bool[n_files] of the snapshot
    reason : why nothing is covered, or "" (the column is no more, has another type, no segment can be read, …)
    """

    index: IndexEntry
    segments: tuple[CoveredBy, ...]
    covered: np.ndarray
    reason: str = ""


class Models:
    """Segments in use, most recently used first, up to ``bytes_max``; what a process forgets is loaded again."""

    def __init__(self, kv: KV, stores: Stores, lake: str, *, bytes_max: int = 512 << 20) -> None:
        self._kv, self._stores, self._lake, self._bytes_max = kv, stores, lake, bytes_max

    async def coverage(self, index: IndexEntry, snapshot: Snapshot) -> Coverage:
        """Return what the index knows of the snapshot; its segments are loaded all at once where they are not held.

        Never raises for a segment that is missing or damaged: it covers nothing, and a warning is logged once.
        """
        raise NotImplementedError

    def forget(self, keep: Sequence[IndexEntry]) -> None:
        """Let go of every segment that none of these indexes has."""
        raise NotImplementedError
