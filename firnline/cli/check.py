"""``firn check``: whether the lake is whole."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from firnline.cli.options import FAILED, guarded, settings_for

if TYPE_CHECKING:
    from catalog.logs import LogsState
    from firnline.settings import Settings
    from functions.check import JournalFile, Report

__all__ = ["check"]

_COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}


@click.command(short_help="Verify a lake: log, catalog, tables, files.")
@click.argument("lake", required=False)
@click.option("--lake", "-l", "option", metavar="DIR_OR_URL", help="The same.  [default: $FIRN_LAKE or ./lake]")
@click.option("--deep", is_flag=True, help="Decode every page of every data file, and every row of the log.")
@click.option("--json", "as_json", is_flag=True, help="Write the report as JSON.")
@click.option("--quiet", "-q", is_flag=True, help="Do not tell how far it is.")
@guarded
def check(lake: str | None, option: str | None, deep: bool, as_json: bool, quiet: bool) -> None:
    """Verify a lake and say what is wrong and what to do: every segment of the log, what is marked as folded, the
    catalog against the tables' own metadata, and that every live data file is there and reads.

    Changes nothing, and may run while the lake is written to. Ends with 1 if something is wrong.

    \b
    Examples:
      firn check
      firn check s3://bucket/lake --deep
      firn check ./lake --json
    """
    settings = settings_for(lake or option)
    terminal = sys.stderr if sys.stderr.isatty() and not quiet else None
    report = asyncio.run(_run(settings, deep, _Line(terminal)))
    if as_json:
        document = {"sound": report.sound, "counts": dict(report.counts)}
        click.echo(json.dumps(document | {"findings": [asdict(each) for each in report.findings]}, indent=2))
    else:
        _show(report)
    if not report.sound:
        sys.exit(FAILED)


async def _run(settings: Settings, deep: bool, line: _Line) -> Report:
    from functools import partial

    from firnline.opening import engine_settings
    from firnline.settings import is_url
    from functions.check import check as run
    from service.components import access_policy, open_catalog
    from storage.blobs.open import open_blobs
    from storage.clock import SystemClock
    from storage.errors import InvalidError
    from storage.stores import Stores, normalize

    if is_url(settings.lake):
        raise InvalidError("a lake is checked where it is; give its folder or bucket", lake=settings.lake)
    lake = normalize(settings.lake)
    clock = SystemClock()
    # A lake that is not there is not made by looking at it.
    engine = replace(engine_settings(settings.lake, settings), create=False)
    stores = Stores(partial(open_blobs, s3=engine.s3, clock=clock), access_policy(engine))
    kv = await open_catalog(engine, clock, stores)
    try:
        journals = partial(_journal, lake)
        return await run(stores, kv, clock, lake, deep=deep, journals=journals, progress=line.show)
    finally:
        line.clear()
        await kv.close()
        await stores.close()


def _journal(lake: str, shard: int, state: LogsState) -> JournalFile | None:
    """Return where the shard's journal is, if it can be on this machine."""
    from functions.check import JournalFile

    known = state.of(shard).journal
    if known is None or state.shards is None:
        return None
    if known:
        path = Path(known)
    elif lake.startswith("file://"):
        path = Path(lake.removeprefix("file://")) / "_firnline" / "log" / str(shard) / "journal"
    else:
        return None
    return JournalFile(path, f"{state.shards.lake_id}/{shard}")


class _Line:
    """What is looked at now, on a terminal; None: nowhere."""

    def __init__(self, terminal: TextIO | None) -> None:
        self._terminal = terminal

    def show(self, text: str) -> None:
        if self._terminal is not None:
            self._terminal.write(f"\r\x1b[2K{text[:100]}")
            self._terminal.flush()

    def clear(self) -> None:
        self.show("")


def _show(report: Report) -> None:
    for finding in report.findings:
        mark = click.style(f"{finding.severity:<8}", fg=_COLOURS[finding.severity])
        click.echo(f"{mark} {finding.where}\n         {finding.what}\n         → {finding.remedy}")
    counts = report.counts
    looked = ", ".join(
        f"{counts.get(name, 0):,} {name.replace('_', ' ')}"
        for name in ("tables", "files", "rows", "segments", "seals", "records", "journal_records", "indexes")
    )
    click.echo(f"checked {looked}")
    wrong = sum(finding.severity == "error" for finding in report.findings)
    click.echo("the lake is sound" if report.sound else f"{wrong} errors")
