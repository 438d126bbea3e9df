"""Whether a lake is whole: its logs, marks, catalog, tables down to their files, and indexes. Reads only.

Marks are read in the order in which they may trail each other while others work on the lake: what is folded before
the tables, the tables before the log. So a lake that is written to meanwhile shows no false findings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from catalog.kv import KV
from catalog.logs import LogCatalog, LogsState
from catalog.tables import TableEntry, Tables
from functions.check_indexes import check_indexes
from functions.check_log import CheckedLog, JournalFile, check_log
from functions.check_report import Finding
from functions.check_tables import CheckedTable, check_table, tables_of
from storage.clock import Clock
from storage.errors import FirnlineError
from storage.stores import Stores, join

__all__ = ["Finding", "JournalFile", "Progress", "Report", "check"]

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Report:
    """What was looked at and what is wrong.

    counts : how many of each thing were checked: tables, files, rows, segments, seals, records, …
    """

    findings: tuple[Finding, ...]
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong; warnings and notes are not."""
        return not any(finding.severity == "error" for finding in self.findings)


async def check(
    stores: Stores,
    kv: KV,
    clock: Clock,
    lake: str,
    *,
    deep: bool = False,
    journals: Callable[[int, LogsState], JournalFile | None] = lambda _shard, _state: None,
    progress: Progress = lambda _line: None,
) -> Report:
    """Verify the lake at the location ``lake``.

    Parameters
    ----------
    deep : decode every page of every data file and every record's rows, not only footers and checksums
    journals : the journal of a shard, if it is on this machine
    progress : told what is being looked at

    Raises `FirnlineError` only when the catalog itself cannot be read; everything else becomes a finding.
    """
    findings: list[Finding] = []
    counts: Counter[str] = Counter()
    marks = await LogCatalog(kv, clock).load()
    entries = await _entries(Tables(kv, clock), findings)
    tables: list[CheckedTable] = []
    for number, entry in enumerate(entries, 1):
        about = f"table {number} of {len(entries)}: {entry.namespace}.{entry.name}"
        progress(about)
        tables.append(await check_table(stores, entry, deep=deep, progress=_files(progress, about)))
    logs: dict[int, CheckedLog] = {}
    for shard in await _shards(stores, lake, marks):
        progress(f"log {shard}")
        root, prefix = stores.resolve(join(lake, "_firnline", "log", str(shard)))
        logs[shard] = await check_log(root, prefix, marks.of(shard).epoch, journals(shard, marks), deep=deep)
    after = await LogCatalog(kv, clock).load()
    for shard, log in logs.items():
        findings += log.findings
        findings += _check_marks(shard, log, marks.of(shard).folded, after.of(shard).folded)
    for table in tables:
        findings += table.findings
        findings += _check_against_log(table, logs, marks)
    progress("indexes")
    indexes = await check_indexes(stores, kv, clock, lake, entries, deep=deep)
    findings += indexes.findings
    counts.update(indexes.counts)
    findings += await _strangers(stores, lake, entries)
    for part in [log.counts for log in logs.values()] + [table.counts for table in tables]:
        counts.update(part)
    counts["tables"] = len(entries)
    order: dict[str, int] = {"error": 0, "warning": 1, "note": 2}
    return Report(tuple(sorted(findings, key=lambda each: order[each.severity])), dict(counts))


def _files(progress: Progress, about: str) -> Callable[[int, int], None]:
    return lambda n_done, n_total: progress(f"{about}: {n_done:,} of {n_total:,} files")


async def _entries(tables: Tables, findings: list[Finding]) -> list[TableEntry]:
    try:
        return await tables.all()
    except FirnlineError as error:
        remedy = "restore the catalog from a copy; the tables' own files are untouched"
        findings.append(Finding("error", "the catalog", str(error), remedy))
        return []


async def _shards(stores: Stores, lake: str, marks: LogsState) -> list[int]:
    """The logs that the catalog knows of, and those that have segments."""
    found = set(marks.by_shard)
    root = join(lake, "_firnline", "log") + "/"
    async for location, _meta in stores.list(root):
        name = location.removeprefix(root).partition("/")[0]
        if name.isdecimal():
            found.add(int(name))
    return sorted(found)


def _check_marks(shard: int, log: CheckedLog, folded_before: int, folded_after: int) -> list[Finding]:
    where = f"log {shard}"
    found = []
    if log.base > folded_after:
        what = (
            f"records [{folded_after}, {log.base}) were swept, and the catalog says that they are not in their tables"
        )
        found.append(Finding("error", where, what, "restore the catalog's newer state, or the segments from a copy"))
    if log.end is not None and folded_before > log.end:
        what = f"the catalog says that records before {folded_before} are folded, and the log ends at {log.end}"
        found.append(Finding("error", where, what, "segments were lost, or this is another lake's catalog"))
    return found


def _check_against_log(table: CheckedTable, logs: Mapping[int, CheckedLog], marks: LogsState) -> list[Finding]:
    managed = table.entry.managed
    if managed is None or table.watermark is None:
        return []
    log = logs.get(managed.shard)
    records = log.records.get(table.entry.id, []) if log is not None else []
    found = []
    end = log.end if log is not None else 0
    if end is not None and table.watermark > end:
        what = f"the table holds records before {table.watermark} of log {managed.shard}, which ends at {end}"
        found.append(Finding("error", table.name, what, "segments were lost; new rows would be taken for folded ones"))
    folded = marks.of(managed.shard).folded
    missing = [each.sequence for each in records if table.watermark <= each.sequence < folded]
    if missing:
        what = (
            f"log {managed.shard} is marked as folded before {folded}, and the table holds its records only before "
            f"{table.watermark}: {len(missing)} records from {missing[0]} on are not seen"
        )
        found.append(Finding("error", table.name, what, "stop writing and lower the mark in the catalog, then compact"))
    unknown = sorted({each.schema_id for each in records if each.sequence >= table.watermark} - set(managed.schemas))
    if unknown:
        what = f"records of the log have schemas that the catalog does not know: {unknown}"
        found.append(Finding("error", table.name, what, "restore the table's catalog entry from a copy"))
    return found


async def _strangers(stores: Stores, lake: str, entries: list[TableEntry]) -> list[Finding]:
    """Folders of tables that no catalog entry names: dropped tables, or CREATEs that crashed."""
    known = {entry.location.rstrip("/") for entry in entries}
    folders = await tables_of(stores, lake)
    return [
        Finding("note", folder, f"{n} files of a table that the catalog does not name", "delete it if nobody needs it")
        for folder, n in folders.items()
        if folder not in known
    ]
