"""Medians, percentiles and how they are written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

__all__ = ["mb", "median_of", "ms", "percentile", "ratio"]


def median_of(values: Sequence[float]) -> float:
    """Return the median; NaN of nothing."""
    return median(values) if values else math.nan


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that ``percent`` % of the values do not pass; NaN of nothing."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def ms(seconds: float) -> str:
    """Write seconds as milliseconds, with digits for what is small."""
    if math.isnan(seconds):
        return "–"
    value = seconds * 1000
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def mb(n_bytes: float) -> str:
    """Write bytes as MB (10⁶)."""
    return "–" if math.isnan(n_bytes) else f"{n_bytes / 1e6:.1f}" if n_bytes < 1e8 else f"{n_bytes / 1e6:.0f}"


def ratio(value: float, base: float) -> str:
    """Write ``value`` in units of ``base``."""
    return "–" if math.isnan(value) or math.isnan(base) or not base else f"{value / base:.2f}×"
