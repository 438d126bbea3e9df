"""A piecewise-linear model of sorted keys with a bounded error (PGM-index).

Source: Ferragina, Vinciguerra: "The PGM-index: a fully-dynamic compressed learned index with provable worst-case
bounds", PVLDB 13(8), 2020, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["PiecewiseLinear", "fit"]


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
        raise NotImplementedError


def fit(keys: np.ndarray, epsilon: int = 32) -> PiecewiseLinear:
    """Return the model of ``keys`` (uint64[n], not decreasing; equal keys may follow one another)."""
    raise NotImplementedError
