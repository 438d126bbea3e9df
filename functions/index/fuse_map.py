"""A static map from 64-bit hashes to small values that also says of most other hashes that they are not there.

Source: Graf, Lemire: "Binary Fuse Filters: Fast and Smaller Than Xor Filters", ACM JEA 27, 2022; values beside the
fingerprints as in Bloomier filters (Chazelle et al., SODA 2004).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["FuseMap", "build"]


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
        raise NotImplementedError


def build(hashes: np.ndarray, values: np.ndarray | None, *, fingerprint_bits: int, value_bits: int = 0) -> FuseMap:
    """Return the map of ``hashes`` (uint64[n], distinct) to ``values`` (uint32[n], below 2 ** value_bits).

    Without values it is a filter: each hash has the value 0.
    """
    raise NotImplementedError
