"""From what a data file holds to what its table says: columns matched, renamed, reordered, filled and cast.

A table's schema changes while its files stay as they were written. `source_of` finds a logical field among a file's
fields (by name, by physical name or by field id); `project_batch` rewrites a batch to the logical schema, at every
nesting level. `is_direct` tells when a plain column reference does the same, so that a native scan can be used.

Sources: Iceberg spec, "Column Projection"; Delta protocol, "Reader Requirements for Column Mapping".
"""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from storage.errors import CorruptError
from storage.tables.snapshot import FIELD_ID, INITIAL_DEFAULT, PHYSICAL_NAME, Matching, Snapshot

__all__ = [
    "constants_of",
    "default_of",
    "has_field_ids",
    "is_direct",
    "project_array",
    "project_batch",
    "source_of",
    "with_mapped_ids",
    "without_views",
]

_VIEWS = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}


def source_of(field: pa.Field, candidates: Sequence[pa.Field], matching: Matching) -> pa.Field | None:
    """Return the file's field that holds the logical ``field``, or None if the file was written without it.

    A file without any field ids is matched by physical name, then by name. Names fall back to a unique
    case-insensitive match, as every engine that writes these files does.
    """
    if matching == "field_id" and any(_id(candidate) is not None for candidate in candidates):
        wanted = _id(field)
        return next((c for c in candidates if wanted is not None and _id(c) == wanted), None)
    name = field.name if matching == "name" else _physical_name(field)
    for candidate in candidates:
        if candidate.name == name:
            return candidate
    folded = [c for c in candidates if c.name.lower() == name.lower()]
    return folded[0] if len(folded) == 1 else None


def _id(field: pa.Field) -> bytes | None:
    value = (field.metadata or {}).get(FIELD_ID)
    return value if value is not None and value != b"-1" else None


def _physical_name(field: pa.Field) -> str:
    return str((field.metadata or {}).get(PHYSICAL_NAME, field.name.encode()).decode())


def without_views(schema: pa.Schema) -> pa.Schema:
    """Return the schema with plain strings and binary for views of them, at every level; itself if it has none.

    Views are how a writer held its values in memory, which no file needs; pyarrow can neither take nor filter them.
    """
    fields = list(schema)
    plain = list(map(_without_views, fields))
    if all(new is old for new, old in zip(plain, fields, strict=True)):
        return schema
    return pa.schema(plain, schema.metadata)


def _without_views(field: pa.Field) -> pa.Field:
    type_ = field.type
    if type_ in _VIEWS:
        return field.with_type(_VIEWS[type_])
    children = _children(type_)
    plain = [_without_views(child) for child in children]
    if all(new is old for new, old in zip(plain, children, strict=True)):
        return field
    if pa.types.is_struct(type_):
        return field.with_type(pa.struct(plain))
    if pa.types.is_map(type_):
        return field.with_type(pa.map_(*plain, keys_sorted=type_.keys_sorted))
    if pa.types.is_large_list(type_):
        return field.with_type(pa.large_list(plain[0]))
    return field.with_type(pa.list_(plain[0], type_.list_size if pa.types.is_fixed_size_list(type_) else -1))


def has_field_ids(schema: pa.Schema) -> bool:
    """Tell whether any field, at any level, carries a field id."""
    return any(_deep_has_id(field) for field in schema)


def _deep_has_id(field: pa.Field) -> bool:
    return _id(field) is not None or any(_deep_has_id(child) for child in _children(field.type))


def _children(type_: pa.DataType) -> list[pa.Field]:
    if pa.types.is_map(type_):
        return [type_.key_field, type_.item_field]
    return [type_.field(i) for i in range(type_.num_fields)] if pa.types.is_nested(type_) else []


def with_mapped_ids(schema: pa.Schema, mapping: Mapping[str, int]) -> pa.Schema:
    """Give a file's fields the ids that a name mapping (dotted path → id) assigns to them."""
    return pa.schema([_mapped(field, field.name, mapping) for field in schema])


