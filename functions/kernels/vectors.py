"""Distances between pairs of vectors of any dimension, summed as doubles.

Definitions as in pgvector 0.8 (README, "Distances"): Euclidean distance, inner product, and cosine distance, one less
the cosine of the angle. Sums are reordered, so that the processor adds several terms at once.
"""

# mypy: disable-error-code="untyped-decorator"
from __future__ import annotations

import numpy as np

from functions.kernels.compiled import kernel

__all__ = ["cosine_distance", "inner_product", "l2_distance", "l2_squared_distance"]

_REORDERED = {"reassoc", "contract"}


@kernel(nogil=True, fastmath=_REORDERED)
def l2_squared_distance(left: np.ndarray, right: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Return the sum of the squared differences of each pair.

    Parameters
    ----------
    left, right : float32 or float64, the vectors' elements, one vector behind the other
    bounds : int64[n + 1], where each pair's elements begin, in both

    Returns
    -------
    float64[n]
    """
    distances = np.empty(len(bounds) - 1, np.float64)
    for i in range(len(distances)):
        total = 0.0
        for j in range(bounds[i], bounds[i + 1]):
            difference = np.float64(left[j]) - np.float64(right[j])
            total += difference * difference
        distances[i] = total
    return distances


@kernel(nogil=True)
def l2_distance(left: np.ndarray, right: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Return the length of the difference of each pair; parameters as of `l2_squared_distance`."""
    distances: np.ndarray = np.sqrt(l2_squared_distance(left, right, bounds))
    return distances


@kernel(nogil=True, fastmath=_REORDERED)
def inner_product(left: np.ndarray, right: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Return the sum of the products of each pair's elements; parameters as of `l2_squared_distance`."""
    products = np.empty(len(bounds) - 1, np.float64)
    for i in range(len(products)):
        total = 0.0
        for j in range(bounds[i], bounds[i + 1]):
            total += np.float64(left[j]) * np.float64(right[j])
        products[i] = total
    return products


@kernel(nogil=True, fastmath=_REORDERED)
def cosine_distance(left: np.ndarray, right: np.ndarray, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return one less the cosine of the angle of each pair; parameters as of `l2_squared_distance`.

    Returns
    -------
    float64[n], in [0, 2], and bool[n]: whether there is an angle, which a vector of length zero has with none
    """
    distances = np.zeros(len(bounds) - 1, np.float64)
    known = np.zeros(len(distances), np.bool_)
    for i in range(len(distances)):
        product, square_left, square_right = 0.0, 0.0, 0.0
        for j in range(bounds[i], bounds[i + 1]):
            a, b = np.float64(left[j]), np.float64(right[j])
            product += a * b
            square_left += a * a
            square_right += b * b
        if square_left != 0.0 and square_right != 0.0:
            known[i] = True
            cosine = product / (np.sqrt(square_left) * np.sqrt(square_right))
            if cosine > 1.0:
                cosine = 1.0
            elif cosine < -1.0:
                cosine = -1.0
            distances[i] = 1.0 - cosine
    return distances, known
