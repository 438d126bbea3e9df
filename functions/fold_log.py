"""All tables of a log, or of all logs, folded range by range; after each range the log's mark is raised."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from catalog.tables import TableEntry, Tables
from functions.fold import Folded, FoldSettings, fold_table
from storage.clock import Clock
from storage.errors import FirnlineError, InternalError, NotFoundError
from storage.log import LogRecord
from storage.log.access import Log, LogRange, Logs
from storage.stores import Stores

__all__ = ["FoldReport", "TableFold", "fold_all", "fold_shard", "fold_tables"]

_RESTARTS_MAX = 5


@dataclass(frozen=True)
class TableFold:
    """One commit of a fold, or why there was none."""

    table: str
    folded: Folded
    error: FirnlineError | None = None


@dataclass
class FoldReport:
    """What a fold of one or more logs did, added up.

    by_table : table → its counts: records, rows, bytes, files, files_removed, bytes_written, commits
    errors : table → what stopped it; the logs of such tables keep what was not folded
    """

    by_table: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    errors: dict[str, FirnlineError] = field(default_factory=dict)

    @property
    def total(self) -> Counter[str]:
        """The counts of all tables."""
        return sum(self.by_table.values(), Counter())

    def add(self, done: TableFold) -> None:
        """Count one commit in."""
        if done.error is not None:
            self.errors[done.table] = done.error
        folded = done.folded
        if folded.committed is None:
            return
        self.by_table[done.table].update(
            records=folded.n_records,
            rows=folded.n_rows,
            bytes=folded.n_bytes,
            files=folded.n_files,
            files_removed=folded.n_files_removed,
            bytes_written=folded.n_bytes_written,
            commits=1,
        )


Progress = Callable[[TableFold], None]


async def fold_all(
    stores: Stores,
    logs: Logs,
    tables: Tables,
    clock: Clock,
    settings: FoldSettings | None = None,
    *,
    shards: Collection[int] | None = None,
    progress: Progress | None = None,
) -> FoldReport:
    """Fold all that is in the object store of the given logs, or of every log that a table of the catalog has."""
    report = FoldReport()
    entries = [entry for entry in (await tables.listed()).entries if entry.managed is not None]
    every = {entry.managed.shard for entry in entries if entry.managed is not None} | set(await logs.folded())
    for shard in sorted(every if shards is None else shards):
        await fold_shard(stores, logs, tables, clock, shard, settings, report, progress)
    return report


async def fold_shard(
    stores: Stores,
    logs: Logs,
    tables: Tables,
    clock: Clock,
    shard: int,
    settings: FoldSettings | None = None,
    report: FoldReport | None = None,
    progress: Progress | None = None,
) -> FoldReport:
    """Fold one log. A table that cannot be folded is reported, holds the mark where it is, and does not stop others."""
    settings, report = settings or FoldSettings(), report or FoldReport()
    log = await logs.stored(shard)
    start, restarts = (await logs.folded()).get(shard, 0), 0
    failed: set[str] = set()
    while True:
        try:
            found = await log.read(start, bytes_max=settings.range_bytes)
        except NotFoundError:
            # Another one folded and swept meanwhile.
            restarts += 1
            if restarts > _RESTARTS_MAX:
                raise
            start = (await logs.folded()).get(shard, 0)
            failed.clear()
            continue
        if found.limit <= start:
            return report
        for table_id, done in await _fold_range(stores, tables, clock, found, settings, failed):
            report.add(done)
            if done.error is not None:
                # Its later records must wait for these: the watermark of a later range would pass them.
                failed.add(table_id)
            if progress is not None:
                progress(done)
        if not failed:
            await logs.set_folded(shard, found.limit)
        if not found.more:
            return report
        start = found.limit


async def _fold_range(
    stores: Stores, tables: Tables, clock: Clock, found: LogRange, settings: FoldSettings, without: Collection[str]
) -> list[tuple[str, TableFold]]:
    by_table: dict[str, list[LogRecord]] = defaultdict(list)
    for each in found.records:
        by_table[each.record.table_id].append(each)
    # Asked after the records were read, so a table that has records and is not here was dropped.
    listed = await tables.listed()
    entries = {entry.id: entry for entry in listed.entries}
    done = []
    for table_id, records in by_table.items():
        entry, refused = entries.get(table_id), listed.refused_as(table_id)
        if table_id in without:
            continue
        if entry is not None:
            done.append((table_id, await _fold_one(stores, tables, clock, entry, records, found.limit, settings)))
        elif refused is not None:
            # The mark waits for a release that reads the table's entry.
            done.append((table_id, TableFold(f"{refused.namespace}.{refused.name}", Folded(), refused.error)))
    return done


async def _fold_one(
    stores: Stores,
    tables: Tables,
    clock: Clock,
    entry: TableEntry,
    records: list[LogRecord],
    limit: int,
    settings: FoldSettings,
) -> TableFold:
    name = f"{entry.namespace}.{entry.name}"
    try:
        return TableFold(name, await fold_table(stores, tables, clock, entry, records, limit, settings))
    except NotFoundError as error:
        if any(each.id == entry.id for each in await tables.all()):
            return TableFold(name, Folded(), error)
        return TableFold(name, Folded())  # dropped meanwhile
    except FirnlineError as error:
        return TableFold(name, Folded(), error)
    except Exception as error:  # noqa: BLE001 — a defect that one table meets must not keep the others' rows in the log
        unknown = InternalError("folding this table met a defect", table=name, reason=repr(error))
        unknown.__cause__ = error
        return TableFold(name, Folded(), unknown)


async def fold_tables(
    stores: Stores,
    logs: Logs,
    tables: Tables,
    clock: Clock,
    wanted: Collection[TableEntry],
    settings: FoldSettings | None = None,
    progress: Progress | None = None,
) -> FoldReport:
    """Fold the records of some tables only; the logs' marks stay. Raises what stops it."""
    settings, report = settings or FoldSettings(), FoldReport()
    marks = await logs.folded()
    for entry in wanted:
        if entry.managed is None:
            continue
        log, start = await logs.stored(entry.managed.shard), marks.get(entry.managed.shard, 0)
        await _fold_table_of(stores, tables, clock, log, entry, start, settings, report, progress)
    return report


async def _fold_table_of(
    stores: Stores,
    tables: Tables,
    clock: Clock,
    log: Log,
    entry: TableEntry,
    start: int,
    settings: FoldSettings,
    report: FoldReport,
    progress: Progress | None,
) -> None:
    while True:
        found = await log.read(start, bytes_max=settings.range_bytes)
        records = [each for each in found.records if each.record.table_id == entry.id]
        if records:
            folded = await fold_table(stores, tables, clock, entry, records, found.limit, settings)
            done = TableFold(f"{entry.namespace}.{entry.name}", folded)
            report.add(done)
            if progress is not None:
                progress(done)
        if not found.more or found.limit <= start:
            return
        start = found.limit
