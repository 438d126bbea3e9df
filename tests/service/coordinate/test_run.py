"""Tasks of stages are sent, sent again, copied and cancelled as they should, by simulated workers in virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from functions.exchange import decode_page
from functions.invoke import InvokerLimits
from functions.stages import Stage
from functions.tasks import Page, Reply, Task
from service.coordinate.run import StageRun
from service.coordinate.terms import Tally, Terms
from storage.errors import (
    CorruptError,
    FirnlineError,
    InternalError,
    InvalidError,
    LimitError,
    StatementTimeoutError,
    UnavailableError,
)
from tests.support.simulated_workers import SECRET, SimulatedWorkers, a_stage, hash_of
from tests.support.virtual_time import VirtualClock, run_virtually


class Simulation:
    """One statement on simulated workers."""

    def __init__(self, stages: Sequence[Stage], terms: dict[str, Any] | None = None, **workers: Any) -> None:
        self.stages = stages
        self.clock = VirtualClock()
        self.workers = SimulatedWorkers(self.clock, **workers)
        self.terms = Terms("s1", SECRET, **(terms or {}))
        self.tally = Tally()
        self.took_s = 0.0

    def run(self) -> list[int]:
        """Return the values of the last stage's pages."""
        return run_virtually(self._run())

    async def _run(self) -> list[int]:
        run = StageRun(self.stages, None, self.workers, self.clock, self.terms, self.tally)
        try:
            await run.run()
        finally:
            self.took_s = self.clock.monotonic_s()
            assert self.workers.running == 0
            assert len(asyncio.all_tasks()) == 1
        pages = [page for pages in run.board.outputs(len(self.stages) - 1) for page in pages]
        return [value for page in pages for value in _values(page)]


def _values(page: Page) -> list[int]:
    if page.data is None:
        return [page.n_rows]
    return [value for batch in decode_page(page, page.data) for value in batch.column(0).to_pylist()]


def _all(stage: int, n: int) -> list[int]:
    return [hash_of(f"{stage}.{partition}") for partition in range(n)]


def test_all_tasks_of_a_stage_give_their_rows_once() -> None:
    simulation = Simulation([a_stage(0, 50)])
    assert simulation.run() == _all(0, 50)
    assert simulation.tally.tasks == simulation.tally.attempts == 50
    assert simulation.tally.retries == simulation.tally.hedges == 0
    assert simulation.tally.usage["cpu_ms"] == 50
    assert simulation.tally.gb_s == pytest.approx(50 * 0.1)
    assert simulation.tally.bytes_moved > 0


def test_a_stage_starts_when_all_that_it_reads_is_done_and_others_run_beside_it() -> None:
    simulation = Simulation([a_stage(0, 3), a_stage(1, 3), a_stage(2, 2, reads=(0, 1)), a_stage(3, 1, reads=(2,))])
    assert simulation.run() == _all(3, 1)
    assert simulation.took_s == pytest.approx(0.3)
    last = simulation.workers.tasks[-1]
    assert {name: len(pages) for name, pages in last.inputs.items()} == {"stage2": 2}


def test_few_tasks_run_at_first_and_more_as_they_answer() -> None:
    simulation = Simulation([a_stage(0, 1000)])
    simulation.run()
    started = [task.id for task in simulation.workers.tasks[:8]]
    assert len(started) == 8
    assert 100 < simulation.workers.most <= 1000
    assert simulation.took_s < 1.0


def test_no_more_tasks_run_than_the_platform_and_the_settings_allow() -> None:
    simulation = Simulation([a_stage(0, 200)], limits=InvokerLimits(concurrency=30))
    simulation.run()
    assert simulation.workers.most == 30
    simulation = Simulation([a_stage(0, 200)], {"tasks_max": 5}, limits=InvokerLimits(concurrency=30))
    simulation.run()
    assert simulation.workers.most == 5


def test_throttled_tasks_slow_all_down_and_all_end() -> None:
    simulation = Simulation([a_stage(0, 300)], places=20)
    assert simulation.run() == _all(0, 300)
    tally = simulation.tally
    assert 0 < tally.throttles < 300
    assert tally.attempts == 300 + tally.throttles


def test_a_platform_that_only_throttles_fails_the_statement_in_the_end() -> None:
    simulation = Simulation([a_stage(0, 2)], {"throttles_max": 5}, places=-1, fails=_unavailable)
    with pytest.raises(FirnlineError):
        simulation.run()


