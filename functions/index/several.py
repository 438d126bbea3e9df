"""Keys that are in several places, exactly: what a map of hashes to one value each leaves out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["NO_PLACES", "Several", "group"]


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


def group(hashes: np.ndarray, places: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None, Several]:
    """Part the hashes that are in one place from those in several.

    Parameters
    ----------
    hashes : uint64[n], of rows; any may occur many times
    places : uint32[n], where each row is; None if there is but one place

    Returns
    -------
    uint64[m], growing; uint32[m] or None; the rest
    """
    if places is None:
        ordered = np.sort(hashes)
        return ordered[_first_of_each(ordered)], None, NO_PLACES
    order = np.argsort(hashes)
    hashes, places = hashes[order], places[order]
    del order
    first = _first_of_each(hashes)
    if first.all():
        return hashes, places, NO_PLACES
    starts = np.flatnonzero(first)
    least, most = np.minimum.reduceat(places, starts), np.maximum.reduceat(places, starts)
    alone = least == most
    if alone.all():
        return hashes[starts], least, NO_PLACES
    among = np.repeat(~alone, np.diff(np.append(starts, len(hashes))))
    return hashes[starts[alone]], least[alone], _several(hashes[among], places[among])


def _first_of_each(ordered: np.ndarray) -> np.ndarray:
    first = np.ones(len(ordered), bool)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return first


def _several(hashes: np.ndarray, places: np.ndarray) -> Several:
    """``hashes`` do not decrease; the same pair may occur many times."""
    order = np.lexsort((places, hashes))
    hashes, places = hashes[order], places[order]
    first = _first_of_each(hashes)
    distinct = first.copy()
    distinct[1:] |= places[1:] != places[:-1]
    hashes, places = hashes[distinct], places[distinct]
    starts = np.flatnonzero(_first_of_each(hashes))
    return Several(hashes[starts], np.append(starts, len(hashes)), places)
