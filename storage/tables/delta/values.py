"""Typed values from the strings that the log holds: partition values and bounds of dates and times.

Source: Delta protocol, "Partition Value Serialization". Arrow's own parser does all it can in one go; what it
refuses (years past 9999, nanoseconds, zones missing or given) is parsed one distinct value at a time.
"""

from __future__ import annotations

import re
from datetime import date
from decimal import Decimal, InvalidOperation
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["parse_strings", "parse_strings_leniently"]

_DATE = re.compile(r"([+-]?\d{4,6})-(\d{1,2})-(\d{1,2})")
_TIMESTAMP = re.compile(
    r"([+-]?\d{4,6}-\d{1,2}-\d{1,2})"
    r"(?:[ T](\d{1,2}):(\d{1,2})(?::(\d{1,2})(?:\.(\d{1,9}))?)?)?"
    r"\s*(?:(Z|UTC|GMT)|([+-])(\d{1,2}):?(\d{2})?)?"
)
_DAY_US = 86_400_000_000
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_DAYS_IN_400_YEARS = 146_097


def parse_strings(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """Return ``values`` (strings, nulls kept) as ``kind``. Raises ValueError naming a value that is none."""
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        return values.cast(kind)
    try:
        return _parse_natively(values, kind)
    except pa.ArrowInvalid:
        pass
    encoded = pc.dictionary_encode(values)
    typed = _typed([_parse_one(value, kind) for value in encoded.dictionary.to_pylist()], kind)
    return typed.take(encoded.indices)


def parse_strings_leniently(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """Do `parse_strings`, with null for a value that does not parse."""
    try:
        return parse_strings(values, kind)
    except (ValueError, OverflowError):
        pass
    return pa.concat_arrays([_one_or_null(value, kind) for value in values.to_pylist()] or [pa.nulls(0, kind)])


def _one_or_null(value: str | None, kind: pa.DataType) -> pa.Array:
    try:
        return parse_strings(pa.array([value], pa.string()), kind)
    except (ValueError, OverflowError):
        return pa.nulls(1, kind)


def _parse_natively(values: pa.Array, kind: pa.DataType) -> pa.Array:
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        try:
            return values.cast(kind)
        except pa.ArrowInvalid:  # no zone: UTC
            return values.cast(pa.timestamp(kind.unit)).cast(kind)
    return values.cast(kind)


def _typed(values: list[Any], kind: pa.DataType) -> pa.Array:
    try:
        if pa.types.is_date32(kind):
            return pa.array(values, pa.int32()).cast(kind)
        if pa.types.is_timestamp(kind):
            return pa.array(values, pa.int64()).cast(kind)
        return pa.array(values, kind)
    except (pa.ArrowException, OverflowError) as error:
        raise ValueError(str(error)) from None


def _parse_one(value: str | None, kind: pa.DataType) -> Any:
    if value is None:
        return None
    text = value.strip()
    if pa.types.is_integer(kind):
        return int(text)
    if pa.types.is_floating(kind):
        return float(text)
    if pa.types.is_boolean(kind):
        return _boolean(text)
    if pa.types.is_decimal(kind):
        return _decimal(text, kind.scale)
    if pa.types.is_date(kind):
        return _days(text)
    if pa.types.is_timestamp(kind):
        return _micros(text)
    raise ValueError(f"{value!r} cannot be a value of type {kind}")


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(f"{text!r} is not a boolean")
    return text.lower() == "true"


def _decimal(text: str, scale: int) -> Decimal:
    try:
        number = Decimal(text)
        if not number.is_finite() or number != round(number, scale):
            raise ValueError(f"{text!r} is not a decimal of scale {scale}")
    except InvalidOperation:
        raise ValueError(f"{text!r} is not a decimal") from None
    return number


def _days(text: str) -> int:
    """Days since 1970-01-01 in the proleptic Gregorian calendar; years may lie outside 1 to 9999."""
    match = _DATE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a date")
    year, month, day = int(match[1]), int(match[2]), int(match[3])
    cycles = (year - 1) // 400  # the calendar repeats every 400 years
    return date(year - cycles * 400, month, day).toordinal() + cycles * _DAYS_IN_400_YEARS - _EPOCH_DAY


def _micros(text: str) -> int:
    """Microseconds since 1970-01-01 UTC; finer digits are cut off, a missing zone is UTC."""
    match = _TIMESTAMP.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a timestamp")
    day, hour, minute, second, fraction, _utc, sign, zone_hour, zone_minute = match.groups()
    seconds = int(hour or 0) * 3600 + int(minute or 0) * 60 + int(second or 0)
    if sign:
        offset = int(zone_hour) * 3600 + int(zone_minute or 0) * 60
        seconds -= offset if sign == "+" else -offset
    return _days(day) * _DAY_US + seconds * 1_000_000 + int((fraction or "0").ljust(6, "0")[:6])
