"""How large a run of the functions' benchmarks is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.machine import REPOSITORY

__all__ = ["OFFICIAL_FUNCTIONS", "SMOKE_FUNCTIONS", "FunctionsOptions"]


@dataclass(frozen=True, slots=True)
class FunctionsOptions:
    """Sizes of one run.

    scale : TPC-H scale factor
    queries : of TPC-H
    repeats : timed runs of each, after a warm-up; one, once a place has taken ``place_s``
    cost_queries : whose receipts are held to a store's log
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
    official: bool = True
    build: Path = REPOSITORY / "build"

    def scaled(self, scale: str) -> FunctionsOptions:
        """Return them for another scale factor; past 1 with few queries, which one machine ends in minutes."""
        if float(scale) <= 1:
            return replace(self, scale=scale, official=self.official and scale == self.scale)
        return replace(self, scale=scale, queries=(1, 3, 6, 12, 18), cost_queries=(1, 3, 6), repeats=1, official=False)


OFFICIAL_FUNCTIONS = FunctionsOptions()
SMOKE_FUNCTIONS = FunctionsOptions(
    "0.01", (1, 3, 6), 1, 30.0, (1, 6), 1, 20, (50,), (50,), 2, official=False
)  # fmt: skip
