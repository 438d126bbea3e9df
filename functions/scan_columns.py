"""How a native scan turns the columns of a data file into those of its table: a select list over the file."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from functions.literals import identifier, string, type_name, typed_literal
from storage.errors import UnsupportedError
from storage.tables.project import default_of, has_field_ids, is_direct, source_of, with_mapped_ids
from storage.tables.snapshot import Snapshot

__all__ = ["filled_columns", "is_plain", "named_alike", "select_list"]

_UNITS = ("s", "ms", "us", "ns")


def _stored_fields(snapshot: Snapshot, stored: pa.Schema) -> list[pa.Field]:
    if snapshot.name_mapping is not None and not has_field_ids(stored):
        stored = with_mapped_ids(stored, snapshot.name_mapping)
    return list(stored)


def filled_columns(snapshot: Snapshot, stored: pa.Schema) -> list[str]:
    """Return the columns that a file of this schema takes from its partition."""
    candidates = _stored_fields(snapshot, stored)
    return [
        logical.name
        for logical in snapshot.schema
        if (logical.name in snapshot.files.partitions or logical.name in snapshot.files.absent)
        and (snapshot.matching != "field_id" or source_of(logical, candidates, snapshot.matching) is None)
    ]


def select_list(
    snapshot: Snapshot, constants: Mapping[str, pa.Scalar], stored: pa.Schema,
    with_nan: frozenset[str] = frozenset(), numbers: frozenset[str] = frozenset(),
) -> list[str] | str:  # fmt: skip
    """Return the select list that turns a file's columns into the table's, or why there is none.

    Parameters
    ----------
    with_nan : columns of the table of which statistics are not to be used
    numbers : columns of the file that are known to hold no NaN
    """
    candidates = _stored_fields(snapshot, stored)
    try:
        return [
            _column(snapshot, logical, constants, candidates, numbers if logical.name in with_nan else None)
            for logical in snapshot.schema
        ]
    except UnsupportedError as error:
        return error.message


def _column(
    snapshot: Snapshot, logical: pa.Field, constants: Mapping[str, pa.Scalar], candidates: list[pa.Field],
    numbers: frozenset[str] | None,
) -> str:  # fmt: skip
    """Return one item of a select list. Raises `UnsupportedError` when no native expression gives the column."""
    name, matching = identifier(logical.name), snapshot.matching
    source = source_of(logical, candidates, matching)
    if logical.name in constants and (source is None or matching != "field_id"):
        return f"{typed_literal(constants[logical.name], logical.type)} AS {name}"
    if source is None:
        return f"{typed_literal(default_of(logical), logical.type)} AS {name}"
    opaque = ""
    if numbers is not None and pa.types.is_floating(source.type) and source.name not in numbers:
        opaque = _unproven(logical.type)
    if opaque and pa.types.is_float16(source.type):
        return (
            f"arrow_cast({_single(source.name)}{_unproven(pa.float32())}, {string(type_name(logical.type))}) AS {name}"
        )
    if is_direct(logical, source, matching):
        return f"{identifier(source.name)}{opaque} AS {name}" if opaque else named_alike(logical, source.name)
    if pa.types.is_nested(logical.type) or pa.types.is_nested(source.type):
        raise UnsupportedError("nested columns that changed")
    return f"arrow_cast({_exact(source, logical.type)}, '{type_name(logical.type)}'){opaque} AS {name}"


def named_alike(field: pa.Field, source: str) -> str:
    """Return an item of a select list that gives the file's column ``source``, a map's entries by the name that all
    have. Raises `UnsupportedError` for a map whose type has no text."""
    name = identifier(field.name)
    if not _has_map(field.type):
        return f"{identifier(source)} AS {name}"
    return f"arrow_cast({identifier(source)}, {string(type_name(field.type))}) AS {name}"


def _has_map(type_: pa.DataType) -> bool:
    """Tell whether a type is a map or holds one: the engine calls a map's entries as the file does (``key_value``), and
    all rows that came through Arrow's other library, those of pages and of the log, have ``entries``. To the engine
    these are two types, and a plan whose rows are pages fails where it was made for the first."""
    return pa.types.is_map(type_) or any(_has_map(type_.field(place).type) for place in range(type_.num_fields))


def _single(name: str) -> str:
    """Return a half-precision column in single precision: the engine writes half-precision numbers into its plans as
    those, and would not take such a plan back."""
    return f"arrow_cast({identifier(name)}, 'Float32')"


def _unproven(type_: pa.DataType) -> str:
    """Return what makes an expression of a float column that has the same value for every float, the zeros and NaN
    among them, but of which the engine knows no statistics. They leave NaN out, and the engine's pruning, top-k, joins
    and ``max`` would take rows with NaN for rows within the bounds. The sum costs 0.2 ns a value."""
    return f" + {typed_literal(pa.scalar(-0.0, type_), type_)}"


def _exact(source: pa.Field, wanted: pa.DataType) -> str:
    """Return the stored column, a timestamp of a coarser unit by a function: from comparisons of a cast one the engine
    takes the cast away, and cuts what it is compared with to the coarser unit."""
    kind, name = source.type, identifier(source.name)
    if not (pa.types.is_timestamp(kind) and pa.types.is_timestamp(wanted)):
        return name
    if _UNITS.index(kind.unit) >= _UNITS.index(wanted.unit):
        return name
    return f"to_timestamp_{'nanos' if wanted.unit == 'ns' else 'micros'}({name})"


def is_plain(snapshot: Snapshot, stored: pa.Schema) -> bool:
    """Tell whether the file's columns are the table's own, in order."""
    if stored.names != snapshot.schema.names or filled_columns(snapshot, stored):
        return False
    candidates = _stored_fields(snapshot, stored)
    return not any(map(_has_map, snapshot.schema.types)) and all(
        source_of(logical, candidates, snapshot.matching) is source and is_direct(logical, source, snapshot.matching)
        for logical, source in zip(snapshot.schema, candidates, strict=True)
    )
