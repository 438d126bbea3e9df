"""Keeps the catalog's indexes in step with their tables: new files are indexed, and what nobody needs goes.

1. A segment is stored before an index names it, and is swept only after: nothing that is named is missing.
2. Each segment is named by a compare-and-swap of its own, so a refresh that is killed is gone on with, not begun anew.
3. Of two refreshers the slower one finds the index changed and gives up; what it stored is left to `sweep_segments`.
4. A reader that holds an older entry finds fewer segments, and scans more.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from catalog.indexes import INLINE_BYTES_MAX, IndexColumn, IndexEntry, Indexes, SegmentRef
from functions.index.columns import column_names, retyped
from functions.index.models import Coverage, Models, match, segment_location
from functions.index.plan import Group, plan_groups
from functions.index.segment import Segment
from functions.index.skips import Skips
from storage.clock import Clock
from storage.errors import ConflictError, CorruptError, FirnlineError, NotFoundError
from storage.stores import Stores
from storage.tables.footers import FooterCache
from storage.tables.snapshot import Snapshot

__all__ = ["Fit", "Fitted", "Maintenance", "Refreshed", "refresh"]

_log = logging.getLogger("firnline.index")

_ROW_BYTES = 64
"""Of a row in a file, about, where a table does not say how many rows its files have."""
_SNAPSHOTS_MAX = 32
_WHOLE_MAX = 10_000
_UNREADABLE = (NotFoundError, CorruptError)


@dataclass(frozen=True)
class Fitted:
    """A segment that is stored, or small enough to be ``data`` in the catalog; None if no file can be covered; and why
    files are not, by their number in the snapshot."""

    segment: SegmentRef | None
    data: bytes
    skipped: Mapping[int, str]


Fit = Callable[[IndexEntry, Snapshot, Sequence[int]], Awaitable[Fitted]]
"""Builds and stores a segment of some files of a snapshot somewhere else; it is named here."""


@dataclass(frozen=True)
class Maintenance:
    """What keeping indexes takes.

    rows_max : rows of a segment at most, about, since it is built in memory
    inline_bytes_max : a larger segment is a blob
    snapshots : table id → the snapshot that was seen last, from which a newer one is loaded
    whole : states of indexes whose segments were all there
    fit : where segments are built; None: here. What fails there for want of workers is done here
    """

    stores: Stores
    indexes: Indexes
    models: Models
    clock: Clock
    lake: str
    rows_max: int = 50_000_000
    inline_bytes_max: int = INLINE_BYTES_MAX
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    footers: FooterCache = field(default_factory=FooterCache)
    whole: set[tuple[str, str, int]] = field(default_factory=set)
    fit: Fit | None = None

    def remember(self, table_id: str, snapshot: Snapshot) -> None:
        """Keep the snapshot for the next pass, as one of a few."""
        self.snapshots.pop(table_id, None)
        self.snapshots[table_id] = snapshot
        while len(self.snapshots) > _SNAPSHOTS_MAX:
            del self.snapshots[next(iter(self.snapshots))]


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What a refresh did.

    index : as it is now
    n_built, n_removed : segments
    n_files : that were read
    reason : why the index cannot be used, or ""
    """

    index: IndexEntry
    n_built: int = 0
    n_removed: int = 0
    n_files: int = 0
    reason: str = ""

    @property
    def did_something(self) -> bool:
        """Whether segments came or went."""
        return bool(self.n_built or self.n_removed)


