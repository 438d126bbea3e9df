"""What became of the latest statements: their ends are counted, logged, and remembered for a while."""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from service.executor import EncodedResult
from service.metrics import Metrics
from service.problems import problem_of
from service.progress import Progress
from service.statement import Receipt
from storage.clock import Clock
from storage.errors import STATUS, FirnlineError

__all__ = ["Entry", "Journal"]

_log = logging.getLogger("firnline.statements")
_REMEMBERED_MAX = 4096


@dataclass(slots=True, eq=False)
class Entry:
    """One statement of this process, from its request to its end."""

    statement_id: str
    request_id: str
    owner: str
    mode: str
    format: str
    started_s: float
    created_ms: int
    state: str = "running"
    finished_ms: int | None = None
    receipt: Receipt | None = None
    problem: dict[str, Any] | None = None
    bytes_out: int = 0
    sql: str | None = None
    """For the log, where it is to hold statements' texts."""

    def to_dict(self, progress: Progress | None = None) -> dict[str, Any]:
        """Return the body of ``GET /v1/statements/{id}``; ``progress`` is how far it is, if it tells."""
        found: dict[str, Any] = {
            "statement_id": self.statement_id,
            "state": self.state,
            "mode": self.mode,
            "created_ms": self.created_ms,
            "finished_ms": self.finished_ms,
            "receipt": self.receipt.to_dict() if self.receipt and self.state == "succeeded" else None,
            "error": self.problem,
            "progress": None if progress is None else progress.to_dict(),
        }
        return {key: value for key, value in found.items() if value is not None}


class Journal:
    """Begins and ends entries."""

    def __init__(self, metrics: Metrics, clock: Clock) -> None:
        self._metrics = metrics
        self._clock = clock
        self._entries: OrderedDict[str, Entry] = OrderedDict()

    def begin(self, statement_id: str, request_id: str, owner: str, *, mode: str, form: str) -> Entry:
        """Note a statement that starts."""
        now_s, now_ms = self._clock.monotonic_s(), self._clock.now_ms()
        entry = Entry(statement_id, request_id, owner, mode, form, now_s, now_ms)
        self._entries[statement_id] = entry
        if len(self._entries) > _REMEMBERED_MAX:
            self._entries.popitem(last=False)
        return entry

    def find(self, statement_id: str) -> Entry | None:
        """Return a statement of this process, if it is not long ago."""
        return self._entries.get(statement_id)

    def streaming(self, entry: Entry, result: EncodedResult) -> None:
        """Note the receipt that a statement's result fills in."""
        entry.receipt = result.receipt

    def end(self, entry: Entry, error: FirnlineError | None = None) -> None:
        """Count and log how a statement ended."""
        if entry.finished_ms is not None:
            return
        entry.finished_ms = self._clock.now_ms()
        outcome = "succeeded"
        entry.state = "succeeded"
        if error is not None:
            entry.problem = problem_of(error, entry.statement_id)
            outcome = entry.problem["title"]
            entry.state = "cancelled" if outcome == "CancelledError" else "failed"
        receipt = entry.receipt or Receipt()
        seconds = self._clock.monotonic_s() - entry.started_s
        self._metrics.statement(
            outcome, seconds, rows=receipt.rows, bytes_out=entry.bytes_out, bytes_scanned=receipt.bytes_scanned,
            cost_usd=receipt.cost_usd, routes=receipt.routes.values(),
        )  # fmt: skip
        self._write(entry, outcome, seconds, receipt, error)

    def _write(self, entry: Entry, outcome: str, seconds: float, receipt: Receipt, error: FirnlineError | None) -> None:
        level = logging.ERROR if error is not None and _status(error) >= 500 else logging.INFO
        _log.log(
            level,
            "statement",
            extra={
                "statement_id": entry.statement_id,
                "request_id": entry.request_id,
                "owner": entry.owner or None,
                "mode": entry.mode,
                "format": entry.format,
                "outcome": outcome,
                "error": outcome if error is not None else None,
                "ms": round(seconds * 1000, 1),
                "rows": receipt.rows,
                "bytes_out": entry.bytes_out,
                "bytes_scanned": receipt.bytes_scanned,
                "files_scanned": receipt.files_scanned,
                "requests": receipt.requests,
                "cpu_ms": round(receipt.cpu_ms + receipt.task_cpu_ms, 1),
                "tasks": receipt.tasks,
                "retries": receipt.retries or None,
                "hedges": receipt.hedges or None,
                "cost_usd": receipt.cost_usd or None,
                "sql": entry.sql,
            },
        )


def _status(error: FirnlineError) -> int:
    return next(STATUS[cls] for cls in type(error).__mro__ if cls in STATUS)
