"""An engine's caches, as its counts tell of them."""

from __future__ import annotations

from functions.index.models import Models
from service.snapshots import SnapshotCache
from storage.counts import Counts
from storage.tables.footers import FooterCache

__all__ = ["count_caches"]


def count_caches(counts: Counts, footers: FooterCache, snapshots: SnapshotCache, models: Models) -> None:
    """Have ``counts`` tell how often what was wanted was at hand, and what that takes."""
    counts.follow("firnline_cache_hits", lambda: footers.n_hits, cache="footers")
    counts.follow("firnline_cache_misses", lambda: footers.n_misses, cache="footers")
    counts.follow("firnline_cache_hits", lambda: snapshots.n_hits, cache="snapshots")
    counts.follow("firnline_cache_misses", lambda: snapshots.n_misses, cache="snapshots")
    counts.follow("firnline_cache_hits", lambda: models.n_hits, cache="indexes")
    counts.follow("firnline_cache_misses", lambda: models.n_misses, cache="indexes")
    counts.follow("firnline_index_files", lambda: models.n_covered, covered="yes")
    counts.follow("firnline_index_files", lambda: models.n_uncovered, covered="no")
    counts.level("firnline_cache_bytes", lambda: footers.n_bytes, cache="footers")
    counts.level("firnline_cache_bytes", lambda: models.n_bytes, cache="indexes")
