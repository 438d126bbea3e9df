"""Binary fuse maps: a static map from 64-bit hashes to small values, four reads for each look-up.

Source: Graf, Lemire: "Binary Fuse Filters: Fast and Smaller Than Xor Filters", ACM JEA 27, 2022: the 4-wise filter,
keys ordered by their first segment before they are peeled. A value stands beside
each fingerprint and is found by the same exclusive or, as in a Bloomier filter (Chazelle, Kilian, Rubinfeld, Tal, SODA
2004). While peeling, a slot holds how many keys touch it and the exclusive or of their numbers, in one word.

Slots are packed: slot i has the bits [i * width, (i + 1) * width) of the words, the fingerprint in the lower ones.
"""

# mypy: disable-error-code="untyped-decorator"
from __future__ import annotations

import numpy as np

from functions.kernels.compiled import kernel

__all__ = ["assign_slots", "find_values", "order_keys", "peel_slots"]

_ZERO, _ONE = np.uint64(0), np.uint64(1)
_S10, _S27, _S28, _S30, _S31, _S32 = (np.uint64(bits) for bits in (10, 27, 28, 30, 31, 32))
_S46, _S63, _SIX = np.uint64(46), np.uint64(63), np.uint64(6)
_LOW = np.uint64(0xFFFF_FFFF)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@kernel(nogil=True, inline="always")
def _mixed(value: np.uint64) -> np.uint64:
    value = (value ^ (value >> _S30)) * _FIRST
    value = (value ^ (value >> _S27)) * _SECOND
    mixed: np.uint64 = value ^ (value >> _S31)
    return mixed


@kernel(nogil=True, inline="always")
def _slots(mixed: np.uint64, length: np.uint64, span: np.uint64) -> tuple[np.uint64, np.uint64, np.uint64, np.uint64]:
    """Return the four slots of a key, one in each of four segments on end."""
    base = ((mixed >> _S32) * span) >> _S32
    within = (mixed ^ (mixed >> _S32)) * _GOLDEN
    mask = length - _ONE
    second, third, fourth = base + length, base + length + length, base + length + length + length
    return (
        base,
        second ^ ((within >> _S46) & mask),
        third ^ ((within >> _S28) & mask),
        fourth ^ ((within >> _S10) & mask),
    )


@kernel(nogil=True, inline="always")
def _read(words: np.ndarray, slot: np.uint64, width: np.uint64) -> np.uint64:
    """Return the bits of a slot and those behind it."""
    bit = slot * width
    word, offset = bit >> _SIX, bit & _S63
    bits: np.uint64 = (words[word] >> offset) | ((words[word + _ONE] << _ONE) << (_S63 - offset))
    return bits