def _unavailable(_task: Task) -> None:
    raise UnavailableError("no worker")


def test_lost_tasks_are_sent_again_with_growing_waits() -> None:
    def fails(task: Task) -> None:
        if task.attempt < 3:
            raise UnavailableError("the worker died")

    simulation = Simulation([a_stage(0, 10)], fails=fails)
    assert simulation.run() == _all(0, 10)
    assert simulation.tally.retries == 20
    assert 0.3 + 0.1 / 4 + 0.2 / 4 < simulation.took_s < 0.8


def test_a_task_that_never_succeeds_fails_the_statement_and_says_which_it_was() -> None:
    def fails(task: Task) -> None:
        if task.id == "0.7":
            raise UnavailableError("the worker died")

    simulation = Simulation([a_stage(0, 50)], fails=fails)
    with pytest.raises(UnavailableError, match=r"the worker died.*task=0\.7 attempts=4"):
        simulation.run()
    assert simulation.workers.calls["0.7"] == 4


MEMORY = LimitError("the function ran out of memory", limit="worker_memory")
LATE = StatementTimeoutError("the function's time is up", limit="worker_timeout")


@pytest.mark.parametrize(("error", "attempts"), [(MEMORY, 2), (LATE, 1)])
def test_a_task_that_ends_at_its_workers_limit_is_not_sent_on_and_on(error: FirnlineError, attempts: int) -> None:
    def fails(task: Task) -> None:
        if task.id == "0.7":
            raise error

    simulation = Simulation([a_stage(0, 50)], fails=fails)
    with pytest.raises(type(error), match=rf"{error.message}.*task=0\.7 attempts={attempts}"):
        simulation.run()
    assert simulation.workers.calls["0.7"] == attempts


def test_a_task_that_ran_out_of_memory_once_beside_others_ends() -> None:
    def fails(task: Task) -> None:
        if task.attempt == 1:
            raise MEMORY

    simulation = Simulation([a_stage(0, 10)], fails=fails)
    assert simulation.run() == _all(0, 10)
    assert simulation.tally.retries == 10


def test_a_copy_of_a_task_whose_time_was_up_may_still_give_its_rows() -> None:
    def latency_s(task: Task) -> float:
        return (60.0 if task.attempt == 1 else 100.0) if task.id == "0.5" else 0.5

    def fails(task: Task) -> None:
        if task.id == "0.5" and task.attempt == 1:
            raise LATE

    simulation = Simulation([a_stage(0, 20)], latency_s=latency_s, fails=fails)
    assert simulation.run() == _all(0, 20)
    assert simulation.tally.hedges_won == 1
    assert simulation.workers.calls["0.5"] == 2


@pytest.mark.parametrize("error", [InvalidError("wrong"), LimitError("too much"), InternalError("a defect")])
def test_what_will_fail_again_fails_at_once_and_the_rest_is_cancelled(error: FirnlineError) -> None:
    def answers(task: Task) -> Reply | None:
        if task.id != "0.3":
            return None
        return Reply(task.statement_id, task.id, task.attempt, error=error.to_wire())

    def latency_s(task: Task) -> float:
        return 0.1 if task.id == "0.3" else 100.0

    simulation = Simulation([a_stage(0, 8)], answers=answers, latency_s=latency_s)
    with pytest.raises(type(error), match=error.message):
        simulation.run()
    assert simulation.workers.calls["0.3"] == 1
    assert simulation.workers.cancelled == 7
    assert simulation.took_s == pytest.approx(0.1)


def test_a_straggler_gets_one_copy_and_the_first_reply_counts() -> None:
    def latency_s(task: Task) -> float:
        return 500.0 if task.id == "0.5" and task.attempt == 1 else 0.5

    simulation = Simulation([a_stage(0, 20)], latency_s=latency_s)
    assert simulation.run() == _all(0, 20)
    assert simulation.tally.hedges == simulation.tally.hedges_won == 1
    assert simulation.workers.cancelled == 1
    assert simulation.took_s < 4


def test_copies_are_a_bounded_share_of_a_stage() -> None:
    slow = random.Random(1).sample(range(200), 60)

    def latency_s(task: Task) -> float:
        return 30.0 if int(task.id[2:]) in slow else 0.5

    simulation = Simulation([a_stage(0, 200)], latency_s=latency_s)
    simulation.run()
    assert simulation.tally.hedges <= 20


