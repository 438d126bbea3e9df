"""What a worker is told, and a `TaskRunner` made of it: the same for every place where workers run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from functions import tracing
from functions.run_task import TaskRunner
from functions.session import SessionOptions
from functions.tasks import Reply, Task
from storage.blobs.counted import counting
from storage.blobs.open import open_blobs
from storage.blobs.s3_options import S3Options
from storage.clock import Clock, SystemClock
from storage.counts import Counts
from storage.errors import InvalidError
from storage.stores import AccessPolicy, Stores, normalize

__all__ = ["TaskWorkerSettings", "open_task_runner", "settings_of"]


@dataclass(frozen=True, slots=True)
class TaskWorkerSettings:
    """Settings of one worker. Plain values, so that they travel to worker processes.

    lake, allow : what tasks may read, and where their pages may lie; ``allow`` None: everything
    secret : that tasks are signed with
    memory_bytes : of the engine; 0: unbounded
    spill_dir : where sorts and aggregates spill; None: the system's temporary folder
    target_partitions : threads of one plan made here; 0: one per core
    traces : record spans (`functions.tracing`)
    """

    lake: str
    secret: bytes = field(repr=False)
    allow: tuple[str, ...] | None = ()
    memory_bytes: int = 0
    spill_dir: str | None = None
    target_partitions: int = 0
    s3: S3Options = field(default_factory=S3Options)
    traces: bool = False

    def policy(self) -> AccessPolicy:
        """Return what tasks may reach."""
        if self.allow is None:
            return AccessPolicy(None)
        return AccessPolicy(tuple(map(normalize, (self.lake, *self.allow))))


def settings_of(settings: Any) -> TaskWorkerSettings:
    """Return the worker's settings as ``firnline.settings.Settings`` say."""
    return TaskWorkerSettings(
        lake=settings.lake,
        secret=(settings.task_secret or "").encode(),
        allow=settings.allow,
        memory_bytes=settings.memory_bytes,
        spill_dir=settings.spill_dir,
        target_partitions=settings.target_partitions,
        s3=settings.s3_options(),
        traces=settings.traces,
    )


@asynccontextmanager
async def open_task_runner(
    settings: TaskWorkerSettings,
    clock: Clock | None = None,
    *,
    extra_usage: Mapping[str, float] | None = None,
    observe: Callable[[Task, Reply], None] | None = None,
    inline_bytes_max: int = 0,
    counts: Counts | None = None,
) -> AsyncIterator[TaskRunner]:
    """Open a runner; its connections are made by its first task. Raises `InvalidError` without a secret.

    ``extra_usage``, ``observe`` and ``inline_bytes_max`` are those of `TaskRunner`; ``counts`` count its requests.
    """
    if not settings.secret:
        raise InvalidError("a worker runs signed tasks only, and there is no secret; set FIRN_TASK_SECRET")
    if settings.traces:
        tracing.start("worker")
    clock = clock or SystemClock()
    opener = partial(open_blobs, s3=settings.s3, clock=clock)
    stores = Stores(opener if counts is None else counting(opener, counts, clock), settings.policy())
    options = SessionOptions(settings.memory_bytes, settings.spill_dir, settings.target_partitions, settings.s3)
    runner = TaskRunner(
        options, stores, clock, settings.secret, extra_usage=extra_usage, observe=observe,
        inline_bytes_max=inline_bytes_max,
    )  # fmt: skip
    try:
        yield runner
    finally:
        runner.close()
        await stores.close()
