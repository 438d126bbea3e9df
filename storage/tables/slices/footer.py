"""The footer and the offset indexes of a Parquet file, checked: whatever they say lies inside of the file.

Source: Apache Parquet format, ``parquet.thrift`` (FileMetaData, RowGroup, ColumnChunk, OffsetIndex).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise

import pyarrow as pa

from storage.errors import CorruptError, UnsupportedError
from storage.tables.slices.file_schema import FileSchema, normal_arrow_schema
from storage.tables.slices.thrift import BINARY, STRUCT, ThriftReader

__all__ = ["Chunk", "Footer", "Group", "Pages", "parse_footer", "parse_offset_index"]

_ROWS_MAX = 1 << 36
_DATA_PAGES = (0, 3)
_DICTIONARY_ENCODINGS = (2, 8)
_OLD_WRITER = re.compile(rb"parquet-mr version 1\.([0-9]+)(?:\.([0-9]+))?")

Pages = tuple[list[int], list[int], list[int]]
"""First row, first byte and bytes of each page."""


@dataclass(slots=True)
class Chunk:
    """What the footer says of a column chunk.

    coded, n_pages : data pages that are coded by the dictionary, and all; -1 where that is not said
    """

    codec: int = 0
    values: int = 0
    size: int = 0
    data: int = -1
    dictionary: int = 0
    coded: int = -1
    n_pages: int = -1
    index_start: int = 0
    index_bytes: int = 0
    reason: str = ""

    @property
    def start(self) -> int:
        """The first byte, of the dictionary page if there is one."""
        return self.dictionary if 0 < self.dictionary < self.data else self.data


@dataclass(slots=True)
class Group:
    """A row group, and its column chunks in the order of the schema's leaves."""

    n_rows: int = -1
    chunks: list[Chunk] = field(default_factory=list)


@dataclass(slots=True)
class Footer:
    """What is needed of a footer."""

    schema: FileSchema
    groups: list[Group]


def parse_footer(data: bytes, size: int) -> Footer:
    """Read a FileMetaData. Raises `CorruptError`; `UnsupportedError`: its rows cannot be read by slices."""
    reader = ThriftReader(data)
    elements, arrow, created_by, n_rows = b"", b"", b"", -1
    groups: list[Group] = []
    for number, kind in reader.fields():
        if number == 2:
            n = reader.list_of(STRUCT, kind)
            start = reader.at
            for _ in range(n):
                reader.skip(STRUCT)
            elements = data[start : reader.at]
        elif number == 3:
            n_rows = reader.integer(kind)
        elif number == 4:
            groups = [_group(reader) for _ in range(reader.list_of(STRUCT, kind))]
        elif number == 5:
            arrow = _arrow_value(reader, kind)
        elif number == 6:
            created_by = reader.binary(kind)
        elif number == 8:
            raise UnsupportedError("it is encrypted (Parquet modular encryption)")
        else:
            reader.skip(kind)
    schema = _schema(elements, arrow, created_by)
    _check(schema, groups, n_rows, size)
    return Footer(schema, groups)


def _arrow_value(reader: ThriftReader, kind: int) -> bytes:
    """Read the key-value pairs; return the Arrow schema's."""
    found = b""
    for _ in range(reader.list_of(STRUCT, kind)):
        key = value = b""
        for number, inner in reader.fields():
            if number == 1:
                key = reader.binary(inner)
            elif number == 2 and inner == BINARY:
                value = reader.binary(inner)
            else:
                reader.skip(inner)
        if key == b"ARROW:schema":
            found = value
    return found


def _group(reader: ThriftReader) -> Group:
    group = Group()
    for number, kind in reader.fields():
        if number == 1:
            group.chunks = [_chunk(reader) for _ in range(reader.list_of(STRUCT, kind))]
        elif number == 3:
            group.n_rows = reader.integer(kind)
        else:
            reader.skip(kind)
    return group


def _chunk(reader: ThriftReader) -> Chunk:
    chunk = Chunk()
    for number, kind in reader.fields():
        if number == 3 and kind == STRUCT:
            _column_metadata(reader, chunk)
        elif number == 4:
            chunk.index_start = reader.integer(kind)
        elif number == 5:
            chunk.index_bytes = reader.integer(kind)
        elif number == 1:
            chunk.reason = "its columns are in other files" if reader.binary(kind) else chunk.reason
        elif number in (8, 9):
            chunk.reason = "a column of it is encrypted (Parquet modular encryption)"
            reader.skip(kind)
        else:
            reader.skip(kind)
    return chunk