def test_a_worker_that_never_answers_is_given_up_past_the_platforms_time() -> None:
    def latency_s(task: Task) -> float:
        return 1e6 if task.attempt == 1 else 0.1

    simulation = Simulation([a_stage(0, 1)], latency_s=latency_s, limits=InvokerLimits(timeout_ms=5000, concurrency=0))
    assert simulation.run() == _all(0, 1)
    assert 5 < simulation.took_s < 6


def test_the_statements_deadline_stops_all() -> None:
    clock_ms = 1_700_000_000_000
    simulation = Simulation([a_stage(0, 4)], {"deadline_ms": clock_ms + 3000}, latency_s=lambda _task: 60.0)
    with pytest.raises(StatementTimeoutError, match="time limit"):
        simulation.run()
    assert simulation.took_s == pytest.approx(3, abs=0.01)


def test_damaged_replies_and_replies_to_other_tasks_are_never_taken() -> None:
    damaged: list[str] = []

    def wire(task: Task, data: bytes) -> bytes:
        if task.attempt == 1:
            damaged.append(task.id)
            place = len(data) // 2
            return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        return data

    simulation = Simulation([a_stage(0, 6)], wire=wire)
    assert simulation.run() == _all(0, 6)
    assert simulation.tally.retries == len(damaged) == 6

    last: list[bytes] = []

    def duplicated(task: Task, data: bytes) -> bytes:
        last.append(data)
        return last[0] if task.attempt == 1 else data

    simulation = Simulation([a_stage(0, 6)], wire=duplicated)
    assert simulation.run() == _all(0, 6)
    assert simulation.tally.retries == 5


def _stored(task: Task, checksum: str = "") -> Reply:
    location = f"s3://b/{task.id}-{task.attempt}"
    page = Page(task.attempt, 10, checksum or "c" + task.id, 0, None, location)
    return Reply(task.statement_id, task.id, task.attempt, [page])


def _refuses(task: Task, bad: str) -> None:
    for pages in task.inputs.values():
        for page in pages:
            if page.location == bad:
                raise CorruptError("a page of rows is not what was written", page=bad)


def test_a_page_that_is_damaged_makes_its_writer_run_again() -> None:
    def answers(task: Task) -> Reply | None:
        try:
            _refuses(task, "s3://b/0.2-1")
        except CorruptError as error:
            return Reply(task.statement_id, task.id, task.attempt, error=error.to_wire())
        return _stored(task) if task.id.startswith("0.") else None

    simulation = Simulation([a_stage(0, 4), a_stage(1, 3, reads=(0,))], answers=answers)
    assert simulation.run() == _all(1, 3)
    assert simulation.tally.reruns == 1
    assert simulation.workers.calls["0.2"] == 2
    assert simulation.workers.calls["0.1"] == 1


def _refusing_once(bad: str) -> Callable[[Task], Reply | None]:
    """Tasks of stage 0 store pages; the first attempts of 1.0 and 1.1 say that one of them is damaged."""

    def answers(task: Task) -> Reply | None:
        if task.id in ("1.0", "1.1") and task.attempt == 1:
            try:
                _refuses(task, bad)
            except CorruptError as error:
                return Reply(task.statement_id, task.id, task.attempt, error=error.to_wire())
        return _stored(task) if task.id.startswith("0.") else None

    return answers


def test_a_task_that_is_sent_while_a_page_turns_out_to_be_damaged_has_all_rows() -> None:
    answers = _refusing_once("s3://b/0.0-1")
    stages = [a_stage(0, 2), a_stage(1, 3, reads=(0,))]
    simulation = Simulation(
        stages, {"tasks_max": 2}, answers=lambda task: None if task.id == "1.0" else answers(task)
    )  # 1.0 and 1.1 end at one time: the first makes room for 1.2, the second says what is wrong
    assert simulation.run() == _all(1, 3)
    read = [(task.id, len(task.inputs["stage0"])) for task in simulation.workers.tasks if task.id[0] == "1"]
    assert read == [("1.0", 2), ("1.1", 2), ("1.2", 2), ("1.1", 2)]


