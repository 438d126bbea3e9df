"""Rows on a regular grid of times: which row is at each place, and what stands where there is none.

A grid has ``n_steps`` places for each of ``n_series`` series, series after series. Gaps are filled by nothing, by the
last known value before ("last observation carried forward"), or by the straight line between the known values around.

Source: Moritz, Bartz-Beielstein: "imputeTS: Time Series Missing Value Imputation in R", The R Journal 9(1), 2017,
section "Imputation algorithms" (locf, linear interpolation).
"""

# mypy: disable-error-code="untyped-decorator"
from __future__ import annotations

import numpy as np

from functions.kernels.compiled import kernel

__all__ = ["interpolate", "known_after", "known_before", "place_rows"]


@kernel(nogil=True)
def place_rows(series: np.ndarray, steps: np.ndarray, n_series: int, n_steps: int) -> tuple[np.ndarray, int]:
    """Return the row at each place, -1 where there is none, and a row whose place an earlier one has, or -1.

    Parameters
    ----------
    series, steps : int64[n], each row's place: series in [0, n_series), step in [0, n_steps)

    Returns
    -------
    int64[n_series * n_steps], int
    """
    rows = np.full(n_series * n_steps, -1, np.int64)
    for i in range(len(series)):
        at = series[i] * n_steps + steps[i]
        if rows[at] >= 0:
            return rows, i
        rows[at] = i
    return rows, -1


@kernel(nogil=True)
def known_before(rows: np.ndarray, known: np.ndarray, n_steps: int) -> np.ndarray:
    """Return for each place the last one at or before it, in its series, whose row is known; -1 if there is none.

    Parameters
    ----------
    rows : int64[m] of `place_rows`
    known : bool[n], whether a row's value is not null

    Returns
    -------
    int64[m], places
    """
    found = np.empty(len(rows), np.int64)
    last = -1
    for at in range(len(rows)):
        if at % n_steps == 0:
            last = -1
        if rows[at] >= 0 and known[rows[at]]:
            last = at
        found[at] = last
    return found


@kernel(nogil=True)
def known_after(rows: np.ndarray, known: np.ndarray, n_steps: int) -> np.ndarray:
    """Return for each place the first one at or after it, in its series, whose row is known; as of `known_before`."""
    found = np.empty(len(rows), np.int64)
    following = -1
    for back in range(len(rows)):
        at = len(rows) - 1 - back
        if at % n_steps == n_steps - 1:
            following = -1
        if rows[at] >= 0 and known[rows[at]]:
            following = at
        found[at] = following
    return found


@kernel(nogil=True)
def interpolate(
    values: np.ndarray, times: np.ndarray, rows: np.ndarray, before: np.ndarray, after: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the value at each place on the line between the known ones around it.

    Parameters
    ----------
    values : float64[n], of the rows
    times : int64[n_steps], ascending
    rows, before, after : int64[m], of `place_rows`, `known_before`, `known_after`

    Returns
    -------
    float64[m], and bool[m]: whether there is one, which is so between the first and the last known value of a series
    """
    n_steps = len(times)
    filled = np.zeros(len(rows), np.float64)
    known = np.zeros(len(rows), np.bool_)
    for at in range(len(rows)):
        low, high = before[at], after[at]
        if low < 0 or high < 0:
            continue
        known[at] = True
        first, last = values[rows[low]], values[rows[high]]
        if low == high:
            filled[at] = first
        else:
            start = times[low % n_steps]
            share = (times[at % n_steps] - start) / (times[high % n_steps] - start)
            filled[at] = first * (1.0 - share) + last * share
    return filled, known
