"""Counts of one process, and of others through it."""

from __future__ import annotations

import json

import pytest

from catalog.kv.counted import CountedKV
from catalog.kv.memory import MemoryKV
from storage.blobs.counted import CountedBlobs
from storage.blobs.memory import MemoryBlobs
from storage.clock import SystemClock
from storage.counts import BOUNDS_S, Counts
from storage.errors import NotFoundError


def test_what_one_process_takes_another_merges_once() -> None:
    worker, server = Counts(), Counts()
    for _ in range(3):
        worker.add("n", kind="a")
        worker.observe("t", 0.02)
        server.merge(json.loads(json.dumps(worker.take())), "7")
    server.add("n", 2, kind="b")
    assert sorted((labels["kind"], value) for labels, value in server.totals("n")) == [("a", 3), ("b", 2)]
    [(_labels, found)] = server.durations("t")
    assert sum(found.n) == found.n[BOUNDS_S.index(0.025)] == 3
    assert found.sum_s == pytest.approx(0.06)
    assert worker.take()["totals"] == []


def test_what_something_else_counts_is_followed_and_levels_add_up_over_processes() -> None:
    worker, server, seen = Counts(), Counts(), 5
    worker.follow("hits", lambda: seen)
    worker.level("bytes", lambda: 100)
    server.level("bytes", lambda: 1)
    server.merge(worker.take(), "7")
    seen = 9
    server.merge(worker.take(), "7")
    assert list(server.totals("hits")) == [({}, 9)]
    assert list(server.levels("bytes")) == [({}, 101)]
    server.forget("7")
    assert list(server.levels("bytes")) == [({}, 1)]


@pytest.mark.anyio
async def test_requests_are_counted_by_operation_and_outcome() -> None:
    counts, clock = Counts(), SystemClock()
    blobs = CountedBlobs(MemoryBlobs(clock), counts, clock, "s3")
    await blobs.put("a", b"123")
    await blobs.get("a")
    with pytest.raises(NotFoundError):
        await blobs.head("b")
    assert [meta.key async for meta in blobs.list("")] == ["a"]
    told = {(each["operation"], each["outcome"]): n for each, n in counts.totals("firnline_store_requests")}
    assert told == {("put", "succeeded"): 1, ("get", "succeeded"): 1, ("head", "NotFoundError"): 1,
                    ("list", "succeeded"): 1}  # fmt: skip
    assert {each["direction"]: n for each, n in counts.totals("firnline_store_bytes")} == {"read": 3, "written": 3}
    kv = CountedKV(MemoryKV(clock), counts, clock)
    await kv.get("x")
    assert list(counts.totals("firnline_catalog_requests")) == [({"operation": "get", "outcome": "succeeded"}, 1)]
