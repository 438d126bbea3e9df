"""Arrow columns of any type into a table's types, where no value changes by it.

Columns go by name. Dictionaries and views are unfolded within a bound; integers widen or narrow where they fit;
instants keep their place in time. A float never becomes an integer or a decimal, and a number never a string.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from service.ingest.columns import Source, build_table
from service.ingest.errors import WrongValue, unknown_name
from service.ingest.nested import checked_child
from service.ingest.text import text_builder
from storage.errors import InvalidError, TooLargeError

__all__ = ["UNFOLDED_BYTES_MAX", "conform"]

Build = Callable[[pa.Array], pa.Array]
_SCALE_MAX = 76
UNFOLDED_BYTES_MAX = 1 << 30
"""Most bytes of a column once its dictionaries and views are unfolded."""


def conform(rows: pa.Table, schema: pa.Schema, first_row: int = 0) -> pa.Table:
    """Return the rows in ``schema``; columns that are missing are null.

    ``rows`` are valid Arrow data. Raises `InvalidError` naming the column, and the row (``first_row`` is the number of
    the first here) if only some value does not fit; `TooLargeError`.
    """
    for name in rows.column_names:
        if name not in schema.names:
            raise InvalidError(unknown_name(name, schema.names), column=name[:80])
        if rows.column_names.count(name) > 1:
            raise InvalidError("a column is there twice", column=name[:80])
    sources = {}
    for name in rows.column_names:
        build = _builder(rows.schema.field(name).type, schema.field(name).type, name)
        sources[name] = Source(_one(rows.column(name)), build)
    return build_table(schema, sources, rows.num_rows, first_row=first_row)


def _one(column: pa.ChunkedArray) -> pa.Array:
    if column.num_chunks == 1:
        return column.chunk(0)
    unfolded = column if not pa.types.is_dictionary(column.type) else _unfold_chunks(column)
    combined = unfolded.combine_chunks()
    return pa.concat_arrays(combined.chunks) if isinstance(combined, pa.ChunkedArray) else combined


def _unfold_chunks(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Chunks of a dictionary column may each have a dictionary of their own."""
    return pa.chunked_array([_unfold(chunk) for chunk in column.chunks], column.type.value_type)


def _builder(source: pa.DataType, target: pa.DataType, path: str) -> Build:
    """Return what converts arrays. Raises `InvalidError` where no value of the type would do."""
    if pa.types.is_dictionary(source):
        inner = _builder(source.value_type, target, path)
        # Chunks were unfolded already where there were several.
        return lambda array: inner(_unfold(array) if pa.types.is_dictionary(array.type) else array)
    if pa.types.is_string_view(source) or pa.types.is_binary_view(source):
        plain = pa.large_string() if pa.types.is_string_view(source) else pa.large_binary()
        inner = _builder(plain, target, path)
        return lambda array: inner(_within(array, _view_bytes(array)).cast(plain))
    if pa.types.is_null(source):
        return lambda array: pa.nulls(len(array), target)
    if pa.types.is_struct(target) and pa.types.is_struct(source):
        return _structs(source, target, path)
    if pa.types.is_map(target) and pa.types.is_map(source):
        return _maps(source, target, path)
    if pa.types.is_list(target) and (
        pa.types.is_list(source) or pa.types.is_large_list(source) or pa.types.is_fixed_size_list(source)
    ):
        return _lists(source, target, path)
    if source.equals(target):
        return lambda array: array
    if pa.types.is_string(source) or pa.types.is_large_string(source):
        if pa.types.is_string(target):
            return partial(_cast, target)
        build = text_builder(target)
        if build is not None and (
            pa.types.is_date(target) or pa.types.is_timestamp(target) or pa.types.is_decimal(target)
        ):
            return lambda array: build(array.cast(pa.string()))
    elif _fits(source, target):
        return partial(_cast, target)
    raise InvalidError("the column is of another type", column=path, type=str(source)[:80], wanted=str(target)[:80])


def _fits(source: pa.DataType, target: pa.DataType) -> bool:
    """Whether values of one type may be values of the other."""
    types = pa.types
    if types.is_timestamp(source) and types.is_timestamp(target):
        return target.tz is not None or source.tz is None
    if types.is_decimal(source) and abs(source.scale) > _SCALE_MAX:
        return False  # Arrow takes any scale from a stream, and reads beyond its table of powers
    if types.is_integer(source):
        return bool(types.is_integer(target) or types.is_floating(target) or types.is_decimal(target))
    return bool(
        (types.is_floating(source) and types.is_floating(target))
        or (types.is_decimal(source) and types.is_decimal(target))
        or (types.is_date(source) and types.is_date(target))
        or (types.is_boolean(source) and types.is_boolean(target))
        or (
            (types.is_binary(source) or types.is_large_binary(source) or types.is_fixed_size_binary(source))
            and types.is_binary(target)
        )
    )


