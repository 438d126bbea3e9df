"""Which byte ranges are read together."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["COALESCE_BYTES", "coalesce"]

COALESCE_BYTES = 1 << 20
"""Ranges no farther apart are one request: the bytes between cost less than its round trip."""


def coalesce(ranges: Sequence[tuple[int, int]], gap: int) -> list[tuple[int, int]]:
    """Return ascending, disjoint spans that cover every range that is not empty, joined where at most ``gap`` apart."""
    spans: list[tuple[int, int]] = []
    for start, limit in sorted(pair for pair in ranges if pair[0] < pair[1]):
        if spans and start - spans[-1][1] <= gap:
            spans[-1] = (spans[-1][0], max(spans[-1][1], limit))
        else:
            spans.append((start, limit))
    return spans