def _mapped(field: pa.Field, path: str, mapping: Mapping[str, int]) -> pa.Field:
    type_ = field.type
    if pa.types.is_struct(type_):
        type_ = pa.struct([_mapped(child, f"{path}.{child.name}", mapping) for child in _children(type_)])
    elif pa.types.is_map(type_):
        key, item = _children(type_)
        type_ = pa.map_(_mapped(key, f"{path}.key", mapping), _mapped(item, f"{path}.value", mapping))
    elif _is_list(type_):
        type_ = pa.list_(_mapped(type_.value_field, f"{path}.element", mapping))
    number = mapping.get(path)
    metadata = {FIELD_ID: str(number).encode()} if number is not None else None
    return pa.field(field.name, type_, field.nullable, metadata)


def _is_list(type_: pa.DataType) -> bool:
    return bool(pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_))


def is_direct(field: pa.Field, source: pa.Field, matching: Matching) -> bool:
    """Tell whether reading ``source`` as it is yields ``field``: same type, and the same names below it."""
    return _same(field.type, source.type, matching)


def _same(logical: pa.DataType, physical: pa.DataType, matching: Matching) -> bool:
    if pa.types.is_struct(logical) and pa.types.is_struct(physical):
        ours, theirs = _children(logical), _children(physical)
        return len(ours) == len(theirs) and all(
            a.name == b.name and source_of(a, theirs, matching) == b and _same(a.type, b.type, matching)
            for a, b in zip(ours, theirs, strict=True)
        )
    if pa.types.is_map(logical) and pa.types.is_map(physical):
        return all(
            _same(a.type, b.type, matching) for a, b in zip(_children(logical), _children(physical), strict=True)
        )
    if _is_list(logical) and logical.id == physical.id:
        sized = not pa.types.is_fixed_size_list(logical) or logical.list_size == physical.list_size
        return bool(sized) and _same(logical.value_type, physical.value_type, matching)
    return bool(logical.equals(physical)) and not pa.types.is_nested(logical)


def project_batch(
    batch: pa.RecordBatch, schema: pa.Schema, matching: Matching, constants: Mapping[str, pa.Scalar]
) -> pa.RecordBatch:
    """Return the batch in the logical schema.

    Parameters
    ----------
    batch : rows as the file holds them, with the file's field metadata
    constants : logical column → the file's partition value (`constants_of`), which wins over what the file holds,
        but with field ids only fills in for a column that the file lacks

    Raises
    ------
    CorruptError
        when a stored column cannot be cast to the table's type
    """
    candidates = list(batch.schema)
    columns = []
    for field in schema:
        source = source_of(field, candidates, matching)
        if field.name in constants and (source is None or matching != "field_id"):
            columns.append(_repeat(constants[field.name], batch.num_rows, field.type))
        elif source is None:
            columns.append(_repeat(default_of(field), batch.num_rows, field.type))
        else:
            column = batch.column(candidates.index(source))
            columns.append(project_array(column, source, field, matching))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def constants_of(snapshot: Snapshot, index: int) -> dict[str, pa.Scalar]:
    """Return the values that hold in every row of file ``index`` by its partition: column → value."""
    files = snapshot.files
    constants = {name: values[index] for name, values in files.partitions.items()}
    constants.update({name: values[index] for name, (values, known) in files.absent.items() if known[index]})
    return constants


def project_array(array: pa.Array, source: pa.Field, field: pa.Field, matching: Matching) -> pa.Array:
    """Return one column in its logical type. Raises `CorruptError` naming the column."""
    try:
        return _project(array, source, field, matching)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise CorruptError(
            "a stored column does not fit its table's type",
            column=field.name,
            stored=str(source.type),
            table=str(field.type),
            reason=str(error),
        ) from error


