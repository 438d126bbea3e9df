"""`HttpInvoker`: tasks at ``POST <url>/v1/task`` of workers behind one URL: ``firn worker``, a Knative service.

Who may ask is told by a task's signature. A worker that is gone, and a gateway that says so, is `UnavailableError`;
429, and 503 that says when to come again, is `OverloadedError`. Whether a task stops when its caller is gone depends on
what is between them.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from functions.admission import FIELD, admission
from functions.invoke import InvokerLimits
from functions.invoke.http_client import Answer, Client, LostError, TooLongError
from functions.invoke.outcome import (
    RETRY_AFTER_S,
    SMALLER,
    check_message,
    closed,
    refused,
    reply_too_large,
    seconds,
    timed_out,
)
from functions.signed import MESSAGE_BYTES_MAX
from storage.clock import Clock
from storage.errors import (
    FirnlineError,
    ForbiddenError,
    InvalidError,
    LimitError,
    OverloadedError,
    StatementTimeoutError,
    UnavailableError,
)

__all__ = ["HttpInvoker"]

TASK_PATH = "/v1/task"
CONCURRENCY = 64
_RETRY_AFTER_S_MAX = 60.0
_SAID_BYTES = 300


class HttpInvoker:
    """An `functions.invoke.Invoker` of workers behind a URL.

    Parameters
    ----------
    concurrency : tasks at once; 0: `CONCURRENCY`
    ca_file : PEM file of the CA that signed the workers' certificate; None: the system's
    secret : that messages are signed with; without it workers take shorter ones only
    """

    name = "http"

    def __init__(
        self, url: str, clock: Clock, *, concurrency: int = 0, ca_file: str | None = None,
        limits: InvokerLimits | None = None, secret: bytes = b"",
    ) -> None:  # fmt: skip
        self.limits = limits or InvokerLimits(
            MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX, concurrency=concurrency or CONCURRENCY, stops=False
        )
        self._client, self._clock, self._secret = Client(url, clock, ca_file=ca_file), clock, secret
        self._places = asyncio.Semaphore(max(1, self.limits.concurrency))
        self._closed = False

    async def invoke(self, message: bytes, *, timeout_ms: int) -> bytes:
        if self._closed:
            raise closed(self.name)
        check_message(message, self.limits)
        timeout_s = seconds(timeout_ms, self.limits)
        try:
            async with asyncio.timeout(timeout_s), self._places:
                told = {FIELD: admission(len(message), self._clock.now_ms(), self._secret)} if self._secret else None
                answer = await self._client.request(
                    "POST", TASK_PATH, message, body_bytes_max=self.limits.reply_bytes or MESSAGE_BYTES_MAX, fields=told
                )
        except TimeoutError:
            raise timed_out(timeout_s) from None
        except TooLongError as error:
            raise reply_too_large(self.limits, int(str(error))) from None
        except LostError as error:
            if self._closed:
                raise closed(self.name) from None
            what = "a worker was asked and did not answer" if error.sent else "the workers cannot be reached"
            raise UnavailableError(what, url=self._client.url, reason=str(error)[:_SAID_BYTES]) from None
        if answer.status == 200:
            return answer.body
        raise _error_of(answer, self._client.url)

    async def close(self) -> None:
        self._closed = True
        await self._client.close()


def _error_of(answer: Answer, url: str) -> FirnlineError:
    """Return the error of an answer that is no reply: what the worker says, else what its status means."""
    wire = _wire(answer)
    if wire is not None:
        return refused(wire)
    status, said = answer.status, answer.body[:_SAID_BYTES].decode("utf-8", "replace").strip()
    facts = {"url": url, "status": status, "said": said or None}
    if status == 429 or (status == 503 and "retry-after" in answer.fields):
        return OverloadedError("the workers have too much to do", retry_after_s=_retry_after_s(answer), **facts)
    if status in (401, 403):
        return ForbiddenError("the workers, or a gateway before them, refuse the task", **facts)
    if status == 413:
        return LimitError(
            "the task is larger than the workers, or a gateway before them, take", limit="message_bytes", **facts
        )
    if status == 408:
        return StatementTimeoutError(
            f"the task's time is up at the workers; {SMALLER}, or give the workers more time",
            limit="timeout_ms",
            **facts,
        )
    if status == 504:
        return UnavailableError(
            "a gateway before the workers waited in vain: none started in its time, or the task took longer; give the "
            f"service more time, or {SMALLER}",
            limit="timeout_ms", **facts,
        )  # fmt: skip
    if status in (404, 405) or 300 <= status < 500:
        return InvalidError("there are no workers at this URL; check FIRN_FUNCTIONS", **facts)
    return UnavailableError("a worker failed without a reply", **facts)


def _wire(answer: Answer) -> dict[str, Any] | None:
    """Return the error that a worker describes, as a problem document or as on the wire; None if it does not."""
    if "json" not in answer.fields.get("content-type", ""):
        return None
    try:
        found = json.loads(answer.body)
    except ValueError:
        return None
    if not isinstance(found, dict):
        return None
    facts = dict(found["facts"]) if isinstance(found.get("facts"), dict) else {}
    if "retry-after" in answer.fields:
        facts["retry_after_s"] = _retry_after_s(answer)
    if isinstance(found.get("error"), str):
        return {"error": found["error"], "message": found.get("message", ""), "facts": facts}
    if isinstance(found.get("title"), str) and "detail" in found:
        return {"error": found["title"], "message": found["detail"], "facts": facts}
    return None


def _retry_after_s(answer: Answer) -> float:
    try:
        return min(max(float(answer.fields["retry-after"]), 0.0), _RETRY_AFTER_S_MAX)
    except (KeyError, ValueError):  # none, or a date
        return RETRY_AFTER_S