def _cast(target: pa.DataType, array: pa.Array) -> pa.Array:
    try:
        # An integer may round when it becomes a float; everything else must be exact.
        found = pc.cast(array, options=pc.CastOptions(target_type=target, allow_float_truncate=True))
    except pa.ArrowException:
        raise WrongValue(f"the value does not fit into {target} without loss") from None
    if pa.types.is_floating(target) and pa.types.is_floating(array.type) and not pa.types.is_float64(target):
        grown = pc.and_(pc.is_inf(found), pc.is_finite(array))
        if pc.any(grown, min_count=0).as_py():
            raise WrongValue(f"the number does not fit into {target}")
    return found


def _unfold(array: pa.DictionaryArray) -> pa.Array:
    values = array.dictionary
    kind = values.type
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        plain = pa.large_string() if pa.types.is_string_view(kind) else pa.large_binary()
        values = _within(values, _view_bytes(values)).cast(plain)
        return _unfold(pa.DictionaryArray.from_arrays(array.indices, values)).cast(plain)
    if pa.types.is_large_string(kind) or pa.types.is_string(kind) or pa.types.is_binary(kind):
        _within(array, pc.sum(pc.take(pc.binary_length(values), array.indices)).as_py())
    elif not pa.types.is_primitive(kind):
        raise InvalidError("a dictionary of this type is not read; send plain values", type=str(kind)[:80])
    return array.dictionary_decode()


def _view_bytes(array: pa.Array) -> int:
    """Return how many bytes an array of views has as plain strings; a view begins with its length."""
    views = array.buffers()[1]
    if not len(array) or views is None:
        return 0
    lengths = np.frombuffer(views, np.int32)[4 * array.offset :: 4][: len(array)].astype(np.int64)
    if array.null_count:
        lengths = lengths[array.is_valid().to_numpy(zero_copy_only=False)]
    return int(lengths.sum())


def _within(array: pa.Array, n_bytes: int | None) -> pa.Array:
    if (n_bytes or 0) > UNFOLDED_BYTES_MAX:
        raise TooLargeError("a column is too large once it is unfolded; send it in parts", bytes_max=UNFOLDED_BYTES_MAX)
    return array


def _structs(source: pa.DataType, target: pa.DataType, path: str) -> Build:
    given = {source.field(index).name: index for index in range(source.num_fields)}
    fields = [target.field(index) for index in range(target.num_fields)]
    known = [field.name for field in fields]
    for name in given:
        if name not in known:
            raise InvalidError(unknown_name(name, known, "member"), column=f"{path}.{name[:80]}")
    if len(given) < source.num_fields:
        raise InvalidError("a member is there twice", column=path)
    inner = {
        field.name: _builder(source.field(given[field.name]).type, field.type, f"{path}.{field.name}")
        for field in fields
        if field.name in given
    }

    def build(array: pa.Array) -> pa.Array:
        missing = array.is_null()
        children = []
        for field in fields:
            if field.name in given:
                step = f".{field.name}"
                child = _child(inner[field.name], pc.struct_field(array, [given[field.name]]), field, step, missing)
            else:
                child = _child(lambda one: one, pa.nulls(len(array), field.type), field, f".{field.name}", missing)
            children.append(child)
        return pa.StructArray.from_arrays(children, fields=fields, mask=missing)

    return build


def _lists(source: pa.DataType, target: pa.DataType, path: str) -> Build:
    inner = _builder(source.value_type, target.value_type, f"{path}[]")

    def build(array: pa.Array) -> pa.Array:
        offsets, values = _flat(array)
        return pa.ListArray.from_arrays(offsets, _child(inner, values, target.value_field, "[]"), type=target)

    return build


def _flat(array: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Return a list array's offsets from 0, null where a list is, and its values without gaps."""
    values = array.flatten()
    lengths = pc.fill_null(pc.list_value_length(array), 0).cast(pa.int64())
    ends = pc.cumulative_sum(lengths)
    starts = pc.subtract(ends, lengths)
    starts = pc.if_else(array.is_null(), pa.scalar(None, pa.int64()), starts)
    offsets = pa.concat_arrays([starts, pa.array([len(values)], pa.int64())])
    return offsets.cast(pa.int32()), values


def _maps(source: pa.DataType, target: pa.DataType, path: str) -> Build:
    keys = _builder(source.key_type, target.key_type, f"{path}{{key}}")
    items = _builder(source.item_type, target.item_type, f"{path}{{}}")

    def build(array: pa.Array) -> pa.Array:
        as_list = array.cast(pa.list_(pa.struct([source.key_field, source.item_field])))
        offsets, entries = _flat(as_list)
        return pa.MapArray.from_arrays(
            offsets,
            _child(keys, pc.struct_field(entries, [0]), target.key_field, "{key}"),
            _child(items, pc.struct_field(entries, [1]), target.item_field, "{}"),
            type=target,
        )

    return build


def _child(build: Build, values: pa.Array, field: pa.Field, step: str, parent_null: pa.Array | None = None) -> pa.Array:
    try:
        array = build(values)
    except WrongValue as error:
        raise error.under(step) from None
    return checked_child(array, field, step, parent_null)
