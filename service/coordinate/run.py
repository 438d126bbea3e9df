"""Runs the tasks of stages: an event at a time, in one place that knows all that is under way."""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace

from functions.invoke import Invoker
from functions.stages import Stage
from functions.tasks import Reply, Task, decode_reply, encode_task
from service.coordinate.board import Board, Key
from service.coordinate.pace import Pace
from service.coordinate.stragglers import Stragglers
from service.coordinate.terms import Tally, Terms
from service.coordinate.traced import StageSpans
from service.coordinate.verdict import attempts_of, page_of, told, verdict
from service.progress import Tell, untold
from storage.clock import Clock
from storage.errors import (
    CorruptError,
    FirnlineError,
    InternalError,
    StatementTimeoutError,
    from_wire,
)

__all__ = ["StageRun"]

_TICK_S = 0.25
"""How often stragglers are looked for."""


@dataclass(slots=True)
class _Job:
    """One task: its attempts so far, and those that run."""

    key: Key
    sent: int = 0
    failed: int = 0
    throttled: int = 0
    hedged: bool = False
    running: list[_Attempt] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class _Attempt:
    job: _Job
    task: Task
    started_s: float
    hedge: bool
    work: asyncio.Task[None] | None = None
    reply: Reply | None = None
    error: BaseException | None = None
    of_reply: bool = False


