"""Rows of series brought on one regular grid of times: a row for each series and time, gaps filled as asked.

The grid is that of `time_bucket`: all starts of buckets from the first time to the last, or from ``start`` to before
``finish``. Every series has all of it. Rows outside of ``start`` and ``finish`` are left out, but what stands in a
gap may come from them.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from functions.sql_functions import bucket_starts, check_kernels, grid_of, width_of
from storage.errors import InvalidError, LimitError

__all__ = ["PLACES_MAX", "Fill", "Gaps", "fill_gaps", "micros_of", "width_from"]

Fill = Literal["null", "locf", "linear"]
PLACES_MAX = 10_000_000
"""Rows of an answer; and of a grid before what is outside of its bounds is left out."""
_TIME = pa.timestamp("us", "UTC")
_UNITS = {
    "microsecond": (0, 0, 1_000), "millisecond": (0, 0, 1_000_000), "second": (0, 0, 10**9),
    "minute": (0, 0, 60 * 10**9), "hour": (0, 0, 3600 * 10**9), "day": (0, 1, 0), "week": (0, 7, 0),
    "month": (1, 0, 0), "quarter": (3, 0, 0), "year": (12, 0, 0),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Gaps:
    """How gaps are filled.

    time : the column of times, each of which must be the start of a bucket
    width : of `width_from`
    by : the columns that tell one series from another
    start, finish, origin : microseconds since 1970
    """

    time: str
    width: tuple[int, int]
    by: tuple[str, ...] = ()
    fill: Fill = "null"
    start: int | None = None
    finish: int | None = None
    origin: int | None = None


def width_from(text: str) -> tuple[int, int]:
    """Return the width that a text such as ``15 minutes`` or ``1 month`` names. Raises `InvalidError`."""
    found = re.findall(r"(\d{1,12})\s*([a-z]+?)s?\b", text.lower())
    if (
        not found
        or re.sub(r"\d{1,12}\s*[a-z]+\b", "", text.lower()).strip(" ,")
        or any(u not in _UNITS for _, u in found)
    ):
        raise InvalidError(f"a width is a number and a unit of {', '.join(_UNITS)}", width=repr(text))
    parts = [tuple(int(number) * each for each in _UNITS[unit]) for number, unit in found]
    months, days, nanos = (sum(column) for column in zip(*parts, strict=True))
    return width_of(months, days, nanos)


def micros_of(text: str) -> int:
    """Return the moment that an ISO 8601 text names, in UTC where it has no zone. Raises `InvalidError`."""
    try:
        moment = dt.datetime.fromisoformat(text.strip())
    except ValueError:
        raise InvalidError("this is no timestamp; write one such as 2026-01-31T12:00:00Z", value=repr(text)) from None
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=dt.UTC)
    return (moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)


def fill_gaps(rows: pa.Table, gaps: Gaps) -> pa.Table:
    """Return a row for each series and time of the grid, series after series.

    Columns are those of ``rows``; with ``linear`` numbers are doubles.

    Raises
    ------
    InvalidError : a column that there is not, or twice; a time that is null or starts no bucket; two rows of one place
    LimitError : the grid has more than `PLACES_MAX` places
    """
    check_kernels("gap_fill")
    from functions.kernels.gap_fill import place_rows

    _check(rows, gaps)
    times = _times(rows, gaps)
    grid = _grid(times, gaps)
    if not gaps.by and not len(grid):
        return _typed(rows.slice(0, 0), gaps)
    series, firsts = _series(rows, gaps)
    if len(firsts) * len(grid) > PLACES_MAX:
        raise LimitError(
            "the grid has too many rows; ask for wider buckets, or less time", rows=len(firsts) * len(grid),
            rows_max=PLACES_MAX,
        )  # fmt: skip
    steps = np.searchsorted(grid, times)
    placed, clash = place_rows(series, steps.astype(np.int64), len(firsts), len(grid))
    if clash >= 0:
        raise InvalidError(
            "two rows have one time and series; group by them, or name what tells series apart with by",
            time=str(rows.column(gaps.time)[clash]),
        )  # fmt: skip
    wanted = np.tile(_inside(grid, gaps), len(firsts))
    columns = [_column(rows, name, gaps, grid, placed, firsts, wanted) for name in rows.column_names]
    return pa.table(columns, schema=_typed(rows.slice(0, 0), gaps).schema)


def _check(rows: pa.Table, gaps: Gaps) -> None:
    for name in (gaps.time, *gaps.by):
        if name not in rows.column_names:
            raise InvalidError(
                "gap_fill names a column that its query does not have", column=name,
                columns=", ".join(rows.column_names),
            )  # fmt: skip
    for name in rows.column_names:
        if rows.column_names.count(name) > 1:
            raise InvalidError("the query of gap_fill has two columns of one name; rename one with AS", column=name)
    kind = rows.schema.field(gaps.time).type
    if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        raise InvalidError("gap_fill takes a column of timestamps or dates", column=gaps.time, type=str(kind))


def _times(rows: pa.Table, gaps: Gaps) -> np.ndarray:
    column = rows.column(gaps.time)
    if column.null_count:
        raise InvalidError("a time of gap_fill is null; leave such rows out", column=gaps.time, nulls=column.null_count)
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("us"))
    times = column.cast(pa.timestamp("us", column.type.tz)).cast(pa.int64()).to_numpy()
    starts = bucket_starts(times, *gaps.width, gaps.origin)
    if not np.array_equal(times, starts):
        odd = int(np.argmax(times != starts))
        raise InvalidError(
            "a time starts no bucket; make them with time_bucket of the same width, or name an origin",
            time=str(rows.column(gaps.time)[odd]),
        )  # fmt: skip
    return np.asarray(times)


def _grid(times: np.ndarray, gaps: Gaps) -> np.ndarray:
    """Return int64[n_steps]: all starts of buckets that rows or bounds reach."""
    lows = [int(times.min())] if len(times) else []
    highs = [int(times.max())] if len(times) else []
    if gaps.start is not None:
        lows.append(gaps.start)
    if gaps.finish is not None:
        highs.append(gaps.finish - 1)
    if not lows or not highs or min(lows) > max(highs):
        return np.zeros(0, np.int64)
    first = int(bucket_starts(np.array([min(lows)]), *gaps.width, gaps.origin)[0])
    return grid_of(first, max(highs), *gaps.width, gaps.origin, PLACES_MAX)


def _inside(grid: np.ndarray, gaps: Gaps) -> np.ndarray:
    """Return bool[n_steps]: the steps that are asked for; the bucket that ``start`` is in is."""
    inside = np.ones(len(grid), bool)
    if gaps.start is not None:
        inside &= grid >= bucket_starts(np.array([gaps.start]), *gaps.width, gaps.origin)[0]
    if gaps.finish is not None:
        inside &= grid < gaps.finish
    return inside


def _series(rows: pa.Table, gaps: Gaps) -> tuple[np.ndarray, np.ndarray]:
    """Return int64[n], each row's series, and a row of each. Without rows there is one series unless ``by`` asks."""
    if not gaps.by:
        return np.zeros(rows.num_rows, np.int64), np.full(1, -1)
    groups = np.zeros(rows.num_rows, np.int64)
    for name in gaps.by:
        column = rows.column(name).combine_chunks()
        codes = np.asarray(pc.dictionary_encode(column, null_encoding="encode").indices).astype(np.int64)
        groups = np.unique(groups * (codes.max(initial=0) + 1) + codes, return_inverse=True)[1]
    return groups, np.unique(groups, return_index=True)[1]


