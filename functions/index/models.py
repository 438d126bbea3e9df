"""The segments that this process uses: loaded once, bounded in memory, and matched with a snapshot's files.

A segment that cannot be had covers nothing, and is tried again after a while; statements that want one that is being
loaded wait for that load. One that its index has no more is let go of when the index is next asked. What was matched
with a snapshot is remembered by the index's revision and the snapshot's etag, so it is found again as long as neither
changes.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from catalog.indexes import INDEX_FOLDER, IndexEntry, Indexes, SegmentRef
from catalog.kv import KV
from functions.index.columns import column_names
from functions.index.segment import Segment, decode
from storage.clock import SystemClock
from storage.errors import CorruptError, FirnlineError, NotFoundError
from storage.stores import Stores, join, normalize
from storage.tables.snapshot import Snapshot

__all__ = ["Coverage", "CoveredBy", "Models", "column_names", "match", "segment_location"]

_log = logging.getLogger("firnline.index")
_RETRY_S = 30.0
_COVERAGES_MAX = 64
_FAILED_MAX = 1_000
_INDEXES_MAX = 10_000
_THREAD_BYTES = 1 << 20
"""A larger segment is decoded beside the event loop."""


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
    names : the key's columns as the snapshot names them; empty if one is no more, or has another type
    """

    index: IndexEntry
    segments: tuple[CoveredBy, ...]
    covered: np.ndarray
    reason: str = ""
    names: tuple[str, ...] = ()


_Load = asyncio.Future[Segment | FirnlineError]
_Key = tuple[str, str, str]
"""Table, segment and checksum."""


