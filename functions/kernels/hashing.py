"""Hashes of keys in one pass, the very numbers of `functions.keys`.

Source: SplitMix64's finalizer (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014,
section 4). Byte strings are hashed by words of eight bytes, the last one padded with zeros: the sum over the words of
each mixed with its place, then the length.
"""

# mypy: disable-error-code="untyped-decorator"
from __future__ import annotations

import numpy as np

from functions.kernels.compiled import kernel

__all__ = ["hash_strings", "mix_words"]

_ZERO, _EIGHT = np.uint64(0), np.uint64(8)
_S27, _S30, _S31 = np.uint64(27), np.uint64(30), np.uint64(31)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


@kernel(nogil=True, inline="always")
def _mixed(value: np.uint64) -> np.uint64:
    value = (value ^ (value >> _S30)) * _FIRST
    value = (value ^ (value >> _S27)) * _SECOND
    mixed: np.uint64 = value ^ (value >> _S31)
    return mixed


@kernel(nogil=True)
def mix_words(words: np.ndarray) -> np.ndarray:
    """Return SplitMix64's finalizer of each of ``words`` (uint64[n]): uint64[n]."""
    mixed = np.empty(len(words), np.uint64)
    for i in range(len(words)):
        mixed[i] = _mixed(words[i])
    return mixed


@kernel(nogil=True)
def hash_strings(data: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return the hash of each byte string.

    Parameters
    ----------
    data : uint8[b]
    offsets : int64[n + 1]; string i is data[offsets[i] : offsets[i + 1]]

    Returns
    -------
    uint64[n]
    """
    n = len(offsets) - 1
    hashes = np.empty(n, np.uint64)
    for i in range(n):
        start, limit = offsets[i], offsets[i + 1]
        total, place = _ZERO, _GOLDEN
        at = start
        while at + 8 <= limit:
            word = np.uint64(data[at])
            for byte in range(1, 8):
                word |= np.uint64(data[at + byte]) << np.uint64(8 * byte)
            total += _mixed(word + place)
            place += _GOLDEN
            at += 8
        if at < limit:
            word, shift = _ZERO, _ZERO
            while at < limit:
                word |= np.uint64(data[at]) << shift
                shift += _EIGHT
                at += 1
            total += _mixed(word + place)
        hashes[i] = _mixed(total ^ _mixed(np.uint64(limit - start) + _GOLDEN))
    return hashes
