"""Segments from files: reads their layouts and key columns, and fits the models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from catalog.indexes import IndexEntry
from functions.index.segment import Segment
from storage.stores import Stores
from storage.tables.snapshot import Snapshot

__all__ = ["Built", "build"]


@dataclass(frozen=True)
class Built:
    """A segment, None if no file can be covered; and why files are not, by their number in the snapshot."""

    segment: Segment | None
    skipped: Mapping[int, str]


async def build(
    stores: Stores,
    snapshot: Snapshot,
    files: Sequence[int],
    index: IndexEntry,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Built:
    """Index some files of a snapshot.

    Parameters
    ----------
    files : their numbers in the snapshot
    progress : is told (files done, files in all)

    Raises
    ------
    InvalidError : the snapshot lacks a column of the index, or has it in another type
    UnsupportedError : the column's type cannot be a key; names those that can
    """
    raise NotImplementedError
