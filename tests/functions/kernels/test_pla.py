"""Lines through sorted keys: each number's rank is within the promised error, whatever the keys."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.kernels.pla import fit_segments, predict_positions, search_positions

LAST = 2**64 - 1


def nasty_keys() -> st.SearchStrategy[np.ndarray]:
    """Sorted uint64: any numbers, neighbours, equal ones in runs, the type's limits, gaps that double."""
    anything = st.integers(0, LAST)
    near = st.builds(
        lambda base, steps: [min(base + step, LAST) for step in steps], anything, st.lists(st.integers(0, 9))
    )
    runs = st.builds(lambda key, n: [key] * n, anything, st.integers(1, 200))
    limits = st.lists(st.sampled_from([0, 1, 2, LAST - 2, LAST - 1, LAST, 2**53, 2**53 + 1, 2**63 - 1, 2**63]))
    gaps = st.builds(lambda n, base: [min(base + 2**i, LAST) for i in range(n)], st.integers(0, 64), anything)
    steps = st.builds(
        lambda base, step, n: [min(base + step * i, LAST) for i in range(n)], anything, anything, st.integers(0, 300)
    )
    parts = st.lists(st.one_of(st.lists(anything), near, runs, limits, gaps, steps), max_size=6)
    return parts.map(lambda lists: np.array(sorted(key for keys in lists for key in keys), np.uint64))


def around(keys: np.ndarray) -> np.ndarray:
    """Each key, its neighbours, the middles of the gaps and the type's limits."""
    whole = [int(key) for key in np.unique(keys)]
    near = {key + step for key in whole for step in (-2, -1, 0, 1, 2)}
    near |= {(a + b) // 2 for a, b in pairwise(whole)} | {0, 1, LAST - 1, LAST}
    return np.array(sorted(key for key in near if 0 <= key <= LAST), np.uint64)


@settings(deadline=None, max_examples=300)
@given(keys=nasty_keys(), epsilon=st.sampled_from([1, 2, 7, 32, 1000]))
def test_the_rank_of_every_number_is_within_the_error_of_its_prediction(keys: np.ndarray, epsilon: int) -> None:
    first_keys, slopes, intercepts = fit_segments(keys, epsilon)
    queries = around(keys)
    predicted = predict_positions(queries, first_keys, slopes, intercepts, len(keys))
    ranks = np.searchsorted(keys, queries)
    assert np.abs(predicted - ranks).max() <= epsilon + 1
    assert ((predicted >= 0) & (predicted <= len(keys))).all()
    assert (np.diff(first_keys.astype(object)) > 0).all()
    np.testing.assert_array_equal(search_positions(keys, queries, predicted, epsilon + 1), ranks)


@pytest.mark.parametrize("name", ["uniform", "lognormal", "bursts", "steps", "squares", "duplicates", "wide"])
def test_large_columns_keep_the_promise_with_few_segments(name: str) -> None:
    rng, n = np.random.default_rng(7), 200_000
    keys = {
        "uniform": lambda: rng.integers(0, LAST, n, np.uint64),
        "lognormal": lambda: (np.exp(rng.normal(0, 2, n)) * 1e9).astype(np.uint64),
        "bursts": lambda: np.cumsum(rng.pareto(1.1, n) * 1e3).astype(np.uint64),
        "steps": lambda: np.repeat(rng.integers(0, LAST, n // 1000, np.uint64), 1000),
        "squares": lambda: np.arange(n, dtype=np.uint64) ** np.uint64(2),
        "duplicates": lambda: rng.integers(0, n // 3, n).astype(np.uint64),
        "wide": lambda: LAST - rng.integers(0, 2**20, n).astype(np.uint64) ** np.uint64(3),
    }[name]()
    keys.sort()
    first_keys, slopes, intercepts = fit_segments(keys, 32)
    queries = np.concatenate([keys, keys + np.uint64(1), rng.integers(0, LAST, n, np.uint64)])
    predicted = predict_positions(queries, first_keys, slopes, intercepts, n)
    assert np.abs(predicted - np.searchsorted(keys, queries)).max() <= 33
    assert len(first_keys) <= n / 32


def test_neighbouring_numbers_are_one_line() -> None:
    first_keys, slopes, intercepts = fit_segments(np.arange(10, 100_010, dtype=np.uint64), 1)
    assert (list(first_keys), list(intercepts)) == ([10], [0.0])
    assert slopes[0] == pytest.approx(1.0, abs=1e-4)


def test_no_keys_are_no_segments() -> None:
    empty = np.empty(0, np.uint64)
    assert [len(part) for part in fit_segments(empty, 32)] == [0, 0, 0]
    assert list(predict_positions(np.array([0, LAST], np.uint64), *fit_segments(empty, 32), 0)) == [0, 0]
