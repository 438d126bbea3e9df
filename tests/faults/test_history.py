"""The history checker passes a correct store under concurrent clients, and finds every bug planted into one."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.history import Fault, History, Operation, check_registers, check_set

pytestmark = pytest.mark.anyio


class Store:
    """A correct set and correct registers; each call takes effect at one instant while it runs."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.values: list[int] = []
        self.rows: dict[str, int] = {}

    async def _pause(self) -> None:
        await asyncio.sleep(self.chance.choice([0, 0, 0.0002, 0.001]))

    async def append(self, value: int) -> None:
        await self._pause()
        self._add(value)
        await self._pause()

    def _add(self, value: int) -> None:
        self.values.append(value)

    async def scan(self) -> list[int]:
        await self._pause()
        return list(self.values)

    async def write(self, key: str, value: int) -> None:
        await self._pause()
        self.rows[key] = value
        await self._pause()

    async def delete(self, key: str) -> None:
        await self._pause()
        self.rows.pop(key, None)

    async def increment(self, key: str) -> None:
        await self._pause()
        if key in self.rows:
            self.rows[key] += 1
        await self._pause()

    async def read(self, key: str) -> int | None:
        await self._pause()
        return self.rows.get(key)


class Drops(Store):
    """Acknowledges an append in twenty without keeping it."""

    def _add(self, value: int) -> None:
        if value % 20 != 7:
            self.values.append(value)


class Doubles(Store):
    """Stores an append in twenty twice, as a retry without an idempotency key would."""

    def _add(self, value: int) -> None:
        self.values += [value] * (2 if value % 20 == 7 else 1)


