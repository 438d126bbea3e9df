"""The model of sorted keys: the same numbers from plain Python, numpy and the kernel."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import functions.kernels.pla  # noqa: F401  (numba is there: large batches use the kernel)
from functions.index.piecewise import fit

LAST = 2**64 - 1


@settings(deadline=None, max_examples=50)
@given(
    keys=st.lists(st.integers(0, LAST) | st.integers(0, 99), max_size=200), epsilon=st.sampled_from([1, 32]),
    queries=st.lists(st.integers(0, LAST) | st.integers(0, 120), min_size=1),
)  # fmt: skip
def test_one_query_some_and_many_have_the_same_predictions(keys: list[int], epsilon: int, queries: list[int]) -> None:
    model = fit(np.array(sorted(keys), np.uint64), epsilon)
    asked = np.array(queries + keys, np.uint64)
    many = model.predict(np.resize(asked, 3_000))[: len(asked)]
    some = model.predict(np.resize(asked, 200))[: len(asked)]
    np.testing.assert_array_equal(some, many[: len(some)])
    np.testing.assert_array_equal([model.predict(asked[i : i + 1])[0] for i in range(len(asked))], many)
    ranks = np.searchsorted(np.array(sorted(keys), np.uint64), asked)
    assert np.abs(many - ranks).max() <= model.error
    assert model.n == len(keys)


def test_a_model_of_no_keys_predicts_nothing_below_any_number() -> None:
    model = fit(np.empty(0, np.uint64))
    assert (model.n, model.n_bytes) == (0, 0)
    for n in (0, 1, 100, 5_000):
        np.testing.assert_array_equal(model.predict(np.full(n, LAST, np.uint64)), np.zeros(n))


def test_keys_of_any_stride_are_fit() -> None:
    keys = np.arange(20_000, dtype=np.uint64)[::2]
    assert abs(int(fit(keys).predict(np.array([10_000], np.uint64))[0]) - 5_000) <= fit(keys).error


def test_an_error_bound_below_one_row_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 row epsilon=0"):
        fit(np.arange(3, dtype=np.uint64), 0)


def test_a_few_predictions_do_not_import_numba() -> None:
    program = (
        "import sys, numpy as np; from functions.index.piecewise import PiecewiseLinear\n"
        "model = PiecewiseLinear(np.array([5], np.uint64), np.array([1.0]), np.array([0.0]), 9, 1)\n"
        "print(model.predict(np.arange(10_000, dtype=np.uint64))[[0, 8, 9_999]], 'numba' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[0 3 9] False"


def test_a_model_from_stored_bytes_predicts_the_same() -> None:
    keys = np.arange(0, 90_000, 3, dtype=np.uint64) ** np.uint64(2)
    model = fit(keys)
    stored = replace(model, **{
        name: np.frombuffer(array.tobytes(), array.dtype)
        for name, array in vars(model).items() if isinstance(array, np.ndarray)
    })  # fmt: skip
    for n in (1, 100, 5_000):
        np.testing.assert_array_equal(stored.predict(keys[:n]), model.predict(keys[:n]))
