"""Whether two engines gave the same answer: the same rows as a multiset, numbers within a tolerance, and in the asked
order where ``ORDER BY`` asks for one. Rows that tie under ``ORDER BY`` may come in any order."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa

__all__ = ["difference", "order_keys"]

RELATIVE, ABSOLUTE = 1e-6, 1e-4
"""Averages of decimals have 4 to 6 digits behind the point in some engines and a float's in others."""

Row = tuple[Any, ...]


def difference(ours: pa.Table, theirs: pa.Table, sql: str) -> str | None:
    """Return how ``ours`` differs from ``theirs``, or None when it does not."""
    if ours.num_columns != theirs.num_columns:
        return f"{ours.num_columns} columns, not {theirs.num_columns}"
    if ours.num_rows != theirs.num_rows:
        return f"{ours.num_rows} rows, not {theirs.num_rows}"
    mine, reference = _rows(ours), _rows(theirs)
    for left, right in zip(sorted(mine, key=_rank), sorted(reference, key=_rank), strict=True):
        if not _same(left, right):
            return f"row {left}, not {right}"
    keys = [theirs.column_names.index(name) for name in order_keys(sql, theirs.column_names)]
    for position, (left, right) in enumerate(zip(mine, reference, strict=True)):
        if not _same([left[key] for key in keys], [right[key] for key in keys]):
            return f"row {position} is out of order: {left}, not {right}"
    return None


def order_keys(sql: str, columns: Sequence[str]) -> list[str]:
    """Return those of the result's columns that the last ``ORDER BY`` of a statement sorts by."""
    found = re.split(r"(?is)\border\s+by\b", sql)
    if len(found) < 2 or ")" in found[-1]:
        return []
    listed = re.split(r"(?is)\blimit\b|;", found[-1])[0].split(",")
    names = [re.split(r"\s", each.strip())[0].lower() for each in listed]
    return [name for name in names if name in columns]


def _rows(table: pa.Table) -> list[Row]:
    columns = [[_plain(value) for value in column.to_pylist()] for column in table.columns]
    return list(zip(*columns, strict=True))


def _plain(value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, (int, float, Decimal)):
        return float(value)
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode()
    if isinstance(value, datetime):
        return value.date() if (value.hour, value.minute, value.second) == (0, 0, 0) else value
    return value


def _rank(row: Row) -> Row:
    """Sort by what is exact first, then by rounded numbers."""
    exact = tuple(str(value) for value in row if not isinstance(value, float))
    return exact, tuple(float(f"{value:.5g}") for value in row if isinstance(value, float)), repr(row)


def _same(left: Sequence[Any], right: Sequence[Any]) -> bool:
    return all(_equal(a, b) for a, b in zip(left, right, strict=True))


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=RELATIVE, abs_tol=ABSOLUTE) or (math.isnan(a) and math.isnan(b))
    if isinstance(a, date) and isinstance(b, date):
        return str(a) == str(b)
    return bool(a == b)
