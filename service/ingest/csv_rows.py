"""CSV bodies: RFC 4180 with a header. Cells are read as text by Arrow's parser and converted a column at a time.

An unquoted empty cell is null and ``""`` the empty string, as in the answers that we write.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.csv as pa_csv

from service.ingest.columns import Decoded, Source, build_table
from service.ingest.errors import WrongValue, unknown_name
from service.ingest.json_rows import parse_cell
from service.ingest.text import text_builder
from service.ingest.values import value_builder
from storage.errors import InvalidError

__all__ = ["CsvOptions", "decode_csv"]

_BLOCK_BYTES = 1 << 20
_ROW = re.compile(r"Row #(\d+): (.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class CsvOptions:
    """How a CSV is written.

    delimiter : one ASCII character
    null : the unquoted cell that is null
    """

    delimiter: str = ","
    null: str = ""

    def __post_init__(self) -> None:
        if len(self.delimiter) != 1 or not self.delimiter.isascii() or self.delimiter in '"\r\n\0':
            raise InvalidError("the delimiter of a CSV is one ASCII character", delimiter=repr(self.delimiter)[:20])


def decode_csv(body: bytes, schema: pa.Schema, options: CsvOptions | None = None) -> Decoded:
    """Return the rows of a CSV in ``schema``. Raises `InvalidError` naming row, line and column."""
    options = options or CsvOptions()
    if body and not body.endswith(b"\n"):
        body += b"\n"  # Arrow's parser takes an empty cell that ends the file after a quoted one for a quoted one
    header = _header(body, options)
    _check_header(header, schema)
    if body.count(b'"') % 2:
        raise InvalidError("a quote is not closed", line=body.count(b"\n", 0, body.rfind(b'"')) + 1)
    lines = _Lines(body, options)
    text = _read(body, header, options, lines)
    sources = {name: Source(_one(text.column(name)), _builder(schema.field(name).type)) for name in header}
    return Decoded(build_table(schema, sources, text.num_rows, lines.line_of), lines.line_of)


def _one(column: pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks()
    return pa.concat_arrays(combined.chunks) if isinstance(combined, pa.ChunkedArray) else combined


def _records(body: bytes, options: CsvOptions) -> Iterator[tuple[int, list[str]]]:
    """Yield each record with the line on which it begins. Slow: for the header, and to say where an error is."""
    text = io.TextIOWrapper(io.BytesIO(body), "utf-8-sig", errors="replace", newline="")
    reader = csv.reader(text, delimiter=options.delimiter)
    line, single = 1, False  # a line of a table of one column may be its null
    try:
        for record in reader:
            single = single or len(record) == 1
            if record or single:
                yield line, record
            line = reader.line_num + 1
    except csv.Error as error:
        raise InvalidError(f"the CSV cannot be read: {error}", line=line) from None


def _header(body: bytes, options: CsvOptions) -> list[str]:
    for _line, record in _records(body, options):
        return record
    raise InvalidError("the CSV is empty; its first line must name the columns")


def _check_header(header: list[str], schema: pa.Schema) -> None:
    for name in header:
        if name not in schema.names:
            message = f"{unknown_name(name, schema.names)}; the first line names the columns"
            raise InvalidError(message, line=1, column=name[:80])
        if header.count(name) > 1:
            raise InvalidError("a column is there twice", line=1, column=name)


class _Lines:
    """Where rows begin; found out only once somebody asks."""

    def __init__(self, body: bytes, options: CsvOptions) -> None:
        self._body, self._options = body, options
        self._lines: list[int] | None = None

    def line_of(self, row: int) -> int | None:
        """Return the line, from 1, on which a row, from 0, begins."""
        if self._lines is None:
            self._lines = []
            try:
                for line, _record in _records(self._body, self._options):
                    self._lines.append(line)
            except InvalidError:
                pass  # what is known up to there will do
        return self._lines[row + 1] if row + 1 < len(self._lines) else None


def _read(body: bytes, header: list[str], options: CsvOptions, lines: _Lines) -> pa.Table:
    convert = pa_csv.ConvertOptions(
        column_types=dict.fromkeys(header, pa.string()),
        null_values=[options.null],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )
    parse = pa_csv.ParseOptions(
        delimiter=options.delimiter, newlines_in_values=True, ignore_empty_lines=len(header) > 1
    )
    try:
        for block_bytes in (_BLOCK_BYTES, len(body) + 2):
            read = pa_csv.ReadOptions(use_threads=False, block_size=block_bytes, skip_rows=1, column_names=header)
            try:
                return pa_csv.read_csv(io.BytesIO(body), read, parse, convert)
            except pa.ArrowInvalid as error:
                if "straddling" not in str(error) or block_bytes > len(body):
                    raise
    except pa.ArrowException as error:
        text = str(error)
        if "Empty CSV file" in text or "Could not skip initial" in text:
            return pa.schema([(name, pa.string()) for name in header]).empty_table()
        found = _ROW.search(text)
        if found is None:
            raise InvalidError(f"the CSV cannot be read: {text[:200]}") from None
        row = int(found[1]) - 2
        message = found[2].lower().split(": ")[0 if found[2].startswith("Expected") else -1]
        raise InvalidError(f"the CSV cannot be read: {message[:200]}", row=row + 1, line=lines.line_of(row)) from None
    raise AssertionError("unreachable")


def _builder(kind: pa.DataType) -> Callable[[pa.Array], pa.Array]:
    return text_builder(kind) or partial(_nested, kind)


def _nested(kind: pa.DataType, text: pa.Array) -> pa.Array:
    """Cells of nested types are JSON."""
    try:
        values = [None if each is None else parse_cell(each) for each in text.to_pylist()]
    except ValueError as error:
        raise WrongValue(f"no JSON: {str(error)[:100].lower()}") from None
    return value_builder(kind)(values)
