"""A piecewise-linear model of sorted keys with a bounded error.

Few keys are predicted in plain Python and numpy, and many by a kernel where numba is installed, with the same numbers.

Source: Ferragina, Vinciguerra: "The PGM-index: a fully-dynamic compressed learned index with provable worst-case
bounds", PVLDB 13(8), 2020, section 3; how the lines are found stands in `functions.kernels.pla`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from functions.kernels import pays

__all__ = ["PiecewiseLinear", "fit"]

_FEW = 4
"""Queries up to which plain Python is faster than numpy."""


@dataclass(frozen=True)
class PiecewiseLinear:
    """Where keys lie in a sorted column.

    first_keys : uint64[m], strictly increasing
    slopes, intercepts : float64[m]
    n : number of keys
    error : rows; for *every* uint64 q, |predict(q) - rank(q)| <= error, where rank(q) is how many keys are below q
    """

    first_keys: np.ndarray
    slopes: np.ndarray
    intercepts: np.ndarray
    n: int
    error: int

    @property
    def n_bytes(self) -> int:
        """Of the arrays."""
        return int(self.first_keys.nbytes + self.slopes.nbytes + self.intercepts.nbytes)

    def predict(self, queries: np.ndarray) -> np.ndarray:
        """Return about how many keys are below each of ``queries`` (uint64[q]): int64[q], within `error`."""
        if not len(self.first_keys):
            return np.zeros(len(queries), np.int64)
        if len(queries) <= _FEW:
            return np.array([self._one(query) for query in queries], np.int64)
        if pays(len(queries)):
            from functions.kernels.pla import predict_positions

            predicted: np.ndarray = predict_positions(queries, self.first_keys, self.slopes, self.intercepts, self.n)
            return predicted
        return self._some(queries)

    def _one(self, query: np.uint64) -> int:
        at = int(self.first_keys.searchsorted(query, "right")) - 1
        if at < 0:
            return 0
        limit = float(self.intercepts[at + 1]) if at + 1 < len(self.first_keys) else float(self.n)
        distance = float(int(query) - int(self.first_keys[at]))
        return int(min(float(self.intercepts[at]) + float(self.slopes[at]) * distance, limit) + 0.5)

    def _some(self, queries: np.ndarray) -> np.ndarray:
        at = self.first_keys.searchsorted(queries, "right") - 1
        before = at < 0
        at[before] = 0
        distance = (queries - self.first_keys[at]).astype(np.float64)
        estimate = self.intercepts[at] + self.slopes[at] * distance
        behind = at + 1
        last = behind == len(self.first_keys)
        behind[last] = 0
        limit = self.intercepts[behind]
        limit[last] = self.n
        found: np.ndarray = (np.minimum(estimate, limit) + 0.5).astype(np.int64)
        found[before] = 0
        return found


def fit(keys: np.ndarray, epsilon: int = 32) -> PiecewiseLinear:
    """Return the model of ``keys`` (uint64[n], not decreasing; equal keys may follow one another).

    Raises
    ------
    ValueError : ``epsilon`` is below 1
    """
    if epsilon < 1:
        raise ValueError(f"the error bound of a model is at least 1 row epsilon={epsilon}")
    from functions.kernels.pla import fit_segments

    first_keys, slopes, intercepts = fit_segments(np.ascontiguousarray(keys, np.uint64), epsilon)
    # The lines are within epsilon of each key's first row; right behind a key that occurs once the truth is one more.
    # Rounding of the float is below a half, and the prediction is rounded to the nearest row.
    return PiecewiseLinear(first_keys, slopes, intercepts, len(keys), epsilon + 1)
