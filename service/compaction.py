"""A pass over a lake: logs folded into tables, small files merged, indexes refreshed, folded segments and staged files
that a crash left swept; once, or again and again.

Passes may run in several processes at once: each part is safe to repeat and to lose a race, so there is no
lock. Who runs them: `firn compact`, a child process of the server (`service.compactor`), and in the background of an
embedded lake (`service.compaction_watch`).
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import partial

from catalog.indexes import Indexes
from catalog.kv import KV
from catalog.tables import TableEntry, Tables
from functions import tracing
from functions.compact import CompactSettings, Optimized, optimize
from functions.exchange import sweep_results
from functions.fold import FoldSettings
from functions.fold_log import FoldReport, Progress, fold_shard, fold_tables
from functions.index.keep import Kept, drop_strays, keep_indexes, sweep_segments
from functions.index.keep import Progress as IndexProgress
from functions.index.maintain import Maintenance
from functions.index.models import Models
from service.coordinate.jobs import Jobs
from service.log.place import LOG_FOLDER
from service.staged import sweep_staged
from storage.blobs import Blobs
from storage.clock import Clock
from storage.errors import FirnlineError, InternalError
from storage.log import Position
from storage.log.access import Logs
from storage.log.chain import list_slots
from storage.log.settings import LogSettings
from storage.log.sweep import sweep
from storage.stores import Stores, join, normalize

__all__ = [
    "Compaction",
    "CompactionSettings",
    "PassProgress",
    "PassReport",
    "Unfolded",
    "compact_lake",
    "compact_tables",
    "flush",
    "index_tables",
    "indexing_of",
    "lake_shards",
    "sweep_left",
    "unfolded",
]

_log = logging.getLogger("firnline.compaction")
_SEAL_BYTES = 72


@dataclass(frozen=True, slots=True)
class CompactionSettings:
    """When what is folded and merged.

    A log is folded as soon as one of the three is reached:

    age_s : the oldest record that is not folded; 0: whatever there is
    bytes_min : what is not folded, as it lies in the object store
    segments_min : in how many segments

    interval_s : how often that is looked at
    index_interval_s : how often tables that no fold changed are looked at for files that no index covers
    merge_files_min : small files of a partition that are worth a merge, right after a fold
    linger_s : a pass that runs when the lake is closed may go on for so long
    """

    interval_s: float = 10.0
    index_interval_s: float = 60.0
    age_s: float = 0.0
    bytes_min: int = 16 << 20
    segments_min: int = 200
    merge_files_min: int = 8
    linger_s: float = 5.0
    fold: FoldSettings = field(default_factory=FoldSettings)
    compact: CompactSettings = field(default_factory=CompactSettings)


@dataclass(frozen=True)
class Compaction:
    """The parts of an open lake that compaction works on.

    lake : its location
    log : what its writers use
    indexing : what keeps its indexes; None leaves them
    jobs : workers that merge files; None: this process does
    """

    stores: Stores
    logs: Logs
    tables: Tables
    clock: Clock
    lake: str
    log: LogSettings = field(default_factory=LogSettings)
    indexing: Maintenance | None = None
    jobs: Jobs | None = None

    def log_place(self, shard: int) -> tuple[Blobs, str]:
        """Where a log lies: its blobs, and the prefix of its keys."""
        return self.stores.resolve(join(normalize(self.lake), LOG_FOLDER, str(shard)))


def indexing_of(
    stores: Stores, kv: KV, clock: Clock, lake: str, models: Models | None = None, jobs: Jobs | None = None
) -> Maintenance:
    """Return what keeps the indexes of an open lake, with the models that the process has already; ``jobs`` are workers
    that build segments."""
    fit = None if jobs is None else jobs.fit
    return Maintenance(stores, Indexes(kv, clock), models or Models(kv, stores, lake), clock, lake, fit=fit)


@dataclass
class PassReport:
    """What a pass did.

    indexed : what came of the tables' indexes
    n_staged_swept : files of statements that ended long ago
    n_pages_swept : pages of rows between tasks whose lifetime is over
    n_index_segments_swept : that no index names
    errors : table → what stopped its fold or merge; its index → what stopped that
    """

    fold: FoldReport = field(default_factory=FoldReport)
    merged: dict[str, Optimized] = field(default_factory=dict)
    indexed: Kept = field(default_factory=Kept)
    n_segments_swept: int = 0
    n_staged_swept: int = 0
    n_pages_swept: int = 0
    n_index_segments_swept: int = 0
    errors: dict[str, FirnlineError] = field(default_factory=dict)
    wall_s: float = 0.0

    @property
    def did_something(self) -> bool:
        """Whether any commit was made."""
        return bool(self.fold.total["commits"] or any(each.n_commits for each in self.merged.values()))


@dataclass(frozen=True, slots=True)
class PassProgress:
    """Who is told how far a pass is.

    fold : of each table that was folded
    merge : table, and how many of its files are merged of how many
    index : index, and how many of the table's files are indexed of how many
    """

    fold: Progress | None = None
    merge: IndexProgress | None = None
    index: IndexProgress | None = None


@dataclass(frozen=True, slots=True)
class Unfolded:
    """What of a log is in the object store and not in the tables. ``oldest_ms`` is None if there is nothing."""

    n_bytes: int = 0
    n_segments: int = 0
    oldest_ms: int | None = None


async def unfolded(compaction: Compaction, shard: int, mark: int) -> Unfolded:
    """Return how much of a log waits behind its mark, from one listing."""
    blobs, prefix = compaction.log_place(shard)
    waiting = [
        meta for slot, meta in await list_slots(blobs, prefix) if slot.sequence >= mark and meta.size > _SEAL_BYTES
    ]
    oldest_ms = min((meta.modified_ms for meta in waiting), default=None)
    return Unfolded(sum(meta.size for meta in waiting), len(waiting), oldest_ms)


async def compact_lake(
    compaction: Compaction,
    settings: CompactionSettings | None = None,
    *,
    shards: Collection[int] | None = None,
    progress: PassProgress | None = None,
    every_index: bool = True,
) -> PassReport:
    """Fold the logs, or those of ``shards``, merge small files of the tables that got rows, index, and sweep.

    Parameters
    ----------
    every_index : refresh the indexes of all tables, not only of those that got rows

    What stops one table is in the report and stops no other. Raises `UnavailableError` and the like when the catalog
    or the store does not answer at all.
    """
    started_s, report = compaction.clock.monotonic_s(), PassReport()
    with tracing.span("compaction"):
        told = progress or PassProgress()
        await _pass(compaction, settings or CompactionSettings(), report, shards, told, every_index)
    report.wall_s = compaction.clock.monotonic_s() - started_s
    return report


async def _pass(
    compaction: Compaction, settings: CompactionSettings, report: PassReport, shards: Collection[int] | None,
    progress: PassProgress, every_index: bool,
) -> None:  # fmt: skip
    parts = (compaction.stores, compaction.logs, compaction.tables, compaction.clock)
    for shard in sorted(await lake_shards(compaction) if shards is None else shards):
        with tracing.span("fold", {"firnline.shard": shard}) as span:
            await fold_shard(*parts, shard, settings.fold, report.fold, progress.fold)
            span.set({f"firnline.{name}": n for name, n in report.fold.total.items()})
        with tracing.span("sweep", {"firnline.shard": shard}):
            await _sweep(compaction, shard, report)
    report.errors.update(report.fold.errors)
    entries = {f"{entry.namespace}.{entry.name}": entry for entry in (await compaction.tables.listed()).entries}
    for name in report.fold.by_table:
        if name in entries:
            with tracing.span("merge", {"firnline.table": name}):
                await _merge(compaction, entries[name], settings.merge_files_min, settings.compact, report, progress)
    await index_tables(
        compaction, list(report.fold.by_table), report, sweep_left=True,
        every=every_index, progress=progress.index,
    )  # fmt: skip
    await sweep_left(compaction, report)


async def sweep_left(compaction: Compaction, report: PassReport) -> None:
    """Delete what statements left that ended long ago, or with the process that ran them."""
    try:
        report.n_staged_swept = await sweep_staged(compaction.stores, compaction.clock, compaction.lake)
        report.n_pages_swept = await sweep_results(compaction.stores, compaction.lake, compaction.clock)
    except FirnlineError as error:
        _log.warning("files of ended statements could not be swept: %s: %s", type(error).__name__, error)


async def compact_tables(
    compaction: Compaction,
    wanted: Collection[TableEntry],
    settings: CompactionSettings | None = None,
    *,
    files_min: int = 2,
    progress: PassProgress | None = None,
) -> PassReport:
    """Fold the records of some tables, merge their small files, and index. Raises what stops a fold."""
    settings, told = settings or CompactionSettings(), progress or PassProgress()
    parts = (compaction.stores, compaction.logs, compaction.tables, compaction.clock)
    report = PassReport(await fold_tables(*parts, wanted, settings.fold, told.fold))
    for entry in wanted:
        await _merge(compaction, entry, files_min, settings.compact, report, told)
    names = [f"{entry.namespace}.{entry.name}" for entry in wanted]
    await index_tables(compaction, names, report, progress=told.index)
    return report


async def index_tables(
    compaction: Compaction,
    names: Collection[str],
    report: PassReport,
    *,
    every: bool = False,
    sweep_left: bool = False,
    progress: IndexProgress | None = None,
) -> None:
    """Refresh the indexes of these tables, or of every table; what stops that is in the report."""
    parts = compaction.indexing
    if parts is None or not (names or every):
        return
    try:
        # Listed anew: a fold of an Iceberg table gave it another metadata file.
        entries = (await compaction.tables.listed()).entries
        wanted = [entry for entry in entries if every or f"{entry.namespace}.{entry.name}" in names]
        with tracing.span("index", {"firnline.tables": len(wanted)}) as span:
            await keep_indexes(parts, wanted, progress=progress, kept=report.indexed)
            span.set({"firnline.segments_built": report.indexed.n_built})
        report.errors.update(report.indexed.errors)
        if sweep_left and every:
            await drop_strays(parts, compaction.tables)
            report.n_index_segments_swept = await sweep_segments(parts)
    except FirnlineError as error:
        _log.warning("indexes could not be refreshed: %s: %s", type(error).__name__, error)


async def flush(compaction: Compaction, shards: Collection[int] | None = None) -> None:
    """Bring everything that was acknowledged to the object store, so that a fold that begins now finds it.

    Raises `UnavailableError` naming the owner of a log that cannot be reached.
    """
    for shard in sorted(await lake_shards(compaction) if shards is None else shards):
        await (await compaction.logs.log(shard)).flush()


async def lake_shards(compaction: Compaction) -> set[int]:
    """Return the logs of all tables, and those that were folded."""
    entries = (await compaction.tables.listed()).entries
    known = {entry.managed.shard for entry in entries if entry.managed is not None}
    return known | set(await compaction.logs.folded())


async def _merge(
    compaction: Compaction, entry: TableEntry, files_min: int, settings: CompactSettings, report: PassReport,
    progress: PassProgress,
) -> None:  # fmt: skip
    name = f"{entry.namespace}.{entry.name}"
    bounded = CompactSettings(files_min, settings.bins_max, settings.attempts_max, settings.layout)
    try:
        merging = None if compaction.jobs is None else await compaction.jobs.merging()
        merged = await optimize(
            compaction.stores, compaction.tables, compaction.clock, entry, bounded, merging=merging,
            progress=None if progress.merge is None else partial(progress.merge, name),
        )  # fmt: skip
    except FirnlineError as error:
        report.errors[name] = error
        return
    except Exception as error:  # noqa: BLE001 — a defect that one table meets must not keep the others from their pass
        report.errors[name] = InternalError("merging this table's files met a defect", table=name, reason=repr(error))
        return
    if merged.n_commits:
        report.merged[name] = merged


async def _sweep(compaction: Compaction, shard: int, report: PassReport) -> None:
    mark = (await compaction.logs.folded()).get(shard, 0)
    blobs, prefix = compaction.log_place(shard)
    swept = await sweep(blobs, prefix, Position(0, mark), compaction.log, compaction.clock)
    report.n_segments_swept += swept.n_segments
