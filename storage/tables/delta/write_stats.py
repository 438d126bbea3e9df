"""Statistics of a data file for the log, from its Parquet metadata: bounds that hold for every reader, or none.

Source: Delta protocol, "Per-file Statistics". What is left out, and why:

* upper bounds of floats: Parquet's leave NaN out, and Delta's readers take NaN for the greatest value. Those of files
  whose footer says that the column holds none (`storage.tables.known_nan`) are there, and `WITHOUT_NAN` names it;
* bounds of booleans and binary, which the format has none for; everything inside lists and maps;
* a column that one row group has no statistics of.

Times are cut outwards to milliseconds, as the format writes them; strings to 32 characters, an upper bound then made
greater. A reader that takes such a bound for exact would be wrong for any writer's files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.tables.known_nan import without_nan

__all__ = ["INDEXED_COLUMNS", "WITHOUT_NAN", "stats_json"]

INDEXED_COLUMNS = 32
"""How many leaf columns have statistics unless ``delta.dataSkippingNumIndexedCols`` says otherwise; -1: all."""
WITHOUT_NAN = "firnline.withoutNan"
"""Member of the statistics, beside ``numRecords``: floating-point columns of which the file holds no NaN. Other readers
pass over it."""
_STRING_CHARS_MAX = 32
_LAST_CHARACTER = "\U0010ffff"
_MS = timedelta(milliseconds=1)
_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class _Leaf:
    path: tuple[str, ...]
    kind: pa.DataType
    index: int
    """Of the Parquet column."""
    plain: bool
    """Not inside a list or map."""


def stats_json(
    metadata: pq.FileMetaData, *, n_columns: int = INDEXED_COLUMNS, always: Collection[str] = (), without: bool = False
) -> str:
    """Return the ``stats`` of an add action; columns go by their names in the file.

    n_columns : of the first so many leaf columns, -1 for all
    always : top-level columns that have statistics wherever they stand
    without : only the row count
    """
    minima: dict[str, Any] = {}
    maxima: dict[str, Any] = {}
    nulls: dict[str, Any] = {}
    numbers: list[str] = []
    known = frozenset[str]() if without else without_nan(metadata)
    leaves = () if without else _leaves(metadata.schema.to_arrow_schema())
    for position, leaf in enumerate(leaves):
        if not leaf.plain or not (n_columns < 0 or position < n_columns or leaf.path[0] in always):
            continue
        low, high, n_nulls = _column(metadata, leaf)
        if pa.types.is_floating(leaf.kind):
            if len(leaf.path) == 1 and leaf.path[0] in known:
                numbers.append(leaf.path[0])
            else:
                high = None
        for target, value in ((minima, low), (maxima, high), (nulls, n_nulls)):
            if value is not None:
                _put(target, leaf.path, value)
    document: dict[str, Any] = {
        "numRecords": metadata.num_rows, "minValues": minima, "maxValues": maxima, "nullCount": nulls,
    }  # fmt: skip
    if numbers:
        document[WITHOUT_NAN] = numbers
    try:
        return _JSON(document)
    except TypeError:  # decimals
        return _encode(document)


def _leaves(schema: pa.Schema) -> list[_Leaf]:
    found: list[_Leaf] = []
    for field in schema:
        for path, kind, plain in _walk((field.name,), field.type, True):
            found.append(_Leaf(path, kind, len(found), plain))
    return found


def _walk(path: tuple[str, ...], kind: pa.DataType, plain: bool) -> Iterator[tuple[tuple[str, ...], pa.DataType, bool]]:
    """Depth first, which is the order of the Parquet columns."""
    if pa.types.is_struct(kind):
        for field in kind:
            yield from _walk((*path, field.name), field.type, plain)
    elif pa.types.is_map(kind):
        yield from _walk((*path, "key"), kind.key_type, False)
        yield from _walk((*path, "value"), kind.item_type, False)
    elif pa.types.is_nested(kind):
        yield from _walk((*path, "element"), kind.value_type, False)
    else:
        yield path, _logical(kind), plain


def _logical(kind: pa.DataType) -> pa.DataType:
    """The same type as Delta has it, however a writer asked Arrow to keep it."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.string() if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) else kind


def _put(target: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for name in path[:-1]:
        target = target.setdefault(name, {})
    target[path[-1]] = value


def _column(metadata: pq.FileMetaData, leaf: _Leaf) -> tuple[Any, Any, int | None]:
    """Return lowest, highest (as the log writes them) and null count over all row groups; None where unknown."""
    low: Any = None
    high: Any = None
    n_nulls: int | None = 0
    bounded = True
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        stats = group.column(leaf.index).statistics
        if stats is None or not stats.has_null_count:
            n_nulls = None
        elif n_nulls is not None:
            n_nulls += stats.null_count
        if stats is not None and stats.has_null_count and stats.null_count == group.num_rows:
            continue  # only nulls: no bound to have
        pair = _bounds(stats) if bounded and stats is not None and stats.has_min_max else None
        if pair is None:
            bounded = False
        else:
            low = pair[0] if low is None else min(low, pair[0])
            high = pair[1] if high is None else max(high, pair[1])
    if not bounded or low is None:
        return None, None, n_nulls
    return _lower(low, leaf.kind), _upper(high, leaf.kind), n_nulls


def _bounds(stats: pq.Statistics) -> tuple[Any, Any] | None:
    try:
        return stats.min, stats.max
    except (ValueError, OverflowError, pa.ArrowException):  # a date past year 9999, a cut string
        return None


def _lower(value: Any, kind: pa.DataType) -> Any:
    if pa.types.is_string(kind):
        return value[:_STRING_CHARS_MAX] if isinstance(value, str) else None
    if pa.types.is_timestamp(kind):
        return _time(value, kind, up=False)
    if pa.types.is_floating(kind):
        return value if math.isfinite(value) else None
    return _exact(value, kind)


def _upper(value: Any, kind: pa.DataType) -> Any:
    if pa.types.is_string(kind):
        return _upper_string(value) if isinstance(value, str) else None
    if pa.types.is_timestamp(kind):
        return _time(value, kind, up=True)
    if pa.types.is_floating(kind):
        return value if math.isfinite(value) else None
    return _exact(value, kind)


def _exact(value: Any, kind: pa.DataType) -> Any:
    if pa.types.is_date(kind):
        return value.isoformat() if isinstance(value, date) else None
    if pa.types.is_decimal(kind):
        return value if isinstance(value, Decimal) else None
    return value if pa.types.is_integer(kind) and isinstance(value, int) else None


def _upper_string(value: str) -> str:
    """Cut a long string before a character that the one put in its place is greater than."""
    for limit in range(_STRING_CHARS_MAX, len(value)):
        if value[limit] < _LAST_CHARACTER:
            return value[:limit] + _LAST_CHARACTER
    return value


def _time(value: Any, kind: pa.DataType, *, up: bool) -> str | None:
    if not isinstance(value, datetime) or kind.unit != "us":
        return None
    bare = value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo is not None else value
    cut = bare.replace(microsecond=bare.microsecond // 1000 * 1000)
    if up and cut != bare:
        if datetime.max - cut < _MS:
            return None
        cut += _MS
    return cut.isoformat(timespec="milliseconds") + ("Z" if kind.tz else "")


def _encode(value: Any) -> str:
    """JSON, with decimals as numbers of all their digits."""
    if isinstance(value, dict):
        members = (f"{_JSON(key)}:{_encode(one)}" for key, one in value.items())
        return "{" + ",".join(members) + "}"
    if isinstance(value, Decimal):
        return f"{value:f}"
    return _JSON(value)
