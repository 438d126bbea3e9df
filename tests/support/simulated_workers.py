"""Workers that take time and fail as told, but compute nothing: each task answers with one small page."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa

from functions.exchange import encode_page
from functions.invoke import InvokerLimits
from functions.stages import Exchange, Piece, Read, Stage
from functions.tasks import Page, Reply, Task, decode_task, encode_reply
from storage.clock import Clock
from storage.errors import OverloadedError, UnavailableError

__all__ = ["SECRET", "SimulatedWorkers", "a_stage"]

SECRET = b"simulated"
SCHEMA = pa.schema([("x", pa.int64())])


@dataclass(frozen=True)
class SimulatedStage(Stage):
    """A stage whose plan is its number."""

    def piece(self, partition: int) -> Piece:
        return Piece(f"{self.number}.{partition}".encode(), tuple(Read(name, stage) for name, stage in self.inputs))


def a_stage(number: int, n_tasks: int, reads: Sequence[int] = ()) -> Stage:
    inputs = [(f"stage{each}", each) for each in reads]
    return SimulatedStage(number, "scan", str(number).encode(), inputs, n_tasks, SCHEMA, Exchange("gather"))


@dataclass
class SimulatedWorkers:
    """An `functions.invoke.Invoker`.

    latency_s : of a task
    fails : called with each task; raises what the invoker raises
    answers : the pages of a task, if not one row
    places : tasks at once before the platform throttles; 0: no limit
    """

    clock: Clock
    latency_s: Callable[[Task], float] = lambda _task: 0.1
    fails: Callable[[Task], None] = lambda _task: None
    answers: Callable[[Task], Reply | None] = lambda _task: None
    wire: Callable[[Task, bytes], bytes] = lambda _task, data: data
    places: int = 0
    limits: InvokerLimits = field(default_factory=lambda: InvokerLimits(concurrency=0))
    name: str = "simulated"
    running: int = 0
    most: int = 0
    cancelled: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    tasks: list[Task] = field(default_factory=list)

    async def invoke(self, message: bytes, *, timeout_ms: int) -> bytes:
        task = decode_task(message, SECRET, self.clock.now_ms())
        self.calls[task.id] += 1
        self.tasks.append(task)
        if self.places and self.running >= self.places:
            raise OverloadedError("too many at once", retry_after_s=1)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            latency_s = self.latency_s(task)
            await asyncio.sleep(min(latency_s, timeout_ms / 1000))
            if latency_s > timeout_ms / 1000:
                raise UnavailableError("the worker did not answer")
            self.fails(task)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        usage = {"wall_ms": latency_s * 1000, "memory_mb": 1024.0, "cpu_ms": 1.0}
        reply = self.answers(task) or Reply(task.statement_id, task.id, task.attempt, [_page(task)])
        reply = replace(reply, usage=usage)
        return self.wire(task, encode_reply(reply, SECRET))

    async def close(self) -> None:
        pass


def _page(task: Task) -> Page:
    values = pa.array([hash_of(task.id)], pa.int64())
    return encode_page([pa.record_batch([values], schema=SCHEMA)], SCHEMA)


def hash_of(task_id: str) -> int:
    stage, _, partition = task_id.partition(".")
    return int(stage) * 1_000_000 + int(partition)
