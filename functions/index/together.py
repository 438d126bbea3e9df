"""All runs of a learned model at once: many keys in many runs cost no more calls than in one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from functions.index.several import expand

if TYPE_CHECKING:
    from functions.index.learned import Ranges, Run

__all__ = ["Together", "join_runs"]

_LAST = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
_ONE = np.uint64(1)


@dataclass(frozen=True, eq=False)
class Together:
    """The runs' arrays one after another.

    first_file, first_line : int64[runs + 1]
    n_rows, errors : int64[runs]
    files, smallest, greatest, first_rows : of all files, as in `functions.index.learned.Run`
    starts, limits : int64, positions of each file
    line_keys, slopes, intercepts, line_limits : of all lines, as in `functions.index.piecewise.PiecewiseLinear`; a line
        goes no further than to ``line_limits``
    """

    first_file: np.ndarray
    first_line: np.ndarray
    n_rows: np.ndarray
    errors: np.ndarray
    files: np.ndarray
    smallest: np.ndarray
    greatest: np.ndarray
    first_rows: np.ndarray
    starts: np.ndarray
    limits: np.ndarray
    line_keys: np.ndarray
    slopes: np.ndarray
    intercepts: np.ndarray
    line_limits: np.ndarray

    def locate(self, run: np.ndarray, numbers: np.ndarray) -> Ranges:
        """Return where each key may be in its run: number and run, uint64[q] and int64[q], of each."""
        low, high = self.first_file[run], self.first_file[run + 1]
        first = _search(self.greatest, low, high, numbers, "left")
        limit = _search(self.smallest, low, high, numbers, "right")
        key, place = expand(first, np.maximum(limit - first, 0))
        start = self._predict(run, numbers) - self.errors[run]
        stop = np.where(numbers == _LAST, self.n_rows[run], self._predict(run, numbers + _ONE) + self.errors[run])
        begin, end = np.maximum(start[key], self.starts[place]), np.minimum(stop[key], self.limits[place])
        some = begin < end
        key, place, begin, end = key[some], place[some], begin[some], end[some]
        shift = self.first_rows[place] - self.starts[place]
        return key, self.files[place], begin + shift, end + shift

    def _predict(self, run: np.ndarray, queries: np.ndarray) -> np.ndarray:
        """Return what each run's own model predicts, to the row."""
        at = _search(self.line_keys, self.first_line[run], self.first_line[run + 1], queries, "right") - 1
        before = at < self.first_line[run]
        at = np.maximum(at, 0)
        distance = (queries - self.line_keys[at]).astype(np.float64)
        estimate = np.minimum(self.intercepts[at] + self.slopes[at] * distance, self.line_limits[at])
        return np.where(before, 0, np.where(before, 0.0, estimate + 0.5).astype(np.int64))


def _search(values: np.ndarray, low: np.ndarray, high: np.ndarray, queries: np.ndarray, side: str) -> np.ndarray:
    """Return where each query belongs within its own part [low, high) of ``values``, each part sorted: int64[q]."""
    longest = int((high - low).max(initial=0))
    for _step in range(longest.bit_length()):
        open_ = low < high
        middle = (low + high) >> 1
        value = values[np.minimum(middle, len(values) - 1)]
        below = open_ & (value <= queries if side == "right" else value < queries)
        low = np.where(below, middle + 1, low)
        high = np.where(open_ & ~below, middle, high)
    return low


def join_runs(runs: Sequence[Run]) -> Together:
    """Return the runs together; at least one."""

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(run, name) for run in runs])

    def counted(counts: Sequence[int]) -> np.ndarray:
        return np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))

    models = [run.model for run in runs]
    return Together(
        first_file=counted([len(run.files) for run in runs]),
        first_line=counted([len(model.first_keys) for model in models]),
        n_rows=np.array([int(run.firsts[-1]) for run in runs]),
        errors=np.array([model.error for model in models]),
        files=joined("files"),
        smallest=joined("smallest"),
        greatest=joined("greatest"),
        first_rows=joined("first_rows"),
        starts=np.concatenate([run.firsts[:-1] for run in runs]),
        limits=np.concatenate([run.firsts[1:] for run in runs]),
        line_keys=np.concatenate([model.first_keys for model in models]),
        slopes=np.concatenate([model.slopes for model in models]),
        intercepts=np.concatenate([model.intercepts for model in models]),
        line_limits=np.concatenate([np.append(model.intercepts[1:], float(model.n)) for model in models]),
    )