def _column(
    rows: pa.Table, name: str, gaps: Gaps, grid: np.ndarray, placed: np.ndarray, firsts: np.ndarray, wanted: np.ndarray
) -> pa.Array:
    """Return a column of the answer."""
    column = rows.column(name).combine_chunks()
    if name == gaps.time:
        times = pa.array(np.tile(grid, len(firsts))[wanted]).cast(_TIME)
        return (
            times.cast(column.type)
            if not pa.types.is_date(column.type)
            else times.cast(pa.timestamp("us")).cast(column.type)
        )
    if name in gaps.by:
        return column.take(pa.array(np.repeat(firsts, len(grid))[wanted]))
    known = column.is_valid().to_numpy(zero_copy_only=False)
    if gaps.fill == "linear" and _is_number(column.type):
        return _line(column, known, grid, placed, wanted)
    sources = _carried(known, placed, len(grid)) if gaps.fill == "locf" else placed
    return column.take(pa.array(sources[wanted], mask=sources[wanted] < 0))


def _carried(known: np.ndarray, placed: np.ndarray, n_steps: int) -> np.ndarray:
    from functions.kernels.gap_fill import known_before

    before = known_before(placed, known, n_steps)
    return np.where(before < 0, -1, placed[before])


def _line(column: pa.Array, known: np.ndarray, grid: np.ndarray, placed: np.ndarray, wanted: np.ndarray) -> pa.Array:
    from functions.kernels.gap_fill import interpolate, known_after, known_before

    numbers = column.cast(pa.float64()).fill_null(0.0).to_numpy(zero_copy_only=False)
    before, after = known_before(placed, known, len(grid)), known_after(placed, known, len(grid))
    filled, has = interpolate(numbers, grid, placed, before, after)
    return pa.array(filled[wanted], mask=~has[wanted])


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _typed(rows: pa.Table, gaps: Gaps) -> pa.Table:
    """Return the (no) rows as the answer has them: with types of its own, and columns that may be null."""
    own = {gaps.time, *gaps.by}
    fields = [pa.field(each.name, pa.float64() if _turns(each, own, gaps) else each.type, True) for each in rows.schema]
    return rows.cast(pa.schema(fields))


def _turns(field: pa.Field, own: set[str], gaps: Gaps) -> bool:
    return gaps.fill == "linear" and field.name not in own and _is_number(field.type)