class Models:
    """Segments in use, most recently used first, up to ``bytes_max``; what a process forgets is loaded again."""

    def __init__(self, kv: KV, stores: Stores, lake: str, *, bytes_max: int = 512 << 20) -> None:
        self._kv, self._stores, self._lake, self._bytes_max = kv, stores, lake, bytes_max
        self._indexes = Indexes(kv, SystemClock())
        self._held: OrderedDict[_Key, Segment] = OrderedDict()
        self._n_bytes = 0
        self.n_hits = self.n_misses = self.n_covered = self.n_uncovered = 0
        self._loading: dict[_Key, _Load] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed: dict[_Key, tuple[float, FirnlineError]] = {}
        self._newest: OrderedDict[tuple[str, str], tuple[int, frozenset[_Key]]] = OrderedDict()
        self._coverages: OrderedDict[tuple[str, str, int, str, str], Coverage] = OrderedDict()

    @property
    def n_bytes(self) -> int:
        """Of the segments that are held."""
        return self._n_bytes

    async def coverage(self, index: IndexEntry, snapshot: Snapshot) -> Coverage:
        """Return what the index knows of the snapshot; its segments are loaded all at once where they are not held.

        Never raises for a segment that is missing or damaged: it covers nothing, and a warning is logged once.
        """
        found = await self._coverage(index, snapshot)
        n_covered = int(found.covered.sum())
        self.n_covered += n_covered
        self.n_uncovered += len(found.covered) - n_covered
        return found

    async def _coverage(self, index: IndexEntry, snapshot: Snapshot) -> Coverage:
        key = (index.table_id, index.name, index.revision, snapshot.location, snapshot.etag)
        known = self._coverages.get(key) if index.revision and snapshot.etag else None
        if known is not None:
            self._coverages.move_to_end(key)
            for ref in index.segments:
                self._touch(_key(index, ref))
            return known
        names = column_names(index.columns, snapshot.schema)
        if isinstance(names, str):
            return Coverage(index, (), np.zeros(len(snapshot.files), dtype=bool), names)
        self._renew(index)
        tried = {ref.id for ref in index.segments if _key(index, ref) in self._failed}
        found = await self.segments(index)
        missing = _missing(index, found) - tried
        if missing:
            newer = await self._newer(index)
            if newer is not None:
                return await self._coverage(newer, snapshot)
            _log.warning("index %s covers less: segments are missing: %s", index.name, ", ".join(sorted(missing)))
        coverage = match(index, snapshot, names, found)
        if index.revision and snapshot.etag and all(isinstance(each, Segment) for each in found):
            self._remember(key, coverage)
        return coverage

    async def _newer(self, index: IndexEntry) -> IndexEntry | None:
        """Return the index as it is now, if it moved on: its small segments went with the state that had them."""
        try:
            now = [each for each in await self._indexes.of(index.table_id) if each.name == index.name]
        except FirnlineError:
            return None
        if not now or now[0].revision <= index.revision:
            return None
        for ref in index.segments:
            self._failed.pop(_key(index, ref), None)
        return now[0]

    async def segments(self, index: IndexEntry) -> list[Segment | FirnlineError]:
        """Return the index's segments in its order, or why one cannot be had."""
        now_s = asyncio.get_running_loop().time()
        known: dict[str, Segment | FirnlineError] = {}
        for ref in index.segments:
            key = _key(index, ref)
            failed = self._failed.get(key)
            if key in self._held:
                self._held.move_to_end(key)
                known[ref.id] = self._held[key]
            elif failed is not None and now_s < failed[0]:
                known[ref.id] = failed[1]
        wanted = [ref for ref in index.segments if ref.id not in known]
        self.n_hits += len(index.segments) - len(wanted)
        self.n_misses += len(wanted)
        self._start(index, [ref for ref in wanted if _key(index, ref) not in self._loading])
        # Whoever is cancelled leaves the load to the others that wait for it.
        loads = [asyncio.shield(self._loading[_key(index, ref)]) for ref in wanted]
        known |= dict(zip([ref.id for ref in wanted], await asyncio.gather(*loads), strict=True))
        return [known[ref.id] for ref in index.segments]

    def _start(self, index: IndexEntry, refs: Sequence[SegmentRef]) -> None:
        """Load these in a task of its own: all small ones in one request, each blob in one, at once."""
        if not refs:
            return
        loop = asyncio.get_running_loop()
        futures: dict[SegmentRef, _Load] = {ref: loop.create_future() for ref in refs}
        self._loading |= {_key(index, ref): future for ref, future in futures.items()}
        task = loop.create_task(self._load(index, futures))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _load(self, index: IndexEntry, futures: Mapping[SegmentRef, _Load]) -> None:
        small = asyncio.ensure_future(self._inline(index, [ref.id for ref in futures if ref.inline]))
        try:
            await asyncio.gather(*(self._load_one(index, ref, future, small) for ref, future in futures.items()))
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 — whoever waits is told
            for future in futures.values():
                if not future.done():
                    future.set_exception(error)
                    future.exception()
        finally:
            for ref, future in futures.items():
                self._loading.pop(_key(index, ref), None)
                future.cancel()

    async def _inline(self, index: IndexEntry, ids: Sequence[str]) -> Mapping[str, bytes]:
        return await self._indexes.inline(index.table_id, ids) if ids else {}

    async def _load_one(
        self, index: IndexEntry, ref: SegmentRef, future: _Load, small: asyncio.Future[Mapping[str, bytes]]
    ) -> None:
        key = _key(index, ref)
        found: Segment | FirnlineError
        try:
            data = (await small).get(ref.id) if ref.inline else await self._blob(index, ref)
            found = await _checked(data, ref)
        except FirnlineError as error:
            found = error
        if isinstance(found, Segment):
            self._failed.pop(key, None)
            self._hold(key, found)
        else:
            if key not in self._failed and not isinstance(found, NotFoundError):
                _log.warning("index %s covers less: %s: %s", index.name, type(found).__name__, found)
            self._failed[key] = (asyncio.get_running_loop().time() + _RETRY_S, found)
            while len(self._failed) > _FAILED_MAX:
                del self._failed[next(iter(self._failed))]
        if not future.done():
            future.set_result(found)

    async def _blob(self, index: IndexEntry, ref: SegmentRef) -> bytes:
        return await self._stores.get(segment_location(self._lake, index.table_id, ref.id))

    def _hold(self, key: _Key, segment: Segment) -> None:
        self._held[key] = segment
        self._n_bytes += segment.n_bytes
        # The one that is used now stays, however large it is.
        while self._n_bytes > self._bytes_max and len(self._held) > 1:
            self._let_go(next(iter(self._held)))

    def _let_go(self, key: _Key) -> None:
        segment = self._held.pop(key)
        self._n_bytes -= segment.n_bytes
        doomed = [
            each for each, known in self._coverages.items() if any(by.segment is segment for by in known.segments)
        ]
        for each in doomed:
            del self._coverages[each]

    def _renew(self, index: IndexEntry) -> None:
        """Let go of segments that the index had and has no more: their files left, or are in others now."""
        revision, before = self._newest.get((index.table_id, index.name), (0, frozenset[_Key]()))
        if index.revision <= revision:
            return
        now = frozenset(_key(index, ref) for ref in index.segments)
        for key in before - now:
            if key in self._held:
                self._let_go(key)
        self._newest[index.table_id, index.name] = index.revision, now
        while len(self._newest) > _INDEXES_MAX:
            self._newest.popitem(last=False)

    def _touch(self, key: _Key) -> None:
        if key in self._held:
            self._held.move_to_end(key)

    def _remember(self, key: tuple[str, str, int, str, str], coverage: Coverage) -> None:
        held = {id(each) for each in self._held.values()}
        if not all(id(by.segment) in held for by in coverage.segments):
            return
        self._coverages[key] = coverage
        while len(self._coverages) > _COVERAGES_MAX:
            self._coverages.popitem(last=False)

    def forget(self, keep: Sequence[IndexEntry]) -> None:
        """Let go of every segment that none of these indexes has."""
        kept = {_key(index, ref) for index in keep for ref in index.segments}
        for key in [each for each in self._held if each not in kept]:
            self._let_go(key)
        for key in [each for each in self._failed if each not in kept]:
            del self._failed[key]


