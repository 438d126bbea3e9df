"""SQL functions beside the engine's own, over the kernels: Arrow in, Arrow out.

A session registers them when a statement first names one (`functions.session:Session.add_functions`), so a process
whose statements name none imports no kernel. The engine has ``date_bin``, ``inner_product``, ``cosine_distance`` and
``array_distance`` itself, which took no longer than ours over Parquet files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.errors import InvalidError, LimitError, UnsupportedError

__all__ = ["MONDAY", "SqlFunction", "bucket_starts", "check_kernels", "functions_of", "grid_of", "width_of"]

TIME = pa.timestamp("us", "UTC")
"""Times of every unit and zone become these, and back, without change: microseconds since 1970."""
_WIDTH = pa.month_day_nano_interval()
_VECTOR = pa.list_(pa.float64())
MONDAY, _JANUARY = 946_857_600_000_000, 946_684_800_000_000
"""Buckets are counted from Monday, 3 January 2000, those of months from 1 January: as DuckDB and TimescaleDB do."""
_DAY = 86_400_000_000


@dataclass(frozen=True)
class SqlFunction:
    """A function as the engine takes it; ``name`` is the one in its plans.

    What it raises has its facts in the message: the engine passes on no more (`functions.errors`).
    """

    name: str
    run: Callable[..., pa.Array]
    inputs: tuple[pa.DataType, ...]
    output: pa.DataType


def functions_of(name: str) -> list[SqlFunction]:
    """Return what the engine must know for statements that call ``name``, of `functions.session:OWN_FUNCTIONS`.

    ``time_bucket`` is several (`service.own_functions`). Each loads its kernel when it first has rows, and raises
    `UnsupportedError` without numba.
    """
    if name == "time_bucket":
        return [
            SqlFunction(f"time_bucket{kind}{behind}", run, (_WIDTH, *[time] * n_times), TIME)
            for kind, time in (("", TIME), ("_micros", pa.timestamp("us")))
            for behind, run, n_times in (("", _time_bucket, 1), ("_from", _time_bucket_from, 2))
        ]
    return [SqlFunction(name, partial(_distance, name), (_VECTOR, _VECTOR), pa.float64())]


def check_kernels(name: str) -> None:
    """Raise `UnsupportedError`, saying what to install, unless the kernels that ``name`` needs can run."""
    if find_spec("numba") is None:
        raise UnsupportedError(f"this function needs numba; install the extra firnline[kernels] function={name}")


# Buckets of time


def _time_bucket(widths: pa.Array, times: pa.Array) -> pa.Array:
    return _bucketed(widths, times, None)


def _time_bucket_from(widths: pa.Array, times: pa.Array, origins: pa.Array) -> pa.Array:
    return _bucketed(widths, times, origins)


def _bucketed(widths: pa.Array, times: pa.Array, origins: pa.Array | None) -> pa.Array:
    """Return the starts; null where any argument is null. Rows of one width and origin are done together."""
    given = [widths, times] if origins is None else [widths, times, origins]
    null = None
    if any(each.null_count for each in given):
        null = np.logical_or.reduce([each.is_null().to_numpy(zero_copy_only=False) for each in given])
    moments, kinds = _numbers(times), _widths(widths)
    froms = np.zeros(len(times), np.int64) if origins is None else _numbers(origins)
    starts = np.zeros(len(times), np.int64)
    todo = np.ones(len(times), bool) if null is None else ~null
    while todo.any():
        first = int(np.argmax(todo))
        rows = (kinds[:, 0] == kinds[first, 0]) & (kinds[:, 1] == kinds[first, 1]) & (froms == froms[first]) & todo
        chosen = slice(None) if rows.all() else rows
        origin = None if origins is None else int(froms[first])
        starts[chosen] = bucket_starts(moments[chosen], *_width(kinds[first]), origin)
        todo &= ~rows
    return pa.array(starts, pa.int64(), mask=null).cast(TIME)


def _numbers(times: pa.Array) -> np.ndarray:
    numbers = times.cast(pa.int64())
    found: np.ndarray = (numbers.fill_null(0) if numbers.null_count else numbers).to_numpy(zero_copy_only=False)
    return found


def _widths(widths: pa.Array) -> np.ndarray:
    """Return int64[n, 2]: the intervals as Arrow has them, months and days together, then nanoseconds."""
    return np.frombuffer(widths.buffers()[1], np.int64).reshape(-1, 2)[widths.offset : widths.offset + len(widths)]


def _width(kind: np.ndarray) -> tuple[int, int]:
    months, days = kind[:1].view(np.int32).tolist()
    return width_of(months, days, int(kind[1]))


def width_of(months: int, days: int, nanos: int) -> tuple[int, int]:
    """Return a bucket's width as (months, 0) or (0, microseconds). Raises `InvalidError` if it is neither."""
    if nanos % 1000:
        raise InvalidError(f"a bucket cannot be finer than a microsecond nanoseconds={nanos}")
    micros = days * _DAY + nanos // 1000
    if (months and micros) or months < 0 or micros < 0 or not (months or micros) or micros >= 1 << 63:
        raise InvalidError(
            "a bucket is above zero, and either of months and years or of shorter units "
            f"months={months} days={days} microseconds={nanos // 1000}"
        )
    return months, micros