def test_stragglers_get_no_copy_while_rows_that_they_read_are_written_anew() -> None:
    seconds = {("0.0", 2): 30.0, ("1.0", 1): 1.6, ("1.0", 2): 60.0, ("1.2", 1): 0.9, ("1.2", 2): 20.0}

    def fails(task: Task) -> None:
        if task.id == "1.2" and task.attempt == 1:
            raise UnavailableError("the worker died")

    simulation = Simulation(
        [a_stage(0, 2), a_stage(1, 8, reads=(0,))], {"hedge_share": 0.5}, answers=_refusing_once("s3://b/0.0-1"),
        fails=fails, latency_s=lambda task: seconds.get((task.id, task.attempt), 0.1),
    )  # fmt: skip
    assert simulation.run() == _all(1, 8)
    read = {(task.id, task.attempt): len(task.inputs["stage0"]) for task in simulation.workers.tasks if task.inputs}
    assert ("1.0", 2) in read  # it had a copy before
    assert set(read.values()) == {2}, read


def test_readers_run_again_when_the_second_run_of_a_task_gave_other_rows() -> None:
    def answers(task: Task) -> Reply | None:
        if task.id == "1.0":
            try:
                _refuses(task, "s3://b/0.0-1")
            except CorruptError as error:
                return Reply(task.statement_id, task.id, task.attempt, error=error.to_wire())
        return _stored(task, f"run{task.attempt}") if task.id == "0.0" else None

    def latency_s(task: Task) -> float:
        return 0.5 if task.id == "1.0" else 0.1  # the others are done before it says what is wrong

    stages = [a_stage(0, 1), a_stage(1, 3, reads=(0,)), a_stage(2, 1, reads=(1,))]
    simulation = Simulation(stages, answers=answers, latency_s=latency_s)
    assert simulation.run() == _all(2, 1)
    assert simulation.workers.calls["1.1"] == 2
    read = [page.location for task in simulation.workers.tasks if task.id == "1.1" for page in task.inputs["stage0"]]
    assert read == ["s3://b/0.0-1", "s3://b/0.0-2"]


def test_a_page_that_is_always_damaged_fails_the_statement() -> None:
    def answers(task: Task) -> Reply | None:
        if task.id.startswith("0."):
            return _stored(task)
        bad = task.inputs["stage0"][0].location
        error = CorruptError("a page of rows is not what was written", page=bad)
        return Reply(task.statement_id, task.id, task.attempt, error=error.to_wire())

    simulation = Simulation([a_stage(0, 1), a_stage(1, 1, reads=(0,))], answers=answers)
    with pytest.raises(CorruptError, match="not what was written"):
        simulation.run()
    assert simulation.workers.calls["0.0"] == 4


def test_a_damaged_data_file_fails_the_statement_at_once() -> None:
    error = CorruptError("the file's footer does not read", file="s3://b/x.parquet")

    def answers(task: Task) -> Reply | None:
        return Reply(task.statement_id, task.id, task.attempt, error=error.to_wire())

    simulation = Simulation([a_stage(0, 1)], answers=answers)
    with pytest.raises(CorruptError, match="footer"):
        simulation.run()
    assert simulation.workers.calls["0.0"] == 1


@pytest.mark.parametrize("seed", range(30))
def test_whatever_workers_do_the_rows_are_right_or_there_is_an_error(seed: int) -> None:
    chance = random.Random(seed)
    bad = {f"s3://b/{stage}.{chance.randrange(8)}-1" for stage in (0, 1) for _ in range(2)}

    def latency_s(_task: Task) -> float:
        return min(chance.paretovariate(1.2) * 0.1, 60)

    def fails(_task: Task) -> None:
        if chance.random() < 0.1:
            raise UnavailableError("the worker died")

    def answers(task: Task) -> Reply | None:
        for pages in task.inputs.values():
            for page in pages:
                if page.location in bad:
                    error = CorruptError("a page of rows is not what was written", page=page.location)
                    return Reply(task.statement_id, task.id, task.attempt, error=error.to_wire())
        if task.id[0] in "01":
            return _stored(task, f"run{task.attempt if chance.random() < 0.2 else 0}")
        return None

    def wire(_task: Task, data: bytes) -> bytes:
        return data[:-1] + b"?" if chance.random() < 0.05 else data

    stages = [a_stage(0, 8), a_stage(1, 8, reads=(0,)), a_stage(2, 4, reads=(0, 1))]
    simulation = Simulation(stages, latency_s=latency_s, fails=fails, answers=answers, wire=wire, places=6)
    try:
        assert simulation.run() == _all(2, 4)
    except (UnavailableError, CorruptError):
        assert simulation.tally.retries > 3
