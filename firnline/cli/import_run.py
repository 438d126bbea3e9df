"""The run of ``firn import``: its progress on the terminal, and what it says at the end, however it ends."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TextIO

import pyarrow as pa

from firnline.cli.progress import bar
from firnline.connection import Connection, connect
from firnline.importing.create import create_statement, quoted_name, schema_of
from firnline.importing.run import ImportOptions, Progressed, import_files
from firnline.importing.sources import Source, find_sources
from firnline.settings import Settings
from storage.clock import Clock, SystemClock
from storage.errors import FirnlineError

__all__ = ["Imported", "run_import"]

_SHOW_EVERY_S = 0.2


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did; every row it counts is durable.

    replayed : of ``rows``, those that an earlier run had stored
    """

    table: str
    rows: int
    replayed: int
    skipped: int
    files: int
    seconds: float
    ack: str | None
    complete: bool


class _Shown:
    """The line on the terminal, or nothing."""

    def __init__(self, terminal: TextIO | None, clock: Clock, progressed: Progressed) -> None:
        self._terminal, self._clock, self._progressed = terminal, clock, progressed
        self.started_s = clock.monotonic_s()
        self._shown_s = 0.0

    def tell(self) -> None:
        """Show how far it is, now and then."""
        now_s = self._clock.monotonic_s()
        if self._terminal is None or now_s - self._shown_s < _SHOW_EVERY_S:
            return
        self._shown_s = now_s
        done = self._progressed
        text = bar(done.rows, done.bytes_read, done.bytes_total, now_s - self.started_s, done.skipped)
        self._terminal.write(f"\r\x1b[2K{text}")
        self._terminal.flush()

    def clear(self) -> None:
        """Take the line away."""
        if self._terminal is not None and self._shown_s:
            self._terminal.write("\r\x1b[2K")
            self._terminal.flush()


def run_import(
    settings: Settings, files: Sequence[str], table: str, options: dict[str, Any]
) -> tuple[Imported, FirnlineError | None]:
    """Import the files; returns what was stored, and the error that stopped it."""
    clock = SystemClock()
    sources = find_sources(files, options["form"])
    asked = ImportOptions(
        table,
        options["on_conflict"],
        options["ack"],
        options["batch_rows"] or 0,
        options["null"],
        options["delimiter"],
        options["on_error"] == "skip",
        options["report"],
    )
    progressed = Progressed()
    wanted = options["progress"] if options["progress"] is not None else sys.stderr.isatty()
    shown = _Shown(sys.stderr if wanted else None, clock, progressed)
    error: FirnlineError | None = None
    complete = False
    with connect(settings=settings, clock=clock) as connection:
        schema = _schema(connection, sources, asked, options)
        try:
            import_files(connection, sources, schema, asked, progressed, shown.tell)
            complete = True
        except FirnlineError as raised:
            error = raised
        except KeyboardInterrupt:
            pass
        shown.clear()
    done = Imported(
        table,
        progressed.rows,
        progressed.replayed,
        progressed.skipped,
        progressed.files,
        round(clock.monotonic_s() - shown.started_s, 3),
        progressed.ack,
        complete,
    )
    print(_told(done, len(sources)), file=sys.stderr)
    return done, error


def _schema(connection: Connection, sources: list[Source], asked: ImportOptions, options: dict[str, Any]) -> pa.Schema:
    """Return the table's columns; makes the table if that is asked."""
    if options["create"]:
        columns = schema_of(sources[0], asked.delimiter, asked.null)
        key = tuple(name.strip() for name in (options["primary_key"] or "").split(",") if name.strip())
        connection.sql(create_statement(asked.table, columns, options["using"], key))
    return connection.sql(f"SELECT * FROM {quoted_name(asked.table)} LIMIT 0").schema


def _told(done: Imported, n_files: int) -> str:
    """Return one line on what is stored."""
    parts = [f"stored {done.rows:,} row{'' if done.rows == 1 else 's'} in {done.table}"]
    if done.replayed:
        parts.append(f"{done.replayed:,} of them by an earlier run")
    if done.skipped:
        parts.append(f"left out {done.skipped:,}")
    parts.append(f"{done.files:,} of {n_files:,} files whole" if not done.complete else f"{n_files:,} files")
    parts.append(f"{done.seconds:.1f} s")
    end = "" if done.complete else "\nrun the same command again to go on: what is stored is not stored twice"
    return ("" if done.complete else "stopped: ") + ", ".join(parts) + end
