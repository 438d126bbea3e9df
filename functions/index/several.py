"""Keys that are in many places, exactly: what maps of hashes to one value each leave out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["NO_PLACES", "Several", "expand"]


@dataclass(frozen=True, eq=False)
class Several:
    """Hashes and the places of each, in compressed rows.

    hashes : uint64[k], growing
    firsts : int64[k + 1], where each hash's places begin
    places : uint32[firsts[-1]]
    """

    hashes: np.ndarray
    firsts: np.ndarray
    places: np.ndarray

    @property
    def n_bytes(self) -> int:
        """Of the arrays."""
        return int(self.hashes.nbytes + self.firsts.nbytes + self.places.nbytes)

    def find(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Look up hashes (uint64[q]).

        Returns
        -------
        int64[p] and int64[p] : number of the hash that was asked for, and a place of it
        bool[q] : which were found
        """
        if not len(self.hashes):
            nothing = np.empty(0, np.int64)
            return nothing, nothing, np.zeros(len(hashes), bool)
        at = np.minimum(self.hashes.searchsorted(hashes), len(self.hashes) - 1)
        found = self.hashes[at] == hashes
        asked = np.flatnonzero(found)
        at = at[asked]
        counts = self.firsts[at + 1] - self.firsts[at]
        number, place = expand(self.firsts[at], counts)
        return asked[number], self.places[place].astype(np.int64), found


NO_PLACES = Several(np.empty(0, np.uint64), np.zeros(1, np.int64), np.empty(0, np.uint32))


def expand(firsts: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return all numbers from each of ``firsts`` on, ``counts`` of them, and which each belongs to, as (which, number).

    int64[sum of counts], twice
    """
    if (counts == 1).all():
        return np.arange(len(counts)), firsts
    which = np.repeat(np.arange(len(counts)), counts)
    before = np.cumsum(counts) - counts
    return which, np.arange(len(which)) - np.repeat(before - firsts, counts)
