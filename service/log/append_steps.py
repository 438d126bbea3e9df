"""The steps of one append as spans: its wait for a group commit, and the commit itself, until it is acknowledged."""

from __future__ import annotations

from types import TracebackType

from functions import tracing
from storage.log.queue import Waiting

__all__ = ["AppendSteps"]


class AppendSteps:
    """Spans ``log queue`` and ``log commit`` below the append's, where spans are recorded; a retry of a known key has
    neither. Enter it before the append is accepted, leave it when it is answered."""

    def __init__(self) -> None:
        self._span: tracing.Span | None = None
        self._traceparent = ""

    def watch(self, waiting: Waiting) -> None:
        """Follow an append that is accepted now."""
        if tracing.is_on():
            self._traceparent = tracing.current().traceparent
            self._span = tracing.begin("log queue")
            waiting.taken = self._taken

    def __enter__(self) -> None:
        """Do nothing: an append that is refused has no steps."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._span is not None:
            if error is not None:
                self._span.fail(error)
            self._span.end()

    def _taken(self) -> None:
        # Called by the log's writer, whose own context is that of no append.
        if self._span is not None:
            self._span.end()
            self._span = tracing.begin("log commit", parent=self._traceparent)
