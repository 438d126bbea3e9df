"""Small files merged into large ones, partition by partition: the rows stay the same.

Files are taken in the order of the table's sort order and packed into bins of the target size, so merged files overlap
little. Deleted rows are left out on the way. Each bin is a commit of its own, marked as no change of data: whoever
reads the table's changes skips it. If another writer removed a file of a bin meanwhile, the bin is planned anew.

The merge itself is a pure function of immutable files, so a worker may do it (`Merging`); the commit stays here.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog.tables import TableEntry, Tables
from functions.discard import discard
from functions.fold import ManagedTable, load_managed
from functions.layout import LayoutSettings, layout_of, write_files
from functions.live_rows import live_rows
from functions.rewrite import format_of
from storage.clock import Clock
from storage.errors import ConflictError, FirnlineError, IndeterminateError, NotFoundError
from storage.stores import Stores
from storage.tables.snapshot import Snapshot
from storage.tables.write import Change, DataFile, TableSpec

__all__ = ["CompactSettings", "Merging", "Optimized", "merged_rows", "optimize", "plan_bins"]

_log = logging.getLogger("firnline.compaction")

_SMALL_SHARE = 4
"""A file below the target size divided by this is small: files end early where a sorted run does (`LayoutSettings`)."""
_PAUSE_S, _PAUSE_MAX_S = 0.02, 1.0


@dataclass(frozen=True, slots=True)
class CompactSettings:
    """When files are merged.

    files_min : small files of a partition that are worth a merge
    bins_max : merges of one call at most; 0: all
    attempts_max : plans that may be overtaken by other writers before the `ConflictError` is raised
    """

    files_min: int = 2
    bins_max: int = 0
    attempts_max: int = 10
    layout: LayoutSettings = field(default_factory=lambda: LayoutSettings(sort_bytes_max=512 << 20))


@dataclass(frozen=True, slots=True)
class Optimized:
    """What merging did."""

    n_files_removed: int = 0
    n_files_added: int = 0
    n_bytes_removed: int = 0
    n_bytes_added: int = 0
    n_commits: int = 0

    def plus(self, other: Optimized) -> Optimized:
        """Return the sum."""
        return Optimized(
            self.n_files_removed + other.n_files_removed,
            self.n_files_added + other.n_files_added,
            self.n_bytes_removed + other.n_bytes_removed,
            self.n_bytes_added + other.n_bytes_added,
            self.n_commits + other.n_commits,
        )


@dataclass(frozen=True)
class Merging:
    """Somewhere else that files are merged: ``merge`` writes those of the given numbers anew, and commits nothing.

    at_once : merges that run at a time
    """

    merge: Callable[[ManagedTable, Sequence[int]], Awaitable[list[DataFile]]]
    at_once: int = 1


async def optimize(
    stores: Stores,
    tables: Tables,
    clock: Clock,
    entry: TableEntry,
    settings: CompactSettings | None = None,
    *,
    choose: Callable[[Snapshot], np.ndarray] | None = None,
    merging: Merging | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Optimized:
    """Merge the table's small files, and write those with deleted rows anew.

    Parameters
    ----------
    choose : snapshot → bool[n_files], which files may be merged; None: all
    merging : where; None: here. What fails there for want of workers is done here
    progress : is told (files that are merged, of these and all that are to be)

    Raises
    ------
    ConflictError : other writers were faster again and again; what was merged before stays merged
    NotFoundError : the table was dropped
    """
    settings = settings or CompactSettings()
    done, failures = Optimized(), 0
    fruitless: set[frozenset[str]] = set()
    known: Snapshot | None = None
    while True:
        table = await load_managed(stores, tables, clock, entry, known)
        known = table.snapshot
        may = choose(table.snapshot) if choose is not None else np.ones(len(table.snapshot.files), dtype=bool)
        paths = table.snapshot.files.paths
        bins = [
            (each, names)
            for each in await asyncio.to_thread(plan_bins, table, may, settings)
            if (names := frozenset(paths[index] for index in each)) not in fruitless
        ]
        room = settings.bins_max - done.n_commits if settings.bins_max else len(bins)
        if progress is not None:
            left = sum(len(each) for each, _names in bins[:room])
            progress(done.n_files_removed, done.n_files_removed + left)
        chosen = bins[: min(room, merging.at_once if merging is not None else 1)]
        if not chosen:
            return done
        merged: list[Optimized] = []
        try:
            await _merge_some(stores, clock, table, [indices for indices, _names in chosen], settings, merging, merged)
        except (ConflictError, IndeterminateError):
            failures += 1
            if failures >= settings.attempts_max:
                raise
            await asyncio.sleep(clock.uniform(0, min(_PAUSE_S * 2**failures, _PAUSE_MAX_S)))
        for (_indices, names), each in zip(chosen, merged, strict=False):
            done = done.plus(each)
            if not each.n_commits:
                fruitless.add(names)


async def _merge_some(
    stores: Stores, clock: Clock, table: ManagedTable, bins: Sequence[Sequence[int]], settings: CompactSettings,
    merging: Merging | None, merged: list[Optimized],
) -> None:  # fmt: skip
    """Merge bins at a time and commit one after another, each told in ``merged``; when one cannot be, the files of
    those after it are deleted."""
    work = [asyncio.create_task(_written(stores, clock, table, indices, settings, merging)) for indices in bins]
    try:
        for indices, writing in zip(bins, work, strict=True):
            merged.append(await _commit(stores, table, indices, await writing))
    finally:
        # Of one whose commit failed nothing is deleted here: it may have happened.
        rest = work[len(merged) + 1 :]
        for writing in [*work[len(merged) :]]:
            writing.cancel()
        await asyncio.gather(*work[len(merged) :], return_exceptions=True)
        for writing in rest:
            if not writing.cancelled() and writing.exception() is None:
                await discard(stores, [file.location for file in writing.result()])


async def _written(
    stores: Stores, clock: Clock, table: ManagedTable, indices: Sequence[int], settings: CompactSettings,
    merging: Merging | None,
) -> list[DataFile]:  # fmt: skip
    """Return one bin's rows as files that are in no table yet."""
    if merging is not None:
        try:
            return await merging.merge(table, indices)
        except (ConflictError, NotFoundError):
            raise
        except FirnlineError as error:
            _log.warning("files are merged here, since no worker did: %s: %s", type(error).__name__, error)
    return await merged_rows(stores, clock, table.snapshot, table.spec, indices, settings.layout)


