"""Values as the type of the column that they go into: checked, so that nothing is lost without a word.

Integers that do not fit, numbers with a fraction in integer columns, text that is no number and the like are errors
that name the row and the column. Decimals and floats are rounded to a decimal column's scale, half away from zero;
times are cut to microseconds.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from functions.records import plain
from service.write.types import type_name
from storage.errors import InvalidError

__all__ = ["check_not_null", "fit_column", "fit_table"]


def fit_table(columns: Sequence[pa.ChunkedArray | None], schema: pa.Schema, n_rows: int) -> pa.Table:
    """Return the columns, None for nulls, as a table of ``schema`` without its metadata.

    Raises `InvalidError` naming row (from 1), column and value, also for a null in a column that is NOT NULL.
    """
    fields = [plain(each) for each in schema]
    fitted = []
    for column, field in zip(columns, fields, strict=True):
        values = pa.chunked_array([pa.nulls(n_rows, field.type)]) if column is None else fit_column(column, field)
        check_not_null(values, field)
        fitted.append(values)
    return pa.Table.from_arrays(fitted, schema=pa.schema(fields))


def check_not_null(values: pa.ChunkedArray, field: pa.Field) -> None:
    """Raise `InvalidError` for the first null of a column that is NOT NULL."""
    if field.nullable or not values.null_count:
        return
    row = pc.index(values.is_null(), True).as_py() + 1
    raise InvalidError("the column is NOT NULL and got no value", column=field.name, row=row)


def fit_column(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    """Return the values as the field's type. Raises `InvalidError` naming row (from 1), column and value."""
    if column.type == field.type:
        return column
    try:
        return _cast(column, field.type)
    except (pa.ArrowException, ValueError) as error:
        row, reason = _first_bad(column, field.type)
        value = str(column.slice(row, 1)[0].as_py())[:100] if row is not None else None
        raise InvalidError(
            f"the value does not fit a column of type {type_name(field.type)}",
            column=field.name, row=None if row is None else row + 1, value=value, reason=reason or _line(error),
        ) from None  # fmt: skip


def _first_bad(column: pa.ChunkedArray, kind: pa.DataType) -> tuple[int | None, str | None]:
    """Return the first row that cannot be cast, found by halving, and why."""
    low, high = 0, len(column)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            _cast(column.slice(low, middle - low), kind)
            low = middle
        except (pa.ArrowException, ValueError):
            high = middle
    try:
        _cast(column.slice(low, 1), kind)
    except (pa.ArrowException, ValueError) as error:
        return low, _line(error)
    return None, None


def _line(error: Exception) -> str:
    return str(error).split("\n", 1)[0][:200]


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    source = column.type
    if source == kind:
        return column
    if pa.types.is_null(source):
        return pa.chunked_array([pa.nulls(len(column), kind)])
    if pa.types.is_dictionary(source):
        return _cast(column.cast(source.value_type), kind)
    if source in (pa.string_view(), pa.large_string()):
        return _cast(column.cast(pa.string()), kind)
    if pa.types.is_nested(kind):
        chunks = [_nested(chunk, kind) for chunk in column.chunks]
        return pa.chunked_array(chunks, kind)
    if pa.types.is_nested(source):
        raise ValueError(f"{type_name(source)} is no {type_name(kind)}")
    _check_kinds(source, kind)
    if pa.types.is_timestamp(kind):
        return _timestamps(column, kind)
    if pa.types.is_decimal(kind):
        return _decimals(column, kind)
    if pa.types.is_date(kind) and pa.types.is_timestamp(source):
        return pc.cast(column, kind, safe=False)
    if pa.types.is_boolean(kind) and pa.types.is_string(source):
        return _booleans(column)
    if pa.types.is_string(source) and not (pa.types.is_string(kind) or pa.types.is_binary(kind)):
        column = pc.utf8_trim_whitespace(column)
    if pa.types.is_float32(kind) and not pa.types.is_string(source):
        return _floats(column)
    if pa.types.is_floating(kind):
        return pc.cast(column, kind, safe=False)
    if pa.types.is_decimal(source) and pa.types.is_string(kind):
        return pc.cast(column, kind)
    return pc.cast(column, kind)


def _check_kinds(source: pa.DataType, kind: pa.DataType) -> None:
    """Refuse what Arrow would convert although it means something else."""
    is_time = pa.types.is_temporal(source)
    to_time = pa.types.is_temporal(kind)
    is_bool, to_bool = pa.types.is_boolean(source), pa.types.is_boolean(kind)
    if (
        (is_time and not to_time and not pa.types.is_string(kind))
        or (to_time and not is_time and not pa.types.is_string(source))
        or (to_bool and not is_bool and not pa.types.is_string(source))
        or (is_bool and not to_bool and not pa.types.is_string(kind))
        or (pa.types.is_binary(kind) and not _bytes_like(source))
        or (_bytes_like(source) and not pa.types.is_string(source) and not pa.types.is_binary(kind))
    ):
        raise ValueError(f"{type_name(source)} is no {type_name(kind)}; CAST says what is meant")


def _bytes_like(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind) or kind == pa.binary_view()
    )  # fmt: skip


