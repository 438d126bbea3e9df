"""The keys of a look-up: values as JSON gives them, into columns of exactly the key's types."""

from __future__ import annotations

import base64
import binascii
import uuid
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from service.ingest.errors import WrongValue, first_wrong, short
from service.ingest.values import value_builder
from storage.errors import InvalidError, UnsupportedError

__all__ = ["check_type", "key_table"]

_EXACT_FLOAT = 2**53
_SUPPORTED = "integers, floats, dates, timestamps, decimals, strings, binary and UUIDs"
_LAYOUTS = {
    pa.large_string(): pa.string(),
    pa.string_view(): pa.string(),
    pa.large_binary(): pa.binary(),
    pa.binary_view(): pa.binary(),
}


def check_type(field: pa.Field) -> None:
    """Raise `UnsupportedError` for a column whose type cannot be a key."""
    kind = _stored(field.type)
    if not (
        pa.types.is_integer(kind)
        or pa.types.is_float32(kind)
        or pa.types.is_float64(kind)
        or pa.types.is_date32(kind)
        or pa.types.is_timestamp(kind)
        or pa.types.is_decimal128(kind)
        or pa.types.is_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
    ):
        raise UnsupportedError(
            f"rows are not found by a column of this type; there are {_SUPPORTED}",
            column=field.name, type=str(field.type),
        )  # fmt: skip


def key_table(keys: Sequence[Any], fields: Sequence[pa.Field]) -> pa.Table:
    """Return the keys as columns of ``fields``, a row each in the order given.

    Raises `InvalidError` naming the first key, counted from 1, that is no key of these columns: one of another number
    of values, a NULL or NaN, or a value that the column cannot hold exactly.
    """
    if len(fields) == 1:
        return pa.table([_column(keys, fields[0])], schema=pa.schema(fields))
    for number, key in enumerate(keys):
        if not isinstance(key, (list, tuple)) or len(key) != len(fields):
            names = ", ".join(field.name for field in fields)
            raise InvalidError(f"a key is an array of {len(fields)} values: {names}", key=number + 1, got=short(key))
    columns = [_column([key[place] for key in keys], field) for place, field in enumerate(fields)]
    return pa.table(columns, schema=pa.schema(fields))


def _column(values: Sequence[Any], field: pa.Field) -> pa.Array:
    def build(part: Sequence[Any]) -> pa.Array:
        return _built(part, _stored(field.type))

    try:
        return _dressed(build(values), field.type)
    except WrongValue as error:
        place, wrong = first_wrong(values, build, error)
        raise InvalidError(
            wrong.message, key=place + 1, column=field.name, type=str(field.type), value=short(values[place])
        ) from None


def _built(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    if any(value is None for value in values):
        raise WrongValue("a key has no NULL; = never finds one")
    if pa.types.is_fixed_size_binary(kind):
        return pa.array([_fixed(value, kind.byte_width) for value in values], kind)
    if pa.types.is_floating(kind):
        return _floats(values, kind)
    if pa.types.is_timestamp(kind) and kind.unit != "us":
        built = value_builder(pa.timestamp("us", kind.tz))(values)
        try:
            return built.cast(kind)
        except pa.ArrowException:
            raise WrongValue(f"the timestamp does not fit into {kind}") from None
    return value_builder(kind)(values)


def _floats(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    for value in values:
        if isinstance(value, int) and abs(value) > _EXACT_FLOAT and int(float(value)) != value:
            raise WrongValue(f"the number does not fit into {kind} exactly")
    built = value_builder(kind)(values)
    if pc.any(pc.is_nan(built)).as_py():
        raise WrongValue("a key has no NaN; = never finds one")
    return built


def _fixed(value: Any, n_bytes: int) -> bytes:
    """Return the bytes of base64, or of a UUID's text."""
    if not isinstance(value, str):
        raise WrongValue("base64 is wanted here" + (", or a UUID" if n_bytes == 16 else ""))
    try:
        data = uuid.UUID(value).bytes if n_bytes == 16 and len(value) >= 32 else base64.b64decode(value, validate=True)
    except (ValueError, binascii.Error):
        raise WrongValue("no UUID" if n_bytes == 16 else "no base64") from None
    if len(data) != n_bytes:
        raise WrongValue(f"{n_bytes} bytes are wanted here")
    return data


def _stored(kind: pa.DataType) -> pa.DataType:
    """Return the type that values are built in."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    return _LAYOUTS.get(kind, kind)


def _dressed(column: pa.Array, kind: pa.DataType) -> pa.Array:
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, column)
    return column if column.type == kind else column.cast(kind)
