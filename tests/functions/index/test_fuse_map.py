"""The static map: every hash's value, nearly nothing for others, and the same from Python, numpy and the kernel."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import functions.kernels.fuse  # noqa: F401  (numba is there: large batches use the kernel)
from functions.index.fuse_map import FuseMap, build

WORD = 2**64 - 1
STORED = [171970020769792, 14294425217365475328, 17077649786988920835, 521292415, 27623755400347648, 0]


def hashes_of(n: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, WORD, n, np.uint64, endpoint=True)


@settings(deadline=None, max_examples=60)
@given(
    hashes=st.lists(st.integers(0, WORD) | st.integers(0, 50), max_size=150, unique=True),
    others=st.lists(st.integers(0, WORD) | st.integers(0, 99), min_size=1, max_size=150),
    bits=st.sampled_from([(8, 0), (8, 11), (1, 0), (0, 7), (7, 13), (32, 25), (25, 32)]),
    data=st.data(),
)
def test_each_hash_has_its_value_by_every_way_of_asking(
    hashes: list[int], others: list[int], bits: tuple[int, int], data: st.DataObject
) -> None:
    top = 2 ** bits[1] - 1
    values = np.array([data.draw(st.integers(0, top)) for _ in hashes], np.uint32)
    made = build(np.array(hashes, np.uint64), values, fingerprint_bits=bits[0], value_bits=bits[1])
    asked = np.array(hashes + others, np.uint64)
    many = made.find(np.resize(asked, 3_000))[: len(asked)]
    np.testing.assert_array_equal(many[: len(hashes)], values)
    some = made.find(np.resize(asked, 200))[: len(asked)]
    np.testing.assert_array_equal(some, many[: len(some)])
    np.testing.assert_array_equal([made.find(asked[i : i + 1])[0] for i in range(len(asked))], many)
    if not hashes:
        assert (many == -1).all()


@pytest.mark.parametrize("n", [1, 2, 3, 7, 100, 1_000, 20_000])
def test_few_hashes_that_are_not_there_have_a_value(n: int) -> None:
    made = build(hashes_of(n), None, fingerprint_bits=8)
    assert (made.find(hashes_of(n)) == 0).all()
    found = made.find(hashes_of(200_000, seed=2)) >= 0
    assert found.mean() == pytest.approx(1 / 256, rel=0.25)


def test_a_million_hashes_take_less_than_one_and_eight_hundredths_slots_each() -> None:
    made = build(hashes_of(1_000_000), None, fingerprint_bits=8)
    assert made.n_bytes <= 1.08 * 1_000_000
    assert (made.find(hashes_of(1_000_000)) == 0).all()


def test_equal_hashes_are_refused() -> None:
    for hashes in ([5, 5], [*range(5_000), 17]):
        with pytest.raises(ValueError, match="distinct; this one is twice there hash="):
            build(np.array(hashes, np.uint64), None, fingerprint_bits=8)


def test_hashes_that_are_not_mixed_are_mapped_too() -> None:
    for hashes in (np.arange(10_000), np.arange(10_000) << 40, np.arange(64), 1 << np.arange(64, dtype=np.uint64)):
        made = build(
            hashes.astype(np.uint64), np.arange(len(hashes), dtype=np.uint32), fingerprint_bits=8, value_bits=14
        )
        np.testing.assert_array_equal(made.find(hashes.astype(np.uint64)), np.arange(len(hashes)))


def test_what_does_not_fit_is_refused() -> None:
    one = np.array([1], np.uint64)
    with pytest.raises(ValueError, match="value=4 value_bits=2"):
        build(one, np.array([4], np.uint32), fingerprint_bits=8, value_bits=2)
    with pytest.raises(ValueError, match="fingerprint_bits=32 value_bits=26"):
        build(one, None, fingerprint_bits=32, value_bits=26)
    with pytest.raises(ValueError, match="n=1 values=2"):
        build(one, np.array([1, 2], np.uint32), fingerprint_bits=8, value_bits=8)


def test_words_that_were_stored_are_read_for_ever() -> None:
    words = np.array(STORED, np.uint64)
    found = FuseMap(words, (16294208416658607535, 4, 3), 8, 5, 9).find(np.arange(12, dtype=np.uint64) << 40)
    assert list(found) == [0, 3, 6, 9, 12, 15, 18, 21, 24, -1, -1, -1]


def test_a_look_up_imports_no_numba() -> None:
    program = (
        "import sys, numpy as np; from functions.index.fuse_map import FuseMap\n"
        "made = FuseMap(np.zeros(100, np.uint64), (1, 4, 8), 8, 8, 9)\n"
        "for n in (1, 10_000): made.find(np.arange(n, dtype=np.uint64))\n"
        "print('numba' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_an_empty_map_finds_nothing() -> None:
    made = build(np.empty(0, np.uint64), None, fingerprint_bits=8)
    assert (made.n, made.n_bytes) == (0, 0)
    assert isinstance(made, FuseMap)
    for n in (0, 1, 100, 5_000):
        np.testing.assert_array_equal(made.find(hashes_of(n)), np.full(n, -1))


def test_words_from_stored_bytes_are_used_in_place() -> None:
    made = build(hashes_of(5_000), None, fingerprint_bits=8)
    stored = replace(made, words=np.frombuffer(made.words.tobytes(), np.uint64))
    for n in (1, 100, 5_000):
        assert (stored.find(hashes_of(5_000)[:n]) == 0).all()
