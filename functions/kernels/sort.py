"""A stable argsort that deals numbers out by a model of their distribution.

Source: Kristo et al., "The Case for a Learned Sorting Algorithm" (LearnedSort), SIGMOD 2020, sections 3 and 4: a model
of the distribution, fit on a sample, deals the keys out into buckets; within one it says about where each key goes; a
touch-up pass puts right what it got wrong.

What differs. The model is a line between each two of some hundred quantiles of the sample, which is monotone by itself,
where LearnedSort's RMI has to be made so. Keys go with their row numbers, as this sorts rows. A bucket whose keys the
model tells apart badly is merge-sorted, so no input is slower than n log n.
"""

# mypy: disable-error-code="untyped-decorator, no-any-return"
from __future__ import annotations

import numpy as np

from functions.kernels.compiled import kernel

__all__ = ["argsort"]

_SAMPLE, _KNOTS, _CELLS = 1 << 14, 1 << 9, 1 << 12
_BUCKET_KEYS, _BUCKETS_MAX = 1_024, 1 << 13
_CROWD = 24
"""Keys that one place of a bucket may get before it is merge-sorted."""
_SIGN = np.uint64(1 << 63)


def argsort(keys: np.ndarray) -> np.ndarray:
    """Return the order of ``keys`` (int64[n] or float64[n]) as ``np.argsort(keys, kind="stable")`` does: int64[n].

    Equal keys stay in their order, 0.0 equals -0.0, and NaN is last.
    """
    if keys.dtype == np.float64:
        # Unsigned numbers in the same order: those of negative numbers are turned around.
        bits = (keys + 0.0).view(np.uint64)
        bits = np.where(bits & _SIGN, ~bits, bits | _SIGN)
        bits[np.isnan(keys)] = np.uint64((1 << 64) - 1)
    else:
        bits = np.ascontiguousarray(keys, np.int64).view(np.uint64) ^ _SIGN
    n = len(bits)
    if n < 2:
        return np.arange(n)
    sample = np.sort(bits[:: max(1, n // _SAMPLE)])
    knots = np.unique(np.concatenate([sample[:: max(1, len(sample) // _KNOTS)], sample[-1:]]))
    ranks = sample.searchsorted(knots) * (n / len(sample))
    return _dealt(bits, knots, ranks, min(_BUCKETS_MAX, n // _BUCKET_KEYS + 1))


@kernel(nogil=True)
def _cells(knots: np.ndarray) -> tuple[np.ndarray, float]:
    """Return for each of some equal parts of the knots' range the last knot that is not above its begin: int64[c]; and
    how many of these parts a key of 1 has."""
    span = np.float64(knots[-1] - knots[0])
    scale = _CELLS / span if span > 0.0 else 0.0
    first = np.zeros(_CELLS + 1, np.int64)
    at = 0
    for cell in range(_CELLS + 1):
        while at + 1 < len(knots) and np.float64(knots[at + 1] - knots[0]) * scale <= cell:
            at += 1
        first[cell] = at
    return first, scale


@kernel(nogil=True, inline="always")
def _rank(
    key: np.uint64, knots: np.ndarray, ranks: np.ndarray, slopes: np.ndarray, first: np.ndarray, scale: float
) -> float:
    """Return about how many keys are below ``key``; not decreasing."""
    if key <= knots[0]:
        return 0.0
    if key >= knots[-1]:
        return ranks[-1]
    cell = min(int(np.float64(key - knots[0]) * scale), _CELLS - 1)
    low, high = max(first[cell] - 1, 0), min(first[cell + 1] + 2, len(knots))
    # Knots may be nearer to one another than a float can tell, and all of them in one cell.
    if knots[low] > key:
        low = 0
    if high < len(knots) and knots[high] <= key:
        high = len(knots)
    while high - low > 1:
        middle = (low + high) >> 1
        if knots[middle] <= key:
            low = middle
        else:
            high = middle
    # A knot's own rank is the line's end, so that no rounding passes it.
    return min(ranks[low] + slopes[low] * np.float64(key - knots[low]), ranks[low + 1])


@kernel(nogil=True)
def _dealt(keys: np.ndarray, knots: np.ndarray, ranks: np.ndarray, n_buckets: int) -> np.ndarray:
    """Return the stable order of ``keys`` (uint64[n]), dealt out by the line through (``knots``, ``ranks``)."""
    n = len(keys)
    slopes = np.zeros(len(knots))
    for i in range(len(knots) - 1):
        slopes[i] = (ranks[i + 1] - ranks[i]) / np.float64(knots[i + 1] - knots[i])
    first, scale = _cells(knots)
    per_key = n_buckets / n
    about = np.empty(n, np.float64)
    starts = np.zeros(n_buckets + 1, np.int64)
    for i in range(n):
        about[i] = _rank(keys[i], knots, ranks, slopes, first, scale) * per_key
        starts[min(int(about[i]), n_buckets - 1) + 1] += 1
    widest = 0
    for bucket in range(n_buckets):
        widest = max(widest, int(starts[bucket + 1]))
        starts[bucket + 1] += starts[bucket]
    dealt_keys, dealt_rows, dealt_about = np.empty(n, np.uint64), np.empty(n, np.int64), np.empty(n, np.float64)
    free = starts[:-1].copy()
    for i in range(n):
        bucket = min(int(about[i]), n_buckets - 1)
        at = free[bucket]
        free[bucket] += 1
        dealt_keys[at], dealt_rows[at], dealt_about[at] = keys[i], i, about[i]
    ordered, counts = np.empty(widest, np.uint64), np.empty(widest + 1, np.int64)
    order = np.empty(n, np.int64)
    for bucket in range(n_buckets):
        part = slice(starts[bucket], starts[bucket + 1])
        _order_bucket(dealt_keys[part], dealt_rows[part], dealt_about[part], order[part], ordered, counts)
    return order


@kernel(nogil=True)
def _order_bucket(
    keys: np.ndarray, rows: np.ndarray, about: np.ndarray, into: np.ndarray, ordered: np.ndarray, counts: np.ndarray
) -> None:
    """Write ``rows`` in the order of their ``keys`` to ``into``, after ``about`` where each is among all keys.

    ordered, counts : for work, as long as the widest bucket and one longer
    """
    n = len(keys)
    if n == 0:
        return
    low, high = about.min(), about.max()
    stretch = n / (high - low) if high > low else 0.0
    counts[: n + 1] = 0
    for i in range(n):
        counts[min(int((about[i] - low) * stretch), n - 1) + 1] += 1
    most = 0
    for place in range(n):
        most = max(most, int(counts[place + 1]))
        counts[place + 1] += counts[place]
    if most > _CROWD:
        by_key = np.argsort(keys, kind="mergesort")
        for i in range(n):
            into[i] = rows[by_key[i]]
        return
    for i in range(n):
        place = min(int((about[i] - low) * stretch), n - 1)
        at = counts[place]
        counts[place] += 1
        ordered[at], into[at] = keys[i], rows[i]
    for i in range(1, n):
        key, row, at = ordered[i], into[i], i
        while at and ordered[at - 1] > key:
            ordered[at], into[at] = ordered[at - 1], into[at - 1]
            at -= 1
        ordered[at], into[at] = key, row