async def _checked(data: bytes | None, ref: SegmentRef) -> Segment:
    """Return the segment of the stored bytes. Raises `NotFoundError`, `CorruptError`."""
    if data is None:
        raise NotFoundError("a segment of an index is missing", segment=ref.id)
    if hashlib.sha256(data).hexdigest() != ref.checksum:
        raise CorruptError("a segment of an index does not match its checksum", segment=ref.id)
    try:
        return await asyncio.to_thread(decode, data) if len(data) > _THREAD_BYTES else decode(data)
    except FirnlineError:
        raise
    except Exception as error:
        raise CorruptError("a segment of an index cannot be decoded", segment=ref.id, reason=repr(error)) from error


def segment_location(lake: str, table_id: str, segment_id: str) -> str:
    """Return where the blob of a segment is."""
    return join(normalize(lake), INDEX_FOLDER, table_id, segment_id)


def _key(index: IndexEntry, ref: SegmentRef) -> _Key:
    return index.table_id, ref.id, ref.checksum


def _missing(index: IndexEntry, found: Sequence[Segment | FirnlineError]) -> set[str]:
    pairs = zip(index.segments, found, strict=True)
    return {ref.id for ref, each in pairs if isinstance(each, NotFoundError)}


def match(
    index: IndexEntry, snapshot: Snapshot, names: tuple[str, ...], found: Sequence[Segment | FirnlineError]
) -> Coverage:
    """Match the segments' files with the snapshot's: the same location and size, and etag where both are known."""
    n = len(snapshot.files)
    covered = np.zeros(n, dtype=bool)
    types = tuple(column.type for column in index.columns)
    usable = [each for each in found if isinstance(each, Segment) and each.types == types]
    numbers = {path: number for number, path in enumerate(snapshot.files.paths)} if usable else {}
    etags: Sequence[str] = getattr(snapshot, "etags", ())
    matched = []
    for segment in usable:
        files = np.fromiter((numbers.get(path, -1) for path in segment.paths), np.int64, len(segment.paths))
        there = files >= 0
        there[there] = snapshot.files.sizes[files[there]] == segment.sizes[there]
        there[there] = ~covered[files[there]]
        if etags:
            for at in np.flatnonzero(there).tolist():
                ours, theirs = segment.etags[at], etags[int(files[at])]
                there[at] = not ours or not theirs or ours == theirs
        files[~there] = -1
        if there.any():
            covered[files[there]] = True
            matched.append(CoveredBy(segment, files))
    return Coverage(index, tuple(matched), covered, _reason(index, found, usable, bool(matched), n), names)


def _reason(
    index: IndexEntry, found: Sequence[Segment | FirnlineError], usable: Sequence[Segment], any_matched: bool, n: int
) -> str:
    if any_matched or n == 0:
        return ""
    if not index.segments:
        return "no file is indexed yet" if index.version is None else "none of the files can be indexed"
    if not usable:
        errors = [each for each in found if isinstance(each, FirnlineError)]
        return f"no segment can be read: {errors[0].message}" if errors else "its segments are of another type"
    return "the table's files came after it was built"
