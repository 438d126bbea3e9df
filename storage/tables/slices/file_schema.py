"""The schema of a Parquet file as its footer says it, and footers over some of its columns.

Source: Apache Parquet format, ``parquet.thrift`` (SchemaElement, FileMetaData, ColumnMetaData).
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import CorruptError, UnsupportedError
from storage.tables.project import without_views
from storage.tables.slices.thrift import (
    BINARY,
    I32,
    I64,
    LIST,
    STRUCT,
    ThriftReader,
    binary,
    field,
    integer,
    list_of,
)

__all__ = ["MAGIC", "Column", "FileSchema", "FooterFrame", "normal_arrow_schema"]

MAGIC = b"PAR1"
_REPEATED = 2
_DEPTH_MAX = 64
_FRAMES_MAX = 64
# Readers go by the encodings that the pages name; the footer's list is for people.
_ENCODINGS = list_of(I32, 3) + integer(0) + integer(3) + integer(8)
_ARROW_KEY = b"ARROW:schema"


@dataclass(frozen=True, slots=True)
class Column:
    """A top-level column.

    elements : its SchemaElements, encoded
    n_elements : how many
    leaves : of each leaf, in the file's order, the first three fields of a ColumnMetaData, encoded
    first_leaf : the number of the first one among all of the file
    repeated : of each leaf, whether it can have more or fewer values than rows
    """

    name: str
    elements: bytes
    n_elements: int
    leaves: tuple[bytes, ...]
    first_leaf: int
    repeated: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class FooterFrame:
    """What goes before and behind the row groups in the footer of a file of some columns."""

    before: bytes
    behind: bytes
    leaves: tuple[bytes, ...]


@dataclass(frozen=True)
class FileSchema:
    """The schema that files share.

    elements : the footer's SchemaElements, encoded, the root first
    arrow : value of the footer's ``ARROW:schema`` without metadata of the schema itself, or b""
    created_by : the writer's name, by which readers know old faults
    """

    elements: bytes
    arrow: bytes
    created_by: bytes

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """The top-level columns. Raises `CorruptError`."""
        reader = ThriftReader(self.elements)
        n_children = _element(reader)[2] or 0
        columns: list[Column] = []
        n_leaves = 0
        for _ in range(n_children):
            column = _column(reader, n_leaves)
            n_leaves += len(column.leaves)
            columns.append(column)
        if reader.at != len(self.elements):
            raise CorruptError("the Parquet schema does not fit its own tree")
        return tuple(columns)

    @cached_property
    def n_leaves(self) -> int:
        return sum(len(column.leaves) for column in self.columns)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The number of each column by its name."""
        return {column.name: number for number, column in enumerate(self.columns)}

    @cached_property
    def arrow_schema(self) -> pa.Schema:
        """The Arrow schema, as the file's own footer would give it, but without views: field ids are metadata of its
        fields.
        """
        return without_views(self._stored_schema)

    @cached_property
    def has_views(self) -> bool:
        """Tell whether a column is decoded as views of strings or binary, which `arrow_schema` says it is not."""
        return self.arrow_schema is not self._stored_schema

    @cached_property
    def _stored_schema(self) -> pa.Schema:
        frame = self.frame(tuple(range(len(self.columns))))
        none = field(1, I64) + integer(0) + field(1, LIST) + list_of(STRUCT, 0)
        return open_file(frame.before + none + frame.behind).schema_arrow.remove_metadata()

    @cached_property
    def templates(self) -> dict[tuple[object, ...], list[Any]]:
        """What `storage.tables.slices.memory_file` keeps open for files of this schema."""
        return {}

    @cached_property
    def _frames(self) -> dict[tuple[int, ...], FooterFrame]:
        return {}

    def frame(self, numbers: tuple[int, ...]) -> FooterFrame:
        """Return the frame of a footer over the columns of these numbers, which ascend."""
        found = self._frames.get(numbers)
        if found is None:
            if len(self._frames) >= _FRAMES_MAX:
                self._frames.clear()
            found = self._frames[numbers] = self._frame(numbers)
        return found

    def _frame(self, numbers: tuple[int, ...]) -> FooterFrame:
        columns = [self.columns[number] for number in numbers]
        root = field(4, BINARY) + binary(b"schema") + field(1, I32) + integer(len(columns)) + b"\0"
        elements = [root, *(column.elements for column in columns)]
        n_elements = 1 + sum(column.n_elements for column in columns)
        before = field(1, I32) + integer(2) + field(1, LIST) + list_of(STRUCT, n_elements) + b"".join(elements)
        leaves = tuple(leaf for column in columns for leaf in column.leaves)
        behind, last = b"", 4
        if self.arrow:
            pair = field(1, BINARY) + binary(_ARROW_KEY) + field(1, BINARY) + binary(self._arrow_of(numbers)) + b"\0"
            behind, last = field(1, LIST) + list_of(STRUCT, 1) + pair, 5
        if self.created_by:
            behind += field(6 - last, BINARY) + binary(self.created_by)
        return FooterFrame(before, behind + b"\0", leaves)

    def _arrow_of(self, numbers: tuple[int, ...]) -> bytes:
        if len(numbers) == len(self.columns):
            return self.arrow
        whole = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(self.arrow)))
        return base64.b64encode(pa.schema([whole.field(number) for number in numbers]).serialize())