def _project(array: pa.Array, source: pa.Field, field: pa.Field, matching: Matching) -> pa.Array:
    logical, physical = field.type, source.type
    if pa.types.is_struct(logical) and pa.types.is_struct(physical):
        theirs = _children(physical)
        parts = []
        for child in _children(logical):
            found = source_of(child, theirs, matching)
            if found is None:
                parts.append(_repeat(default_of(child), len(array), child.type))
            else:
                parts.append(_project(array.field(theirs.index(found)), found, child, matching))
        mask = pc.is_null(array) if array.null_count else None
        if not parts:
            return pa.array([None if null else {} for null in pc.is_null(array).to_pylist()], logical)
        return pa.StructArray.from_arrays(parts, fields=_children(logical), mask=mask)
    if pa.types.is_map(logical) and pa.types.is_map(physical):
        (our_key, our_item), (their_key, their_item) = _children(logical), _children(physical)
        array = _compact_list(array)
        keys = _project(array.keys, their_key, our_key, matching)
        items = _project(array.items, their_item, our_item, matching)
        return pa.MapArray.from_arrays(array.offsets, keys, items, logical, mask=_mask(array))
    if pa.types.is_list(logical) and _is_list(physical):
        array = _compact_list(array.cast(pa.list_(source.type.value_field)))
        values = _project(array.values, source.type.value_field, logical.value_field, matching)
        return pa.ListArray.from_arrays(array.offsets, values, logical, mask=_mask(array))
    return array if physical.equals(logical) else _cast(array, logical)


def _compact_list(array: pa.Array) -> pa.Array:
    """Return the array without an offset, since child arrays ignore the parent's."""
    return array if array.offset == 0 else pa.concat_arrays([array, array.slice(0, 0)])


def _mask(array: pa.Array) -> pa.Array | None:
    return pc.is_null(array) if array.null_count else None


def _cast(array: pa.Array, logical: pa.DataType) -> pa.Array:
    if pa.types.is_timestamp(array.type) and pa.types.is_timestamp(logical):
        return array.cast(logical, safe=False)  # INT96 and nanoseconds: the formats' own precision is microseconds
    if pa.types.is_fixed_size_binary(array.type) and pa.types.is_string(logical):
        return array.cast(pa.binary()).cast(logical)
    return array.cast(logical)


def _repeat(value: pa.Scalar, n_rows: int, type_: pa.DataType) -> pa.Array:
    if not value.is_valid:
        return pa.nulls(n_rows, type_)
    return pa.repeat(value if value.type.equals(type_) else value.cast(type_), n_rows)


def default_of(field: pa.Field) -> pa.Scalar:
    """Return the value of ``field`` in files written before it existed: its initial default, or null.

    Source: Iceberg spec, Appendix D, "JSON single-value serialization".
    """
    raw = (field.metadata or {}).get(INITIAL_DEFAULT)
    if raw is None:
        return pa.scalar(None, field.type)
    return pa.scalar(_single_value(json.loads(raw), field.type), field.type)


def _single_value(value: Any, type_: pa.DataType) -> Any:
    if value is None:
        return None
    if pa.types.is_struct(type_):
        by_id = {(_id(child) or b"").decode(): child for child in _children(type_)}
        return {
            child.name: _single_value(value[number], child.type) for number, child in by_id.items() if number in value
        }
    if pa.types.is_map(type_):
        key, item = _children(type_)
        pairs = zip(value["keys"], value["values"], strict=True)
        return [(_single_value(k, key.type), _single_value(v, item.type)) for k, v in pairs]
    if _is_list(type_):
        return [_single_value(element, type_.value_type) for element in value]
    if pa.types.is_decimal(type_):
        return decimal.Decimal(value)
    if pa.types.is_date(type_):
        return dt.date.fromisoformat(value)
    if pa.types.is_time(type_):
        return dt.time.fromisoformat(value)
    if pa.types.is_timestamp(type_):
        return pa.scalar(value).cast(type_)
    if pa.types.is_fixed_size_binary(type_):
        return uuid.UUID(value).bytes if "-" in value else bytes.fromhex(value)
    if pa.types.is_binary(type_):
        return bytes.fromhex(value) if _is_hex(value) else base64.b64decode(value)
    return value


def _is_hex(value: str) -> bool:
    return len(value) % 2 == 0 and all(c in "0123456789abcdefABCDEF" for c in value)
