"""Which tasks a statement's stages are, which may start, and which rows each has given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from functions.execute import ENGINE
from functions.invoke import InvokerLimits
from functions.stages import Stage, pages_of
from functions.tasks import Page, Task
from service.coordinate.terms import Terms

__all__ = ["Board", "Key"]

Key = tuple[int, int]
"""Stage and partition."""

INLINE_BYTES_MAX = 1 << 20
"""Of rows in a reply."""
MESSAGE_BYTES_MAX = 8 << 20
"""Of rows in a task, for one leaf, where the invoker sets no limit."""
COPIED_BYTES_MAX = 256 << 10
"""Of rows that go into every task of a stage."""


@dataclass(slots=True)
class _State:
    stage: Stage
    outputs: list[Sequence[Page] | None]
    left: int
    readers: list[int]


class Board:
    """The tasks of some stages, inputs first."""

    def __init__(self, stages: Sequence[Stage], limits: InvokerLimits, readers_of: Iterable[Stage] = ()) -> None:
        """Tasks of ``stages``; ``readers_of`` are stages that read them elsewhere."""
        self._limits = limits
        self._states = [_State(stage, [None] * stage.n_partitions, stage.n_partitions, []) for stage in stages]
        for stage in stages:
            for _name, number in stage.inputs:
                self._states[number].readers.append(stage.number)
        self._elsewhere = {number for stage in readers_of for _name, number in stage.inputs}
        self._opened: set[int] = set()

    @property
    def done(self) -> bool:
        """Whether all tasks have given their rows."""
        return not any(state.left for state in self._states)

    def stage(self, key: Key) -> Stage:
        """Return a task's stage."""
        return self._states[key[0]].stage

    def n_done(self, number: int) -> int:
        """Return how many tasks of a stage have given their rows."""
        return len(self._states[number].outputs) - self._states[number].left

    def outputs(self, number: int) -> list[Sequence[Page]]:
        """Return the pages of each task of a stage that is done."""
        return [pages or () for pages in self._states[number].outputs]

    def opened(self) -> Iterator[Key]:
        """Yield tasks of stages whose inputs have become complete since this was asked last."""
        for state in self._states:
            number = state.stage.number
            if state.left and number not in self._opened and self._has_inputs(state.stage):
                self._opened.add(number)
                for partition, pages in enumerate(state.outputs):
                    if pages is None:
                        yield number, partition

    def may_run(self, key: Key) -> bool:
        """Tell whether a task's inputs are all there."""
        return self._has_inputs(self.stage(key))

    def is_done(self, key: Key) -> bool:
        """Tell whether a task has given its rows."""
        return self._states[key[0]].outputs[key[1]] is not None

    def _has_inputs(self, stage: Stage) -> bool:
        return not any(self._states[number].left for _name, number in stage.inputs)

    def finish(self, key: Key, pages: Sequence[Page]) -> None:
        """Take a task's rows."""
        state = self._states[key[0]]
        state.left -= state.outputs[key[1]] is None
        state.outputs[key[1]] = pages

    def writer_of(self, location: str) -> Key | None:
        """Return the task whose rows a page holds; None if no rows that count lie there."""
        for state in self._states:
            for partition, pages in enumerate(state.outputs):
                if any(page.location == location for page in pages or ()):
                    return state.stage.number, partition
        return None

    def forget(self, key: Key) -> Sequence[Page]:
        """Take a task's rows back, and return them: it has to run again."""
        state = self._states[key[0]]
        pages = state.outputs[key[1]]
        state.left += pages is not None
        state.outputs[key[1]] = None
        return pages or ()

    def above(self, number: int) -> set[int]:
        """Return the stages that depend on a stage, at any distance."""
        found: set[int] = set()
        waiting = [number]
        while waiting:
            for reader in self._states[waiting.pop()].readers:
                if reader not in found:
                    found.add(reader)
                    waiting.append(reader)
        return found

    def reopen(self, numbers: Iterable[int]) -> None:
        """Take back the rows of whole stages."""
        for number in numbers:
            for partition in range(len(self._states[number].outputs)):
                self.forget((number, partition))
            self._opened.discard(number)

    def task(self, key: Key, attempt: int, terms: Terms) -> Task:
        """Return what a worker is told."""
        stage = self.stage(key)
        piece = stage.piece(key[1])
        return Task(
            kind=stage.kind,
            statement_id=terms.statement_id,
            id=f"{key[0]}.{key[1]}",
            body={},
            payload=piece.plan,
            inputs={read.name: pages_of(read, self.outputs(read.stage)) for read in piece.reads},
            deadline_ms=terms.deadline_ms,
            inline_bytes_max=self._inline_bytes(stage),
            results=terms.results,
            traceparent=terms.traceparent,
            attempt=attempt,
            memory_bytes=terms.memory_bytes,
            engine=ENGINE,
            needs=("merge",) if stage.merges else (),
        )

    def _inline_bytes(self, stage: Stage) -> int:
        """Return how many bytes of rows a reply may hold, so that whoever reads them gets no message too large."""
        most = min(INLINE_BYTES_MAX, self._limits.reply_bytes // 2 or INLINE_BYTES_MAX)
        state = self._states[stage.number]
        if not state.readers:
            return most
        # Readers of buckets get one share of a page each; other readers get all pages, each of them.
        copies = 1 if stage.exchange.kind == "hash" else max(self._states[each].stage.n_partitions
                                                             for each in state.readers)  # fmt: skip
        room = (self._limits.message_bytes or 2 * MESSAGE_BYTES_MAX) // 2
        total = min(room, MESSAGE_BYTES_MAX) if copies == 1 else min(room, COPIED_BYTES_MAX)
        return min(most, total // max(1, stage.n_partitions))
