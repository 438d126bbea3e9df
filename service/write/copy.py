"""COPY: rows of files into a table, and rows of a query into a file."""

from __future__ import annotations

import asyncio
import fnmatch
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing

import pyarrow as pa

from catalog.tables import TableEntry
from service.cursor import Span
from service.encode import encode
from service.ingest.csv_rows import CsvOptions
from service.ingest.decode import RowFormat, decode
from service.statement import Format, Result
from service.write.compose import Text, quoted
from service.write.context import Outcome, Work
from service.write.feed import start
from service.write.fit import fit_table
from service.write.insert import Rows, insert_rows
from service.write.mutate import done_before, repeated
from service.write.retry import retried
from service.write.statements import CopyFrom, CopyTo, Insert
from storage.errors import (
    ConflictError,
    FirnlineError,
    InvalidError,
    NotFoundError,
    SqlError,
    TooLargeError,
    UnsupportedError,
)
from storage.stores import normalize

__all__ = ["copy_from", "copy_to"]

FILE_BYTES_MAX = 1 << 30
_BY_ENDING: dict[str, RowFormat] = {
    ".csv": "csv", ".json": "json", ".ndjson": "ndjson", ".jsonl": "ndjson", ".parquet": "parquet", ".arrow": "arrow",
    ".arrows": "arrow",
}  # fmt: skip
_FORMATS: dict[str, RowFormat] = {
    "csv": "csv", "json": "json", "ndjson": "ndjson", "jsonl": "ndjson", "parquet": "parquet", "arrow": "arrow",
}  # fmt: skip
_OPTIONS = ("format", "header", "delimiter", "null")


async def copy_from(work: Work, statement: CopyFrom) -> Outcome:
    """Insert the rows of one file, or of all files that a pattern names, in one statement.

    Raises
    ------
    ForbiddenError
        a file may not be reached
    InvalidError
        a value does not fit; with row, column, and the line of a text file
    """
    form = _format(statement.location, statement.options)
    location = normalize(statement.location)
    work.stores.policy.check(location)

    async def once() -> Outcome:
        entry = await work.managed(statement.table)
        if await done_before(work, entry):
            return repeated(entry)
        schema = _columns(entry, statement.columns)
        tables: list[pa.Table] = []
        files = [each async for each in _files(work, location)]
        for path, size in files:
            tables.append(await _read(work, statement, form, path, size, schema))
            work.tell(len(tables), len(files), "files read")
        if not tables:
            raise NotFoundError("no file has this name", location=location)
        rows = _whole(entry, pa.concat_tables(tables))
        insert = Insert(statement.table, None, None)
        done = await insert_rows(work, entry, insert, Rows(rows))
        return Outcome(
            f"copied {rows.num_rows} rows of {len(tables)} files into {'.'.join(statement.table)}", done.rows
        )

    return await retried(work, once)


def _format(location: str, given: Mapping[str, str]) -> RowFormat:
    for name in given:
        if name not in _OPTIONS:
            raise InvalidError(f"unknown option of COPY; there are {', '.join(_OPTIONS)}", option=name)
    if "format" in given:
        found = _FORMATS.get(given["format"].lower())
        if found is None:
            raise UnsupportedError(f"unknown format; use {', '.join(_FORMATS)}", format=given["format"])
        return found
    ending = next((form for end, form in _BY_ENDING.items() if location.lower().endswith(end)), None)
    if ending is None:
        raise InvalidError("the name does not tell the format; say it, (FORMAT csv)", location=location)
    return ending


def _columns(entry: TableEntry, names: tuple[str, ...] | None) -> pa.Schema:
    assert entry.managed is not None
    schema = entry.managed.spec.schema
    if names is None:
        return schema
    for name in names:
        if name not in schema.names:
            raise SqlError(f"no such column: {name}; the columns are {', '.join(schema.names)}")
    return pa.schema([schema.field(name) for name in names])


