"""The locator of a segment: a static map from each key's hash to the block that holds its rows, in any order.

Blocks are counted through all files of the segment. Keys may be in several blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from functions.index import places
from functions.index.file_keys import FileKeys
from functions.index.learned import Ranges
from functions.index.places import Places

__all__ = ["BITS_MAX", "Locator", "fit"]

BITS_MAX = 17
"""Bits of a key, fingerprint and block's number together, that take no more than 2.5 bytes with the map's own waste."""


@dataclass(frozen=True, eq=False)
class Locator:
    """Hash → block.

    places : hash → blocks
    block_files, block_starts, block_limits : int64[b], the file and the rows [start, limit) of each block
    """

    places: Places
    block_files: np.ndarray
    block_starts: np.ndarray
    block_limits: np.ndarray

    @property
    def n_bytes(self) -> int:
        """Of all arrays."""
        blocks = self.block_files.nbytes + self.block_starts.nbytes + self.block_limits.nbytes
        return self.places.n_bytes + int(blocks)

    def locate(self, hashes: np.ndarray) -> Ranges:
        """Return where each key may be, given its hash (uint64[q])."""
        key, block = self.places.find(hashes)
        return key, self.block_files[block], self.block_starts[block], self.block_limits[block]


def fit(files: Sequence[FileKeys], *, filter_bits: int | None) -> Locator:
    """Return the locator of all keys of the files; ``filter_bits`` None: 8, or 7 where that makes it small enough."""
    counts = np.array([len(file.block_rows) - 1 for file in files], np.int64)
    starts = [file.block_rows[:-1] for file in files]
    limits = [file.block_rows[1:] for file in files]
    firsts = np.cumsum(counts) - counts
    blocks = [np.uint32(first) + file.blocks() for first, file in zip(firsts.tolist(), files, strict=True)]
    n_blocks = int(counts.sum())
    if filter_bits is None:
        filter_bits = 8 if (n_blocks - 1).bit_length() + 8 <= BITS_MAX else 7
    hashes = np.concatenate([file.hashes() for file in files])
    return Locator(
        places.build(hashes, np.concatenate(blocks), n_blocks, fingerprint_bits=filter_bits),
        np.repeat(np.arange(len(files)), counts),
        np.concatenate(starts).astype(np.int64),
        np.concatenate(limits).astype(np.int64),
    )