def open_file(data: bytes) -> pq.ParquetFile:
    """Open a Parquet file in memory that has this footer behind whatever else; see `storage.tables.footers`."""
    whole = b"".join((MAGIC, data, len(data).to_bytes(4, "little"), MAGIC))
    return pq.ParquetFile(pa.BufferReader(whole), coerce_int96_timestamp_unit="us")


def normal_arrow_schema(value: bytes, n_columns: int) -> bytes:
    """Return a footer's ``ARROW:schema`` without the metadata that differs between files. Raises `UnsupportedError`."""
    try:
        schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(value)))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UnsupportedError("its Arrow schema cannot be read", reason=str(error)) from error
    if len(schema) != n_columns:
        raise UnsupportedError("its Arrow schema has other columns than the file")
    return base64.b64encode(schema.remove_metadata().serialize())


def _element(reader: ThriftReader) -> tuple[bytes, int | None, int | None, int]:
    """Read a SchemaElement: (name, physical type, number of children, repetition)."""
    name, kind_of, n_children, repetition = b"", None, None, 0
    for number, kind in reader.fields():
        if number == 1:
            kind_of = reader.integer(kind)
        elif number == 3:
            repetition = reader.integer(kind)
        elif number == 4:
            name = reader.binary(kind)
        elif number == 5:
            n_children = reader.integer(kind)
        else:
            reader.skip(kind)
    return name, kind_of, n_children, repetition


def _column(reader: ThriftReader, first_leaf: int) -> Column:
    """Read one top-level column with all below it."""
    start, leaves, repeated = reader.at, [], []
    n_elements = 0

    def walk(path: Sequence[bytes], many: bool) -> str:
        nonlocal n_elements
        if len(path) > _DEPTH_MAX:
            raise CorruptError("the Parquet schema is nested too deeply")
        name, kind_of, n_children, repetition = _element(reader)
        n_elements += 1
        here, many = [*path, name], many or repetition == _REPEATED
        if n_children:
            for _ in range(n_children):
                walk(here, many)
        elif kind_of is None:
            raise UnsupportedError("it has a column without a type")
        else:
            steps = b"".join(map(binary, here))
            leaves.append(
                field(1, I32) + integer(kind_of) + field(1, LIST) + _ENCODINGS
                + field(1, LIST) + list_of(BINARY, len(here)) + steps
            )  # fmt: skip
            repeated.append(many)
        return name.decode(errors="replace")

    name = walk([], False)
    return Column(name, reader.data[start : reader.at], n_elements, tuple(leaves), first_leaf, tuple(repeated))
