"""How large a run of the functions' benchmarks is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.machine import REPOSITORY

__all__ = ["LARGE_SCALE", "OFFICIAL_FUNCTIONS", "SMOKE_FUNCTIONS", "FunctionsOptions"]

LARGE_SCALE = "10"
"""Its run is official too, and has a part of the page of its own."""


@dataclass(frozen=True, slots=True)
class FunctionsOptions:
    """Sizes of one run.

    scale : TPC-H scale factor
    queries : of TPC-H
    repeats : timed runs of each, after a warm-up; one, once a place has taken ``place_s``; 0: the first run is timed,
        and only a small statement warms the place up
    limit_s : once a place has taken so long, it leaves its other queries out
    query_s : a query that takes longer has failed
    cost_queries : whose receipts are held to a store's log
    cost_runs : of each, of which the last counts
    starts : fresh processes for each role
    echoes : tasks that do nothing, one after another
    files : sizes of the table that is cut into 1,000 tasks
    dispatched : tasks that simulated workers answer at once
    statements : simulated with stragglers
    official : False for a smoke run
    build : where generated data lie between runs
    """

    scale: str = "1"
    queries: tuple[int, ...] = tuple(range(1, 23))
    repeats: int = 2
    place_s: float = 45.0
    cost_queries: tuple[int, ...] = (1, 3, 4, 6, 9, 14, 18, 21)
    starts: int = 5
    echoes: int = 200
    files: tuple[int, ...] = (1_000, 10_000, 100_000)
    dispatched: tuple[int, ...] = (100, 1_000, 5_000)
    statements: int = 20
    limit_s: float = 75.0
    query_s: float = 90.0
    cost_runs: int = 3
    official: bool = True
    build: Path = REPOSITORY / "build"

    def scaled(self, scale: str) -> FunctionsOptions:
        """Return them for another scale factor; past 1 every query runs once, which one machine ends in minutes."""
        if float(scale) <= 1:
            return replace(self, scale=scale, official=self.official and scale == self.scale)
        return replace(
            self, scale=scale, repeats=0, limit_s=90.0, query_s=300.0,
            official=self.official and scale == LARGE_SCALE,
        )  # fmt: skip


OFFICIAL_FUNCTIONS = FunctionsOptions()
SMOKE_FUNCTIONS = FunctionsOptions(
    "0.01", (1, 3, 6), 1, 30.0, (1, 6), 1, 20, (50,), (50,), 2, official=False
)  # fmt: skip
