"""The updatable learned index beside a dict and a sort."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.kernels.alex import SLOTS_MAX, Alex

LIMITS = [0, 1, 2, (1 << 63) - 1, 1 << 63, (1 << 64) - 2, (1 << 64) - 1]
KEYS = st.one_of(st.sampled_from(LIMITS), st.integers(0, 40), st.integers(0, (1 << 64) - 1))
BATCHES = st.lists(st.lists(KEYS, max_size=60), max_size=8)


def unsigned(values: Iterable[int]) -> np.ndarray:
    return np.array(list(values), np.uint64)


class Model:
    """A dict, sorted when it is asked for an order."""

    def __init__(self) -> None:
        self.rows: dict[int, list[int]] = defaultdict(list)

    def insert(self, keys: np.ndarray, payloads: np.ndarray) -> None:
        for key, payload in zip(keys.tolist(), payloads.tolist(), strict=True):
            self.rows[key].append(payload)

    def check(self, index: Alex, asked: Sequence[int]) -> None:
        asked = [*asked, *LIMITS]
        counts, payloads = index.find(unsigned(asked))
        expected = [self.rows.get(key, []) for key in asked]
        assert counts.tolist() == [len(each) for each in expected]
        assert payloads.tolist() == [payload for each in expected for payload in each]
        assert len(index) == sum(map(len, self.rows.values()))
        for low, high in ((0, (1 << 64) - 1), (min(asked), max(asked)), (asked[0], asked[0]), (9, 5)):
            keys, payloads = index.scan(low, high)
            pairs = [(key, each) for key in sorted(self.rows) if low <= key <= high for each in self.rows[key]]
            assert list(zip(keys.tolist(), payloads.tolist(), strict=True)) == pairs


def filled(batches: Iterable[np.ndarray]) -> tuple[Alex, Model]:
    index, model, n = Alex(), Model(), 0
    for keys in batches:
        payloads = np.arange(n, n + len(keys))
        n += len(keys)
        index.insert(keys, payloads)
        model.insert(keys, payloads)
    return index, model


@settings(deadline=None)
@given(first=st.lists(KEYS, max_size=60), batches=BATCHES, asked=st.lists(KEYS, max_size=20))
def test_it_answers_as_a_sorted_dict_does(first: list[int], batches: list[list[int]], asked: list[int]) -> None:
    model, payloads = Model(), np.arange(len(first))
    index = Alex(unsigned(first), payloads)
    model.insert(unsigned(first), payloads)
    for keys in batches:
        index.insert(unsigned(keys), np.full(len(keys), 7))
        model.insert(unsigned(keys), np.full(len(keys), 7))
    model.check(index, [*asked, *first, *(key for keys in batches for key in keys)])


def shapes() -> dict[str, np.ndarray]:
    random = np.random.default_rng(8)
    n = 12 * SLOTS_MAX
    return {
        "uniform": random.integers(0, 1 << 64, n, np.uint64, endpoint=False),
        "growing": np.arange(n, dtype=np.uint64),
        "descending": np.arange(n, dtype=np.uint64)[::-1],
        "equal": np.full(n, 5, np.uint64),
        "few": random.integers(0, 9, n).astype(np.uint64),
        "lognormal": random.lognormal(20, 4, n).astype(np.uint64),
        "powers": unsigned((1 << (i % 64)) + i // 64 for i in range(n)),
        "clusters": (random.integers(0, 60, n).astype(np.uint64) << np.uint64(57)) + np.arange(n, dtype=np.uint64),
        "toward the limit": np.uint64((1 << 64) - 1) - np.arange(n, dtype=np.uint64),
        "inwards": np.where(np.arange(n) % 2, np.arange(n), (1 << 40) - np.arange(n)).astype(np.uint64),
    }


@pytest.mark.parametrize("shape", shapes())
@pytest.mark.parametrize("built", [0, 8_000], ids=["inserted", "built, then inserted"])
def test_keys_of_any_shape_are_found(shape: str, built: int) -> None:
    keys = shapes()[shape]
    index, model = Alex(keys[:built], np.arange(built)), Model()
    model.insert(keys[:built], np.arange(built))
    for start in range(built, len(keys), 3_000):
        part = keys[start : start + 3_000]
        index.insert(part, np.arange(start, start + len(part)))
        model.insert(part, np.arange(start, start + len(part)))
    model.check(index, [*np.unique(keys)[::97].tolist(), *(int(key) ^ 1 for key in keys[:9])])
    assert index.n_bytes < 160 * len(keys)


def test_an_empty_index_finds_nothing() -> None:
    Model().check(Alex(), [3])
    Model().check(Alex(unsigned([]), np.empty(0, np.int64)), [3])


def test_payloads_below_zero_are_refused() -> None:
    with pytest.raises(ValueError, match="least=-1"):
        Alex().insert(unsigned([1]), np.array([-1]))


def test_equal_keys_keep_the_order_of_their_inserts() -> None:
    index, model = filled([unsigned([4, 4, 2]), unsigned([4, 2])])
    assert index.find(unsigned([4, 2]))[1].tolist() == [0, 1, 3, 2, 4]
    model.check(index, [4, 2, 3])
