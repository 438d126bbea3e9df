"""A static map from 64-bit hashes to small values that also says of most other hashes that they are not there.

Source: Graf, Lemire: "Binary Fuse Filters: Fast and Smaller Than Xor Filters", ACM JEA 27, 2022; values beside the
fingerprints as in Bloomier filters (Chazelle et al., SODA 2004). How it is built stands in `functions.kernels.fuse`;
few hashes are looked up in plain Python and numpy, with the same answers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from functions.kernels import pays

__all__ = ["FuseMap", "build"]

_FEW = 16
"""Hashes up to which plain Python is faster than numpy."""
_WIDTH_MAX = 57
_TRIES = 50
_ARITY = 4
_VERY_MANY, _TIGHT = 8_000_000, 1.06
_WORD = 0xFFFF_FFFF_FFFF_FFFF
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB


@dataclass(frozen=True)
class FuseMap:
    """Slots of ``fingerprint_bits + value_bits`` bits, packed.

    words : uint64[w]
    shape : (seed, segment length, number of segments) of the filter
    n : number of hashes; 0: nothing is there
    """

    words: np.ndarray
    shape: tuple[int, int, int]
    fingerprint_bits: int
    value_bits: int
    n: int

    @property
    def n_bytes(self) -> int:
        """Of the words."""
        return int(self.words.nbytes)

    def find(self, hashes: np.ndarray) -> np.ndarray:
        """Return the value of each of ``hashes`` (uint64[q]), -1 where it is not there: int64[q].

        A hash that is not there has a value all the same with a probability of 2 ** -fingerprint_bits.
        """
        if not self.n:
            return np.full(len(hashes), -1, np.int64)
        if len(hashes) <= _FEW:
            return np.array([self._one(each) for each in hashes.tolist()], np.int64)
        if pays(len(hashes)):
            from functions.kernels.fuse import find_values

            seed, length, n_segments = self.shape
            found: np.ndarray = find_values(
                hashes, self.words, np.uint64(seed), length, n_segments, self.fingerprint_bits, self.value_bits
            )
            return found
        return self._some(hashes)

    def _one(self, key: int) -> int:
        seed, length, n_segments = self.shape
        width, item = self.fingerprint_bits + self.value_bits, self.words.item
        mixed = _mixed_int((key + seed) & _WORD)
        base = ((mixed >> 32) * length * n_segments) >> 32
        within = ((mixed ^ (mixed >> 32)) * _GOLDEN) & _WORD
        bits = 0
        for place in range(_ARITY):
            slot = base + place * length
            if place:
                slot ^= (within >> (64 - 18 * place)) & (length - 1)
            word, offset = divmod(slot * width, 64)
            bits ^= (item(word) | (item(word + 1) << 64)) >> offset
        if (bits ^ mixed) & ((1 << self.fingerprint_bits) - 1):
            return -1
        return (bits & ((1 << width) - 1)) >> self.fingerprint_bits

    def _some(self, hashes: np.ndarray) -> np.ndarray:
        seed, length, n_segments = self.shape
        width = self.fingerprint_bits + self.value_bits
        mixed = _mixed(hashes + np.uint64(seed))
        base = ((mixed >> 32) * np.uint64(length * n_segments)) >> 32
        within = (mixed ^ (mixed >> 32)) * np.uint64(_GOLDEN)
        bits = np.zeros(len(hashes), np.uint64)
        for place in range(_ARITY):
            slot = base + np.uint64(place * length)
            if place:
                slot ^= (within >> (64 - 18 * place)) & np.uint64(length - 1)
            slot *= np.uint64(width)
            word, offset = (slot >> 6).astype(np.int64), slot & 63
            bits ^= (self.words[word] >> offset) | ((self.words[word + 1] << 1) << (63 - offset))
        bits &= np.uint64((1 << width) - 1)
        there = ((bits ^ mixed) & np.uint64((1 << self.fingerprint_bits) - 1)) == 0
        return np.where(there, (bits >> self.fingerprint_bits).astype(np.int64), -1)


def build(hashes: np.ndarray, values: np.ndarray | None, *, fingerprint_bits: int, value_bits: int = 0) -> FuseMap:
    """Return the map of ``hashes`` (uint64[n], distinct) to ``values`` (uint32[n], below 2 ** value_bits).

    Without values it is a filter: each hash has the value 0. The same hashes in the same order make the same map.

    Raises
    ------
    ValueError : hashes that are equal, a value that is too large, more than 2 ** 32 hashes, or bits that do not fit
    """
    _check(hashes, values, fingerprint_bits, value_bits)
    if not len(hashes):
        return FuseMap(np.empty(0, np.uint64), (0, 1, 1), fingerprint_bits, value_bits, 0)
    from functions.kernels.fuse import assign_slots, order_keys, peel_slots

    hashes = np.ascontiguousarray(hashes, np.uint64)
    kept = np.empty(0, np.uint32) if values is None else np.ascontiguousarray(values, np.uint32)
    for attempt in range(_TRIES):
        length, n_segments = _sizes(len(hashes), attempt)
        seed = _mixed_int((attempt + 1) * _GOLDEN & _WORD)
        mixed, ordered = order_keys(hashes, kept, np.uint64(seed), length, n_segments)
        order, alone = peel_slots(mixed, length, n_segments)
        if len(order) == len(hashes):
            words = assign_slots(mixed, ordered, order, alone, length, n_segments, fingerprint_bits, value_bits)
            return FuseMap(words, (seed, length, n_segments), fingerprint_bits, value_bits, len(hashes))
        if attempt == 0:
            _check_distinct(hashes)
    raise ValueError(f"no map of these hashes was found; they are not well mixed n={len(hashes)} tries={_TRIES}")


def _sizes(n: int, attempt: int) -> tuple[int, int]:
    """Return the length of a segment, a power of two, and in how many of them a key may begin.

    Section 3 of the paper, 4-wise; with very many keys segments of half that length are peeled 1.4 times as fast and
    take less room. Where several seeds have failed, as they may with few keys, there is more room.
    """
    logarithm = math.log(max(n, 2))
    length = 1 << min(max(math.floor(logarithm / math.log(2.91) - 0.5), 2), 18)
    factor = max(1.075, 0.77 + 0.305 * math.log(600_000) / logarithm) * (1 + 0.02 * max(0, attempt - 4))
    if n >= _VERY_MANY and attempt == 0:
        length, factor = length >> 1, _TIGHT
    return length, max(math.ceil(n * factor / length) - (_ARITY - 1), 1)


def _check(hashes: np.ndarray, values: np.ndarray | None, fingerprint_bits: int, value_bits: int) -> None:
    if not (0 <= fingerprint_bits <= 32 and 0 <= value_bits <= 32 and 1 <= fingerprint_bits + value_bits <= _WIDTH_MAX):
        raise ValueError(
            "a slot has up to 32 bits each for fingerprint and value, and up to 57 together"
            f" fingerprint_bits={fingerprint_bits} value_bits={value_bits}"
        )
    if len(hashes) >= 1 << 32:
        raise ValueError(f"a map has fewer than 2 ** 32 hashes n={len(hashes)}")
    if values is not None and len(values) != len(hashes):
        raise ValueError(f"there is one value for each hash n={len(hashes)} values={len(values)}")
    if values is not None and len(values) and int(values.max()) >> value_bits:
        raise ValueError(f"a value does not fit its bits value={int(values.max())} value_bits={value_bits}")


def _check_distinct(hashes: np.ndarray) -> None:
    """Equal hashes share all their slots, so that none of them is ever alone."""
    ordered = np.sort(hashes)
    same = np.flatnonzero(ordered[1:] == ordered[:-1])
    if len(same):
        raise ValueError(f"hashes of a map are distinct; this one is twice there hash={int(ordered[same[0]])}")


def _mixed_int(value: int) -> int:
    value = ((value ^ (value >> 30)) * _FIRST) & _WORD
    value = ((value ^ (value >> 27)) * _SECOND) & _WORD
    return value ^ (value >> 31)


def _mixed(values: np.ndarray) -> np.ndarray:
    values = (values ^ (values >> 30)) * np.uint64(_FIRST)
    values = (values ^ (values >> 27)) * np.uint64(_SECOND)
    mixed: np.ndarray = values ^ (values >> 31)
    return mixed
