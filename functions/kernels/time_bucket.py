"""Times to the start of the bucket that they are in: buckets of one length, and of whole months.

Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms" (2013), `days_from_civil`, `civil_from_days`.
Times are microseconds since 1970, in the proleptic Gregorian calendar, negative before.
"""

# mypy: disable-error-code="untyped-decorator"
from __future__ import annotations

import numpy as np

from functions.kernels.compiled import kernel

__all__ = ["bucket_by_length", "bucket_by_months", "month_starts"]

_DAY = 86_400_000_000
_FIRST = -(1 << 63)
_DAYS_MAX = 106_000_000
"""Days around 1970 for which months are counted: 290,000 years."""


@kernel(nogil=True)
def bucket_by_length(times: np.ndarray, length: int, origin: int) -> tuple[np.ndarray, int]:
    """Return the greatest ``origin + k * length`` that is not above each time.

    Parameters
    ----------
    times : int64[n], microseconds
    length : microseconds, above zero
    origin : microseconds

    Returns
    -------
    int64[n], and how many times have no such start among 64-bit numbers; those stay themselves
    """
    starts = np.empty(len(times), np.int64)
    phase = origin % length
    n_outside = 0
    for i in range(len(times)):
        time = times[i]
        behind = time % length - phase
        if behind < 0:
            behind += length
        if time < _FIRST + behind:
            n_outside += 1
            behind = 0
        starts[i] = time - behind
    return starts, n_outside


@kernel(nogil=True)
def bucket_by_months(times: np.ndarray, months: int, origin: int) -> tuple[np.ndarray, int]:
    """Return the greatest start not above each time, where start k is ``origin`` and ``k * months`` calendar months.

    A start's day of the month is the origin's, or the month's last if it has fewer days.

    Parameters
    ----------
    times : int64[n], microseconds
    months : above zero
    origin : microseconds

    Returns
    -------
    As of `bucket_by_length`
    """
    starts = np.empty(len(times), np.int64)
    first_month, first_day, time_of_day = _parts(origin)
    n_outside = 0
    low = high = 0  # the bucket of the time before: times that follow one another are mostly in one
    for i in range(len(times)):
        time = times[i]
        if low <= time < high:
            starts[i] = low
            continue
        month, _, _ = _parts(time)
        month = first_month + (month - first_month) // months * months
        day = _day_of(month, first_day)
        if abs(time // _DAY) > _DAYS_MAX or day < -_DAYS_MAX:
            starts[i] = time
            n_outside += 1
            continue
        if day * _DAY + time_of_day > time:
            month -= months
            day = _day_of(month, first_day)
            if day < -_DAYS_MAX:
                starts[i] = time
                n_outside += 1
                continue
        starts[i] = low = day * _DAY + time_of_day
        high = low + min(months, 1_000) * 28 * _DAY  # no month is shorter
    return starts, n_outside


@kernel(nogil=True)
def month_starts(origin: int, months: int, start: int, n: int) -> np.ndarray:
    """Return int64[n]: the first start not below ``start`` and those behind it, as of `bucket_by_months`."""
    first_month, first_day, time_of_day = _parts(origin)
    month, _, _ = _parts(start)
    month = first_month + (month - first_month) // months * months
    while _day_of(month, first_day) * _DAY + time_of_day < start:
        month += months
    starts = np.empty(n, np.int64)
    for i in range(n):
        starts[i] = _day_of(month + i * months, first_day) * _DAY + time_of_day
    return starts


@kernel(nogil=True)
def _parts(time: int) -> tuple[int, int, int]:
    """Return the month, counted from year 0, the day of the month, and the microseconds of the day."""
    day = time // _DAY
    shifted = day + 719_468
    era = shifted // 146_097
    of_era = shifted - era * 146_097
    year_of_era = (of_era - of_era // 1_460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    from_march = (5 * of_year + 2) // 153
    month = (year_of_era + era * 400) * 12 + from_march + 2
    return month, of_year - (153 * from_march + 2) // 5 + 1, time - day * _DAY


@kernel(nogil=True)
def _day_of(month: int, day: int) -> int:
    """Return the days since 1970 of a day of a month, or of the month's last day if that is earlier."""
    first = _first_of(month)
    day_of: int = min(first + day - 1, _first_of(month + 1) - 1)
    return day_of


@kernel(nogil=True)
def _first_of(month: int) -> int:
    from_march = month - 2
    year, within = from_march // 12, from_march % 12
    era = year // 400
    of_era = year - era * 400
    of_year = (153 * within + 2) // 5
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468
