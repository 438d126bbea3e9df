"""How large a run of the look-ups' benchmarks is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import REPOSITORY

__all__ = ["OFFICIAL_LOOKUPS", "SMOKE_LOOKUPS", "LookupOptions"]


@dataclass(frozen=True, slots=True)
class LookupOptions:
    """Sizes of one run.

    keys : sizes of the kernels' key sets
    queries : look-ups of each timed kernel run
    tails : rows of the un-folded tails
    files, file_rows : of the table that is looked up end to end
    delays_ms : added to each request of the store
    lookups : timed look-ups of one kind by Firnline, one after another
    peer_lookups, peer_budget_s : most look-ups of a kind by another engine, and the seconds after which it begins none
    misses, slow_misses : look-ups whose false alarms are counted, without a delay and with one
    batch : keys of one call
    batch_delay_ms : added to each request of the store while many keys are asked for
    connections, seconds : of each load over HTTP
    local_rows : of the table on the local disk
    official : False for a smoke run
    build : where generated data lie between runs
    """

    keys: tuple[int, ...] = (1_000_000, 10_000_000, 50_000_000)
    queries: int = 1_000_000
    tails: tuple[int, ...] = (1_000, 100_000, 1_000_000)
    files: int = 1_000
    file_rows: int = 10_000
    delays_ms: tuple[int, ...] = (0, 5, 30)
    lookups: int = 200
    peer_lookups: int = 5
    peer_budget_s: float = 4.0
    misses: int = 1_000
    slow_misses: int = 150
    batch: int = 10_000
    batch_delay_ms: int = 5
    connections: tuple[int, ...] = (1, 16, 64)
    seconds: float = 4.0
    local_rows: int = 1_000_000
    official: bool = True
    build: Path = REPOSITORY / "build"


OFFICIAL_LOOKUPS = LookupOptions()
SMOKE_LOOKUPS = LookupOptions(
    (20_000,), 1_000, (500, 2_000), 4, 1_000, (0, 5), 5, 2, 1.0, 20, 10, 100, 0, (1, 4), 0.5, 5_000, official=False
)
