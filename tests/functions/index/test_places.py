"""Places of hashes: all that a hash has are found, and few that it has not."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.index.places import MAPS_MAX, Places, build

_PAIRS = st.lists(
    st.tuples(st.integers(0, 2**64 - 1) | st.integers(0, 5), st.integers(0, 40)), min_size=1, max_size=200
)


def _found(places: Places, hashes: np.ndarray) -> dict[int, set[int]]:
    found: dict[int, set[int]] = defaultdict(set)
    for key, place in zip(*(column.tolist() for column in places.find(hashes)), strict=True):
        found[int(hashes[key])].add(place)
    return found


@settings(deadline=None, max_examples=60)
@given(_PAIRS, st.sampled_from([0, 7, 16]))
def test_every_place_of_a_hash_is_found(pairs: list[tuple[int, int]], fingerprint_bits: int) -> None:
    hashes, numbers = np.array([h for h, _ in pairs], np.uint64), np.array([p for _, p in pairs], np.uint32)
    places = build(hashes, numbers, 41, fingerprint_bits=fingerprint_bits)
    found = _found(places, np.unique(hashes))
    expected: dict[int, set[int]] = defaultdict(set)
    for each, place in pairs:
        expected[each].add(place)
    assert all(expected[each] <= found[each] for each in expected)
    assert all(place < 41 for some in found.values() for place in some)


@pytest.mark.parametrize("n_each", [1, 2, 4, MAPS_MAX, 50])
def test_hashes_in_many_places_take_few_bytes_for_each(n_each: int) -> None:
    rng = np.random.default_rng(n_each)
    distinct = rng.integers(0, 2**64, 200_000 // n_each, dtype=np.uint64)
    hashes = np.repeat(distinct, n_each)
    numbers = rng.permutation(np.tile(np.arange(1_000, dtype=np.uint32), 200))[: len(hashes)]
    places = build(hashes, numbers, 1_000, fingerprint_bits=7)
    assert places.n_bytes / len(hashes) < (2.7 if n_each <= MAPS_MAX else 4.5)
    key, _place = places.find(distinct)
    assert len(key) <= 1.01 * len(hashes) + 0.01 * len(distinct)
    missing = rng.integers(0, 2**64, 100_000, dtype=np.uint64)
    assert len(np.unique(places.find(missing)[0])) <= 0.01 * len(missing)


def test_a_few_hashes_in_two_places_are_kept_aside() -> None:
    hashes = np.arange(10_000, dtype=np.uint64)
    places = build(
        np.append(hashes, hashes[:10]),
        np.append(hashes % 7, hashes[:10] % 7 + 1).astype(np.uint32),
        8,
        fingerprint_bits=8,
    )
    assert len(places.maps) == 1
    assert places.several.hashes.tolist() == list(range(10))
    assert _found(places, hashes[:10]) == {at: {at % 7, at % 7 + 1} for at in range(10)}
