"""Spans of a statement's stages and of their tasks' attempts."""

from __future__ import annotations

from functions import tracing
from functions.tasks import Reply, Task
from functions.tracing import Span

__all__ = ["StageSpans"]


class StageSpans:
    """The spans of one `service.coordinate.run.StageRun`, below ``traceparent``.

    A stage's span lasts from its first attempt to the end of its last, so those of stages that overlap do so too.
    """

    def __init__(self, traceparent: str) -> None:
        self._traceparent = traceparent
        self._stages: dict[int, Span] = {}

    def attempt(self, task: Task, n_tasks: int, *, hedge: bool) -> Span:
        """Return the span of one attempt of a task; the worker's own is below it."""
        if not tracing.is_on():
            return tracing.named(self._traceparent)
        stage = int(task.id.partition(".")[0])
        above = self._stages.get(stage)
        if above is None:
            of_stage: tracing.Attributes = {
                "firnline.stage": stage,
                "firnline.tasks": n_tasks,
                "firnline.task_kind": task.kind,
            }
            above = self._stages[stage] = tracing.begin(f"stage {task.kind}", of_stage, parent=self._traceparent)
        about: tracing.Attributes = {
            "firnline.statement_id": task.statement_id, "firnline.task_id": task.id, "firnline.attempt": task.attempt,
            "firnline.hedge": hedge,
        }  # fmt: skip
        return tracing.begin(f"task {task.kind}", about, parent=above.traceparent, kind="client")

    def ended(self, span: Span | None, reply: Reply | None, error: BaseException | None) -> None:
        """End an attempt's span, if it has one."""
        if span is None or not span.recorded:
            return
        if error is not None:
            span.fail(error)
        elif reply is not None and reply.error is not None:
            span.failed(str(reply.error.get("error")))
        span.end()

    def close(self) -> None:
        """End the stages' spans: nothing of them runs any more."""
        for span in self._stages.values():
            span.end()
        self._stages.clear()
