"""Statement parameters as JSON, for servers. Types that JSON lacks travel as the text that SQL compares them by."""

from __future__ import annotations

import datetime as dt
import decimal
import math
import uuid
from collections.abc import Mapping
from typing import Any

from firnline.transport import Params
from storage.errors import InvalidError

__all__ = ["to_wire"]


def to_wire(params: Params) -> Any:
    """Return parameters ready for JSON: dates, times and decimals as text, everything else as it is.

    Raises `InvalidError` naming a parameter that has no JSON form.
    """
    if isinstance(params, Mapping):
        return {str(name): _value(name, value) for name, value in params.items()}
    if params is None or isinstance(params, str | bytes):
        raise InvalidError("params must be a sequence for $1, $2, … or a mapping for :name", got=type(params).__name__)
    return [_value(f"${number}", value) for number, value in enumerate(params, 1)]


def _value(name: object, value: Any) -> Any:
    match value:
        case None | bool() | int() | str():
            return value
        case float() if math.isfinite(value):
            return value
        case dt.datetime() | dt.date() | dt.time():
            return value.isoformat()
        case decimal.Decimal() | uuid.UUID():
            return str(value)
        case list() | tuple():
            return [_value(name, each) for each in value]
        case _ if hasattr(value, "item") and not isinstance(value, float):
            return _value(name, value.item())
    raise InvalidError("a parameter has no JSON form; write it into the SQL", parameter=name, got=repr(value)[:80])
