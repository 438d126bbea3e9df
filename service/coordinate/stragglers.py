"""Which tasks take so much longer than the others of their stage that a second copy is worth it.

Source: Dean, Barroso: "The Tail at Scale", Communications of the ACM 56(2), 2013 (hedged requests).
"""

from __future__ import annotations

from bisect import insort
from collections import defaultdict

from service.coordinate.terms import Terms

__all__ = ["Stragglers"]

_KNOWN_MIN = 20
"""Replies that tell how long a stage's tasks take, where these are not half of its tasks."""
_PERCENTILE = 0.95


class Stragglers:
    """What is known of how long each stage's tasks take."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._took_s: dict[int, list[float]] = defaultdict(list)
        self._copies: dict[int, int] = defaultdict(int)

    def took(self, stage: int, elapsed_s: float) -> None:
        """Count a task that gave its rows."""
        insort(self._took_s[stage], elapsed_s)

    def copied(self, stage: int) -> None:
        """Count a copy."""
        self._copies[stage] += 1

    def is_late(self, stage: int, n_tasks: int, elapsed_s: float) -> bool:
        """Tell whether a task that has run for so long should get a copy."""
        terms, took = self._terms, self._took_s[stage]
        if not terms.hedge_factor or elapsed_s < terms.hedge_after_s:
            return False
        if len(took) < min(_KNOWN_MIN, (n_tasks + 1) // 2) or not took:
            return False
        if self._copies[stage] >= max(1, int(n_tasks * terms.hedge_share)):
            return False
        usual_s = took[min(len(took) - 1, int(len(took) * _PERCENTILE))]
        return elapsed_s > terms.hedge_factor * usual_s
