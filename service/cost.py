"""What statements cost: the price of functions' time and of the store's requests; before the run an estimate.

Prices are list prices in USD without free tiers; ``FIRN_PRICES`` replaces them, one by one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

from storage.errors import InvalidError, LimitError

__all__ = [
    "ENGINE_BYTES_PER_S",
    "ENGINE_GETS",
    "GET_BYTES",
    "PRICES",
    "Estimate",
    "Prices",
    "StageSize",
    "check_cost",
    "estimate",
    "estimate_stages",
    "prices_of",
]

ENGINE_BYTES_PER_S = 300_000_000
"""Bytes of Parquet files, all columns counted, that one core scans and aggregates each second (TPC-H SF1, its slower
queries: Q1 320 MB/s, Q18 370, Q6 1,100)."""
ENGINE_GETS, GET_BYTES = 3, 4 << 20
"""Requests of the engine for each part of a file that a task reads: size and footer; and for so many bytes of files one
more, for columns of a row group. Small groups (TPC-H's of 4 MB) take one, large ones as many as they have columns."""
WORKER_MEMORY_MB = 1769
"""At this size a Lambda function has one core."""


@dataclass(frozen=True, slots=True)
class Prices:
    """USD for one of each.

    gb_second : of a function's memory and time
    get, put : of requests to the object store: reads, and writes with listings
    """

    gb_second: float = 0.0000166667
    invocation: float = 0.20e-6
    get: float = 0.40e-6
    put: float = 5.0e-6

    def of_requests(self, gets: float, puts: float) -> float:
        """Return what requests cost."""
        return gets * self.get + puts * self.put


# From aws.amazon.com/lambda/pricing (x86, first tier: 0.0000166667 USD a GB-second, 0.20 USD a million requests) and
# aws.amazon.com/s3/pricing (Standard, us-east-1: 0.005 USD for 1,000 PUT, COPY, POST or LIST, 0.0004 for 1,000 GET and
# all others, DELETE free), as they stood in 2025. Not read from there by this program: set FIRN_PRICES to your own.
PRICES = {
    "us-east-1": Prices(),
    "us-east-2": Prices(),
    "us-west-2": Prices(),
    "eu-west-1": Prices(),
    "eu-central-1": Prices(get=0.43e-6, put=5.4e-6),
    "ap-northeast-1": Prices(get=0.37e-6, put=4.7e-6),
}


def prices_of(region: str | None, own: str = "") -> Prices:
    """Return a region's prices, those of us-east-1 where they are not known, with ``own`` in their place.

    Raises `InvalidError` for ``own`` that is not like ``gb_second=0.0000133334,get=4e-7``.
    """
    changes: dict[str, float] = {}
    names = [each.name for each in fields(Prices)]
    for part in filter(None, (each.strip() for each in own.split(","))):
        name, _, text = (each.strip() for each in part.partition("="))
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if name not in names or not 0 <= value < math.inf:
            raise InvalidError(
                "FIRN_PRICES does not read; write prices in USD such as gb_second=0.0000133334,get=4e-7",
                price=part[:100], known=",".join(names),
            )  # fmt: skip
        changes[name] = value
    return replace(PRICES.get(region or "", Prices()), **changes)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a statement is thought to use."""

    n_tasks: int
    scan_bytes: int
    gb_s: float
    gets: int
    puts: int
    usd: float

    def __str__(self) -> str:
        return f"tasks={self.n_tasks} scan_bytes={self.scan_bytes} gb_s={self.gb_s:.3g} usd={self.usd:.3g}"


def estimate(n_tasks: int, scan_bytes: int, n_files: int, prices: Prices, *, overhead_s: float = 0.0) -> Estimate:
    """Return what a statement may cost as ``n_tasks`` tasks, or as one in the process that answers (0).

    Its time is that of scanning: joins and sorts of many rows take longer.
    """
    work_s = scan_bytes / ENGINE_BYTES_PER_S + n_tasks * overhead_s
    gb_s = work_s * WORKER_MEMORY_MB / 1024
    gets = (n_files + n_tasks) * ENGINE_GETS + scan_bytes // GET_BYTES
    puts = n_tasks
    usd = gb_s * prices.gb_second + n_tasks * prices.invocation + prices.of_requests(gets, puts)
    return Estimate(max(1, n_tasks), scan_bytes, gb_s, gets, puts, usd)


@dataclass(frozen=True, slots=True)
class StageSize:
    """What a stage of tasks is reckoned by.

    n_tasks : of it that workers run
    scan_bytes : of files that they read
    n_pages : of its rows that are stored, each written once
    n_reads : of such pages, by all tasks of the stages above
    copied_bytes : that these decode, all copies of a broadcast counted
    """

    n_tasks: int
    scan_bytes: int
    n_pages: int = 0
    n_reads: int = 0
    copied_bytes: float = 0.0


def estimate_stages(stages: Iterable[StageSize], n_files: int, prices: Prices, *, overhead_s: float = 0.0) -> Estimate:
    """Return what a statement may cost whose stages are known: as `estimate`, and what moves between them."""
    every = list(stages)
    n_tasks, scan_bytes = sum(each.n_tasks for each in every), sum(each.scan_bytes for each in every)
    found = estimate(n_tasks, scan_bytes, n_files, prices, overhead_s=overhead_s)
    moved_s = sum(each.copied_bytes for each in every) / ENGINE_BYTES_PER_S
    gb_s = found.gb_s + moved_s * WORKER_MEMORY_MB / 1024
    n_scans = sum(each.n_tasks for each in every if each.scan_bytes)
    gets = found.gets - (n_tasks - n_scans) * ENGINE_GETS + sum(each.n_reads for each in every)
    puts = sum(each.n_pages for each in every)
    usd = gb_s * prices.gb_second + n_tasks * prices.invocation + prices.of_requests(gets, puts)
    return Estimate(max(1, n_tasks), scan_bytes, gb_s, gets, puts, usd)


def check_cost(found: Estimate, max_usd: float) -> None:
    """Raise `LimitError` for an estimate past a statement's limit; 0: no limit."""
    if max_usd and found.usd > max_usd:
        raise LimitError(
            "the statement would cost more than its limit; filter by a partition or a sorted column, or raise max_cost",
            limit="max_cost", estimated_usd=float(f"{found.usd:.3g}"), max_cost=max_usd, scan_bytes=found.scan_bytes,
            tasks=found.n_tasks,
        )  # fmt: skip
