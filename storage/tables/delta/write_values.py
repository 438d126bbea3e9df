"""What a writer puts into the log: paths as URI references, partition values as strings.

Source: Delta protocol, "Add File and Remove File" and "Partition Value Serialization". It has no empty string among
partition values: an empty string is null there, for every reader.
"""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import pyarrow as pa

from storage.errors import InvalidError

__all__ = ["check_partition_rows", "encode_path", "partition_text"]

_EPOCH = date(1970, 1, 1)
_EPOCH_TIME = datetime(1970, 1, 1, tzinfo=UTC)


def encode_path(table: str, location: str) -> str:
    """Return the log's path for a file under ``table``. Raises `InvalidError` for a file elsewhere."""
    folder = table.rstrip("/") + "/"
    if not location.startswith(folder) or location.startswith(folder + "_delta_log/"):
        raise InvalidError("a data file lies outside its table's folder", table=table, file=location)
    return quote(location.removeprefix(folder), safe="/=")


def partition_text(value: Any, field: pa.Field) -> str | None:
    """Return a partition value as the log writes it; an integer for a date or time counts from 1970.

    Raises `InvalidError` for a null (or empty string, which the format takes for null) in a column that has none.
    """
    text = None if value is None else _text(value, field.type)
    if text == "":
        text = None
    if text is None and not field.nullable:
        raise InvalidError("a partition column that is NOT NULL has a null or an empty string", column=field.name)
    return text


def _text(value: Any, kind: pa.DataType) -> str:
    if pa.types.is_date(kind):
        return (_EPOCH + timedelta(days=value) if isinstance(value, int) else value).isoformat()
    if pa.types.is_timestamp(kind):
        return _timestamp(value, kind)
    if pa.types.is_boolean(kind):
        return "true" if value else "false"
    if pa.types.is_floating(kind):
        return _float(float(value))
    if pa.types.is_decimal(kind):
        return f"{value if isinstance(value, Decimal) else Decimal(value):f}"
    if pa.types.is_integer(kind):
        return str(int(value))
    return str(value)


def _timestamp(value: datetime | int, kind: pa.DataType) -> str:
    at = _EPOCH_TIME + timedelta(microseconds=value) if isinstance(value, int) else value
    if at.tzinfo is not None:
        at = at.astimezone(UTC).replace(tzinfo=None)
    # The zone is written out: readers disagree on which one a bare time has.
    return at.isoformat(sep="T", timespec="microseconds") + "Z" if kind.tz else at.isoformat(" ", "microseconds")


def _float(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return repr(value)


def check_partition_rows(rows: pa.Table, names: tuple[str, ...]) -> None:
    """Raise `InvalidError` naming row and column of an empty string in a partition column, which would become null."""
    for name in names:
        column = rows.column(name)
        if pa.types.is_string(column.type) and (row := column.index(pa.scalar("", column.type)).as_py()) >= 0:
            raise InvalidError(
                "a partition column of a delta table cannot hold an empty string; use NULL or another value",
                column=name,
                row=row,
            )
