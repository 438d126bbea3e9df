"""What a statement's tasks add to the counts of its process."""

from __future__ import annotations

from service.coordinate.terms import Tally
from storage.counts import Counts

__all__ = ["count_fallback", "count_tasks"]

_ATTEMPTS_TOLD = 3
"""Attempts past this one are told together."""


def count_fallback(counts: Counts, *, ran: bool) -> None:
    """Count a statement whose workers are of another release: it ran in this process, or was refused."""
    counts.add("firnline_task_fallbacks", 1, outcome="ran" if ran else "refused")


def count_tasks(counts: Counts, tally: Tally) -> None:
    """Count a statement's tasks, once it is over."""
    for (kind, outcome, attempt), n in tally.ended.items():
        told = str(attempt) if attempt < _ATTEMPTS_TOLD else f"{_ATTEMPTS_TOLD}+"
        counts.add("firnline_tasks", n, kind=kind, outcome=outcome, attempt=told)
    for name, n in (
        ("firnline_task_retries", tally.retries),
        ("firnline_task_throttles", tally.throttles),
        ("firnline_task_moved_bytes", tally.bytes_moved),
    ):
        if n:
            counts.add(name, n)
    if tally.hedges:
        counts.add("firnline_task_hedges", tally.hedges_won, won="yes")
        counts.add("firnline_task_hedges", tally.hedges - tally.hedges_won, won="no")
