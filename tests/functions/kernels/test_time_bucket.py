"""Buckets of time, beside Python's calendar."""

from __future__ import annotations

import datetime as dt

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.kernels.time_bucket import bucket_by_length, bucket_by_months, month_starts

DAY = 86_400_000_000
EPOCH = dt.datetime(1970, 1, 1)
moments = st.datetimes(dt.datetime(1, 1, 1), dt.datetime(9000, 1, 1))
times = st.lists(moments, max_size=40)


def number(moment: dt.datetime) -> int:
    return (moment - EPOCH) // dt.timedelta(microseconds=1)


def numbers(found: list[dt.datetime]) -> np.ndarray:
    return np.array([number(each) for each in found], np.int64)


def month_later(moment: dt.datetime, months: int) -> dt.datetime | None:
    """Some months after (or before) a moment, on the same day or the month's last; None outside of the calendar."""
    year, month = divmod(moment.year * 12 + moment.month - 1 + months, 12)
    if not 1 <= year <= 9999:
        return None
    for day in range(moment.day, 27, -1):
        try:
            return moment.replace(year=year, month=month + 1, day=day)
        except ValueError:
            continue
    return moment.replace(year=year, month=month + 1)


@settings(deadline=None)
@given(st.lists(st.integers(-(1 << 63), (1 << 63) - 1)), st.integers(1, 1 << 62), st.integers(-(1 << 62), 1 << 62))
def test_a_bucket_of_one_length_starts_at_the_last_multiple(times: list[int], length: int, origin: int) -> None:
    starts, n_outside = bucket_by_length(np.array(times, np.int64), length, origin)
    expected = [time - (time - origin) % length for time in times]
    outside = [start < -(1 << 63) for start in expected]
    assert n_outside == sum(outside)
    wanted = [time if out else start for time, start, out in zip(times, expected, outside, strict=True)]
    assert starts.tolist() == wanted


@settings(deadline=None)
@given(times, st.integers(1, 40), moments)
def test_a_bucket_of_months_starts_at_the_last_start_by_the_calendar(
    found: list[dt.datetime], months: int, origin: dt.datetime
) -> None:
    starts, n_outside = bucket_by_months(numbers(found), months, number(origin))
    assert n_outside == 0
    for moment, start in zip(found, starts.tolist(), strict=True):
        steps = (moment.year - origin.year) * 12 + moment.month - origin.month
        near = [month_later(origin, k * months) for k in range(steps // months - 1, steps // months + 2)]
        expected = [each for each in near if each is not None and each <= moment]
        if expected:
            assert start == number(max(expected))
        else:
            assert start < number(dt.datetime(1, 1, 1)) + 41 * 31 * DAY


@settings(deadline=None)
@given(st.lists(st.integers(-(1 << 63), (1 << 63) - 1)), st.integers(1, 1 << 31))
def test_times_at_the_ends_of_all_numbers_have_a_bucket_not_above_them(times: list[int], months: int) -> None:
    starts, n_outside = bucket_by_months(np.array(times, np.int64), months, 946_684_800_000_000)
    assert (starts <= np.array(times, np.int64)).all()
    assert n_outside <= len(times)


@settings(deadline=None)
@given(moments, st.integers(1, 40), moments, st.integers(0, 30))
def test_starts_of_months_are_each_others_successors(
    origin: dt.datetime, months: int, start: dt.datetime, n: int
) -> None:
    starts = month_starts(number(origin), months, number(start), n)
    assert (starts >= number(start)).all()
    again, _ = bucket_by_months(starts, months, number(origin))
    assert again.tolist() == starts.tolist()
    before, _ = bucket_by_months(starts - 1, months, number(origin))
    assert before.tolist()[1:] == starts.tolist()[:-1]
    assert n == 0 or before[0] < number(start)