async def refresh(
    parts: Maintenance,
    index: IndexEntry,
    snapshot: Snapshot,
    *,
    as_one: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Refreshed:
    """Index the snapshot's files that are not covered, and drop the segments whose files left the table.

    Parameters
    ----------
    as_one : leave one segment, if it can be built in memory
    progress : is told (files read, files to read)

    Raises
    ------
    ConflictError : another refresher was faster
    NotFoundError : the index was dropped
    UnsupportedError : a column got a type that cannot be a key
    UnavailableError : a segment, or a file, cannot be read now
    """
    names = column_names(index.columns, snapshot.schema)
    if isinstance(names, str):
        current = retyped(index.columns, snapshot.schema)
        if isinstance(current, str):
            return Refreshed(index, reason=current)
        index = await _retype(parts, index, current)
        names = column_names(index.columns, snapshot.schema)
        assert not isinstance(names, str)
    elif index.version == snapshot.version and not as_one and await _is_whole(parts, index, snapshot):
        return Refreshed(index)
    for name in names:
        if name in snapshot.partition_columns or name in snapshot.files.partitions:
            return Refreshed(index, reason=f"the table is partitioned by column {name} now")
    return await _Refresh(parts, index, snapshot, names, progress).run(as_one=as_one)


async def _is_whole(parts: Maintenance, index: IndexEntry, snapshot: Snapshot) -> bool:
    """Tell whether all segments can be read and are of these very files; looked at once for each state of an index."""
    state = (index.table_id, index.name, index.revision)
    if state in parts.whole:
        return True
    found = await parts.models.segments(index)
    if any(isinstance(each, _UNREADABLE) for each in found):
        return False
    if any(await _are_of_others(parts.stores, snapshot, found)):
        return False
    if len(parts.whole) > _WHOLE_MAX:
        parts.whole.clear()
    parts.whole.add(state)
    return True


async def _are_of_others(
    stores: Stores, snapshot: Snapshot, found: Sequence[Segment | FirnlineError]
) -> Sequence[bool]:
    """Tell of each segment whether its files have not the etags that were indexed, though their names and sizes are the
    same: so it is with all files of a lake that was restored from a copy. One of the table's files is asked about."""
    if getattr(snapshot, "etags", ()):  # then each file's own is compared (`functions.index.models.match`)
        return [False] * len(found)
    there = frozenset(snapshot.files.paths)
    return await asyncio.gather(*(_is_of_others(stores, there, each) for each in found))


async def _is_of_others(stores: Stores, there: frozenset[str], segment: Segment | FirnlineError) -> bool:
    if not isinstance(segment, Segment):
        return False
    files = zip(segment.paths, segment.etags, strict=True)
    known = next(((path, etag) for path, etag in files if etag and path in there), None)
    if known is None:
        return False
    try:
        return (await stores.head(known[0])).etag != known[1]
    except FirnlineError:  # it is gone, or cannot be asked now: nothing is known
        return False


async def _retype(parts: Maintenance, index: IndexEntry, columns: tuple[IndexColumn, ...]) -> IndexEntry:
    """Forget segments of another type: their keys' numbers mean something else."""

    def alter(found: IndexEntry) -> IndexEntry:
        _check_same(found, index)
        return replace(found, columns=columns, segments=(), version=None, skipped={})

    return await parts.indexes.change(index.table_id, index.name, alter, skips=b"")


def _check_same(found: IndexEntry, base: IndexEntry) -> None:
    if (found.created_ms, found.columns, found.segments) != (base.created_ms, base.columns, base.segments):
        raise ConflictError("another process refreshed this index meanwhile", index=base.name)


@dataclass
class _Refresh:
    """One refresh at work. ``index`` follows the catalog's entry."""

    parts: Maintenance
    index: IndexEntry
    snapshot: Snapshot
    names: tuple[str, ...]
    progress: Callable[[int, int], None] | None
    skips: Skips = field(default_factory=Skips)
    n_built: int = 0
    n_removed: int = 0
    n_files: int = 0
    n_planned: int = 0

    async def run(self, *, as_one: bool) -> Refreshed:
        self.skips = Skips.decode(await self.parts.indexes.skips(self.index.table_id, self.index.name))
        groups, refs = await self._plan(as_one=as_one)
        pending = [each for each in groups if not each.is_built]
        self.n_planned = sum(len(each.files) for each in pending)
        for group in pending:
            await self._build_group(group, [refs[number] for number in group.segments])
        await self._finish()
        return Refreshed(self.index, self.n_built, self.n_removed, self.n_files)

    async def _plan(self, *, as_one: bool) -> tuple[list[Group], tuple[SegmentRef, ...]]:
        refs = self.index.segments
        found = list(await self.parts.models.segments(self.index))
        for each in found:
            if isinstance(each, FirnlineError) and not isinstance(each, _UNREADABLE):
                raise each
        for at, of_others in enumerate(await _are_of_others(self.parts.stores, self.snapshot, found)):
            if of_others:
                found[at] = CorruptError("the segment is of files that were replaced", segment=refs[at].id)
        coverage = match(self.index, self.snapshot, self.names, found)
        files = self.snapshot.files
        covered = [_files_of(coverage, each) for each in found]
        shares = [_share(each, int(files.sizes[there].sum())) for each, there in zip(found, covered, strict=True)]
        n_rows = np.where(files.n_rows >= 0, files.n_rows, files.sizes // _ROW_BYTES)
        skipped = self.skips.mask(self.snapshot)
        groups = plan_groups(n_rows, covered, shares, skipped, rows_max=self.parts.rows_max, as_one=as_one)
        return groups, refs

    async def _build_group(self, group: Group, replaced: Sequence[SegmentRef]) -> None:
        """Build the group's segments, and name each as soon as it is stored; the last one takes the others' place."""
        chunks = _chunks(group.files, self.snapshot, self.parts.rows_max)
        for at, chunk in enumerate(chunks):
            built = await self._build(chunk)
            await self._commit(built, replaced if at == len(chunks) - 1 else ())
        if not chunks and replaced:
            await self._commit(None, replaced)

    async def _build(self, files: np.ndarray) -> tuple[SegmentRef, bytes] | None:
        """Return a segment that is stored, with its bytes if it is small."""
        # Imported here: a process that only looks keys up never builds.
        from functions.index.build import GONE, REPLACED

        fitted = await self._elsewhere(files) or await self._here(files)
        self.n_files += len(files)
        lasting = {number: why for number, why in fitted.skipped.items() if why not in (GONE, REPLACED)}
        self.skips.add(self.snapshot, lasting)
        return None if fitted.segment is None else (fitted.segment, fitted.data)

    async def _elsewhere(self, files: np.ndarray) -> Fitted | None:
        if self.parts.fit is None:
            return None
        try:
            fitted = await self.parts.fit(self.index, self.snapshot, files.tolist())
        except (ConflictError, NotFoundError):
            raise
        except FirnlineError as error:
            _log.warning("a segment is built here, since no worker did: %s: %s", type(error).__name__, error)
            return None
        if self.progress is not None:
            self.progress(self.n_files + len(files), self.n_planned)
        return fitted

    async def _here(self, files: np.ndarray) -> Fitted:
        from functions.index.build import build

        before, told = self.n_files, self.progress
        step = None if told is None else (lambda done, _all: told(before + done, self.n_planned))
        built = await build(self.parts.stores, self.snapshot, files.tolist(), self.index, progress=step)
        if built.segment is None:
            return Fitted(None, b"", built.skipped)
        return Fitted(*await self._store(built.segment), built.skipped)

    async def _commit(self, stored: tuple[SegmentRef, bytes] | None, replaced: Sequence[SegmentRef]) -> None:
        gone = {each.id for each in replaced}
        base = self.index

        def alter(found: IndexEntry) -> IndexEntry:
            _check_same(found, base)
            kept = tuple(each for each in found.segments if each.id not in gone)
            return replace(found, segments=kept if stored is None else (*kept, stored[0]))

        inline = {stored[0].id: stored[1]} if stored is not None and stored[0].inline else {}
        self.index = await self.parts.indexes.change(base.table_id, base.name, alter, inline=inline)
        self.n_built += stored is not None
        self.n_removed += len(gone)

    async def _store(self, segment: Segment) -> tuple[SegmentRef, bytes]:
        data = await asyncio.to_thread(segment.encode)
        inline = len(data) <= self.parts.inline_bytes_max
        checksum = hashlib.sha256(data).hexdigest()
        number = self.parts.clock.new_id()
        ref = SegmentRef(number, len(segment.paths), segment.n_keys, len(data), checksum, inline, segment.error)
        if not inline:
            blobs, key = self.parts.stores.resolve(segment_location(self.parts.lake, self.index.table_id, number))
            await blobs.put(key, data, if_absent=True)
        return ref, data

    async def _finish(self) -> None:
        """Note up to which version the table was looked at, and why files are not covered."""
        base, version = self.index, self.snapshot.version
        skipped = dict(Counter(self.skips.reasons(self.snapshot)))
        names = tuple(
            replace(column, name=name if column.field_id is not None else column.name)
            for column, name in zip(base.columns, self.names, strict=True)
        )

        def alter(found: IndexEntry) -> IndexEntry:
            _check_same(found, base)
            return replace(found, columns=names, version=version, skipped=skipped)

        data = self.skips.encode(self.snapshot)
        self.index = await self.parts.indexes.change(
            base.table_id, base.name, alter, skips=data if self.skips.is_changed else None
        )


def _files_of(coverage: Coverage, segment: Segment | FirnlineError) -> np.ndarray:
    for each in coverage.segments:
        if each.segment is segment:
            return each.files[each.files >= 0]
    return np.empty(0, np.int64)


def _share(segment: Segment | FirnlineError, alive: int) -> float:
    total = int(segment.sizes.sum()) if isinstance(segment, Segment) else 0
    return alive / total if total else 0.0


def _chunks(files: np.ndarray, snapshot: Snapshot, rows_max: int) -> list[np.ndarray]:
    """Split files into parts of no more than so many rows, a file at least."""
    if not len(files):
        return []
    known = snapshot.files.n_rows[files]
    rows = np.where(known >= 0, known, snapshot.files.sizes[files] // _ROW_BYTES)
    parts = np.cumsum(rows) // max(rows_max, 1)
    return [files[parts == each] for each in np.unique(parts).tolist()]