def _column_metadata(reader: ThriftReader, chunk: Chunk) -> None:
    for number, kind in reader.fields():
        if number == 4:
            chunk.codec = reader.integer(kind)
        elif number == 5:
            chunk.values = reader.integer(kind)
        elif number == 7:
            chunk.size = reader.integer(kind)
        elif number == 9:
            chunk.data = reader.integer(kind)
        elif number == 11:
            chunk.dictionary = reader.integer(kind)
        elif number == 13:
            _encoding_stats(reader, kind, chunk)
        else:
            reader.skip(kind)


def _encoding_stats(reader: ThriftReader, kind: int, chunk: Chunk) -> None:
    """Count the data pages, and those of them that are coded by the dictionary."""
    chunk.coded = chunk.n_pages = 0
    for _ in range(reader.list_of(STRUCT, kind)):
        found = {1: -1, 2: -1, 3: 0}
        for number, inner in reader.fields():
            if number in found:
                found[number] = reader.integer(inner)
            else:
                reader.skip(inner)
        if found[1] in _DATA_PAGES:
            chunk.n_pages += found[3]
            chunk.coded += found[3] if found[2] in _DICTIONARY_ENCODINGS else 0


@lru_cache(maxsize=256)
def _schema(elements: bytes, arrow: bytes, created_by: bytes) -> FileSchema:
    """Return the schema, checked; files of one schema share it."""
    schema = FileSchema(elements, b"", created_by)
    if len(schema.numbers) < len(schema.columns):
        raise UnsupportedError("two of its columns have one name")
    old = _OLD_WRITER.match(created_by)
    if old and (int(old[1]), int(old[2] or 0)) < (2, 9):
        raise UnsupportedError("its writer (parquet-mr before 1.2.9) gives wrong sizes of columns")
    if arrow:
        schema = FileSchema(elements, normal_arrow_schema(arrow, len(schema.columns)), created_by)
    try:
        schema.arrow_schema.names  # noqa: B018 — a damaged name is found when it is asked for
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UnsupportedError("it holds a type or a name that Arrow lacks", reason=str(error)) from error
    return schema


def _check(schema: FileSchema, groups: Sequence[Group], n_rows: int, size: int) -> None:
    if any(group.n_rows < 0 for group in groups) or sum(group.n_rows for group in groups) != n_rows:
        raise CorruptError("the footer's row groups do not add up to its rows", rows=n_rows)
    if n_rows > _ROWS_MAX:
        raise CorruptError("the footer tells of more rows than a file can have", rows=n_rows)
    repeated = [many for column in schema.columns for many in column.repeated]
    for group in groups:
        if not group.n_rows:
            group.chunks = [Chunk(data=0) for _ in repeated]
        if len(group.chunks) != len(repeated):
            raise CorruptError("a row group has another number of columns than the file")
        for chunk, many in zip(group.chunks, repeated, strict=True):
            if chunk.reason:
                raise UnsupportedError(chunk.reason)
            if chunk.start < 0 or chunk.size < chunk.data - chunk.start or chunk.start + chunk.size > size:
                raise CorruptError("a column chunk lies outside of the file", start=chunk.start, bytes=chunk.size)
            if not (0 <= chunk.values < 1 << 48 and 0 <= chunk.codec < 128):
                raise CorruptError("a column chunk is not one", values=chunk.values, codec=chunk.codec)
            if chunk.values != group.n_rows and not many:
                raise CorruptError("a column chunk has fewer values than rows", values=chunk.values, rows=group.n_rows)
            if not 0 <= chunk.index_start <= chunk.index_start + chunk.index_bytes <= size:
                raise CorruptError("an offset index lies outside of the file", start=chunk.index_start)


def parse_offset_index(data: bytes, chunk: Chunk, n_rows: int) -> Pages | None:
    """Read an OffsetIndex: (first row, start, size) of each page; None if it does not describe the chunk's pages."""
    reader = ThriftReader(data)
    rows, starts, sizes = [], [], []
    for number, kind in reader.fields():
        if number != 1:
            reader.skip(kind)
            continue
        for _ in range(reader.list_of(STRUCT, kind)):
            found = {1: -1, 2: -1, 3: -1}
            for inner, inner_kind in reader.fields():
                if inner in found:
                    found[inner] = reader.integer(inner_kind)
                else:
                    reader.skip(inner_kind)
            starts.append(found[1])
            sizes.append(found[2])
            rows.append(found[3])
    limits = [start + size for start, size in zip(starts, sizes, strict=True)]
    in_order = all(a < b for a, b in pairwise(rows))
    apart = all(limit <= start for limit, start in zip(limits, starts[1:], strict=False))
    within = bool(rows) and rows[0] == 0 and rows[-1] < n_rows and starts[0] >= chunk.start
    if not (within and in_order and apart and min(sizes) >= 0 and limits[-1] <= chunk.start + chunk.size):
        return None
    return rows, starts, sizes