class StageRun:
    """The tasks of some stages of one statement.

    Parameters
    ----------
    last : the stage that reads them elsewhere; its own tasks are not run here
    local : runs tasks of stages whose rows lie in this process

    untidy : whether attempts may have left pages that no reply names
    stored : whether pages lie at locations
    """

    def __init__(
        self, stages: Sequence[Stage], last: Stage | None, invoker: Invoker, clock: Clock, terms: Terms, tally: Tally,
        local: Callable[[Task], Awaitable[Reply]] | None = None,
    ) -> None:  # fmt: skip
        self.board = Board(stages, invoker.limits, [last] if last else ())
        self._numbers, self._n_tasks = range(len(stages)), sum(stage.n_partitions for stage in stages)
        self.untidy = self.stored = False
        self._local = local
        self._invoker, self._clock, self._terms, self._tally = invoker, clock, terms, tally
        asked = [most for most in (invoker.limits.concurrency, terms.tasks_max) if most]
        self._pace = Pace(min(asked, default=0))
        self._waiting: deque[_Job] = deque()
        self._later: list[tuple[float, int, _Job]] = []
        self._jobs: dict[Key, _Job] = {}
        self._before: dict[Key, frozenset[tuple[int, str]]] = {}
        """Tasks that run again: checksums of the rows that they gave, by bucket."""
        self._ended: asyncio.Queue[_Attempt] = asyncio.Queue()
        self._running: set[_Attempt] = set()
        self._stragglers = Stragglers(terms)
        self._spans = StageSpans(terms.traceparent)
        self._n_later = 0
        self._looked_s = 0.0
        self._dropped: list[asyncio.Task[None]] = []

    async def run(self, tell: Tell = untold) -> None:
        """Run until all tasks have given their rows; may be called again after `lost`. ``tell`` takes how far it is.

        Raises the error of the first task that failed for good, `StatementTimeoutError` past the deadline. Nothing
        runs any more when it returns or raises.
        """
        self._open()
        try:
            while not self.board.done:
                tell(sum(map(self.board.n_done, self._numbers)), self._n_tasks, "tasks done")
                self._start()
                attempt = await self._next()
                if attempt is not None:
                    self._settle(attempt)
        finally:
            await self._stop([*self._running])
            self._spans.close()

    def lost(self, error: FirnlineError) -> bool:
        """Take a page as lost that ``error`` names: the task that wrote it has to run again. False if none did."""
        location = page_of(error)
        key = self.board.writer_of(location) if location is not None else None
        if key is None:
            return False
        job = self._jobs[key]
        job.failed += 1
        if job.failed >= self._terms.attempts_max:
            return False
        self._tally.reruns += 1
        self.untidy = True
        self._before[key] = frozenset((page.bucket, page.checksum) for page in self.board.forget(key))
        self._waiting.append(job)
        return True

    # What may start

    def _open(self) -> None:
        for key in self.board.opened():
            job = self._jobs.get(key)
            if job is None:
                job = self._jobs[key] = _Job(key)
            elif job.running or job in self._waiting:
                continue
            self._waiting.append(job)

    def _start(self) -> None:
        now_s = self._clock.monotonic_s()
        while self._later and self._later[0][0] <= now_s:
            self._waiting.appendleft(heapq.heappop(self._later)[2])
        free = self._pace.free(len(self._running), now_s)
        held: list[_Job] = []
        while self._waiting and free:
            job = self._waiting.popleft()
            if job.running or self.board.is_done(job.key):
                continue
            if not self.board.may_run(job.key):
                held.append(job)
                continue
            self._send(job, now_s)
            free -= 1
        self._waiting.extend(held)
        if free and not self._waiting and now_s - self._looked_s >= _TICK_S:
            self._looked_s = now_s
            self._hedge(free, now_s)

    def _hedge(self, free: int, now_s: float) -> None:
        for attempt in [*self._running]:
            job = attempt.job
            if not free:
                return
            stage = self.board.stage(job.key)
            elapsed_s = now_s - attempt.started_s
            if not self.board.may_run(job.key):
                continue  # rows that it reads are being written anew
            if not job.hedged and self._stragglers.is_late(stage.number, stage.n_partitions, elapsed_s):
                job.hedged = True
                self._stragglers.copied(stage.number)
                self._tally.hedges += 1
                self._send(job, now_s, hedge=True)
                free -= 1

    def _send(self, job: _Job, now_s: float, *, hedge: bool = False) -> None:
        job.sent += 1
        # The task is made here: what it reads is all there now, and may be taken back before the attempt gets to run.
        attempt = _Attempt(job, self.board.task(job.key, job.sent, self._terms), now_s, hedge)
        job.running.append(attempt)
        self._running.add(attempt)
        self._tally.attempts += 1
        self._tally.most_running = max(self._tally.most_running, len(self._running))
        attempt.work = asyncio.create_task(self._attempt(attempt))

    async def _attempt(self, attempt: _Attempt) -> None:
        span, task = None, attempt.task
        try:
            if self._local is not None and self.board.stage(attempt.job.key).local:
                attempt.reply = await self._local(task)
                self._ended.put_nowait(attempt)
                return
            span = self._spans.attempt(task, self.board.stage(attempt.job.key).n_partitions, hedge=attempt.hedge)
            message = encode_task(replace(task, traceparent=span.traceparent), self._terms.secret)
            self._tally.bytes_moved += len(message)
            data = await self._invoker.invoke(message, timeout_ms=self._timeout_ms())
            self._tally.bytes_moved += len(data)
            try:
                attempt.reply = decode_reply(data, self._terms.secret, task)
            except CorruptError:
                attempt.of_reply = True
                raise
        except asyncio.CancelledError as error:
            self._spans.ended(span, None, error)
            self._count(attempt, "dropped")
            raise
        except Exception as error:  # noqa: BLE001 - the loop settles it
            attempt.error = error
        self._spans.ended(span, attempt.reply, attempt.error)
        wire = attempt.reply.error if attempt.reply is not None else None
        failed = type(attempt.error).__name__ if attempt.error is not None else None
        self._count(attempt, failed or ("succeeded" if wire is None else str(wire.get("error"))))
        self._ended.put_nowait(attempt)

    def _count(self, attempt: _Attempt, outcome: str) -> None:
        kind = self.board.stage(attempt.job.key).kind
        self._tally.ended[kind, outcome, attempt.task.attempt] += 1

    def _timeout_ms(self) -> int:
        left_ms = self._left_ms()
        allowed = (self._invoker.limits.timeout_ms, self._terms.task_timeout_ms)
        most = min((each for each in allowed if each), default=0)
        return most if left_ms is None else max(1, min(most or left_ms, left_ms))

    def _left_ms(self) -> int | None:
        return self._terms.deadline_ms - self._clock.now_ms() if self._terms.deadline_ms else None

    # What has ended

    async def _next(self) -> _Attempt | None:
        """Wait for an attempt to end, or for a time at which something may start."""
        now_s = self._clock.monotonic_s()
        until = [_TICK_S] if self._running and not self._ended.qsize() else []
        if self._later:
            until.append(self._later[0][0] - now_s)
        held_s = self._pace.held_until_s(now_s)
        if held_s is not None:
            until.append(held_s - now_s)
        left_ms = self._left_ms()
        if left_ms is not None:
            if left_ms <= 0:
                raise StatementTimeoutError(
                    "the statement passed its time limit and its tasks were stopped; raise timeout_ms or ask for less",
                    deadline_ms=self._terms.deadline_ms,
                )
            until.append(left_ms / 1000)
        if not self._running and not until:
            raise InternalError("a statement's tasks wait for each other", waiting=len(self._waiting))
        if self._ended.qsize():
            return self._ended.get_nowait()
        try:
            async with asyncio.timeout(max(0.0, min(until))):
                return await self._ended.get()
        except TimeoutError:
            return None

    def _settle(self, attempt: _Attempt) -> None:
        job = attempt.job
        self._running.discard(attempt)
        if attempt not in job.running:
            return  # another attempt has given the rows already, or its inputs are no more
        job.running.remove(attempt)
        now_s = self._clock.monotonic_s()
        elapsed_s = now_s - attempt.started_s
        reply, error = attempt.reply, attempt.error
        if reply is not None:
            self._tally.add_usage(reply.usage)
            self._pace.replied(elapsed_s, reply.usage.get("wall_ms", 0.0) / 1000)
            error = from_wire(dict(reply.error)) if reply.error is not None else None
        else:
            self._tally.add_lost(elapsed_s)
        if error is not None:
            self._failed(attempt, error, now_s)
        elif reply is not None:
            self._stragglers.took(job.key[0], elapsed_s)
            self._tally.hedges_won += attempt.hedge
            self._done(job, reply)

    def _done(self, job: _Job, reply: Reply) -> None:
        for other in job.running:
            self._drop(other)
        job.running.clear()
        key, pages = job.key, reply.pages
        self._tally.add_task(key[0], reply.usage)
        stored = [page.n_bytes for page in pages if page.location is not None]
        self.stored = self.stored or bool(stored)
        self._tally.bytes_moved += sum(stored)
        self.board.finish(key, pages)
        before = self._before.pop(key, None)
        if before is not None and before != frozenset((page.bucket, page.checksum) for page in pages):
            self._reopen(key)
        self._open()

    def _reopen(self, key: Key) -> None:
        """Run all again that read rows which a task has now given otherwise."""
        above = self.board.above(key[0])
        for attempt in [*self._running]:
            if attempt.job.key[0] in above:
                attempt.job.running.clear()
                self._drop(attempt)
        self.board.reopen(above)

    def _drop(self, attempt: _Attempt) -> None:
        self.untidy = True
        self._running.discard(attempt)
        if attempt.work is not None and attempt.work.cancel():
            self._dropped.append(attempt.work)
            self._tally.add_lost(self._clock.monotonic_s() - attempt.started_s)

    def _failed(self, attempt: _Attempt, error: BaseException, now_s: float) -> None:
        """Send the task again, or raise its error."""
        job, terms = attempt.job, self._terms
        self.untidy = True
        if not isinstance(error, FirnlineError):
            raise error
        asks = verdict(error, of_reply=attempt.of_reply)
        if asks == "slower":
            self._slow_down(job, error, now_s)
            return
        if asks == "page" and self._page_gone(attempt, error):
            return
        job.failed += 1
        spent = job.failed >= attempts_of(error, terms.attempts_max) and not job.running
        if asks == "fail" or spent:
            raise self._told(job, error)
        if not job.running:
            self._tally.retries += 1
            self._again(job, now_s + self._backoff_s(job.failed))

    def _page_gone(self, attempt: _Attempt, error: FirnlineError) -> bool:
        """Have a page written anew that a task could not read. False if it cannot be, or was too often."""
        location = page_of(error)
        held = (page.location for pages in attempt.task.inputs.values() for page in pages)
        if location not in held:
            return False
        if self.board.writer_of(location or "") is not None and not self.lost(error):
            return False
        # Its writer runs again, or did: this one reads what it gives then.
        self._tally.retries += 1
        if not attempt.job.running:
            self._waiting.append(attempt.job)
        return True

    def _slow_down(self, job: _Job, error: FirnlineError, now_s: float) -> None:
        self._tally.throttles += 1
        job.throttled += 1
        if job.throttled > self._terms.throttles_max:
            raise self._told(job, error)
        asked = error.facts.get("retry_after_s", 0)
        wait_s = self._backoff_s(job.throttled)
        if isinstance(asked, (int, float)):
            wait_s = max(wait_s, min(float(asked), self._terms.backoff_max_s))
        self._pace.throttled(now_s, wait_s / 4)
        if not job.running:
            self._tally.retries += 1
            self._again(job, now_s + wait_s)

    def _again(self, job: _Job, due_s: float) -> None:
        self._n_later += 1
        heapq.heappush(self._later, (due_s, self._n_later, job))

    def _backoff_s(self, n: int) -> float:
        """Return a wait with full jitter, doubled each time."""
        most = min(self._terms.backoff_s * 2.0 ** min(n - 1, 16), self._terms.backoff_max_s)
        return self._clock.uniform(most / 4, most)

    def _told(self, job: _Job, error: FirnlineError) -> FirnlineError:
        return told(error, task=f"{job.key[0]}.{job.key[1]}", attempts=job.sent)

    async def _stop(self, attempts: Sequence[_Attempt]) -> None:
        for attempt in attempts:
            attempt.job.running.clear()
            self._drop(attempt)
        dropped, self._dropped = self._dropped, []
        await asyncio.gather(*dropped, return_exceptions=True)
