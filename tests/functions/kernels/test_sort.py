"""The distribution sort beside numpy's stable sort."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from functions.kernels.sort import argsort

LENGTHS = st.integers(0, 3_000)
NASTY = st.sampled_from([0, 1, -1, (1 << 63) - 1, -(1 << 63), 1 << 62, 5])


def check(keys: np.ndarray) -> None:
    assert argsort(keys).tolist() == np.argsort(keys, kind="stable").tolist()


@settings(deadline=None)
@given(keys=arrays.arrays(np.int64, LENGTHS, elements=st.one_of(NASTY, st.integers(-(1 << 63), (1 << 63) - 1))))
def test_whole_numbers_come_in_the_order_of_a_stable_sort(keys: np.ndarray) -> None:
    check(keys)


@settings(deadline=None)
@given(keys=arrays.arrays(np.float64, LENGTHS, elements=st.floats()))
def test_floats_come_in_the_order_of_a_stable_sort(keys: np.ndarray) -> None:
    check(keys)


def shapes() -> dict[str, np.ndarray]:
    random = np.random.default_rng(3)
    n = 60_000
    powers = np.array([1 << (i % 63) for i in range(n)], np.int64)
    return {
        "uniform": random.integers(-(1 << 62), 1 << 62, n),
        "lognormal": random.lognormal(0, 3, n),
        "normal": random.normal(0, 1, n),
        "few": random.integers(0, 9, n),
        "equal": np.full(n, 7),
        "in order": np.arange(n),
        "reversed": np.arange(n)[::-1].copy(),
        "nearly in order": np.arange(n) + random.integers(0, 50, n),
        "runs": np.concatenate([np.sort(random.integers(0, 1 << 40, n // 20)) for _ in range(20)]),
        "powers": powers + random.integers(0, 3, n),
        "one far away": np.append(np.zeros(n, np.int64), 1 << 62),
        # Numbers between which a model of the sample tells nothing.
        "hidden": np.where(random.random(n) < 0.01, random.integers(0, 1 << 60, n), random.integers(0, 1 << 20, n)),
        "with NaN": np.where(random.random(n) < 0.5, np.nan, random.normal(0, 1, n)),
        "zeros of both signs": np.where(random.random(n) < 0.5, 0.0, -0.0),
    }


@pytest.mark.parametrize("shape", shapes())
def test_many_keys_of_any_shape_come_in_the_order_of_a_stable_sort(shape: str) -> None:
    check(shapes()[shape])
    check(shapes()[shape][:1_025])
