"""The learned model of a segment: one piecewise-linear model for each run of files, and one filter for all.

A *run* is files that do not overlap, in order. A position of a run counts the rows of its files from the first that
has a key to the last; rows between them whose key has a NULL count as the key before them. So a model's position is a
row, and the file's own smallest and greatest key say which file it is in, without an error.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from functions.index import piecewise, places
from functions.index.file_keys import FileKeys
from functions.index.keyspace import KeySpace
from functions.index.piecewise import PiecewiseLinear
from functions.index.places import Places
from functions.index.several import expand
from functions.index.together import Together, join_runs

__all__ = ["NOTHING", "Learned", "Ranges", "Run", "fit"]

_LAST = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
_ONE = np.uint64(1)
Ranges = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Number of the key that was asked for, file, first row, limit: int64[k] each."""
NOTHING: Ranges = (np.empty(0, np.int64),) * 4


@dataclass(frozen=True, eq=False)
class Run:
    """Files one after another.

    files : int64[r], their numbers in the segment
    smallest, greatest : uint64[r], numbers of their first and last key; neither decreases
    first_rows : int64[r], the first row that has a key
    firsts : int64[r + 1], the position of that row in the run, then the number of positions
    model : number → position
    """

    files: np.ndarray
    smallest: np.ndarray
    greatest: np.ndarray
    first_rows: np.ndarray
    firsts: np.ndarray
    model: PiecewiseLinear

    @property
    def n_bytes(self) -> int:
        """Of the arrays."""
        arrays = (self.files, self.smallest, self.greatest, self.first_rows, self.firsts)
        return self.model.n_bytes + sum(int(array.nbytes) for array in arrays)

    def locate(self, low: np.ndarray, high: np.ndarray) -> Ranges:
        """Return where keys with numbers from ``low`` to ``high`` (uint64[q] each, both included) may be."""
        first = self.greatest.searchsorted(low, "left")
        limit = self.smallest.searchsorted(high, "right")
        key, place = expand(first, np.maximum(limit - first, 0))
        if not len(key):
            return NOTHING
        predicted = self.model.predict(np.concatenate((low, high + _ONE)))
        start, stop = predicted[: len(low)] - self.model.error, predicted[len(low) :] + self.model.error
        if high[-1] == _LAST or (len(high) > 1 and high.max() == _LAST):
            stop[high == _LAST] = self.firsts[-1]
        base = self.firsts[place]
        begin, end = np.maximum(start[key], base), np.minimum(stop[key], self.firsts[place + 1])
        some = begin < end
        if not some.all():
            key, place, base, begin, end = key[some], place[some], base[some], begin[some], end[some]
        shift = self.first_rows[place] - base
        return key, self.files[place], begin + shift, end + shift


@dataclass(frozen=True, eq=False)
class Learned:
    """Runs, and a filter of all keys' hashes that also says in which runs each is.

    filter : None where none is wanted; then every run is asked
    """

    runs: tuple[Run, ...]
    filter: Places | None

    @property
    def error(self) -> int:
        """The greatest of the runs, rows."""
        return max((run.model.error for run in self.runs), default=0)

    @property
    def n_bytes(self) -> int:
        """Of all models."""
        return sum(run.n_bytes for run in self.runs) + (self.filter.n_bytes if self.filter else 0)

    def locate(self, hashes: np.ndarray | None, numbers: np.ndarray) -> Ranges:
        """Return where each key may be, given its hash (None if there is no filter) and number (uint64[q] each)."""
        if hashes is None or self.filter is None:
            parts = [run.locate(numbers, numbers) for run in self.runs]
            return _joined(parts)
        key, run = self.filter.find(hashes)
        if not len(key):
            return NOTHING
        asked = numbers[key]
        if (run == run[0]).all():
            return _renamed(self.runs[int(run[0])].locate(asked, asked), key)
        return _renamed(self._together.locate(run, asked), key)

    @cached_property
    def _together(self) -> Together:
        return join_runs(self.runs)

    def locate_range(self, low: int, high: int) -> Ranges:
        """Return where keys with numbers from ``low`` to ``high``, both included, may be."""
        bounds = np.array([low], np.uint64), np.array([high], np.uint64)
        return _joined([run.locate(*bounds) for run in self.runs])


def _renamed(ranges: Ranges, keys: np.ndarray) -> Ranges:
    return keys[ranges[0]], *ranges[1:]


def _joined(parts: Sequence[Ranges]) -> Ranges:
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return NOTHING
    key, file, start, limit = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return key, file, start, limit


def fit(files: Sequence[FileKeys], space: KeySpace, *, epsilon: int, filter_bits: int) -> Learned:
    """Return the model of files that are sorted by the key; those without any key are in no run."""
    filled = [(number, file, file.numbers(space)) for number, file in enumerate(files) if file.n_keys]
    runs: list[Run] = []
    of_file = np.zeros(len(files), np.uint32)
    for chosen in _runs([(int(numbers[0]), int(numbers[-1])) for _number, _file, numbers in filled]):
        of_file[[filled[place][0] for place in chosen]] = len(runs)
        runs.append(_run([filled[place] for place in chosen], epsilon))
    if not filter_bits:
        return Learned(tuple(runs), None)
    hashes = np.concatenate([file.hashes() for _number, file, _numbers in filled])
    of_row = None
    if len(runs) > 1:
        of_row = np.repeat(of_file[[number for number, *_ in filled]], [file.n_keys for _, file, _ in filled])
    return Learned(tuple(runs), places.build(hashes, of_row, len(runs), fingerprint_bits=filter_bits))


def _runs(bounds: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Part files, given by their smallest and greatest number, into as few runs as can be; a run may touch itself.

    Files are taken by their smallest number, and each goes behind the file that ends nearest before it.
    """
    ends: list[int] = []
    open_: list[list[int]] = []
    for place in sorted(range(len(bounds)), key=bounds.__getitem__):
        smallest, greatest = bounds[place]
        at = bisect.bisect_right(ends, smallest) - 1
        run = open_.pop(at) if at >= 0 else []
        if at >= 0:
            ends.pop(at)
        run.append(place)
        behind = bisect.bisect_right(ends, greatest)
        ends.insert(behind, greatest)
        open_.insert(behind, run)
    return sorted(open_, key=lambda run: run[0])


def _run(files: Sequence[tuple[int, FileKeys, np.ndarray]], epsilon: int) -> Run:
    filled, first_rows = [], []
    for _number, file, numbers in files:
        rows = file.rows()
        first_rows.append(rows[0])
        spans = np.diff(np.append(rows, rows[-1] + 1))
        filled.append(numbers if (spans == 1).all() else np.repeat(numbers, spans))
    return Run(
        files=np.array([number for number, _file, _numbers in files], np.int64),
        smallest=np.array([numbers[0] for _number, _file, numbers in files], np.uint64),
        greatest=np.array([numbers[-1] for _number, _file, numbers in files], np.uint64),
        first_rows=np.array(first_rows, np.int64),
        firsts=np.concatenate(([0], np.cumsum([len(part) for part in filled], dtype=np.int64))),
        model=piecewise.fit(np.concatenate(filled), epsilon),
    )
