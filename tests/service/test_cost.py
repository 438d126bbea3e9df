"""Estimates add up, prices are those of the region, and limits refuse with the number that they refuse."""

from __future__ import annotations

import pyarrow as pa
import pytest

from functions.stages import Exchange, Stage, Stages
from functions.tasks import TaskKind
from service.coordinate.choose import TASK_BYTES, choose
from service.coordinate.sizes import stage_sizes
from service.coordinate.terms import Tally
from service.cost import (
    ENGINE_BYTES_PER_S,
    ENGINE_GETS,
    GET_BYTES,
    Prices,
    check_cost,
    estimate,
    estimate_stages,
    prices_of,
)
from storage.errors import InvalidError, LimitError

GB = 1 << 30


def test_an_estimate_is_the_sum_of_its_parts() -> None:
    prices = Prices(gb_second=1.0, invocation=10.0, get=100.0, put=1000.0)
    found = estimate(2, 2 * ENGINE_BYTES_PER_S, 3, prices)
    assert found.gb_s == pytest.approx(2 * 1769 / 1024)
    assert (found.gets, found.puts) == (5 * ENGINE_GETS + 2 * ENGINE_BYTES_PER_S // GET_BYTES, 2)
    assert found.usd == pytest.approx(found.gb_s + 20 + 100 * found.gets + 2000)


def test_what_is_past_its_limit_is_refused_and_zero_is_no_limit() -> None:
    found = estimate(10, 100 * GB, 100, Prices())
    check_cost(found, 0)
    check_cost(found, found.usd)
    with pytest.raises(LimitError, match=r"would cost more.*estimated_usd=.*tasks=10"):
        check_cost(found, found.usd * 0.99)


def test_regions_that_are_not_known_cost_what_the_first_does() -> None:
    assert prices_of(None) == prices_of("mars-1") == prices_of("us-east-1")
    assert prices_of("eu-central-1").get > prices_of("us-east-1").get


def test_own_prices_stand_in_the_place_of_the_lists() -> None:
    own = prices_of("eu-central-1", "gb_second=0.0000133334, get=0")
    assert own == Prices(gb_second=0.0000133334, get=0.0, put=5.4e-6)
    assert own.of_requests(1e6, 1e6) == pytest.approx(5.4)


@pytest.mark.parametrize("text", ["gb_second", "gb_hour=1", "get=cheap", "get=-1", "get=nan", "get=inf"])
def test_own_prices_that_do_not_read_are_refused_with_the_names_that_do(text: str) -> None:
    with pytest.raises(InvalidError, match=r"FIRN_PRICES.*gb_second,invocation,get,put"):
        prices_of(None, text)


def test_small_statements_stay_and_large_ones_get_tasks_by_their_bytes() -> None:
    assert choose("auto", 10 << 20, concurrency=1000, n_cores=2).n_tasks == 0
    assert choose("auto", 100 * GB, concurrency=1000, n_cores=2).n_tasks == 1000
    assert choose("auto", 20 * GB, concurrency=1000, n_cores=2).n_tasks == 20 * GB // TASK_BYTES
    assert choose("auto", 20 * GB, concurrency=30, n_cores=2).n_tasks == 30
    assert choose("auto", 20 * GB, concurrency=1000, n_cores=2, tasks_max=12).n_tasks == 12
    assert choose("inline", 100 * GB, concurrency=1000, n_cores=2).n_tasks == 0


def test_a_task_scans_no_more_than_fits_its_workers_memory() -> None:
    few = choose("fan-out", 8 * GB, concurrency=2, n_cores=2)
    assert few.n_tasks == 2
    for asked in ("auto", "fan-out"):
        assert choose(asked, 8 * GB, concurrency=8, n_cores=2, memory_bytes=2 * GB).n_tasks == 16
        assert choose(asked, 8 * GB, concurrency=1000, n_cores=2, memory_bytes=2 * GB).n_tasks == 8 * GB // TASK_BYTES
    assert choose("fan-out", 1 << 50, concurrency=2, n_cores=2, memory_bytes=GB).n_tasks == 1000


def test_workers_that_are_no_more_than_the_cores_here_are_used_only_when_asked_for() -> None:
    assert choose("auto", 100 * GB, concurrency=2, n_cores=2).n_tasks == 0
    assert "here" in choose("auto", 100 * GB, concurrency=2, n_cores=2).reason
    assert choose("fan-out", 100 * GB, concurrency=2, n_cores=2).n_tasks == 2
    assert choose("fan-out", 0, concurrency=8, n_cores=2).n_tasks == 2
    assert choose("fan-out", 0, concurrency=8, n_cores=2, tasks_max=1).n_tasks == 1


def test_memory_is_reckoned_as_the_platform_bills_it_and_else_as_the_worker_held_it() -> None:
    billed, held = Tally(), Tally()
    billed.add_usage({"wall_ms": 1000.0, "memory_mb": 300.0, "billed_memory_mb": 1769.0})
    held.add_usage({"wall_ms": 1000.0, "memory_mb": 300.0})
    assert (billed.gb_s, held.gb_s) == pytest.approx((1769 / 1024, 300 / 1024))
    billed.add_lost(2.0)
    assert billed.gb_s == pytest.approx(3 * 1769 / 1024)
    assert billed.usage["billed_memory_mb"] == 1769.0


def stage(number: int, exchange: Exchange, *inputs: int, n_tasks: int = 4, scan_bytes: int = 0, kind: TaskKind = "scan",
          local: bool = False) -> Stage:  # fmt: skip
    read = [(f"s{each}", each) for each in inputs]
    return Stage(number, kind, b"", read, n_tasks, pa.schema([]), exchange, scan_bytes, local=local)


def test_a_broadcast_is_copied_to_each_task_and_read_by_each() -> None:
    few = stage(0, Exchange("broadcast"), n_tasks=2, scan_bytes=GB)
    [copied, joined] = stage_sizes(Stages([few, stage(1, Exchange("gather"), 0, scan_bytes=9 * GB), last(1)]))
    assert (copied.n_tasks, copied.n_pages, copied.n_reads) == (2, 2, 8)
    assert copied.copied_bytes == pytest.approx(4 * GB / 4)
    alone = estimate_stages([joined], 10, Prices())
    assert estimate_stages([copied, joined], 10, Prices()).gb_s > alone.gb_s + GB / ENGINE_BYTES_PER_S


def test_a_shuffle_writes_a_page_for_each_task_and_bucket_and_a_join_of_what_lies_alike_none() -> None:
    hashed = Exchange("hash", (0,), 4)
    sides = [stage(0, hashed, scan_bytes=GB), stage(1, hashed, scan_bytes=GB)]
    shuffled = stage_sizes(Stages([*sides, stage(2, Exchange("gather"), 0, 1, kind="join"), last(2)]))
    assert [(each.n_pages, each.n_reads) for each in shuffled[:2]] == [(16, 16), (16, 16)]
    aligned = stage_sizes(Stages([stage(0, Exchange("gather"), kind="join", scan_bytes=2 * GB), last(0)]))
    one, other = estimate_stages(shuffled, 8, Prices()), estimate_stages(aligned, 8, Prices())
    assert (one.n_tasks, other.n_tasks) == (12, 4)
    assert (one.scan_bytes, other.scan_bytes) == (2 * GB, 2 * GB)
    assert one.puts >= 32 > other.puts
    assert one.usd > other.usd


def test_what_fits_in_replies_and_what_lies_here_is_no_page_and_no_task() -> None:
    small = stage(0, Exchange("hash", (0,), 4), scan_bytes=1 << 20)
    [size, grouped] = stage_sizes(Stages([small, stage(1, Exchange("gather"), 0, kind="aggregate"), last(1)]))
    assert (size.n_pages, size.n_reads, grouped.n_pages) == (0, 0, 0)
    [here] = stage_sizes(Stages([stage(0, Exchange("gather"), local=True), last(0)]))
    assert here.n_tasks == 0


def last(reads: int) -> Stage:
    """Return the stage that the coordinator runs itself."""
    return stage(reads + 1, Exchange("gather"), reads, n_tasks=1, kind="merge")
