"""Arrow types and values as DataFusion SQL text."""

from __future__ import annotations

import pyarrow as pa

from storage.errors import UnsupportedError

__all__ = ["identifier", "string", "type_name", "typed_literal"]

_SIMPLE = {
    "bool": "Boolean", "int8": "Int8", "int16": "Int16", "int32": "Int32", "int64": "Int64", "uint8": "UInt8",
    "uint16": "UInt16", "uint32": "UInt32", "uint64": "UInt64", "halffloat": "Float16", "float": "Float32",
    "double": "Float64", "string": "Utf8", "large_string": "LargeUtf8", "string_view": "Utf8View",
    "binary": "Binary", "large_binary": "LargeBinary", "binary_view": "BinaryView", "date32[day]": "Date32",
    "date64[ms]": "Date64", "null": "Null",
}  # fmt: skip
_UNITS = {"s": "Second", "ms": "Millisecond", "us": "Microsecond", "ns": "Nanosecond"}


def identifier(name: str) -> str:
    """Quote a name: case and every character are kept."""
    return '"' + name.replace('"', '""') + '"'


def string(text: str) -> str:
    """Quote a string literal."""
    return "'" + text.replace("'", "''") + "'"


def type_name(type_: pa.DataType) -> str:
    """Return the name that ``arrow_cast`` takes for the type. Raises `UnsupportedError` for one it lacks."""
    simple = _SIMPLE.get(str(type_))
    if simple is not None:
        return simple
    if pa.types.is_timestamp(type_):
        zone = f'Some("{type_.tz}")' if type_.tz else "None"
        return f"Timestamp({_UNITS[type_.unit]}, {zone})"
    if pa.types.is_time32(type_) or pa.types.is_time64(type_):
        return f"Time{type_.bit_width}({_UNITS[type_.unit]})"
    if pa.types.is_duration(type_):
        return f"Duration({_UNITS[type_.unit]})"
    if pa.types.is_decimal(type_) and type_.scale >= 0:  # the engine casts no text to a negative scale
        return f"Decimal{type_.bit_width}({type_.precision}, {type_.scale})"
    if pa.types.is_fixed_size_binary(type_):
        return f"FixedSizeBinary({type_.byte_width})"
    if pa.types.is_dictionary(type_):
        return f"Dictionary({type_name(type_.index_type)}, {type_name(type_.value_type)})"
    if pa.types.is_struct(type_):
        return "Struct(" + ", ".join(map(_field, type_.fields)) + ")"
    if pa.types.is_map(type_):
        entries = f"Struct({_field(type_.key_field, 'non-null ')}, {_field(type_.item_field)})"
        return f'Map("entries": non-null {entries}, {"" if type_.keys_sorted else "un"}sorted)'
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        return ("Large" if pa.types.is_large_list(type_) else "") + f"List({type_name(type_.value_type)})"
    if pa.types.is_fixed_size_list(type_):
        return f"FixedSizeList({type_.list_size}, {type_name(type_.value_type)})"
    raise UnsupportedError("a type that the query engine lacks", type=str(type_))


def _field(field: pa.Field, required: str = "") -> str:
    if '"' in field.name or "\\" in field.name:
        raise UnsupportedError("the query engine has no way to write this field's name", field=field.name)
    return f'"{field.name}": {required}{type_name(field.type)}'


def typed_literal(value: pa.Scalar, type_: pa.DataType) -> str:
    """Return an SQL expression whose value and Arrow type are exactly these.

    Raises `UnsupportedError` for a non-null nested value.
    """
    wanted = string(type_name(type_))
    if not value.is_valid:
        return f"arrow_cast(NULL, {wanted})"
    if pa.types.is_nested(type_):
        raise UnsupportedError("a default value of a nested type", type=str(type_))
    if pa.types.is_dictionary(type_):
        return f"arrow_cast({typed_literal(value.cast(type_.value_type), type_.value_type)}, {wanted})"
    if isinstance(value.as_py(), bytes):
        return f"arrow_cast(X'{value.as_py().hex()}', {wanted})"
    if pa.types.is_timestamp(type_):
        # Through UTC: the engine takes a number as the wall clock of any other zone.
        zone = 'Some("UTC")' if type_.tz else "None"
        return f"arrow_cast(arrow_cast({value.value}, 'Timestamp({_UNITS[type_.unit]}, {zone})'), {wanted})"
    if pa.types.is_duration(type_):
        return f"arrow_cast({value.value}, {wanted})"
    if pa.types.is_time(type_):
        return f"arrow_cast(arrow_cast({value.value}, 'Int{type_.bit_width}'), {wanted})"
    if pa.types.is_floating(type_):
        return f"arrow_cast({string(repr(value.as_py()))}, {wanted})"
    if pa.types.is_date(type_):
        return f"arrow_cast({string(value.as_py().isoformat())}, {wanted})"
    if pa.types.is_decimal(type_):
        return f"arrow_cast({string(format(value.as_py(), 'f'))}, {wanted})"
    return f"arrow_cast({string(str(value.as_py()))}, {wanted})"
