"""Python values, as JSON gives them, into Arrow columns: strict, and fast where all values of a column are alike.

A builder looks at each value by itself, so that `service.ingest.errors.first_wrong` can find the one that is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import lru_cache, partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from service.ingest.errors import WrongValue, unknown_name
from service.ingest.nested import checked_child
from service.ingest.text import FLOAT_WORDS, text_builder

__all__ = ["value_builder"]

Values = Sequence[Any]
Build = Callable[[Values], pa.Array]

_NULL = type(None)


@lru_cache(maxsize=1024)
def value_builder(kind: pa.DataType) -> Build:
    """Return what turns a list of values (None is null) into an array of ``kind``. It raises `WrongValue`."""
    if pa.types.is_struct(kind):
        return partial(_structs, kind)
    if pa.types.is_map(kind):
        return partial(_maps, kind)
    if pa.types.is_list(kind):
        return partial(_lists, kind)
    if pa.types.is_boolean(kind):
        return partial(_plain, kind, frozenset({bool, _NULL}), "a boolean")
    if pa.types.is_integer(kind):
        return partial(_plain, kind, frozenset({int, _NULL}), "a whole number")
    if pa.types.is_string(kind):
        return partial(_plain, kind, frozenset({str, _NULL}), "a string")
    if pa.types.is_floating(kind):
        return partial(_floats, kind)
    if pa.types.is_decimal(kind):
        return partial(_decimals, kind)
    from_text = text_builder(kind)
    assert from_text is not None, kind
    return partial(_written, from_text, "base64" if pa.types.is_binary(kind) else "a string")


def _called(value: Any) -> str:
    """Name a value's type as JSON does."""
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, (int, float, Decimal)):
        return "a number"
    names = {str: "a string", list: "an array", dict: "an object", _NULL: "null"}
    return names.get(type(value), type(value).__name__)


def _check_types(values: Values, allowed: frozenset[type], wanted: str) -> set[type]:
    found = set(map(type, values))
    if not found <= allowed:
        odd = next(value for value in values if type(value) not in allowed)
        raise WrongValue(f"{wanted} is wanted here, not {_called(odd)}")
    return found


def _plain(kind: pa.DataType, allowed: frozenset[type], wanted: str, values: Values) -> pa.Array:
    _check_types(values, allowed, wanted)
    try:
        return pa.array(values, kind)
    except UnicodeEncodeError:
        raise WrongValue("the string holds half of a surrogate pair") from None
    except (pa.ArrowException, OverflowError):
        raise WrongValue(f"the value does not fit into {kind}") from None


_NUMBERS = frozenset({float, int, Decimal, str, _NULL})


def _floats(kind: pa.DataType, values: Values) -> pa.Array:
    found = _check_types(values, _NUMBERS, "a number")
    if found - {float, _NULL}:
        values = [_float(value) if type(value) is not float else value for value in values]
    elif math.inf in values or -math.inf in values:
        raise WrongValue(f"the number does not fit into {kind}")
    numbers = pa.array(values, kind, from_pandas=False)
    if pa.types.is_float32(kind) and pc.any(pc.is_inf(numbers)).as_py():
        written = pa.array([value is not None and math.isinf(value) for value in values])
        if not pc.all(pc.or_(written, pc.is_finite(numbers))).as_py():
            raise WrongValue(f"the number does not fit into {kind}")
    return numbers


def _float(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, str):
        if value not in FLOAT_WORDS:
            raise WrongValue('a number is wanted here, or "NaN", "Infinity", "-Infinity", not another string')
        return FLOAT_WORDS[value]
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if math.isinf(number):
        raise WrongValue("the number does not fit into a float")
    return number


def _decimals(kind: pa.DataType, values: Values) -> pa.Array:
    """Numbers arrive as int or `Decimal`, never as a float, so no digit is lost."""
    _check_types(values, _NUMBERS, "a number, or a string with one,")
    build = text_builder(kind)
    assert build is not None
    try:
        return build(pa.array([None if value is None else _digits(value) for value in values], pa.string()))
    except UnicodeEncodeError:
        raise WrongValue("no decimal number") from None


def _digits(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int) and abs(value) >= 10**76:
        raise WrongValue("the number does not fit into a decimal without loss")
    return str(value)


def _written(from_text: Callable[[pa.Array], pa.Array], wanted: str, values: Values) -> pa.Array:
    _check_types(values, frozenset({str, _NULL}), wanted)
    try:
        return from_text(pa.array(values, pa.string()))
    except UnicodeEncodeError:
        raise WrongValue("the string holds half of a surrogate pair") from None


def _lists(kind: pa.DataType, values: Values) -> pa.Array:
    _check_types(values, frozenset({list, _NULL}), "an array")
    flat = [item for value in values if value is not None for item in value]
    child = _child(flat, kind.value_field, "[]")
    return pa.ListArray.from_arrays(_offsets(values), child, type=kind)


def _offsets(values: Values) -> pa.Array:
    """Offsets of lists; a null is a null offset."""
    offsets: list[int | None] = []
    total = 0
    for value in values:
        offsets.append(None if value is None else total)
        total += len(value) if value is not None else 0
    offsets.append(total)
    return pa.array(offsets, pa.int32())


def _structs(kind: pa.DataType, values: Values) -> pa.Array:
    _check_types(values, frozenset({dict, _NULL}), "an object")
    fields = [kind.field(index) for index in range(kind.num_fields)]
    known = {field.name for field in fields}
    for value in values:
        if value is not None and not value.keys() <= known:
            name = next(name for name in value if name not in known)
            raise WrongValue(unknown_name(name, [field.name for field in fields], "member"), f".{name[:80]}")
    missing = pa.array([value is None for value in values], pa.bool_())
    children = []
    for field in fields:
        given = [None if value is None else value.get(field.name) for value in values]
        children.append(_child(given, field, f".{field.name}", missing))
    return pa.StructArray.from_arrays(children, fields=fields, mask=missing)


def _maps(kind: pa.DataType, values: Values) -> pa.Array:
    """An object, or for keys that are no strings also an array of [key, value]."""
    _check_types(values, frozenset({dict, list, _NULL}), "an object")
    pairs = [pair for value in values if value is not None for pair in _pairs(value)]
    keys = [_key(pair[0], kind.key_type) for pair in pairs]
    key_array = _child(keys, kind.key_field, "{key}")
    item_array = _child([pair[1] for pair in pairs], kind.item_field, "{}")
    return pa.MapArray.from_arrays(_offsets(values), key_array, item_array, type=kind)


def _pairs(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, dict):
        return list(value.items())
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        raise WrongValue("an object is wanted here, or an array of [key, value]")
    found = [(pair[0], pair[1]) for pair in value]
    if len({repr(key) for key, _value in found}) < len(found):
        raise WrongValue("a key is there twice")
    return found


def _key(key: Any, kind: pa.DataType) -> Any:
    """Return a key as a value of its type: an object's keys are text."""
    if not isinstance(key, str):
        return key
    if pa.types.is_boolean(kind):
        return {"true": True, "false": False}.get(key, key)
    if pa.types.is_integer(kind) and key.removeprefix("-").isdecimal() and key.isascii() and len(key) < 30:
        return int(key)
    if pa.types.is_floating(kind) and key not in FLOAT_WORDS:
        try:
            return float(key)
        except ValueError:
            return key
    return key


def _child(values: list[Any], field: pa.Field, step: str, parent_null: pa.Array | None = None) -> pa.Array:
    try:
        array = value_builder(field.type)(values)
    except WrongValue as error:
        raise error.under(step) from None
    return checked_child(array, field, step, parent_null)
