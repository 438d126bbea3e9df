"""Rows as multisets, for comparing what two readers say of one table."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pyarrow as pa

__all__ = ["multiset"]


def multiset(table: pa.Table) -> Counter[tuple[Any, ...]]:
    """Count the rows, columns by name, in a form in which equal values of different Arrow types are equal."""
    names = sorted(table.column_names)
    columns = [[_plain(value) for value in table.column(name).to_pylist()] for name in names]
    if not columns:
        return Counter({(): table.num_rows})
    return Counter(zip(*columns, strict=True))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return ("struct", tuple(sorted((key, _plain(item)) for key, item in value.items())))
    if isinstance(value, list):
        return ("list", tuple(_plain(item) for item in value))
    if isinstance(value, tuple):
        return ("pair", tuple(_plain(item) for item in value))
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else value
    if hasattr(value, "tzinfo") and value.tzinfo is not None and hasattr(value, "timestamp"):
        import datetime as dt

        return value.astimezone(dt.UTC).replace(tzinfo=None)
    if hasattr(value, "normalize") and hasattr(value, "as_tuple"):
        return value.normalize()
    return value
