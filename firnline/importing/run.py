"""The import itself: blocks of all files into a table, one after another."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

import pyarrow as pa

from firnline.appending import AppendReceipt
from firnline.connection import Connection
from firnline.importing.blocks import Block, ReadOptions, read_blocks
from firnline.importing.sources import Source, open_source
from service.ingest.csv_rows import CsvOptions
from service.ingest.errors import short
from storage.errors import FirnlineError, InvalidError

__all__ = ["ImportOptions", "Progressed", "Report", "import_files"]

_SEARCH_ROWS = 1000


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What to do.

    skip : leave wrong rows out and report them, instead of stopping
    report : file that gets a line for each row that was left out
    """

    table: str
    on_conflict: str | None = None
    ack: str | None = None
    batch_rows: int = 0
    null: str = ""
    delimiter: str | None = None
    skip: bool = False
    report: Path | None = None


@dataclass(slots=True)
class Progressed:
    """How far an import is.

    rows : durable now, those of an earlier run too
    replayed : of them, those that an earlier run had stored
    skipped : rows that were left out
    bytes_read, bytes_total : of the files; total 0: unknown
    """

    rows: int = 0
    replayed: int = 0
    skipped: int = 0
    files: int = 0
    bytes_read: int = 0
    bytes_total: int = 0
    file: str = ""
    ack: str | None = None


class Report:
    """The rows that were left out, as a CSV of file, row, line, column and reason."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: TextIO | None = None

    def add(self, file: str, row: int, line: int | None, error: FirnlineError) -> None:
        """Note one row."""
        if self._path is None:
            return
        if self._file is None:
            self._file = self._path.open("w", newline="", encoding="utf-8")
            csv.writer(self._file).writerow(["file", "row", "line", "column", "error", "value"])
        facts = error.facts
        written = [file, row, line or "", facts.get("column", ""), error.message, facts.get("value", "")]
        csv.writer(self._file).writerow(written)

    def close(self) -> None:
        """Close the file; there is none if no row was left out."""
        if self._file is not None:
            self._file.close()


def import_files(
    connection: Connection,
    sources: Sequence[Source],
    schema: pa.Schema,
    options: ImportOptions,
    progressed: Progressed,
    tell: Callable[[], None],
) -> None:
    """Import the files into a table of ``schema``; ``progressed`` is kept true, and ``tell`` called after each block.

    Raises the first error, with the file and the row in it; all that ``progressed`` counts is durable then.
    """
    report = Report(options.report)
    progressed.bytes_total = sum(source.size for source in sources) if all(source.size for source in sources) else 0
    done_bytes = 0
    try:
        for source in sources:
            progressed.file = source.name
            work = _FileImport(connection, source, schema, options, progressed, report)
            for n_read in work.run():
                progressed.bytes_read = done_bytes + n_read
                tell()
            done_bytes += source.size
            progressed.bytes_read = done_bytes
            progressed.files += 1
            tell()
    finally:
        report.close()


@dataclass
class _FileImport:
    connection: Connection
    source: Source
    schema: pa.Schema
    options: ImportOptions
    progressed: Progressed
    report: Report

    def run(self) -> Iterator[int]:
        """Import one file; yields how many of its bytes are read after each block."""
        delimiter = self.options.delimiter or self.source.delimiter
        read = ReadOptions(CsvOptions(delimiter, self.options.null), self.options.batch_rows)
        opened = open_source(self.source)
        n_before = self.progressed.rows
        try:
            for number, block in enumerate(read_blocks(self.source, opened, self.schema, read)):
                self._store(block, number)
                yield opened.n_read
        except FirnlineError as error:
            facts = {"file": self.source.name} | error.facts
            raise type(error)(error.message, **facts, rows_stored=self.progressed.rows - n_before) from None
        finally:
            opened.close()

    def _store(self, block: Block, number: int) -> None:
        try:
            self._append(block.all_rows(), f"{number}")
        except InvalidError as error:
            if not self.options.skip or not isinstance(error.facts.get("row"), int):
                raise _placed(error, block, 0) from None
            # In small pieces, so that each wrong row costs little.
            for start in range(0, len(block), _SEARCH_ROWS):
                self._store_right(block, start, min(start + _SEARCH_ROWS, len(block)), number)

    def _store_right(self, block: Block, start: int, limit: int, number: int) -> None:
        """Append records [start, limit) but for those that are wrong."""
        while start < limit:
            try:
                self._append(block.rows(start, limit), f"{number}.{start}")
            except InvalidError as error:
                row = error.facts.get("row")
                if not isinstance(row, int):
                    raise _placed(error, block, start) from None
                wrong = start + row - 1
                if wrong > start:
                    self._append(block.rows(start, wrong), f"{number}.{start}.{wrong}")
                self.progressed.skipped += 1
                self.report.add(self.source.name, block.first_row + wrong, block.line(wrong), error)
                start = wrong + 1
            else:
                return

    def _append(self, rows: pa.Table, place: str) -> None:
        if not rows.num_rows:
            return
        told: AppendReceipt = self.connection.append(
            self.options.table,
            rows,
            on_conflict=self.options.on_conflict,
            ack=self.options.ack,
            idempotency_key=self._key(place),
        )
        if told.replayed:
            self.progressed.replayed += rows.num_rows
            self.progressed.rows += rows.num_rows
        else:
            self.progressed.rows += told.rows
        self.progressed.ack = told.ack or self.progressed.ack

    def _key(self, place: str) -> str | None:
        if self.source.identity is None:
            return None
        # A key counts for its table anyway, whatever name the table was given.
        how = replace(self.options, table="", skip=False, report=None, ack=None)
        text = f"{self.source.identity}\0{self.source.form}\0{how}\0{place}"
        return "import-" + hashlib.sha256(text.encode()).hexdigest()[:40]


def _placed(error: InvalidError, block: Block, start: int) -> InvalidError:
    """Return the error with the row and line counted from the file's first."""
    facts = dict(error.facts)
    row = facts.get("row")
    if isinstance(row, int):
        record = start + row - 1
        facts["row"] = block.first_row + record
        facts["line"] = block.line(record) if record < len(block) else None
    if "value" in facts:
        facts["value"] = facts["value"] if isinstance(facts["value"], str) else short(facts["value"])
    return type(error)(error.message, **facts)
