"""Columns of anything that can be sliced into a table, and the first row that is wrong if one is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from functions.by_identity import by_identity
from service.ingest.errors import WrongValue, first_wrong, refuse
from storage.errors import InvalidError

__all__ = ["Decoded", "LineOf", "build_table", "no_lines"]

LineOf = Callable[[int], int | None]
"""Row, from 0 → the line of the body on which it begins, from 1, where the format has lines."""
_NO_VALUE = "the column is NOT NULL; give it a value"


def no_lines(_row: int) -> int | None:
    """Know no lines."""
    return None


@dataclass(frozen=True)
class Decoded:
    """Rows in a table's schema, each value checked, and where they stood."""

    rows: pa.Table
    line_of: LineOf = no_lines


@dataclass(frozen=True)
class Source:
    """One column as it came: values, and what makes an array of a slice of them."""

    values: Any
    build: Callable[[Any], pa.Array]


def build_table(
    schema: pa.Schema, sources: Mapping[str, Source], n_rows: int, line_of: LineOf = no_lines, first_row: int = 0
) -> pa.Table:
    """Return the columns as a table of ``schema``; columns without a source are null.

    Raises `InvalidError` for the first row that is wrong; ``first_row`` is the number of the first one here.
    """
    arrays: list[pa.Array] = []
    error: InvalidError | None = None
    limit = n_rows  # rows before the first wrong one that is known
    for field in _fields(schema):
        source = sources.get(field.name)
        array, wrong = _column(field, source, limit)
        if wrong is not None:
            limit = wrong[0]
            value = source.values[limit] if source is not None else None
            shown = _python(value) if isinstance(value, pa.Scalar) else value
            error = refuse(
                wrong[1].message,
                row=first_row + limit,
                line=line_of(limit),
                column=field.name + wrong[1].path,
                value=shown,
                shown=shown is not None,
            )
        if error is None:
            arrays.append(array)
    if error is not None:
        raise error
    return pa.Table.from_arrays(arrays, schema=schema) if arrays else schema.empty_table()


def _python(value: pa.Scalar) -> Any:
    """Return an Arrow value as Python's, for showing it; some dates are beyond Python's years."""
    try:
        return value.as_py()
    except (ArithmeticError, ValueError):
        return str(value.cast(pa.int64(), safe=False)) if pa.types.is_temporal(value.type) else "…"


@by_identity
def _fields(schema: pa.Schema) -> list[pa.Field]:
    return list(schema)


def _column(field: pa.Field, source: Source | None, limit: int) -> tuple[pa.Array, tuple[int, WrongValue] | None]:
    """Return the array of the first ``limit`` values, or the first wrong one of them."""
    if source is None:
        wrong = (0, WrongValue(_NO_VALUE)) if limit and not field.nullable else None
        return pa.nulls(limit, field.type), wrong
    values = source.values if len(source.values) == limit else source.values[:limit]
    found: tuple[int, WrongValue] | None = None
    try:
        array = source.build(values)
    except WrongValue as error:
        found = first_wrong(values, source.build, error)
        array = source.build(values[: found[0]])
    if not field.nullable and array.null_count:
        found = pc.index(array.is_null(), pa.scalar(True)).as_py(), WrongValue(_NO_VALUE)
    return array, found
