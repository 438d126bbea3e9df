"""Text into values, for CSV cells and for the JSON strings of types that JSON lacks. Whole columns at once."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from service.ingest.errors import WrongValue

__all__ = ["FLOAT_WORDS", "text_builder"]

Build = Callable[[pa.Array], pa.Array]

FLOAT_WORDS = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
_INTEGER = r"^-?[0-9]+$"
_FLOAT = r"^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$"
_WORD = r"^(NaN|-?Infinity|-?inf|nan)$"
_ZONE = r"([Zz]|[-+][0-9][0-9]:?[0-9][0-9])$"
_NO_TIMESTAMP = "no timestamp of at most microseconds; "
_DATE_ONLY = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"


def text_builder(kind: pa.DataType) -> Build | None:
    """Return what turns an array of strings into one of ``kind``, raising `WrongValue`; None for nested types."""
    if pa.types.is_string(kind):
        return lambda text: text
    if pa.types.is_boolean(kind):
        return lambda text: _cast(text, kind, "write true or false", r"(?i)^(true|false)$")
    if pa.types.is_integer(kind):
        return lambda text: _integer(text, kind)
    if pa.types.is_floating(kind):
        return lambda text: _floating(text, kind)
    if pa.types.is_decimal(kind):
        return lambda text: _decimal(text, kind)
    if pa.types.is_date(kind):
        return lambda text: _cast(text, kind, "write a date as 2026-01-31")
    if pa.types.is_timestamp(kind):
        return (lambda text: _instant(text, kind)) if kind.tz else (lambda text: _timestamp(text, kind))
    if pa.types.is_binary(kind):
        return _binary
    return None


def _holds(mask: pa.Array) -> bool:
    """Whether all that is not null is true."""
    return pc.all(mask, min_count=0).as_py() is not False


def _cast(text: pa.Array, kind: pa.DataType, hint: str, pattern: str = "") -> pa.Array:
    """Arrow's own parsers are strict; ``pattern`` narrows those that are not."""
    if pattern and not _holds(pc.match_substring_regex(text, pattern)):
        raise WrongValue(f"no {_called(kind)}; {hint}")
    try:
        return text.cast(kind)
    except pa.ArrowException:
        raise WrongValue(f"no {_called(kind)}; {hint}") from None


def _called(kind: pa.DataType) -> str:
    return "date" if pa.types.is_date(kind) else "boolean" if pa.types.is_boolean(kind) else str(kind)


def _integer(text: pa.Array, kind: pa.DataType) -> pa.Array:
    if not _holds(pc.match_substring_regex(text, _INTEGER)):
        raise WrongValue("no whole number")
    try:
        return text.cast(kind)
    except pa.ArrowException:
        raise WrongValue(f"the number does not fit into {kind}") from None


def _floating(text: pa.Array, kind: pa.DataType) -> pa.Array:
    words = pc.match_substring_regex(text, _WORD)
    if not _holds(pc.or_(words, pc.match_substring_regex(text, _FLOAT))):
        raise WrongValue("no number")
    numbers = text.cast(pa.float64()).cast(kind)
    if not _holds(pc.or_(words, pc.is_finite(numbers))):
        raise WrongValue(f"the number does not fit into {kind}")
    return numbers


def _decimal(text: pa.Array, kind: pa.DataType) -> pa.Array:
    try:
        return text.cast(kind)
    except pa.ArrowException:
        if not _holds(pc.match_substring_regex(text, _FLOAT)):
            raise WrongValue("no decimal number") from None
        raise WrongValue(f"the number does not fit into decimal({kind.precision}, {kind.scale}) without loss") from None


def _timestamp(text: pa.Array, kind: pa.DataType) -> pa.Array:
    try:
        return text.cast(kind)
    except pa.ArrowException:
        if pc.any(pc.match_substring_regex(text, _ZONE), min_count=0).as_py():
            raise WrongValue(
                "the column's timestamps have no zone; leave it out, or make the column TIMESTAMPTZ"
            ) from None
        raise WrongValue(_NO_TIMESTAMP + "write a timestamp as 2026-01-31T12:00:00.000001") from None


def _instant(text: pa.Array, kind: pa.DataType) -> pa.Array:
    try:
        return text.cast(kind)
    except pa.ArrowException:
        pass  # some may have no zone
    ending = pc.if_else(pc.match_substring_regex(text, _DATE_ONLY), "T00:00:00Z", "Z")
    zoned = pc.match_substring_regex(text, _ZONE)
    try:
        return pc.if_else(zoned, text, pc.binary_join_element_wise(text, ending, "")).cast(kind)
    except pa.ArrowException:
        hint = "write a timestamp as 2026-01-31T12:00:00.000001Z or with +01:00; without, it is UTC"
        raise WrongValue(_NO_TIMESTAMP + hint) from None


def _binary(text: pa.Array) -> pa.Array:
    try:
        values = [None if each is None else base64.b64decode(each, validate=True) for each in text.to_pylist()]
    except (binascii.Error, ValueError):
        raise WrongValue("no base64") from None
    return pa.array(values, pa.binary())