async def _files(work: Work, location: str) -> AsyncIterator[tuple[str, int]]:
    """Yield the files that a location names, in order: one file, all of a folder, or those of a pattern."""
    magic = min((location.find(each) for each in "*?[" if each in location), default=-1)
    if magic < 0:
        try:
            yield location, (await work.stores.head(location)).size
            return
        except NotFoundError:
            prefix, pattern = location.rstrip("/") + "/", location.rstrip("/") + "/*"
    else:
        prefix, pattern = location[: location.rfind("/", 0, magic) + 1], location
    async for path, meta in work.stores.list(prefix):
        name = path.rpartition("/")[2]
        if path.count("/") == pattern.count("/") and fnmatch.fnmatchcase(path, pattern) and name[:1] not in "._":
            yield path, meta.size


async def _read(work: Work, statement: CopyFrom, form: RowFormat, path: str, size: int, schema: pa.Schema) -> pa.Table:
    if size > FILE_BYTES_MAX:
        raise TooLargeError("the file is too large for COPY; split it", file=path, bytes=size, max=FILE_BYTES_MAX)
    options = statement.options
    csv = CsvOptions(options.get("delimiter", ","), options.get("null", ""))
    body = await work.stores.get(path)
    headless = form == "csv" and options.get("header", "true").lower() in ("false", "off", "no", "0")
    if headless:
        names = [
            name if csv.delimiter not in name and '"' not in name else '"' + name.replace('"', '""') + '"'
            for name in schema.names
        ]
        body = (csv.delimiter.join(names) + "\n").encode() + body
    try:
        decoded = await asyncio.to_thread(decode, body, form, schema, csv if form == "csv" else None)
    except FirnlineError as error:
        error.facts.setdefault("file", path)
        if headless and isinstance(error.facts.get("line"), int):
            error.facts["line"] -= 1
        raise
    return decoded.rows


def _whole(entry: TableEntry, rows: pa.Table) -> pa.Table:
    assert entry.managed is not None
    schema = entry.managed.spec.schema
    columns = [rows.column(name) if name in rows.column_names else None for name in schema.names]
    return fit_table(columns, schema, rows.num_rows)


async def copy_to(work: Work, statement: CopyTo) -> Outcome:
    """Write the rows of a query into one new file.

    Raises
    ------
    ConflictError
        a file has this name
    ForbiddenError
        the place may not be reached
    """
    form = _format(statement.location, statement.options)
    location = normalize(statement.location)
    blobs, key = work.stores.resolve(location)
    text = Text(work.parsed.sql)
    if isinstance(statement.query, Span):
        text.add(statement.query)
    else:
        assert statement.table is not None
        text.add("SELECT * FROM ", quoted(*statement.table))
    query = await start(work, text)
    counted = _Counted(work)
    result = Result(query.schema, counted.of(query.batches), work.receipt)
    parts: list[bytes] = []
    asked: Format = "ndjson" if form == "json" else form
    try:
        async with aclosing(encode(asked, result, statement_id=work.statement.statement_id)) as chunks:
            parts.extend([bytes(chunk) async for chunk in chunks])
    except FirnlineError as error:
        raise text.blame(error) from error
    data = b"".join(parts)
    if form == "json":
        data = b"[" + b",\n".join(data.splitlines()) + b"]\n"
    try:
        await blobs.put(key, data, if_absent=True)
    except ConflictError:
        raise ConflictError("a file of this name exists, and COPY overwrites none", location=location) from None
    return Outcome(f"copied {counted.rows} rows to {location}", counted.rows)


class _Counted:
    """Counts the rows that pass, and tells of them."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self.rows = 0

    async def of(self, batches: AsyncIterator[pa.RecordBatch]) -> AsyncIterator[pa.RecordBatch]:
        async for batch in batches:
            self.rows += batch.num_rows
            self._work.tell(self.rows, None, "rows written")
            yield batch
