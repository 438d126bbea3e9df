"""Which keys were written lately, so that of two statements that read a row and write it the second begins anew.

Decides and does no IO. Everything happens between two awaits of the owner's event loop, together with the acceptance of
the append (`storage.log.writer.LogWriter.append_unconfirmed`, ``admit``): no other append comes in between.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from storage.errors import ConflictError
from storage.log.queue import Waiting

__all__ = ["KeySet", "TouchedKeys"]

_SMALL = 64
_FAILED = -1
_UNKNOWN = 1 << 62


class KeySet:
    """Key hashes of one append: a set of Python integers if they are few, else a sorted array."""

    __slots__ = ("array", "n", "small")

    def __init__(self, keys: np.ndarray | None) -> None:
        self.small: frozenset[int] | None = None
        self.array: np.ndarray | None = None
        self.n = 0
        if keys is None:
            return
        self.n = len(keys)
        if self.n <= _SMALL:
            self.small = frozenset(keys.tolist())
        else:
            self.array = np.unique(keys.astype(np.uint64, copy=False))

    @property
    def all(self) -> bool:
        """Nothing is known of the keys, so it may be any."""
        return self.small is None and self.array is None

    def meets(self, other: KeySet) -> bool:
        """Whether the two have a key in common."""
        if self.all or other.all:
            return True
        if self.small is not None and other.small is not None:
            return not self.small.isdisjoint(other.small)
        few, many = sorted((self._sorted(), other._sorted()), key=len)
        if not len(few):
            return False
        places = np.searchsorted(many, few)
        places[places == len(many)] = 0
        return bool((many[places] == few).any())

    def _sorted(self) -> np.ndarray:
        if self.array is not None:
            return self.array
        return np.array(sorted(self.small or ()), np.uint64)


@dataclass(slots=True)
class _Append:
    table_id: str
    waiting: Waiting
    keys: KeySet

    def sequence(self) -> int:
        """Of its first record; `_UNKNOWN` while it has none, `_FAILED` if it was not stored."""
        done = self.waiting.done
        if done.done() and (done.cancelled() or done.exception() is not None):
            return _FAILED
        return self.waiting.position.sequence if self.waiting.position is not None else _UNKNOWN


class TouchedKeys:
    """The appends of one epoch that touch keys, newest last, as many as ``keys_max`` and ``appends_max`` allow.

    start : the sequence from which on every append is known
    """

    def __init__(self, epoch: int, start: int, *, keys_max: int = 4_000_000, appends_max: int = 200_000) -> None:
        self._epoch = epoch
        self._start = start
        self._keys_max = keys_max
        self._appends_max = appends_max
        self._n_keys = 0
        self._all: deque[_Append] = deque()
        self._by_table: dict[str, deque[_Append]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def check(self, table_id: str, keys: KeySet, since: tuple[int, int]) -> None:
        """Raise `ConflictError` if one of the keys was written at or after ``since``, or if that is not known.

        A range that was read from the object store alone is of epoch 0: its positions stay what they are.
        """
        epoch, limit = since
        if epoch not in (0, self._epoch) or limit < self._start:
            raise ConflictError(
                "the log has another owner since, or the statement took too long; it is to begin anew",
                read_epoch=epoch, epoch=self._epoch, read_limit=limit,
            )  # fmt: skip
        for append in reversed(self._by_table.get(table_id, ())):
            sequence = append.sequence()
            if sequence == _FAILED:
                continue
            if sequence < limit:
                return
            if append.keys.meets(keys):
                raise ConflictError("another statement wrote one of these rows meanwhile", table=table_id)

    def add(self, table_id: str, keys: KeySet, waiting: Waiting) -> None:
        """Remember an append that is accepted now."""
        append = _Append(table_id, waiting, keys)
        self._all.append(append)
        self._by_table.setdefault(table_id, deque()).append(append)
        self._n_keys += keys.n
        while len(self._all) > self._appends_max or self._n_keys > self._keys_max:
            if not self._forget_oldest():
                return

    def _forget_oldest(self) -> bool:
        """Forget one append; False if the oldest is still under way."""
        oldest = self._all[0]
        sequence = oldest.sequence()
        if sequence == _UNKNOWN or not oldest.waiting.done.done():
            return False
        # Appends leave in the order in which they came, in their table's queue too.
        self._all.popleft()
        self._n_keys -= oldest.keys.n
        of_table = self._by_table[oldest.table_id]
        of_table.popleft()
        if not of_table:
            del self._by_table[oldest.table_id]
        if sequence != _FAILED:
            self._start = max(self._start, sequence + 1)
        return True