def bucket_starts(times: np.ndarray, months: int, micros: int, origin: int | None = None) -> np.ndarray:
    """Return where the buckets of the times start.

    Parameters
    ----------
    times : int64[n], microseconds since 1970
    months, micros : of `width_of`
    origin : microseconds since 1970 where a bucket starts; None: as everywhere

    Raises
    ------
    InvalidError : a time so early that its bucket starts before all times
    """
    check_kernels("time_bucket")
    if micros and len(times) == 1:  # a constant of the statement, for which no kernel is worth loading
        time = int(times[0])
        start = time - (time - (MONDAY if origin is None else origin)) % micros
        starts, n_outside = np.array([max(start, -(1 << 63))], np.int64), int(start < -(1 << 63))
    elif months:
        from functions.kernels.time_bucket import bucket_by_months

        starts, n_outside = bucket_by_months(times, months, _JANUARY if origin is None else origin)
    else:
        from functions.kernels.time_bucket import bucket_by_length

        starts, n_outside = bucket_by_length(times, micros, MONDAY if origin is None else origin)
    if n_outside:
        raise InvalidError(f"the bucket of a time starts before all times that there are times={n_outside}")
    found: np.ndarray = starts
    return found


def grid_of(start: int, last: int, months: int, micros: int, origin: int | None, most: int) -> np.ndarray:
    """Return int64[n]: the starts of buckets from ``start``, which is one, to ``last``.

    Raises `LimitError` if there are more than ``most``; other parameters as of `bucket_starts`.
    """
    from functions.kernels.time_bucket import month_starts

    n = (last - start) // (micros or months * 28 * _DAY) + 1
    if n > most + most // 8 * bool(months):
        raise LimitError("the grid has too many times; ask for wider buckets, or less time", times=n, times_max=most)
    if micros:
        return start + np.arange(n, dtype=np.int64) * micros
    starts: np.ndarray = month_starts(_JANUARY if origin is None else origin, months, start, n)
    return starts[starts <= last]


# Vectors


def _distance(name: str, left: pa.ListArray, right: pa.ListArray) -> pa.Array:
    """Return the distance of each pair; null where a vector or one of its elements is."""
    check_kernels(name)
    from functions.kernels import vectors

    null = pc.or_(left.is_null(), right.is_null()).to_numpy(zero_copy_only=False)
    if null.any():
        kept = pa.array(~null)
        left, right = left.filter(kept), right.filter(kept)
    n_left, n_right = pc.list_value_length(left), pc.list_value_length(right)
    if not n_left.equals(n_right):
        first = int(np.argmax(np.asarray(n_left) != np.asarray(n_right)))
        raise InvalidError(
            f"{name} takes two vectors of the same dimension left={n_left[first]} right={n_right[first]}"
        )
    bounds = np.concatenate([[0], np.cumsum(np.asarray(n_left), dtype=np.int64)])
    elements = left.flatten(), right.flatten()
    known = np.zeros(len(null), np.float64)
    known[~null] = getattr(vectors, name)(*(_elements(each) for each in elements), bounds)
    rows = np.flatnonzero(~null)
    for each in elements:
        if each.null_count:  # an unknown element makes the distance unknown
            gaps = np.flatnonzero(each.is_null().to_numpy(zero_copy_only=False))
            null[rows[np.searchsorted(bounds, gaps, "right") - 1]] = True
    return pa.array(known, mask=null if null.any() else None)


def _elements(values: pa.Array) -> np.ndarray:
    found: np.ndarray = (values.fill_null(0) if values.null_count else values).to_numpy(zero_copy_only=False)
    return found
