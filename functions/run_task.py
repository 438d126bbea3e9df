"""A worker's one verb: run a signed task and answer with a signed reply.

1. `TaskRunner.run` raises only for a message that it refuses (`ForbiddenError`, `InvalidError`, `TooLargeError`) and
   when it is cancelled. A task's own failure travels in its reply, as `storage.errors.FirnlineError.to_wire`.
2. A task reads what the worker's own access policy allows, and nothing else; it brings no credentials and no code.
3. What a worker remembers between tasks (footers, snapshots, connections) only saves work.

Bodies by kind:

============================================  ====================================================================
``scan aggregate join sort merge``            none; the payload is a piece's plan, whose partitions are the buckets
                                              of its rows; ``inputs`` are its leaves' pages, by the leaf's partition
``query``                                     the same for a plan that is not cut: all of its rows are one bucket
``lookup fit compact``                        see `functions.run_jobs`
============================================  ====================================================================
"""

from __future__ import annotations

import asyncio
import math
import resource
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from functions import tracing
from functions.errors import is_panic, translate
from functions.invoke.outcome import SMALLER
from functions.log_context import logged_as
from functions.session import Session, SessionOptions
from functions.tasks import Page, Reply, Task, TaskKind, decode_task, encode_reply
from storage.clock import Clock
from storage.errors import FirnlineError, LimitError, StatementTimeoutError, UnsupportedError
from storage.stores import Stores

if TYPE_CHECKING:
    from storage.tables.snapshot import Snapshot

__all__ = ["Job", "Outcome", "TaskRunner", "Work"]

PIECES: frozenset[TaskKind] = frozenset(("scan", "aggregate", "join", "sort", "merge", "query"))
_JOBS: frozenset[TaskKind] = frozenset(("lookup", "fit", "compact"))
_SESSIONS_MAX, _SNAPSHOTS_MAX = 4, 64
_LOOK_S, _LOOKS, _LOOKS_MAX = 0.02, 3, 25
"""An engine is at rest when none of its threads runs at so many looks in a row."""


@dataclass(frozen=True)
class Work:
    """What a task works with.

    session : an engine whose memory is the task's
    stores : those that the worker may reach; they count this task's requests
    snapshots : format and location → the state of a table that a task before read last
    """

    session: Session
    stores: Stores
    clock: Clock
    snapshots: MutableMapping[tuple[str, str], Snapshot]


@dataclass(frozen=True)
class Outcome:
    """What became of a task: its rows, and values for its reply."""

    pages: Sequence[Page] = ()
    body: Mapping[str, Any] = field(default_factory=dict)
    usage: Mapping[str, float] = field(default_factory=dict)


Job = Callable[[Work, Task], Awaitable[Outcome]]


