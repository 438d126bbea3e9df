"""A file in blocks of rows: text is cut at the ends of records, Parquet and Arrow come in batches.

Blocks are the same each time that a file is read with the same options.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import BinaryIO, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from firnline.chunks import CHUNK_BYTES, chunks_of
from firnline.importing.sources import Opened, Source, open_arrow
from service.ingest.conform import conform
from service.ingest.csv_rows import CsvOptions, decode_csv
from service.ingest.json_rows import decode_json, decode_ndjson
from storage.errors import InvalidError

__all__ = ["Block", "ReadOptions", "read_blocks"]

_BLOCK_BYTES = 8 << 20
_RECORD_BYTES_MAX = 64 << 20
_JSON_BYTES_MAX = 1 << 30
_BATCH_ROWS = 65_536
Decode = Callable[[bytes], pa.Table]


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How text is read. ``batch_rows`` bounds the rows of a block; 0: by bytes alone."""

    csv: CsvOptions
    batch_rows: int = 0


class Block(Protocol):
    """Some rows of a file. ``first_row`` is the number of the first in the file, from 1."""

    first_row: int

    def __len__(self) -> int:
        """How many records there are, right or wrong."""
        ...

    def all_rows(self) -> pa.Table:
        """Return all records as rows of the schema; as `rows`."""
        ...

    def rows(self, start: int, limit: int) -> pa.Table:
        """Return records [start, limit) as rows of the schema. Raises `InvalidError` with ``row`` from 1 in them."""
        ...

    def line(self, record: int) -> int | None:
        """Return the line of a record in the file, from 1."""
        ...


@dataclass
class TextBlock:
    """Whole records of a text file; cut into records only when somebody asks."""

    data: bytes
    decode: Decode
    cut: Callable[[bytes], tuple[list[bytes], list[int]]]
    header: bytes
    first_row: int
    first_line: int
    _n_rows: int | None = None

    def __len__(self) -> int:
        return len(self._records[0]) if self._n_rows is None else self._n_rows

    def all_rows(self) -> pa.Table:
        table = self.decode(self.header + self.data)
        self._n_rows = table.num_rows
        return table

    def rows(self, start: int, limit: int) -> pa.Table:
        return self.decode(self.header + b"".join(self._records[0][start:limit]))

    def line(self, record: int) -> int | None:
        lines = self._records[1]
        return self.first_line + lines[record] if record < len(lines) else None

    @cached_property
    def _records(self) -> tuple[list[bytes], list[int]]:
        return self.cut(self.data)


@dataclass
class TableBlock:
    """Rows that are Arrow data already."""

    table: pa.Table
    schema: pa.Schema
    first_row: int

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def all_rows(self) -> pa.Table:
        return self.rows(0, len(self))

    def rows(self, start: int, limit: int) -> pa.Table:
        part = self.table.slice(start, limit - start)
        part.validate(full=True)
        return conform(part, self.schema)

    def line(self, record: int) -> int | None:  # noqa: ARG002
        return None


def read_blocks(source: Source, opened: Opened, schema: pa.Schema, options: ReadOptions) -> Iterator[Block]:
    """Yield the file's blocks. Raises `InvalidError` for what is no such file."""
    try:
        if source.form == "csv":
            yield from _csv(opened.stream, schema, options)
        elif source.form == "ndjson":
            yield from _ndjson(opened.stream, schema, options)
        elif source.form == "json":
            yield from _tables(iter([_json(opened.stream, schema)]), schema, options)
        else:
            yield from _tables(_arrow_tables(source, opened), schema, options)
    except (OSError, EOFError, zlib.error, zstandard.ZstdError, pa.ArrowException) as error:
        raise InvalidError(f"the file cannot be read: {str(error)[:200]}", file=source.name) from None


def _arrow_tables(source: Source, opened: Opened) -> Iterator[pa.Table]:
    if source.form == "parquet":
        if source.path is None:
            file = pq.ParquetFile(pa.BufferReader(opened.stream.read()))
        else:
            file = pq.ParquetFile(source.path)
        with file:
            for batch in file.iter_batches(_BATCH_ROWS):
                yield pa.Table.from_batches([batch])
        return
    with open_arrow(opened.stream) as reader:
        for batch in reader:
            yield pa.Table.from_batches([batch])


