"""How large a run is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import REPOSITORY

__all__ = ["OFFICIAL", "SMOKE", "Options"]


@dataclass(frozen=True, slots=True)
class Options:
    """Sizes of one run.

    scale : TPC-H scale factor
    repeats : timed runs of everything, after a warm-up
    files : data files of the tables whose planning is timed
    requests, seconds : sequential and concurrent load of ``SELECT 1``
    official : False for a smoke run
    build : where generated data and environments lie between runs
    """

    scale: str = "1"
    repeats: int = 5
    files: int = 10_000
    requests: int = 2_000
    seconds: float = 4.0
    official: bool = True
    build: Path = REPOSITORY / "build"


OFFICIAL = Options()
SMOKE = Options(scale="0.01", repeats=2, files=100, requests=100, seconds=0.5, official=False)