def _timestamps(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if pa.types.is_string(column.type):
        column = pc.utf8_trim_whitespace(column)
        # Arrow takes text with a zone for zoned types only, and text without one for the others.
        zoned = pc.match_substring_regex(column, r"(?:[zZ]|[+-]\d\d(?::?\d\d)?)$")
        if not pc.any(zoned).as_py():
            return _timestamps(pc.cast(column, pa.timestamp("us")), kind)
        bare = pc.match_substring_regex(column, r"^\d{4}-\d\d-\d\d$")
        with_zone = pc.if_else(pc.and_(zoned, pc.invert(bare)), column, pc.binary_join_element_wise(column, "Z", ""))
        with_time = pc.if_else(bare, pc.binary_join_element_wise(column, " 00:00:00Z", ""), with_zone)
        return _timestamps(pc.cast(with_time, pa.timestamp("us", "UTC")), kind)
    return pc.cast(column, options=pc.CastOptions(target_type=kind, allow_time_truncate=True, allow_int_overflow=False))


def _decimals(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    source = column.type
    if pa.types.is_string(source):
        column = pc.cast(pc.utf8_trim_whitespace(column), pa.decimal128(38, _text_scale(column, kind)))
        source = column.type
    if pa.types.is_decimal(source) and source.scale > kind.scale:
        column = pc.round(column, ndigits=kind.scale, round_mode="half_towards_infinity")
    if pa.types.is_integer(source):
        # Arrow wants room for every value of the integer type, not only for those there are.
        digits = 20 if source.bit_width == 64 else 10
        column = pc.cast(column, pa.decimal128(digits, 0))
    return pc.cast(column, kind)


def _text_scale(column: pa.ChunkedArray, kind: pa.DataType) -> int:
    """Return the scale that holds all digits of the texts, so that they are rounded and not refused."""
    behind = pc.extract_regex(column, r"\.(?P<digits>\d*)")
    longest = pc.max(pc.utf8_length(pc.struct_field(behind, "digits"))).as_py() or 0
    return int(min(max(longest, kind.scale), 38))


def _floats(column: pa.ChunkedArray) -> pa.ChunkedArray:
    wide = pc.cast(column, pa.float64(), safe=False)
    narrow = pc.cast(wide, pa.float32(), safe=False)
    lost = pc.and_(pc.is_finite(wide), pc.invert(pc.is_finite(narrow)))
    if pc.any(lost).as_py():
        raise ValueError("the number is too large")
    return narrow


_TRUE, _FALSE = ("true", "t", "yes", "on", "1"), ("false", "f", "no", "off", "0")


def _booleans(column: pa.ChunkedArray) -> pa.ChunkedArray:
    words = pc.utf8_lower(pc.utf8_trim_whitespace(column))
    is_true = pc.is_in(words, value_set=pa.array(_TRUE))
    known = pc.or_(is_true, pc.is_in(words, value_set=pa.array(_FALSE)))
    if not pc.all(pc.or_(known, pc.is_null(words))).as_py():
        raise ValueError("the text is neither true nor false")
    return pc.if_else(pc.is_null(words), pa.scalar(None, pa.bool_()), is_true)


def _nested(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """Return lists, maps and structs with their leaves cast; structs are matched by name, or else by place."""
    source = values.type
    if pa.types.is_dictionary(source):
        return _nested(values.cast(source.value_type), kind)
    if isinstance(values, pa.ExtensionArray):
        return _nested(values.storage, kind)
    mask = values.is_null() if values.null_count else None
    if pa.types.is_struct(kind) and pa.types.is_struct(source):
        return _struct(values, kind, mask)
    if pa.types.is_map(kind) and pa.types.is_map(source):
        keys, items = _leaf(values.keys, kind.key_type), _leaf(values.items, kind.item_type)
        return pa.MapArray.from_arrays(_offsets(values), keys, items, kind, mask=mask)
    if not pa.types.is_map(kind) and pa.types.is_list(kind) and _is_list(source):
        if not pa.types.is_list(source):
            values = values.cast(pa.list_(source.value_type))
        return pa.ListArray.from_arrays(_offsets(values), _leaf(values.values, kind.value_type), kind, mask=mask)
    raise ValueError(f"{type_name(source)} is no {type_name(kind)}")


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _offsets(values: pa.Array) -> pa.Array:
    return pa.array(values.offsets.to_numpy(), pa.int32())


def _struct(values: pa.Array, kind: pa.DataType, mask: pa.Array | None) -> pa.Array:
    names = [each.name for each in values.type]
    wanted = [each.name for each in kind]
    by_place = not set(names) & set(wanted) and len(names) == len(wanted)
    unknown = sorted(set(names) - set(wanted))
    if unknown and not by_place:
        raise ValueError(f"the struct has no field {unknown[0]}")
    children = []
    for at, each in enumerate(kind):
        source = at if by_place else (names.index(each.name) if each.name in names else None)
        if source is None:
            children.append(pa.nulls(len(values), each.type))
        else:
            children.append(_leaf(values.field(source), each.type))
    return pa.StructArray.from_arrays(children, fields=list(kind), mask=mask)


def _leaf(values: pa.Array, kind: pa.DataType) -> pa.Array:
    fitted = _cast(pa.chunked_array([values]), kind)
    return fitted.combine_chunks() if fitted.num_chunks != 1 else fitted.chunk(0)
