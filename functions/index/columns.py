"""Columns of an index: chosen by name once, and found again in later versions of the table."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa

from catalog.indexes import IndexColumn
from storage.errors import InvalidError, SqlError, UnsupportedError
from storage.tables.snapshot import FIELD_ID, PHYSICAL_NAME, Snapshot

__all__ = ["COLUMNS_MAX", "column_names", "index_columns", "retyped"]

COLUMNS_MAX = 8


def index_columns(snapshot: Snapshot, names: Sequence[str]) -> tuple[IndexColumn, ...]:
    """Return the columns of a new index on a table.

    Raises
    ------
    SqlError : the table has no such column, or it is named twice
    InvalidError : too many columns, or one by which the table is partitioned
    UnsupportedError : the type cannot be a key; names those that can
    """
    from functions.index.keyspace import check_type

    if len(names) > COLUMNS_MAX:
        raise UnsupportedError(f"an index has up to {COLUMNS_MAX} columns", columns=len(names))
    found = []
    for name in names:
        if names.count(name) > 1:
            raise SqlError("the index names a column twice", column=name)
        if name not in snapshot.schema.names:
            raise _no_column(name, snapshot.schema.names)
        if name in snapshot.partition_columns or name in snapshot.files.partitions:
            raise InvalidError(
                "the table is partitioned by this column, so partition pruning finds its files; leave it out",
                column=name,
            )
        field = snapshot.schema.field(name)
        check_type(name, field.type)
        found.append(_column(field))
    return tuple(found)


def _no_column(name: str, names: Sequence[str]) -> SqlError:
    near = difflib.get_close_matches(name.lower(), [each.lower() for each in names], 1, 0.5)
    meant = next((each for each in names if near and each.lower() == near[0]), None)
    hint = f"did you mean {meant}?" if meant else ""
    listed = f"the columns are {', '.join(names[:20])}{', …' if len(names) > 20 else ''}"
    return SqlError(f"no such column: {name}; {hint} {listed}".replace(";  ", "; "))


def _column(field: pa.Field) -> IndexColumn:
    metadata = field.metadata or {}
    number = metadata.get(FIELD_ID)
    name = metadata.get(PHYSICAL_NAME, field.name.encode()).decode() if number is None else field.name
    return IndexColumn(name, str(field.type), None if number is None else int(number))


def column_names(columns: Sequence[IndexColumn], schema: pa.Schema) -> tuple[str, ...] | str:
    """Return what the columns are called in ``schema``, or why one of them cannot be used there.

    A column is known by its field id, and by its name in the files where it had no id when it was indexed.
    """
    names = []
    for column in columns:
        field = _field(column, schema)
        if field is None:
            return f"the table has no column {column.name} any more"
        if str(field.type) != column.type:
            return f"column {field.name} was {column.type} when it was indexed, and is {field.type}"
        names.append(field.name)
    return tuple(names)


def retyped(columns: Sequence[IndexColumn], schema: pa.Schema) -> tuple[IndexColumn, ...] | str:
    """Return the columns with the types, and names, that they have now; or which one is no more."""
    found = []
    for column in columns:
        field = _field(column, schema)
        if field is None:
            return f"the table has no column {column.name} any more"
        name = field.name if column.field_id is not None else column.name
        found.append(replace(column, name=name, type=str(field.type)))
    return tuple(found)


def _field(column: IndexColumn, schema: pa.Schema) -> pa.Field | None:
    for field in schema:
        metadata = field.metadata or {}
        if column.field_id is not None:
            if metadata.get(FIELD_ID) == str(column.field_id).encode():
                return field
        elif metadata.get(PHYSICAL_NAME, field.name.encode()) == column.name.encode():
            return field
    return None
