"""Distances of vectors, beside numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from functions.kernels.vectors import cosine_distance, inner_product, l2_distance, l2_squared_distance

PAIRS = st.tuples(st.integers(0, 12), st.integers(0, 9)).flatmap(
    lambda shape: st.sampled_from([np.float32, np.float64]).flatmap(
        lambda kind: st.tuples(*(hnp.arrays(kind, shape, elements=st.floats(-1e6, 1e6, width=32)) for _ in range(2)))
    )
)


def flat(pair: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n, dimension = pair[0].shape
    return pair[0].ravel(), pair[1].ravel(), np.arange(n + 1, dtype=np.int64) * dimension


@settings(deadline=None)
@given(PAIRS)
def test_distances_are_numpys(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = (each.astype(np.float64) for each in pair)
    squares = ((a - b) ** 2).sum(axis=1)
    np.testing.assert_allclose(l2_squared_distance(*flat(pair)), squares, rtol=1e-12)
    np.testing.assert_allclose(l2_distance(*flat(pair)), np.sqrt(squares), rtol=1e-12)
    scale = (np.abs(a) * np.abs(b)).sum(axis=1)
    assert (np.abs(inner_product(*flat(pair)) - (a * b).sum(axis=1)) <= 1e-12 * scale).all()


@settings(deadline=None)
@given(PAIRS)
def test_cosine_distances_are_numpys_and_there_are_none_of_vectors_of_length_zero(
    pair: tuple[np.ndarray, np.ndarray],
) -> None:
    a, b = (each.astype(np.float64) for each in pair)
    found, known = cosine_distance(*flat(pair))
    squares = (a * a).sum(axis=1), (b * b).sum(axis=1)
    assert known.tolist() == ((squares[0] > 0) & (squares[1] > 0)).tolist()
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = 1 - (a * b).sum(axis=1) / (np.sqrt(squares[0]) * np.sqrt(squares[1]))
    np.testing.assert_allclose(found[known], expected[known], rtol=1e-9, atol=1e-9)
    assert ((found >= 0) & (found <= 2)).all()


def test_vectors_of_different_dimensions_stand_in_one_batch() -> None:
    left, right = np.array([1.0, 2.0, 3.0]), np.array([1.0, 5.0, 7.0])
    assert l2_distance(left, right, np.array([0, 0, 1, 3])).tolist() == [0.0, 0.0, 5.0]


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_values_that_are_no_numbers_stay_so(odd: float) -> None:
    left, bounds = np.array([odd, 1.0, 1.0]), np.array([0, 3])
    assert np.isnan(l2_distance(left, left, bounds)[0])
    assert not np.isfinite(inner_product(left, np.ones(3), bounds)[0])
    found, known = cosine_distance(left, np.ones(3), bounds)
    assert known[0] and not np.isfinite(found[0])
