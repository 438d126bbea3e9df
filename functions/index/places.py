"""Where each of many hashes is, in a few bytes: static maps for those in few places, a list for those in many.

A map has one value for each hash, so the first map has the first place of each, the second the second place of those
that have two, and so on; a hash is asked for in the next map only when it was in the one before. What has more places
than there are maps is kept aside, exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from functions.index import fuse_map
from functions.index.fuse_map import FuseMap
from functions.index.several import NO_PLACES, Several

__all__ = ["MAPS_MAX", "Places", "build"]

MAPS_MAX = 8
_WORTH_IT = 0.02
"""Another map costs time: it has to save this part of the first one's bytes."""


@dataclass(frozen=True, eq=False)
class Places:
    """Hash → places, below ``n_places``; some hash that is not there has a place all the same.

    maps : none has more hashes than the one before it; at least one
    several : hashes that are in none of them
    """

    maps: tuple[FuseMap, ...]
    several: Several
    n_places: int

    @property
    def n_bytes(self) -> int:
        """Of the maps and the rest."""
        return sum(each.n_bytes for each in self.maps) + self.several.n_bytes

    def find(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (which of ``hashes``, place): int64[k] each; a hash occurs as often as it has places."""
        if not len(self.several.hashes):
            value = self.maps[0].find(hashes)
            key = np.flatnonzero(value >= 0)
            keys, places = [key], [value[key]]
        else:
            key, place, found = self.several.find(hashes)
            value = self.maps[0].find(hashes)
            keys, places = [key], [place]
            key = np.flatnonzero((value >= 0) & ~found)
            keys.append(key)
            places.append(value[key])
        for further in self.maps[1:]:
            if not len(key):
                break
            value = further.find(hashes[key])
            there = value >= 0
            key = key[there]
            keys.append(key)
            places.append(value[there])
        if len(keys) == 1:
            key, place = keys[0], places[0]
        else:
            key, place = np.concatenate(keys), np.concatenate(places)
        # The values are of any size where a hash is not there.
        known = place < self.n_places
        return (key, place) if known.all() else (key[known], place[known])


def build(hashes: np.ndarray, places: np.ndarray | None, n_places: int, *, fingerprint_bits: int) -> Places:
    """Return where each hash is.

    Parameters
    ----------
    hashes : uint64[n], of rows; any may occur many times
    places : uint32[n], where each row is, below ``n_places``; None if there is but one place
    fingerprint_bits : 0: every hash seems to be there
    """
    value_bits = max(n_places - 1, 0 if fingerprint_bits else 1).bit_length()

    def new_map(of: np.ndarray, values: np.ndarray | None) -> FuseMap:
        return fuse_map.build(of, values, fingerprint_bits=fingerprint_bits, value_bits=value_bits)

    if places is None:
        ordered = np.sort(hashes)
        distinct = ordered[_first_of_each(ordered)]
        values = None if fingerprint_bits else np.zeros(len(distinct), np.uint32)
        return Places((new_map(distinct, values),), NO_PLACES, n_places)
    hashes, places, counts = _pairs(hashes, places)
    if len(counts) == len(hashes):
        return Places((new_map(hashes, places),), NO_PLACES, n_places)
    n_maps = _n_maps(counts, fingerprint_bits + value_bits)
    starts = np.cumsum(counts) - counts
    aside = counts > n_maps
    maps = [
        new_map(hashes[at := starts[(counts > rank) & ~aside] + rank], places[at]) for rank in range(max(1, n_maps))
    ]
    rows = np.repeat(aside, counts)
    several = Several(hashes[starts[aside]], np.append(0, np.cumsum(counts[aside])), places[rows])
    return Places(tuple(maps), several, n_places)


def _first_of_each(ordered: np.ndarray) -> np.ndarray:
    first = np.ones(len(ordered), bool)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return first


def _pairs(hashes: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the distinct pairs in order, and how many of them each distinct hash has: int64[m]."""
    order = np.argsort(hashes)
    hashes, places = hashes[order], places[order]
    del order
    first = _first_of_each(hashes)
    if first.all():
        return hashes, places, np.ones(len(hashes), np.int64)
    starts = np.flatnonzero(first)
    sizes = np.diff(np.append(starts, len(hashes)))
    # Only among equal hashes is there anything to sort: by their number, then by the place.
    tied = np.flatnonzero(np.repeat(sizes > 1, sizes))
    both = (np.cumsum(first[tied], dtype=np.uint64) << np.uint64(32)) | places[tied]
    both.sort()
    places[tied] = (both & np.uint64(0xFFFF_FFFF)).astype(np.uint32)
    distinct = first
    distinct[1:] |= places[1:] != places[:-1]
    hashes, places = hashes[distinct], places[distinct]
    starts = np.flatnonzero(_first_of_each(hashes))
    return hashes, places, np.diff(np.append(starts, len(hashes)))


def _n_maps(counts: np.ndarray, width: int) -> int:
    """Return how many maps take the fewest bytes, with the list of what has more places than that."""
    of_count = np.bincount(np.minimum(counts, MAPS_MAX + 1), minlength=MAPS_MAX + 2)
    pairs = np.bincount(np.minimum(counts, MAPS_MAX + 1), weights=counts, minlength=MAPS_MAX + 2)
    slot = 1.1 * width / 8
    bytes_of = [
        slot * pairs[: n + 1].sum() + 16 * of_count[n + 1 :].sum() + 4 * pairs[n + 1 :].sum()
        for n in range(1, MAPS_MAX + 1)
    ]
    dear = [size + at * (4_096 + _WORTH_IT * slot * len(counts)) for at, size in enumerate(bytes_of)]
    return 1 + int(np.argmin(dear))
