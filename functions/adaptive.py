"""Whether a repeated statement evaluates its filters while it decodes (late materialization), learnt from its runs.

With DataFusion's ``pushdown_filters`` a scan decodes the filtered columns first and the others only for the rows that
are left. It saves a third of the time of some queries and costs others as much (TPC-H Q18 and Q4), which no statistic
at hand foretells. So the second run of a statement that took a while tries it, and the later runs use what took less
time; now and then the other way is tried again, since data changes. The time is what the engine was waited for, not
what its reader took.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

__all__ = ["LateMaterialization"]

WORTH_TRYING_MS = 20.0
MUST_SAVE = 0.9
"""It has to take less than this share of the plain scan's time, so that noise does not choose."""
TRY_AGAIN_EVERY = 64


@dataclass(slots=True)
class _Runs:
    n: int = 0
    plain_ms: float | None = None
    late_ms: float | None = None


class LateMaterialization:
    """What this process has learnt, by statement text; the least recently used is forgotten."""

    def __init__(self, entries_max: int = 1_000) -> None:
        self._entries_max = entries_max
        self._known: OrderedDict[str, _Runs] = OrderedDict()

    def choose(self, statement: str) -> bool:
        """Return whether the next run of the statement should filter while decoding."""
        runs = self._known.get(statement)
        if runs is None or runs.plain_ms is None or runs.plain_ms < WORTH_TRYING_MS:
            return False
        if runs.late_ms is None:
            return True
        better = runs.late_ms < runs.plain_ms * MUST_SAVE
        return not better if runs.n % TRY_AGAIN_EVERY == 0 else better

    def learn(self, statement: str, late: bool, took_ms: float) -> None:
        """Note what a run took; the latest run of each way counts, a first one (cold caches) not against it."""
        runs = self._known.setdefault(statement, _Runs())
        self._known.move_to_end(statement)
        runs.n += 1
        known = runs.late_ms if late else runs.plain_ms
        blended = took_ms if known is None else min(took_ms, (known + took_ms) / 2)
        if late:
            runs.late_ms = blended
        else:
            runs.plain_ms = blended
        while len(self._known) > self._entries_max:
            self._known.popitem(last=False)
