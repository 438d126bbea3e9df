"""Which appends conflict, held to a model that forgets nothing and compares everything."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.log.touched import KeySet, TouchedKeys
from storage.errors import ConflictError, UnavailableError
from storage.log import AckMode, Position, Receipt
from storage.log.queue import Waiting
from tests.support.lake_logs import row

_EPOCH, _START = 5, 10
_KEYS = st.one_of(st.none(), st.lists(st.integers(0, 12), max_size=5), st.lists(st.integers(0, 400), min_size=65))
_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["append", "store", "fail", "acknowledge"]),
        st.sampled_from(["t", "u"]),
        _KEYS,
        st.one_of(st.none(), st.tuples(st.sampled_from([0, _EPOCH, 4]), st.integers(8, 40))),
    ),
    max_size=40,
)


def _set(keys: list[int] | None) -> KeySet:
    return KeySet(None if keys is None else np.array(keys, np.uint64))


@dataclass
class _Naive:
    """Every append that was accepted and did not fail: its table, its keys, and its sequence once it has one."""

    appends: list[tuple[str, set[int] | None, Waiting]] = field(default_factory=list)

    def conflicts(self, table: str, keys: set[int] | None, since: tuple[int, int]) -> bool:
        epoch, limit = since
        if epoch not in (0, _EPOCH) or limit < _START:
            return True
        for other, theirs, waiting in self.appends:
            if other != table or (waiting.done.done() and waiting.done.exception() is not None):
                continue
            after = waiting.position is None or waiting.position.sequence >= limit
            if after and (keys is None or theirs is None or keys & theirs):
                return True
        return False


@settings(max_examples=60, deadline=None)
@given(_STEPS, st.booleans())
def test_of_two_appends_of_one_key_the_later_conflicts_and_no_other(
    steps: list[tuple[str, str, list[int] | None, tuple[int, int] | None]], forgets: bool
) -> None:
    asyncio.run(_run(steps, forgets))


async def _run(steps: list[tuple[str, str, list[int] | None, tuple[int, int] | None]], forgets: bool) -> None:
    touched = TouchedKeys(_EPOCH, _START, appends_max=3 if forgets else 1000)
    naive = _Naive()
    sequence = _START
    queued: list[Waiting] = []
    stored: list[Waiting] = []
    for step, table, keys, since in steps:
        if step == "append":
            expected = since is not None and naive.conflicts(table, None if keys is None else set(keys), since)
            try:
                if since is not None:
                    touched.check(table, _set(keys), since)
            except ConflictError as error:
                # What is forgotten may conflict too; what is remembered never wrongly passes.
                assert expected or (forgets and "begin anew" in error.message)
                continue
            assert not expected
            done: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
            waiting = Waiting(row("x"), [b"x"], 1, AckMode.FSYNC, done)
            touched.add(table, _set(keys), waiting)
            naive.appends.append((table, None if keys is None else set(keys), waiting))
            queued.append(waiting)
        elif step == "store" and queued:
            waiting = queued.pop(0)
            waiting.position = Position(_EPOCH, sequence)
            sequence += 1
            stored.append(waiting)
        elif step == "fail" and queued:
            queued.pop(0).fail(UnavailableError("a full disk"))
        elif step == "acknowledge" and stored:
            stored.pop(0).acknowledge(AckMode.FSYNC)
    for waiting in [*queued, *stored]:
        waiting.done.cancel()


def test_what_is_under_way_is_never_forgotten() -> None:
    async def run() -> None:
        touched = TouchedKeys(_EPOCH, 0, appends_max=2)
        for _ in range(5):
            done: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
            touched.add("t", _set([1]), Waiting(row("x"), [b"x"], 1, AckMode.FSYNC, done))
        assert len(touched) == 5
        with pytest.raises(ConflictError):
            touched.check("t", _set([1]), (0, 0))

    asyncio.run(run())
