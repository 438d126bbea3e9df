"""The static map's kernels, beside the paper's algorithm in plain Python."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.kernels.fuse import assign_slots, find_values, order_keys, peel_slots

WORD = 2**64 - 1
SEED = np.uint64(77)


def slots_of(mixed: int, length: int, n_segments: int) -> list[int]:
    base = ((mixed >> 32) * length * n_segments) >> 32
    within = (mixed ^ (mixed >> 32)) * 0x9E3779B97F4A7C15 & WORD
    return [base] + [
        (base + place * length) ^ ((within >> shift) & (length - 1)) for place, shift in ((1, 46), (2, 28), (3, 10))
    ]


def peeled(keys: list[int], length: int, n_segments: int) -> int:
    """How many keys can be peeled, by the definition: whoever is alone in a slot goes, until nobody is."""
    left = set(range(len(keys)))
    while True:
        touched: dict[int, list[int]] = {}
        for key in left:
            for slot in slots_of(keys[key], length, n_segments):
                touched.setdefault(slot, []).append(key)
        alone = {members[0] for members in touched.values() if len(members) == 1}
        if not alone:
            return len(keys) - len(left)
        left -= alone


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(1, 60), seed=st.integers(0, 999), length=st.sampled_from([4, 8, 16]), n_segments=st.integers(1, 8),
    bits=st.sampled_from([(8, 0), (8, 11), (1, 0), (0, 5), (7, 13), (32, 25), (25, 32)]),
)  # fmt: skip
def test_what_can_be_peeled_is_peeled_and_found(
    n: int, seed: int, length: int, n_segments: int, bits: tuple[int, int]
) -> None:
    fingerprint_bits, value_bits = bits
    rng = np.random.default_rng(seed)
    hashes = np.unique(rng.integers(0, WORD, n, np.uint64, endpoint=True))
    values = rng.integers(0, 2**value_bits, len(hashes)).astype(np.uint32)
    mixed, ordered = order_keys(hashes, values, SEED, length, n_segments)
    assert sorted(zip(mixed, ordered, strict=True)) == sorted(
        zip(order_keys(hashes, values, SEED, length, 1)[0], order_keys(hashes, values, SEED, length, 1)[1], strict=True)
    )
    segments = [slots_of(int(key), length, n_segments)[0] // length for key in mixed]
    assert segments == sorted(segments)
    order, alone = peel_slots(mixed, length, n_segments)
    assert len(order) == peeled([int(key) for key in mixed], length, n_segments)
    if len(order) < len(hashes):
        return
    words = assign_slots(mixed, ordered, order, alone, length, n_segments, fingerprint_bits, value_bits)
    found = find_values(hashes, words, SEED, length, n_segments, fingerprint_bits, value_bits)
    np.testing.assert_array_equal(found, values)


def test_no_slot_is_alone_in_the_end_with_equal_hashes() -> None:
    hashes = np.array([5, 5, 9], np.uint64)
    mixed, _ = order_keys(hashes, np.empty(0, np.uint32), SEED, 4, 4)
    order, _ = peel_slots(mixed, 4, 4)
    assert len(order) <= 1


@pytest.mark.parametrize("n", [100_000, 1_000_000])
def test_a_key_s_slots_lie_in_four_segments_on_end(n: int) -> None:
    mixed, _ = order_keys(np.arange(n, dtype=np.uint64), np.empty(0, np.uint32), SEED, 256, 100)
    for key in mixed[:: n // 1_000]:
        first, *others = slots_of(int(key), 256, 100)
        assert [slot // 256 for slot in others] == [first // 256 + place for place in (1, 2, 3)]
        assert others[-1] < 256 * 103
