"""Grids of times, beside dictionaries and loops."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.kernels.gap_fill import interpolate, known_after, known_before, place_rows


@st.composite
def grids(draw: st.DrawFn) -> tuple[int, int, dict[tuple[int, int], float | None]]:
    """The size of a grid, and values or None at some of its places."""
    n_series, n_steps = draw(st.integers(1, 4)), draw(st.integers(1, 12))
    places = st.tuples(st.integers(0, n_series - 1), st.integers(0, n_steps - 1))
    values = st.one_of(st.none(), st.floats(-1e9, 1e9))
    return n_series, n_steps, draw(st.dictionaries(places, values, max_size=30))


@settings(deadline=None)
@given(grids(), st.integers(1, 1000))
def test_each_place_has_the_known_values_around_it(
    grid: tuple[int, int, dict[tuple[int, int], float | None]], step: int
) -> None:
    n_series, n_steps, values = grid
    series = np.array([at[0] for at in values], np.int64)
    steps = np.array([at[1] for at in values], np.int64)
    known = np.array([value is not None for value in values.values()], bool)
    numbers = np.array([value if value is not None else np.nan for value in values.values()], np.float64)
    times = np.arange(n_steps, dtype=np.int64) * step
    rows, clash = place_rows(series, steps, n_series, n_steps)
    assert clash == -1
    before, after = known_before(rows, known, n_steps), known_after(rows, known, n_steps)
    filled, has = interpolate(numbers, times, rows, before, after)
    for at in range(n_series * n_steps):
        one, at_step = divmod(at, n_steps)
        row = list(values).index((one, at_step)) if (one, at_step) in values else -1
        assert rows[at] == row
        mine = sorted(step for (each, step), value in values.items() if each == one and value is not None)
        low = max((each for each in mine if each <= at_step), default=None)
        high = min((each for each in mine if each >= at_step), default=None)
        assert before[at] == (-1 if low is None else one * n_steps + low)
        assert after[at] == (-1 if high is None else one * n_steps + high)
        assert has[at] == (low is not None and high is not None)
        if low is not None and high is not None:
            expected = np.interp(at_step, [low, high], [values[one, low], values[one, high]])
            assert np.isclose(filled[at], expected, rtol=1e-9, atol=1e-6)


def test_two_rows_of_one_place_are_told() -> None:
    rows, clash = place_rows(np.array([0, 1, 0]), np.array([2, 2, 2]), 2, 3)
    assert clash == 2
    assert rows[2] == 0
