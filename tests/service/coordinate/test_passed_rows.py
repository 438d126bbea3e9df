"""Rows that go out as they are read are all of one run of the tasks, whatever is lost meanwhile."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from functions.exchange import encode_page
from functions.session import Session, SessionOptions
from functions.stages import Exchange, Stages
from functions.tasks import Page, Reply, Task
from service.coordinate.fan_out import FanOut, FanOutOptions
from service.statement import Receipt, Statement
from storage.blobs.memory import MemoryBlobs
from storage.errors import CorruptError, FirnlineError, UnavailableError
from storage.stores import Stores
from tests.support.simulated_workers import SCHEMA, SECRET, SimulatedStage, SimulatedWorkers, a_stage
from tests.support.virtual_time import VirtualClock, run_virtually


@dataclass(frozen=True)
class _Passing(SimulatedStage):
    @property
    def passes(self) -> bool:
        return True


class _Storing(SimulatedWorkers):
    """Tasks' pages are stored; a row is made of the run of 0.0 that its task read, and of the task's number."""

    def __init__(self, clock: VirtualClock, blobs: MemoryBlobs, lost: set[str]) -> None:
        super().__init__(clock, answers=self._answer)
        self._blobs, self._lost = blobs, lost
        self._made: dict[str, bytes] = {}

    async def invoke(self, message: bytes, *, timeout_ms: int) -> bytes:
        reply = await super().invoke(message, timeout_ms=timeout_ms)
        for name, data in self._made.items():
            await self._blobs.put(name, data)
        self._made.clear()
        return reply

    def _answer(self, task: Task) -> Reply:
        read = [page.location or "" for page in task.inputs.get("stage0", ())]
        name = f"{task.id}-{task.attempt}"
        if task.id == "1.1" and task.attempt == 2 and "0.0-1" in self._lost:
            error = CorruptError("a page of rows is not what was written", page=read[0])
            return Reply(task.statement_id, task.id, task.attempt, error=error.to_wire())
        value = 10 * int(read[0][-1] if read else task.attempt) + int(task.id[-1])
        page = encode_page([pa.record_batch([pa.array([value], pa.int64())], schema=SCHEMA)], SCHEMA)
        if name not in self._lost and page.data is not None:
            self._made[name] = page.data
        return Reply(
            task.statement_id, task.id, task.attempt,
            [Page(1, page.n_bytes, page.checksum, 0, None, f"s3://b/{name}")],
        )  # fmt: skip


async def _rows(lost: set[str]) -> tuple[list[int], FirnlineError | None]:
    clock = VirtualClock()
    blobs = MemoryBlobs(clock)
    workers = _Storing(clock, blobs, lost)

    async def opened() -> SimulatedWorkers:
        return workers

    session = Session(SessionOptions(), clock)
    fan_out = FanOut(
        FanOutOptions("simulated", SECRET), opened, session, Stores(lambda _root: blobs), clock, "s3://b/lake"
    )
    last = _Passing(2, "merge", b"2", [("stage1", 1)], 1, SCHEMA, Exchange("gather"))
    stages = Stages([a_stage(0, 1), a_stage(1, 2, reads=(0,)), last])
    rows: list[int] = []
    try:
        async for batch in fan_out.rows(stages, Statement("", "s1"), Receipt()):
            rows += batch.column(0).to_pylist()
    except FirnlineError as error:
        return rows, error
    finally:
        await fan_out.close()
        session.close()
    return rows, None


def test_a_page_that_is_lost_is_written_anew() -> None:
    assert run_virtually(_rows({"1.1-1"})) == ([10, 11], None)


def test_rows_of_a_second_run_never_follow_those_of_the_first() -> None:
    rows, error = run_virtually(_rows({"1.1-1", "0.0-1"}))
    assert rows == [10]
    assert isinstance(error, UnavailableError)
    assert "send the statement again" in error.message


def test_a_page_that_is_always_lost_is_no_name_that_was_not_found() -> None:
    rows, error = run_virtually(_rows({f"1.1-{attempt}" for attempt in range(1, 9)}))
    assert rows == [10]
    assert isinstance(error, UnavailableError)