class ServesStale(Store):
    """A reader's cache is refreshed only at every fifth scan, and a row's at every fifth read."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.n = 0
        self.cached: list[int] = []
        self.rows_cached: dict[str, int] = {}

    async def scan(self) -> list[int]:
        self.n += 1
        if self.n % 5 == 0:
            self.cached = list(self.values)
        return list(self.cached)

    async def read(self, key: str) -> int | None:
        self.n += 1
        if self.n % 5 == 0:
            self.rows_cached = dict(self.rows)
        return self.rows_cached.get(key)


class LosesUpdates(Store):
    """Reads, waits and writes, so that one of two concurrent increments is lost."""

    async def increment(self, key: str) -> None:
        before = self.rows.get(key)
        await asyncio.sleep(0.001)
        if before is not None:
            self.rows[key] = before + 1


class ForgetsDeletes(Store):
    """A deleted row comes back, as when a fold takes an older upsert after the delete."""

    async def delete(self, key: str) -> None:
        before = self.rows.pop(key, None)
        await asyncio.sleep(0)
        if before is not None and self.chance.random() < 0.3:
            self.rows[key] = before


class Fails(Store):
    """Says of an append in twenty that it failed, though it is stored."""

    async def append(self, value: int) -> None:
        await super().append(value)
        if value % 20 == 7:
            raise ConnectionRefusedError


async def run(store: Store, seed: int, n_clients: int = 6, n_each: int = 40) -> list[Fault]:
    """Let clients work on the store at once and check what they were told."""
    history = History(time.monotonic)
    await history_of(store, history, seed, n_clients, n_each)
    return history.check()


async def history_of(store: Store, history: History, seed: int, n_clients: int, n_each: int) -> None:
    async def client(number: int) -> None:
        chance = random.Random(seed * 100 + number)
        for n in range(n_each):
            await step(store, history, chance, number * n_each + n)

    await asyncio.gather(*map(client, range(n_clients)))
    final = history.invoke("scan")
    history.ok(final, await store.scan())
    for key in KEYS:
        last = history.invoke("read", key)
        history.ok(last, await store.read(key))


KEYS = ("a", "b", "c")


async def step(store: Store, history: History, chance: random.Random, value: int) -> None:
    kind: Any = chance.choice(["append", "append", "scan", "write", "delete", "increment", "increment", "read", "read"])
    key = None if kind in ("append", "scan") else chance.choice(KEYS)
    operation = history.invoke(kind, key, value * 1000 if kind == "write" else value)
    try:
        if kind in ("append",):
            history.ok(operation, await store.append(value))
        elif kind == "scan":
            history.ok(operation, await store.scan())
        elif kind == "write":
            history.ok(operation, await store.write(str(key), value * 1000))
        else:
            history.ok(operation, await getattr(store, kind)(key))
    except ConnectionRefusedError:
        history.failed(operation)


@pytest.mark.parametrize("seed", range(3))
async def test_a_correct_store_passes(seed: int) -> None:
    assert await run(Store(seed), seed) == []


@pytest.mark.parametrize(
    ("store", "kinds"),
    [
        (Drops, {"lost", "stale"}),
        (Doubles, {"doubled"}),
        (ServesStale, {"stale", "lost", "order"}),
        (LosesUpdates, {"order"}),
        (ForgetsDeletes, {"order"}),
        (Fails, {"phantom"}),
    ],
)
async def test_a_planted_bug_is_found(store: type[Store], kinds: set[str]) -> None:
    faults = await run(store(1), 1)
    assert faults
    assert {fault.kind for fault in faults} <= kinds


def op(kind: Any, value: Any, start: float, end: float, outcome: Any = "ok", key: Any = "k") -> Operation:
    return Operation(kind, key, value, start, end, outcome)


def test_an_unknown_append_may_be_seen_or_not_but_not_vanish() -> None:
    append = op("append", 1, 0, float("inf"), "unknown")
    assert check_set([append, op("scan", [], 1, 2), op("scan", [1], 3, 4)]) == []
    assert check_set([append, op("scan", [], 1, 2)]) == []
    assert [fault.kind for fault in check_set([append, op("scan", [1], 1, 2), op("scan", [], 3, 4)])] == ["lost"]


def test_a_scan_that_overlaps_an_append_may_miss_it() -> None:
    assert check_set([op("append", 1, 0, 5), op("scan", [], 4, 6)]) == []
    missed = check_set([op("append", 1, 0, 5), op("scan", [], 6, 7), op("scan", [1], 8, 9)])
    assert [fault.kind for fault in missed] == ["stale"]


def test_two_reads_may_not_see_two_orders() -> None:
    writes = [op("write", 1, 0, 10), op("write", 2, 0, 10)]
    assert check_registers([*writes, op("read", 1, 1, 2), op("read", 2, 3, 4)]) == []
    wrong = check_registers([*writes, op("read", 1, 1, 2), op("read", 2, 3, 4), op("read", 1, 5, 6)])
    assert [fault.kind for fault in wrong] == ["order"]
    assert "read 1" in wrong[0].detail


def test_an_unknown_increment_counts_once_or_not_at_all() -> None:
    begun = [op("write", 5, 0, 1), op("increment", None, 2, float("inf"), "unknown")]
    for value in (5, 6):
        assert check_registers([*begun, op("read", value, 3, 4)]) == []
    assert check_registers([*begun, op("read", 7, 3, 4)]) != []
    assert check_registers([*begun, op("read", 6, 3, 4), op("read", 5, 5, 6)]) != []


def test_two_inserts_of_one_key_do_not_both_succeed() -> None:
    assert check_registers([op("insert", 1, 0, 5), op("insert", 2, 1, 6)]) != []
    assert check_registers([op("insert", 1, 0, 5), op("insert", 2, 1, 6, "failed")]) == []


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["write", "delete", "increment", "read"]),
        st.integers(0, 2),
        st.integers(0, 12),
        st.integers(1, 6),
        st.sampled_from(["ok", "ok", "ok", "unknown"]),
    ),
    max_size=6,
)


@settings(max_examples=300, deadline=None)
@given(OPERATIONS)
def test_the_search_agrees_with_trying_every_order(drawn: list[tuple[Any, int, int, int, Any]]) -> None:
    # Different instants, since an end that equals a start leaves the order open.
    operations = [
        op(
            kind,
            (value or None) if kind == "read" else value,
            start + n / 100,
            start + length + n / 100 + 0.005 if outcome == "ok" else float("inf"),
            outcome,
        )
        for n, (kind, value, start, length, outcome) in enumerate(drawn)
    ]
    assert (check_registers(operations) == []) == _some_order_fits(operations, None)


def _some_order_fits(left: list[Operation], state: Any) -> bool:
    """The definition, without memory or candidates."""
    if all(each.outcome == "unknown" for each in left):
        return True
    for n, each in enumerate(left):
        if any(other.end < each.start for other in left if other is not each):
            continue
        if each.kind == "read":
            fits, after = each.outcome == "unknown" or each.value == state, state
        elif each.kind == "write":
            fits, after = True, each.value
        elif each.kind == "increment":
            fits, after = True, None if state is None else state + 1
        else:
            fits, after = True, None
        if fits and _some_order_fits(left[:n] + left[n + 1 :], after):
            return True
    return False
