"""Hashes of keys by a kernel are the numbers that numpy gives, and those that are stored."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions import keys
from functions.kernels.hashing import hash_strings, mix_words
from functions.keys import key_hashes

LAST = 2**64 - 1


def mixed_plainly(value: int) -> int:
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & LAST
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & LAST
    return value ^ (value >> 31)


def hashed_plainly(text: bytes) -> int:
    total = 0
    for place in range(-(-len(text) // 8)):
        word = int.from_bytes(text[8 * place : 8 * place + 8].ljust(8, b"\0"), "little")
        total += mixed_plainly((word + 0x9E3779B97F4A7C15 * (place + 1)) & LAST)
    return mixed_plainly((total & LAST) ^ mixed_plainly((len(text) + 0x9E3779B97F4A7C15) & LAST))


@settings(deadline=None)
@given(words=st.lists(st.integers(0, LAST), max_size=50))
def test_words_are_mixed_as_the_paper_says(words: list[int]) -> None:
    assert mix_words(np.array(words, np.uint64)).tolist() == [mixed_plainly(word) for word in words]


@settings(deadline=None)
@given(texts=st.lists(st.binary(max_size=40), max_size=30))
def test_byte_strings_are_hashed_by_their_words_and_length(texts: list[bytes]) -> None:
    offsets = np.cumsum([0, *map(len, texts)]).astype(np.int64)
    data = np.frombuffer(b"".join(texts), np.uint8)
    assert hash_strings(data, offsets).tolist() == [hashed_plainly(text) for text in texts]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(range(-5, 4_995)),
        pa.array([float(i) - 0.0 for i in range(5_000)]),
        pa.array([f"{i:>{i % 40}}" if i % 7 else None for i in range(5_000)]),
        pa.array([f"{i:016}" for i in range(5_000)])[13:],
        pa.array(range(5_000)).cast(pa.decimal128(38, 3)),
        pa.array([b""] * 5_000),
    ],
    ids=["integers", "floats", "ragged", "slice", "decimals", "empty"],
)
def test_a_column_has_the_same_hashes_with_and_without_the_kernel(
    column: pa.Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = pa.table({"key": column, "part": pa.array(range(len(column)))})
    for names in (["key"], ["key", "part"]):
        at_once = key_hashes(rows, names)
        with monkeypatch.context() as patch:
            patch.setattr(keys, "pays", lambda n: False)
            np.testing.assert_array_equal(key_hashes(rows, names), at_once)
        for size in (7, 50):
            a_few = [key_hashes(rows.slice(start, size), names) for start in range(0, 1_000, size)]
            np.testing.assert_array_equal(np.concatenate(a_few)[:1_000], at_once[:1_000])