def _tables(tables: Iterator[pa.Table], schema: pa.Schema, options: ReadOptions) -> Iterator[TableBlock]:
    row = 1
    for table in tables:
        for part in chunks_of(table, CHUNK_BYTES // 2):
            step = options.batch_rows or max(1, part.num_rows)
            for start in range(0, part.num_rows, step):
                yield TableBlock(part.slice(start, step), schema, row + start)
            row += part.num_rows


def _json(stream: BinaryIO, schema: pa.Schema) -> pa.Table:
    body = stream.read(_JSON_BYTES_MAX + 1)
    if len(body) > _JSON_BYTES_MAX:
        raise InvalidError("a JSON array of this size is not read; write one object a line (NDJSON)")
    return decode_json(body, schema).rows


def _ndjson(stream: BinaryIO, schema: pa.Schema, options: ReadOptions) -> Iterator[TextBlock]:
    yield from _text(stream, lambda body: decode_ndjson(body, schema).rows, options, b"", quoted=False)


def _csv(stream: BinaryIO, schema: pa.Schema, options: ReadOptions) -> Iterator[TextBlock]:
    header = b""
    while line := stream.readline():
        header += line
        if header.strip(b"\xef\xbb\xbf \r\n") and header.count(b'"') % 2 == 0:
            break
        if len(header) > _BLOCK_BYTES:
            raise InvalidError("the first line of the CSV does not end")
    if header and not header.endswith(b"\n"):
        header += b"\n"
    decode = partial(_decode_csv, schema, options.csv)
    decode(header)  # names that are wrong are said at once
    yield from _text(stream, decode, options, header, quoted=True)


def _decode_csv(schema: pa.Schema, options: CsvOptions, body: bytes) -> pa.Table:
    return decode_csv(body, schema, options).rows


def _text(
    stream: BinaryIO, decode: Decode, options: ReadOptions, header: bytes, *, quoted: bool
) -> Iterator[TextBlock]:
    # A column alone may be null, which is an empty line.
    keep_blank = quoted and options.csv.delimiter.encode() not in header
    cut = partial(_records, quoted=quoted, keep_blank=keep_blank)
    row, line = 1, header.count(b"\n") + 1
    for data in _whole_records(stream, quoted=quoted):
        for piece in _pieces(data, cut, options.batch_rows):
            block = TextBlock(piece, decode, cut, header, row, line)
            yield block
            row += len(block)
            line += piece.count(b"\n")


def _pieces(data: bytes, cut: Callable[[bytes], tuple[list[bytes], list[int]]], batch_rows: int) -> Iterator[bytes]:
    """Cut whole records into pieces of at most ``batch_rows``, blank lines included."""
    if not batch_rows:
        yield data
        return
    _, starts = cut(data)
    lines = io.BytesIO(data).readlines()
    ends = [*starts[batch_rows::batch_rows], len(lines)]
    begun = 0
    for end in ends:
        yield b"".join(lines[begun:end])
        begun = end


def _whole_records(stream: BinaryIO, *, quoted: bool) -> Iterator[bytes]:
    """Yield the text in pieces that end where a record does."""
    held = b""
    while data := stream.read(_BLOCK_BYTES):
        held += data
        cut = held.rfind(b"\n") + 1
        while quoted and cut and held.count(b'"', 0, cut) % 2:
            cut = held.rfind(b"\n", 0, cut - 1) + 1
        if cut:
            yield held[:cut]
            held = held[cut:]
        elif len(held) > _RECORD_BYTES_MAX:
            raise InvalidError("a record does not end; is a quote not closed?", bytes_max=_RECORD_BYTES_MAX)
    if held:
        yield held


def _records(data: bytes, *, quoted: bool, keep_blank: bool) -> tuple[list[bytes], list[int]]:
    """Return the records and on which line, from 0, each begins."""
    records: list[bytes] = []
    lines: list[int] = []
    open_record = b""
    begun = 0
    for number, line in enumerate(io.BytesIO(data)):
        if not open_record:
            begun = number
        open_record += line
        if quoted and open_record.count(b'"') % 2:
            continue
        if keep_blank or open_record.strip():
            records.append(open_record if open_record.endswith(b"\n") else open_record + b"\n")
            lines.append(begun)
        open_record = b""
    if open_record:
        records.append(open_record)
        lines.append(begun)
    return records, lines
