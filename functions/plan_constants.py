"""Expressions of a plan that are constants, as values that are equal if and only if the constants are.

The engine folds some casts of literals and leaves others, so one value may come in several forms; forms that are not
known here are no constants. Floats are none: 0.0 equals -0.0.
"""

from __future__ import annotations

import datetime as dt
from typing import Final

from functions.plan_proto import fields_of

__all__ = ["NULL", "Constant", "constant_of"]

Constant = tuple[str, object]
"""What it is, and its value."""
NULL: Final[Constant] = ("null", None)

_LITERAL, _CAST = 2, 9
_BOOL, _DATE, _NULL = 1, 14, 33
_TEXTS, _INTEGERS = frozenset((2, 3, 23)), frozenset(range(4, 12))
"""Fields of ``ScalarValue``."""
_BOOL_TYPE, _DATE_TYPE = 2, 17
_TEXT_TYPES, _INTEGER_TYPES = frozenset((14, 32, 35)), frozenset(range(3, 11))
"""Fields of ``ArrowType``."""
_EPOCH: Final = dt.date(1970, 1, 1)


def constant_of(expression: bytes) -> Constant | None:
    """Return the constant that an encoded expression is; None for any other expression."""
    fields = dict(fields_of(expression))
    literal, cast = fields.get(_LITERAL), fields.get(_CAST)
    if isinstance(literal, bytes):
        return _literal(literal)
    if not isinstance(cast, bytes):
        return None
    parts = dict(fields_of(cast))
    inner, type_ = parts.get(1), parts.get(2)
    if not isinstance(inner, bytes) or not isinstance(type_, bytes):
        return None
    value = constant_of(inner)
    kinds = [field for field, _value in fields_of(type_)]
    return None if value is None or len(kinds) != 1 else _cast(value, kinds[0])


def _literal(data: bytes) -> Constant | None:
    found = list(fields_of(data))
    if len(found) != 1:
        return None
    [(kind, value)] = found
    if kind == _NULL:
        return NULL
    if kind in _TEXTS and isinstance(value, bytes):
        return "text", value
    if isinstance(value, bytes):
        return None
    if kind == _BOOL:
        return "bool", bool(value)
    signed = value - (1 << 64) if value >> 63 else value
    if kind in _INTEGERS:
        return "integer", signed
    return ("date", signed) if kind == _DATE else None


def _cast(value: Constant, type_: int) -> Constant | None:
    kind, given = value
    if value == NULL:
        return NULL
    if (kind, True) in (("integer", type_ in _INTEGER_TYPES), ("text", type_ in _TEXT_TYPES)):
        return value
    if (kind, type_) in (("bool", _BOOL_TYPE), ("date", _DATE_TYPE)):
        return value
    if kind != "text" or not isinstance(given, bytes):
        return None
    try:
        if type_ in _INTEGER_TYPES:
            return "integer", int(given)
        if type_ == _DATE_TYPE:
            return "date", (dt.date.fromisoformat(given.decode()) - _EPOCH).days
    except ValueError:
        return None
    return None
