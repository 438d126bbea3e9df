"""How often a task is sent, by what it failed with, and what an error says of a way out."""

from __future__ import annotations

import pytest

from functions.invoke.lambda_errors import of_function
from functions.invoke.outcome import timed_out
from service.coordinate.verdict import attempts_of, verdict
from storage.errors import CorruptError, FirnlineError, LimitError, StatementTimeoutError, UnavailableError

KILLED = of_function({"errorType": "Runtime.ExitError", "errorMessage": "exited with error: signal: killed"}, "worker")
OUT = of_function({"errorType": "Runtime.OutOfMemory", "errorMessage": ""}, "worker")
LATE = of_function({"errorType": "Sandbox.Timedout", "errorMessage": "Task timed out after 900.00 seconds"}, "worker")


@pytest.mark.parametrize(
    ("error", "asks", "attempts"),
    [
        (UnavailableError("the worker died"), "again", 4),
        (CorruptError("damaged"), "again", 4),
        (KILLED, "again", 2),
        (OUT, "again", 2),
        (LimitError("past its memory", limit="worker_memory_bytes"), "again", 2),
        (timed_out(900.0), "again", 2),
        (UnavailableError("a gateway waited in vain", limit="timeout_ms"), "again", 2),
        (LATE, "again", 1),
        (StatementTimeoutError("the task passed its time limit"), "again", 1),
        (LimitError("the statement needs more memory"), "fail", 4),
        (LimitError("the rows need more memory", limit="memory"), "fail", 4),
    ],
    ids=lambda each: str(each)[:40],
)
def test_what_ended_at_a_workers_limit_is_tried_once_more_or_not_at_all(
    error: FirnlineError, asks: str, attempts: int
) -> None:
    assert verdict(error, of_reply=True) == asks
    assert attempts_of(error, 4) == attempts
    assert attempts_of(error, 1) == 1


@pytest.mark.parametrize("error", [KILLED, OUT, LATE, timed_out(900.0)], ids=str)
def test_a_workers_limit_is_told_with_what_helps(error: FirnlineError) -> None:
    for name in ("max_tasks", "FIRN_TASKS_MAX", "FIRN_FUNCTIONS_CONCURRENCY"):
        assert name in error.message
    assert "time" in error.message or "memory" in error.message