class TaskRunner:
    """Runs tasks, several at a time too, and keeps what the next ones can use.

    Parameters
    ----------
    options : of the engine; a task may ask for less memory than these give, not for more
    jobs : kinds beside those of this module, or in their place
    extra_usage : put into each reply's usage, such as the memory that the platform bills
    observe : is told of each task that ended by itself
    inline_bytes_max : of rows in a reply, as the place where this runs allows; 0: as the task does

    broken : whether the engine panicked, or did not stop at a deadline: the process is better replaced
    doubtful : whether a task was stopped since the engine was last seen at rest (`rested`)
    """

    def __init__(
        self, options: SessionOptions, stores: Stores, clock: Clock, secret: bytes, *,
        jobs: Mapping[TaskKind, Job] | None = None, extra_usage: Mapping[str, float] | None = None,
        observe: Callable[[Task, Reply], None] | None = None, inline_bytes_max: int = 0,
    ) -> None:  # fmt: skip
        self.broken = self.doubtful = False
        self.stores = stores
        self._inline_bytes_max = inline_bytes_max
        self.n_tasks = 0
        self._options, self._clock, self._secret = options, clock, secret
        self._jobs = dict(jobs or {})
        self._extra, self._observe = dict(extra_usage or {}), observe
        self._snapshots: dict[tuple[str, str], Snapshot] = {}
        self._sessions: dict[int, Session] = {}
        self._shares = _CpuShares()

    async def run(self, message: bytes, *, until_ms: int = 0) -> bytes:
        """Return the encoded reply to an encoded task, which ends at its deadline or at ``until_ms`` since the epoch.

        Raises
        ------
        ForbiddenError : it is not signed with this worker's secret, or expired
        InvalidError, TooLargeError : it is no task that this worker reads
        """
        started = time.perf_counter()
        task = decode_task(message, self._secret, self._clock.now_ms())
        if self._inline_bytes_max:
            task = replace(task, inline_bytes_max=min(task.inline_bytes_max, self._inline_bytes_max))
        about: tracing.Attributes = {
            "firnline.statement_id": task.statement_id, "firnline.task_id": task.id, "firnline.task_kind": task.kind,
            "firnline.attempt": task.attempt,
        }  # fmt: skip
        with (
            logged_as(statement_id=task.statement_id, task_id=task.id),
            tracing.span(f"run {task.kind}", about, parent=task.traceparent, kind="server") as span,
        ):
            reply = await self._reply(task, until_ms, started)
            span.set({f"firnline.{name}": value for name, value in reply.usage.items()})
            if reply.error is not None:
                span.failed(str(reply.error.get("error")))
        return encode_reply(reply, self._secret)

    async def _reply(self, task: Task, until_ms: int, started: float) -> Reply:
        cold, self.n_tasks = not self.n_tasks, self.n_tasks + 1
        stores = self.stores.scoped()
        share = self._shares.begin()
        outcome, error = Outcome(), None
        try:
            outcome = await self._limited(task, stores, until_ms)
        except BaseException as raised:
            self.doubtful = self.doubtful or isinstance(raised, (asyncio.CancelledError, StatementTimeoutError))
            if isinstance(raised, StatementTimeoutError) and self.n_running == 1:
                self.broken = self.broken or not await self.rested()
            if not isinstance(raised, Exception) and not is_panic(raised):
                raise
            self.broken = self.broken or is_panic(raised)
            error = _wire(raised)
        finally:
            cpu_s = self._shares.end(share)
        usage = {
            "wall_ms": (time.perf_counter() - started) * 1000,
            "cpu_ms": cpu_s * 1000,
            "cold": float(cold),
            "requests": float(stores.count.requests),
            "store_bytes": float(stores.count.bytes),
            "page_bytes": float(sum(page.n_bytes for page in outcome.pages)),
            "rows": float(sum(page.n_rows for page in outcome.pages)),
            "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            **self._extra,
            **outcome.usage,
        }
        reply = Reply(
            task.statement_id, task.id, task.attempt, outcome.pages if error is None else (), error, usage, outcome.body
        )
        if self._observe is not None:
            self._observe(task, reply)
        return reply

    @property
    def n_running(self) -> int:
        """Tasks that run now."""
        return len(self._shares.used)

    async def rested(self) -> bool:
        """Whether the engine came to rest after a task that was stopped: some plans ignore that for long, and hold its
        threads. If not, the process is better replaced. Takes up to half a second; call it while no task runs."""
        at_rest = 0
        for _ in range(_LOOKS_MAX):
            await asyncio.sleep(_LOOK_S)
            at_rest = 0 if _others_run() else at_rest + 1
            if at_rest == _LOOKS:
                self.doubtful = False
                return True
        return False

    def close(self) -> None:
        """Take no more tasks; the stores are their opener's."""
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()

    async def _limited(self, task: Task, stores: Stores, until_ms: int) -> Outcome:
        ends_ms = min((each for each in (task.deadline_ms, until_ms) if each), default=0)
        left_s = (ends_ms - self._clock.now_ms()) / 1000 if ends_ms else None
        try:
            async with asyncio.timeout(left_s) as limit:
                while len(self._snapshots) > _SNAPSHOTS_MAX:
                    self._snapshots.pop(next(iter(self._snapshots)))
                work = Work(self._session(task.memory_bytes), stores, self._clock, self._snapshots)
                return await self._job(task.kind)(work, task)
        except TimeoutError:
            if not limit.expired():
                raise
            if until_ms and until_ms == ends_ms:
                raise StatementTimeoutError(
                    f"the task's time is up: its worker's own limit; {SMALLER}, or give workers more time or memory",
                    limit="worker_timeout", task=task.id,
                ) from None  # fmt: skip
            raise StatementTimeoutError(
                "the task passed its time limit and was stopped; raise timeout_ms or ask for less", task=task.id
            ) from None

    def _job(self, kind: TaskKind) -> Job:
        if kind in self._jobs:
            return self._jobs[kind]
        if kind in PIECES:
            from functions.run_piece import run_piece

            return run_piece
        if kind in _JOBS:
            # Imported here: a worker that only runs pieces of queries does without what writes.
            from functions.run_jobs import JOBS

            return JOBS[kind]
        raise UnsupportedError("this worker does not run tasks of this kind", kind=kind)

    def _session(self, memory_bytes: int) -> Session:
        """Return an engine with a task's memory, or the worker's if that is less."""
        given = self._options.memory_bytes
        wanted = min(memory_bytes or given, given or memory_bytes)
        found = self._sessions.get(wanted)
        if found is None:
            if len(self._sessions) >= _SESSIONS_MAX:
                # Not closed: a task may be at work in it, and with the last one it goes.
                self._sessions.pop(next(iter(self._sessions)))
            options = self._options
            found = self._sessions[wanted] = Session(
                SessionOptions(wanted, options.spill_dir, options.target_partitions, options.s3), self._clock
            )
        return found


class _CpuShares:
    """Splits the process's CPU time among the tasks that run at a time, so that all shares add up to it."""

    def __init__(self) -> None:
        self.used: dict[object, float] = {}
        self._seen_s = 0.0

    def begin(self) -> object:
        self._settle()
        share = object()
        self.used[share] = 0.0
        return share

    def end(self, share: object) -> float:
        self._settle()
        return self.used.pop(share)

    def _settle(self) -> None:
        now_s = time.process_time()
        for share in self.used:
            self.used[share] += (now_s - self._seen_s) / len(self.used)
        self._seen_s = now_s


def _others_run() -> bool:
    """Tell whether another thread of this process runs, or would if a core were free."""
    own = str(threading.get_native_id())
    for status in Path("/proc/self/task").glob("*/stat"):
        try:
            if status.parent.name != own and status.read_text().rpartition(")")[2].split()[0] == "R":
                return True
        except OSError:  # the thread has just ended
            continue
    return False


def _wire(error: BaseException) -> Mapping[str, Any]:
    """Return an error as JSON values."""
    if isinstance(error, MemoryError):
        error = LimitError(f"the worker ran out of memory; {SMALLER}, or give workers more", limit="worker_memory")
    wire = (error if isinstance(error, FirnlineError) else translate(error)).to_wire()
    facts = {str(name): _fact(value) for name, value in cast(dict[str, Any], wire["facts"]).items()}
    return {**wire, "facts": facts}


def _fact(value: Any) -> Any:
    if isinstance(value, (str, bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return [_fact(each) for each in value] if isinstance(value, (list, tuple)) else str(value)