async def merged_rows(
    stores: Stores, clock: Clock, snapshot: Snapshot, spec: TableSpec, indices: Sequence[int], layout: LayoutSettings
) -> list[DataFile]:
    """Write the rows of some files of a table anew, without those that are deleted; they are in no table yet."""

    async def rows() -> AsyncIterator[pa.RecordBatch]:
        for index in indices:
            async for batch in live_rows(stores, snapshot, index):
                yield batch

    return await write_files(
        stores, clock, snapshot.location, snapshot.schema, spec, rows(), layout, table_format=format_of(snapshot)
    )


async def _commit(stores: Stores, table: ManagedTable, indices: Sequence[int], added: Sequence[DataFile]) -> Optimized:
    """Put a bin's files in the place of those that it is made of; not if that would not make fewer files."""
    snapshot = table.snapshot
    deletes = any(index in snapshot.files.deletes for index in indices)
    if len(added) >= len(indices) and not deletes:
        await discard(stores, [file.location for file in added])
        return Optimized()
    removed = tuple(snapshot.files.paths[index] for index in indices)
    change = Change("optimize", tuple(added), removed, data_change=False)
    try:
        await table.writer.commit(snapshot, change)
    except ConflictError:
        await discard(stores, [file.location for file in added])
        raise
    n_bytes = int(snapshot.files.sizes[list(indices)].sum())
    return Optimized(len(removed), len(added), n_bytes, sum(file.size for file in added), 1)


def plan_bins(table: ManagedTable, may: np.ndarray, settings: CompactSettings) -> list[list[int]]:
    """Return the files to merge, as bins of file indices in sort order.

    A bin has at least ``files_min`` small files of one partition, or a file with deleted rows.
    """
    snapshot = table.snapshot
    target = layout_of(table.spec, settings.layout).target_file_bytes
    sizes, deletes = snapshot.files.sizes, snapshot.files.deletes
    groups: dict[Hashable, list[int]] = defaultdict(list)
    ranks = _ranks(table)
    partitions = _partitions(table)
    for index in sorted(np.flatnonzero(may).tolist(), key=lambda index: ranks[index]):
        if sizes[index] < target // _SMALL_SHARE or index in deletes:
            groups[partitions[index]].append(index)
    bins = []
    for group in groups.values():
        for each in _packed(group, sizes, target):
            if len(each) >= settings.files_min or any(index in deletes for index in each):
                bins.append(each)  # noqa: PERF401
    return bins


def _packed(group: Sequence[int], sizes: np.ndarray, target: int) -> list[list[int]]:
    bins: list[list[int]] = []
    filled = target
    for index in group:
        if filled + int(sizes[index]) > target:
            bins.append([])
            filled = 0
        bins[-1].append(index)
        filled += int(sizes[index])
    return bins


def _ranks(table: ManagedTable) -> np.ndarray:
    """Return int64[n_files]: each file's place by the first sort column's smallest value, or by its path."""
    snapshot = table.snapshot
    by_path = np.argsort(np.argsort(np.array(list(snapshot.files.paths), dtype=object), kind="stable"), kind="stable")
    ids = {(field.metadata or {}).get(b"PARQUET:field_id"): field.name for field in table.spec.schema}
    order = [ids.get(str(each.column_id).encode(), "") for each in table.spec.order_by] or [*table.spec.primary_key]
    stats = snapshot.files.stats(order[0]) if order and order[0] in snapshot.schema.names else None
    if stats is None or not len(snapshot.files):
        return by_path
    sortable = pa.table({"smallest": stats.minimum, "path": pa.array(by_path)})
    indices = pc.sort_indices(sortable, sort_keys=[("smallest", "ascending"), ("path", "ascending")])
    ranks = np.empty(len(by_path), np.int64)
    ranks[np.asarray(indices)] = np.arange(len(by_path))
    return ranks


def _partitions(table: ManagedTable) -> list[Hashable]:
    """Return what tells apart the partitions of the files.

    Iceberg says it; of Delta's files the partition columns do, and the folder for what only decides the layout.
    """
    snapshot = table.snapshot
    paths = snapshot.files.paths
    if not table.spec.partition_by:
        return [None] * len(paths)
    if snapshot.format == "iceberg":
        known = _iceberg_partitions(snapshot)
        return [known.get(path) for path in paths]
    return [path.rpartition("/")[0] for path in paths]


def _iceberg_partitions(snapshot: Snapshot) -> dict[str, Hashable]:
    # Imported here: a process that never meets the format never pays for it.
    from storage.tables.iceberg.reader import IcebergSnapshot

    if not isinstance(snapshot, IcebergSnapshot) or snapshot.state is None:
        return {}
    return {
        path: (manifest.spec.spec_id, values)
        for manifest in snapshot.state.manifests.values()
        for path, values in zip(manifest.paths, manifest.partitions, strict=True)
    }
