"""Which idempotency keys were stored, and where. Decides and does no IO.

A key counts for its table. It is remembered for `LogSettings.idempotency_window_ms`, or until
`LogSettings.idempotency_keys_max` newer ones are.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import groupby

from storage.log import AckMode, LogRecord, Position, Receipt, Record

__all__ = ["Window", "appends_of"]

_Key = tuple[str, str]


class Window:
    """The remembered keys, oldest first."""

    def __init__(self, window_ms: int, keys_max: int) -> None:
        self._window_ms = window_ms
        self._keys_max = keys_max
        self._seen: OrderedDict[_Key, tuple[int, Receipt]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._seen)

    def find(self, record: Record, now_ms: int) -> Receipt | None:
        """The receipt of the append that had this record's table and key, if it is remembered."""
        self._forget(now_ms)
        if record.idempotency_key is None:
            return None
        found = self._seen.get((record.table_id, record.idempotency_key))
        return found[1] if found else None

    def remember(self, record: Record, receipt: Receipt, at_ms: int) -> None:
        """Remember the key from ``at_ms`` on; the first receipt of a key stays."""
        if record.idempotency_key is not None:
            self._seen.setdefault((record.table_id, record.idempotency_key), (at_ms, receipt))
            while len(self._seen) > self._keys_max:
                self._seen.popitem(last=False)

    def _forget(self, now_ms: int) -> None:
        while self._seen:
            at_ms, _receipt = next(iter(self._seen.values()))
            if at_ms > now_ms - self._window_ms:
                return
            self._seen.popitem(last=False)


def appends_of(records: Sequence[LogRecord], ack: AckMode) -> Iterator[tuple[Record, Receipt]]:
    """Yield the keyed appends of one segment: the first record and the receipt. One append's records are neighbours."""
    for (_table, key), group in groupby(records, lambda found: (found.record.table_id, found.record.idempotency_key)):
        if key is not None:
            appended = list(group)
            first: Position = appended[0].position
            yield appended[0].record, Receipt(first, len(appended), ack)
