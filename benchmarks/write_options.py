"""How large a run of the write path's benchmarks is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import REPOSITORY

__all__ = ["OFFICIAL_WRITES", "SMOKE_WRITES", "WriteOptions"]


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """Sizes of one run.

    singles : acknowledged rows of one client, one after another
    slow_singles : the same for peers that take tens of milliseconds each
    seconds : of each concurrent load
    bulk_rows : rows of a bulk ingest
    batch_rows : rows of one bulk append
    writers, writer_appends : of the contention on one table
    tails : un-folded rows under which a query is timed
    official : False for a smoke run
    build : where data lies between runs; on the disk that is measured
    """

    singles: int = 2_000
    slow_singles: int = 100
    seconds: float = 8.0
    bulk_rows: int = 5_000_000
    batch_rows: int = 200_000
    writers: int = 64
    writer_appends: int = 3
    tails: tuple[int, ...] = (0, 100_000, 1_000_000)
    official: bool = True
    build: Path = REPOSITORY / "build"


OFFICIAL_WRITES = WriteOptions()
SMOKE_WRITES = WriteOptions(30, 5, 0.5, 20_000, 5_000, 4, 2, (0, 1_000), official=False)
