"""``firn compact``: fold the log into the tables now, merge small files, and bring indexes in step."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from typing import TYPE_CHECKING

import click

from firnline.cli.options import FAILED, Duration, guarded, lake_option, settings_for
from storage.errors import InvalidError, UnavailableError

if TYPE_CHECKING:
    from functions.fold_log import TableFold
    from service.compaction import Compaction, CompactionSettings, PassProgress, PassReport
    from service.settings import EngineSettings

__all__ = ["compact"]


@click.command(short_help="Fold the log into the tables, merge small files, index.")
@click.argument("table", required=False)
@lake_option
@click.option("--watch", is_flag=True, help="Go on until Ctrl-C.")
@click.option(
    "--interval", type=Duration(), default="10s", show_default=True, metavar="DURATION", help="Between two passes."
)
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON, one object a pass.")
@click.option("--quiet", "-q", is_flag=True, help="Do not tell how far it is.")
@guarded
def compact(table: str | None, lake: str | None, watch: bool, interval: int, as_json: bool, quiet: bool) -> None:
    """Fold acknowledged rows into their tables' files, so that any Delta or Iceberg reader sees them.

    Small files are merged, and the tables' indexes are brought in step, those of external tables too.
    With TABLE only its rows are folded, all of its small files merged, and its indexes refreshed; of an external
    table only the last. It is safe to interrupt, to run twice at once, and beside a server. The exit code is 1 if a
    table could not be folded.

    \b
    Examples:
      firn compact
      firn compact sales.orders --json
      firn compact --lake s3://bucket/lake --watch --interval 30s
    """
    from firnline.opening import engine_settings

    settings = settings_for(lake)
    if settings.lake.startswith(("http://", "https://")):
        raise InvalidError("compaction works on the lake itself; give its folder or s3:// URL, or run OPTIMIZE")
    if watch and table is not None:
        raise click.UsageError("--watch folds every table; leave TABLE out")
    from dataclasses import replace

    engine = replace(engine_settings(settings.lake, settings), create=False)
    if not asyncio.run(_run(engine, table, interval / 1000 if watch else None, as_json, quiet)):
        sys.exit(FAILED)


async def _run(engine: EngineSettings, table: str | None, interval_s: float | None, as_json: bool, quiet: bool) -> bool:
    """Return whether every table could be folded."""
    from service.compaction import CompactionSettings, PassProgress
    from service.compactor import open_compaction

    async with open_compaction(engine) as compaction:
        if interval_s is None:
            settings = CompactionSettings(merge_files_min=2)
            progress = PassProgress(_failed) if quiet else PassProgress(_folded, _merged, _indexed)
            report = await _once(compaction, settings, table, progress)
            _show(report, as_json)
            return not report.errors
        return await _watch(compaction, CompactionSettings(interval_s=interval_s), as_json)


async def _once(
    compaction: Compaction, settings: CompactionSettings, table: str | None, progress: PassProgress
) -> PassReport:
    from service.compaction import compact_lake, compact_tables, flush

    namespace, _, name = table.rpartition(".") if table is not None else ("", "", "")
    entry = await compaction.tables.get(namespace or "default", name) if table is not None else None
    if entry is not None and entry.managed is None:
        return await _external(compaction, f"{entry.namespace}.{entry.name}", progress)
    try:
        await flush(compaction, None if entry is None or entry.managed is None else [entry.managed.shard])
    except UnavailableError as error:
        click.echo(f"rows that are not in the object store yet are left for later: {error}", err=True)
    if entry is not None:
        return await compact_tables(compaction, [entry], settings, progress=progress)
    return await compact_lake(compaction, settings, progress=progress)


async def _external(compaction: Compaction, table: str, progress: PassProgress) -> PassReport:
    """Refresh the indexes of a table whose files are someone else's."""
    from service.compaction import PassReport, index_tables

    click.echo(f"{table} is external: its files are left as they are, and only its indexes are refreshed", err=True)
    report = PassReport()
    await index_tables(compaction, [table], report, progress=progress.index)
    return report


async def _watch(compaction: Compaction, settings: CompactionSettings, as_json: bool) -> bool:
    from service.compaction_watch import watch

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None

    def end() -> None:
        # The first Ctrl-C lets a pass end; the second does not.
        if stop.is_set():
            task.cancel()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end)
    click.echo("folding as rows come; Ctrl-C ends it", err=True)
    with contextlib.suppress(asyncio.CancelledError):
        await watch(compaction, settings, stop=stop, on_pass=lambda report: _show(report, as_json))
    return True


def _failed(done: TableFold) -> None:
    if done.error is not None:
        click.echo(f"{done.table}: {type(done.error).__name__}: {done.error}", err=True)


def _folded(done: TableFold) -> None:
    _failed(done)
    folded = done.folded
    if done.error is None and folded.committed is not None:
        files = f"+{folded.n_files} -{folded.n_files_removed} files"
        click.echo(f"{done.table}: {folded.n_rows:,} rows, {files}, {_size(folded.n_bytes_written)}", err=True)


def _merged(table: str, done: int, of: int) -> None:
    # Told before each commit, which may be of many files, and once at the end.
    if done:
        click.echo(f"{table}: {done:,} of {of:,} files merged", err=True)


def _indexed(index: str, done: int, of: int) -> None:
    # A line for each tenth: an index of many files takes a while.
    if done == of or done * 10 // of > (done - 1) * 10 // of:
        click.echo(f"{index}: {done:,} of {of:,} files indexed", err=True)


def _show(report: PassReport, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(_document(report)))
        return
    total = report.fold.total
    removed = sum(each.n_files_removed for each in report.merged.values())
    added = sum(each.n_files_added for each in report.merged.values())
    text = f"folded {total['rows']:,} rows of {len(report.fold.by_table)} tables in {total['commits']} commits"
    if removed:
        text += f"; merged {removed} files into {added}"
    indexed = sum(map(len, report.indexed.refreshed.values()))
    click.echo((text if report.did_something else "nothing to fold") + (f"; {indexed} indexes" if indexed else ""))
    for table, error in report.errors.items():
        if table not in report.fold.errors:
            click.echo(f"{table}: {type(error).__name__}: {error}", err=True)


def _document(report: PassReport) -> dict[str, object]:
    from service.compactor import summary

    tables: dict[str, dict[str, int]] = {table: dict(counts) for table, counts in report.fold.by_table.items()}
    for table, merged in report.merged.items():
        found = tables.setdefault(table, {})
        found["merged_files_removed"], found["merged_files_added"] = merged.n_files_removed, merged.n_files_added
    for table, indexes in report.indexed.refreshed.items():
        tables.setdefault(table, {})["indexes"] = len(indexes)
    return {**summary(report), "tables": tables}


def _size(n_bytes: int) -> str:
    size, unit = float(n_bytes), "B"
    for larger in ("KB", "MB", "GB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
