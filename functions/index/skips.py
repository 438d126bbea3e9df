"""Which files an index cannot cover, and why, so that they are not read again: a hint, kept by a hash of each file."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from storage.tables.snapshot import Snapshot

__all__ = ["Skips"]

_VERSION = 1
_FILES_MAX = 30_000
_BYTES_MAX = 4 << 20


@dataclass
class Skips:
    """``by_file`` : hash of a file's location, size and etag → why it is not covered."""

    by_file: dict[str, str] = field(default_factory=dict)
    is_changed: bool = False

    @staticmethod
    def decode(data: bytes | None) -> Skips:
        """Return what `encode` stored; nothing if it cannot be read."""
        try:
            unpacked = zlib.decompressobj().decompress(data or b"", _BYTES_MAX)
            document = json.loads(unpacked)
            if document["v"] != _VERSION:
                return Skips()
            return Skips({each: document["reasons"][number] for each, number in document["files"].items()})
        except (zlib.error, ValueError, KeyError, TypeError, IndexError, AttributeError):
            return Skips()

    def encode(self, snapshot: Snapshot) -> bytes:
        """Return the stored form of what concerns files of the snapshot."""
        live = set(_hashes(snapshot, range(len(snapshot.files)))) if self.by_file else set()
        kept = {each: reason for each, reason in self.by_file.items() if each in live}
        kept = dict(list(kept.items())[:_FILES_MAX])
        reasons = sorted(set(kept.values()))
        numbers = {reason: number for number, reason in enumerate(reasons)}
        files = {each: numbers[reason] for each, reason in kept.items()}
        return zlib.compress(json.dumps({"v": _VERSION, "reasons": reasons, "files": files}).encode())

    def add(self, snapshot: Snapshot, skipped: Mapping[int, str]) -> None:
        """Note files of the snapshot, by their numbers."""
        for number, each in zip(skipped, _hashes(snapshot, list(skipped)), strict=True):
            self.by_file[each] = skipped[number]
            self.is_changed = True

    def mask(self, snapshot: Snapshot) -> np.ndarray:
        """Return which files of the snapshot are known not to be coverable: bool[n_files]."""
        n = len(snapshot.files)
        if not self.by_file:
            return np.zeros(n, dtype=bool)
        return np.fromiter((each in self.by_file for each in _hashes(snapshot, range(n))), bool, n)

    def reasons(self, snapshot: Snapshot) -> list[str]:
        """Return the reason of each file of the snapshot that has one."""
        if not self.by_file:
            return []
        found = (self.by_file.get(each) for each in _hashes(snapshot, range(len(snapshot.files))))
        return [each for each in found if each is not None]


def _hashes(snapshot: Snapshot, numbers: Sequence[int]) -> list[str]:
    etags: Sequence[str] = getattr(snapshot, "etags", ())
    paths, sizes = snapshot.files.paths, snapshot.files.sizes.tolist()
    return [
        hashlib.blake2b(
            f"{paths[each]}\0{sizes[each]}\0{etags[each] if etags else ''}".encode(), digest_size=8
        ).hexdigest()
        for each in numbers
    ]