@kernel(nogil=True)
def order_keys(
    hashes: np.ndarray, values: np.ndarray, seed: np.uint64, length: int, n_segments: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the keys in the order of their first segment.

    Parameters
    ----------
    hashes : uint64[n]
    values : uint32[n], or empty

    Returns
    -------
    uint64[n] mixed hashes, uint32[n] or empty
    """
    span = np.uint64(length * n_segments)
    shift = np.uint64(np.round(np.log2(length)))
    starts = np.zeros(n_segments + 1, np.int64)
    for i in range(len(hashes)):
        base = ((_mixed(hashes[i] + seed) >> _S32) * span) >> _S32
        starts[(base >> shift) + _ONE] += 1
    starts = np.cumsum(starts)
    mixed = np.empty(len(hashes), np.uint64)
    kept = np.empty(len(values), np.uint32)
    for i in range(len(hashes)):
        each = _mixed(hashes[i] + seed)
        segment = (((each >> _S32) * span) >> _S32) >> shift
        at = starts[segment]
        starts[segment] = at + 1
        mixed[at] = each
        if len(values) > 0:
            kept[at] = values[i]
    return mixed, kept


@kernel(nogil=True)
def peel_slots(mixed: np.ndarray, length: int, n_segments: int) -> tuple[np.ndarray, np.ndarray]:
    """Peel the keys: again and again take one that is alone in a slot.

    Parameters
    ----------
    mixed : uint64[n], of `order_keys`; n < 2 ** 32

    Returns
    -------
    order : uint32[k] keys as they were taken; all of them if k = n
    alone : uint8[k] which of its slots, 0 to 3, each had for itself
    """
    n = len(mixed)
    size, span = np.uint64(length), np.uint64(length * n_segments)
    touched = np.zeros((n_segments + 3) * length, np.uint64)
    unit = _ONE << _S32
    for i in range(n):
        key = np.uint64(i)
        for slot in _slots(mixed[i], size, span):
            touched[slot] = (touched[slot] + unit) ^ key
    order = np.empty(n, np.uint32)
    alone = np.empty(n, np.uint8)
    # First in, first out: what is taken next hangs less often on what was taken just now, 1.2 to 1.6 times as fast.
    # Places are written first and counted then, without a branch.
    queue = np.empty(len(touched) + 4, np.uint32)
    n_taken = 0
    for start in range(0, len(touched), length):
        head = tail = 0
        for place in range(start, start + length):
            queue[tail] = place
            tail += touched[place] >> _S32 == _ONE
        while head < tail:
            own = np.uint64(queue[head])
            head += 1
            if touched[own] >> _S32 != _ONE:
                continue
            key = touched[own] & _LOW
            order[n_taken] = key
            for which, each in enumerate(_slots(mixed[key], size, span)):
                if each == own:
                    alone[n_taken] = which
                left = (touched[each] - unit) ^ key
                touched[each] = left
                queue[tail] = each
                tail += left >> _S32 == _ONE
            n_taken += 1
    return order[:n_taken], alone[:n_taken]


@kernel(nogil=True)
def assign_slots(
    mixed: np.ndarray,
    values: np.ndarray,
    order: np.ndarray,
    alone: np.ndarray,
    length: int,
    n_segments: int,
    fingerprint_bits: int,
    value_bits: int,
) -> np.ndarray:
    """Return the packed slots in which each key's four make up its fingerprint and value: uint64[w].

    Parameters
    ----------
    mixed, values : of `order_keys`
    order, alone : of `peel_slots`, of all keys
    """
    size, span = np.uint64(length), np.uint64(length * n_segments)
    width = np.uint64(fingerprint_bits + value_bits)
    shift = np.uint64(fingerprint_bits)
    mask, fingerprint = (_ONE << width) - _ONE, (_ONE << shift) - _ONE
    words = np.zeros(((n_segments + 3) * length * (fingerprint_bits + value_bits) + 63) // 64 + 1, np.uint64)
    for taken in range(len(order) - 1, -1, -1):
        key = order[taken]
        each = mixed[key]
        bits = each & fingerprint
        if len(values) > 0:
            bits |= np.uint64(values[key]) << shift
        slots = _slots(each, size, span)
        for slot in slots:
            bits ^= _read(words, slot, width)  # its own slot still holds zeros
        own = slots[alone[taken]]
        bits &= mask
        bit = own * width
        word, offset = bit >> _SIX, bit & _S63
        words[word] |= bits << offset
        words[word + _ONE] |= (bits >> _ONE) >> (_S63 - offset)
    return words


@kernel(nogil=True)
def find_values(
    hashes: np.ndarray,
    words: np.ndarray,
    seed: np.uint64,
    length: int,
    n_segments: int,
    fingerprint_bits: int,
    value_bits: int,
) -> np.ndarray:
    """Return the value of each of ``hashes`` (uint64[q]), -1 where its fingerprint is not there: int64[q]."""
    size, span = np.uint64(length), np.uint64(length * n_segments)
    width, shift = np.uint64(fingerprint_bits + value_bits), np.uint64(fingerprint_bits)
    mask, fingerprint = (_ONE << width) - _ONE, (_ONE << shift) - _ONE
    found = np.empty(len(hashes), np.int64)
    for i in range(len(hashes)):
        each = _mixed(hashes[i] + seed)
        first, second, third, fourth = _slots(each, size, span)
        bits = _read(words, first, width) ^ _read(words, second, width)
        bits ^= _read(words, third, width) ^ _read(words, fourth, width)
        bits &= mask
        found[i] = np.int64(bits >> shift) if (bits ^ each) & fingerprint == _ZERO else np.int64(-1)
    return found
