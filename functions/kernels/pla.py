"""Piecewise-linear approximation of a sorted column: key → position, within a bound.

Source: the greedy "shrinking cone" of Galakatos, Markovitch, Binnig, Fonseca, Kraska: "FITing-Tree: A Data-aware Index
Structure", SIGMOD 2019, section 3.3. A segment starts in a point (key, position); the cone of slopes that pass every
further point within epsilon shrinks until it is empty, and the next segment starts there. The points are chosen as in
Ferragina, Vinciguerra: "The PGM-index", PVLDB 13(8), 2020: of equal keys only the first counts, and behind them also
the next number, so that the model holds for keys that are not in the column.

The lines that PGM uses (O'Rourke: "An on-line algorithm for fitting straight lines between data ranges", CACM 24(9),
1981) are the fewest there are. Measured on 5M keys they were 1.3 to 1.4 times fewer (uniform, lognormal, timestamps),
found at 0.45 to 0.65 of the cone's rate, under 100M keys/s for timestamps. A model of cones takes 0.01 to 0.06 bytes a
key, so the rate was preferred.
"""

# mypy: disable-error-code="untyped-decorator"
from __future__ import annotations

import numpy as np

from functions.kernels.compiled import kernel

__all__ = ["fit_segments", "predict_positions", "search_positions"]

_ONE = np.uint64(1)
_LAST = np.uint64(0xFFFF_FFFF_FFFF_FFFF)


@kernel(nogil=True, error_model="numpy")
def fit_segments(keys: np.ndarray, epsilon: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (first_keys, slopes, intercepts) of segments that pass each point within ``epsilon`` rows.

    A point is a key with the number of keys below it; and behind equal keys the next number with the same.

    Parameters
    ----------
    keys : uint64[n], not decreasing
    epsilon : rows, at least 1

    Returns
    -------
    uint64[m], strictly increasing; float64[m], none negative; float64[m], whole numbers, increasing
    """
    first_keys = np.empty(1024, np.uint64)
    slopes = np.empty(1024, np.float64)
    intercepts = np.empty(1024, np.float64)
    m = 0
    at, behind = 0, False
    while at < len(keys) or behind:
        first = keys[at - 1] + _ONE if behind else keys[at]
        if m == len(first_keys):
            first_keys, slopes, intercepts = _doubled(first_keys), _doubled(slopes), _doubled(intercepts)
        first_keys[m], intercepts[m] = first, at
        at, behind, slopes[m] = _extend(keys, first, at, np.float64(epsilon))
        m += 1
    return first_keys[:m].copy(), slopes[:m].copy(), intercepts[:m].copy()


@kernel(nogil=True, error_model="numpy")
def _extend(keys: np.ndarray, first: np.uint64, base: int, epsilon: float) -> tuple[int, bool, float]:
    """Draw a line from the point (first, base) past the points behind it, as far as it can.

    Returns where the next segment begins: the place of a key, and whether it is the point behind the keys before it.
    Then the slope.
    """
    n = len(keys)
    low, high = 0.0, np.inf
    last = first
    i = base
    while i < n:
        x = keys[i]
        behind = x == last
        if behind:
            run = i
            while i < n and keys[i] == last:
                i += 1
            if last == _LAST or (i < n and keys[i] == last + _ONE) or (i == run + 1 and run == base):
                continue
            x = last + _ONE
        dx = np.float64(x - first)
        above, under = np.float64(i - base) - epsilon, np.float64(i - base) + epsilon
        if above > low * dx or under < high * dx:  # one point in seven narrows the cone
            if above > high * dx or under < low * dx:
                return i, behind, 0.5 * (low + high)
            low = max(low, above / dx)
            high = min(high, under / dx)
        last = x
        if not behind:
            i += 1
    return i, False, 0.5 * (low + high) if high < np.inf else 0.0


@kernel(nogil=True)
def _doubled(values: np.ndarray) -> np.ndarray:
    larger = np.empty(2 * len(values), values.dtype)
    larger[: len(values)] = values
    return larger


@kernel(nogil=True)
def predict_positions(
    queries: np.ndarray, first_keys: np.ndarray, slopes: np.ndarray, intercepts: np.ndarray, n: int
) -> np.ndarray:
    """Estimate how many keys are below each query.

    Parameters
    ----------
    queries : uint64[q]
    first_keys, slopes, intercepts : of `fit_segments`
    n : number of keys that were fit

    Returns
    -------
    int64[q]
        Within ``epsilon + 1`` of the truth for every number. Between segments a line goes no further than to where the
        next one starts.
    """
    found = np.empty(len(queries), np.int64)
    m = len(first_keys)
    for place in range(len(queries)):
        query = queries[place]
        if m == 0 or query < first_keys[0]:
            found[place] = 0
            continue
        at = 0
        length = m
        while length > 1:
            half = length >> 1
            at = at + half if first_keys[at + half] <= query else at
            length -= half
        estimate = intercepts[at] + slopes[at] * np.float64(query - first_keys[at])
        limit = intercepts[at + 1] if at + 1 < m else np.float64(n)
        found[place] = np.int64(min(estimate, limit) + 0.5)
    return found


@kernel(nogil=True)
def search_positions(keys: np.ndarray, queries: np.ndarray, estimates: np.ndarray, error: int) -> np.ndarray:
    """Return how many of ``keys`` (uint64[n], sorted) are below each query, given within ``error`` by its estimate."""
    found = np.empty(len(queries), np.int64)
    n = len(keys)
    for place in range(len(queries)):
        query = queries[place]
        at = max(estimates[place] - error, 0)
        length = min(estimates[place] + error, n) - at
        while length > 0:
            half = length >> 1
            below = keys[at + half] < query
            at = at + half + 1 if below else at
            length = length - half - 1 if below else half
        found[place] = at
    return found
