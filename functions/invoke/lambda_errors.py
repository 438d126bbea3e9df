"""What AWS Lambda and its client say, as errors of the `functions.invoke.Invoker` contract."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError, ParamValidationError

from functions.invoke.outcome import RETRY_AFTER_S, SMALLER, refused
from functions.tasks import DIFFERS
from storage.errors import (
    STATUS,
    FirnlineError,
    ForbiddenError,
    InvalidError,
    LimitError,
    OverloadedError,
    StatementTimeoutError,
    UnavailableError,
)

__all__ = ["of_client", "of_function"]

_TOO_LARGE = ("RequestTooLargeException", "SerializedRequestEntityTooLargeException", "413")
_FORBIDDEN = ("AccessDenied", "UnrecognizedClient", "InvalidSignature", "ExpiredToken", "MissingAuthentication",
              "InvalidClientTokenId", "SignatureDoesNotMatch", "KMSAccessDenied")  # fmt: skip
_INVALID = ("ResourceNotFound", "InvalidParameterValue", "InvalidRequestContent", "UnsupportedMediaType",
            "ValidationException", "InvalidRuntime", "InvalidZipFile", "RecursiveInvocation")  # fmt: skip
_THROTTLED = ("TooManyRequests", "Throttl", "EC2Throttled", "RequestLimitExceeded", "SlowDown")
_SAID = 500
_DIFFERS = re.compile(r" differs=(\w+)(?:\s|$)")


def of_client(error: Exception, function: str) -> FirnlineError:
    """Return the error of a call that the service refused, or that did not reach it."""
    if isinstance(error, ClientError):
        return _of_service(error, function)
    reason = str(error)[:_SAID] or type(error).__name__
    if isinstance(error, NoCredentialsError):
        return ForbiddenError("there are no AWS credentials to invoke the function with", function=function)
    if isinstance(error, NoRegionError | ParamValidationError):
        return InvalidError("the function cannot be invoked like this", function=function, reason=reason)
    if isinstance(error, BotoCoreError | OSError):
        return UnavailableError("the function did not answer", function=function, reason=reason)
    return UnavailableError("the function's client failed", function=function, kind=type(error).__name__, reason=reason)


def _of_service(error: ClientError, function: str) -> FirnlineError:
    response: Mapping[str, Any] = error.response
    said = response.get("Error", {})
    code, meta = str(said.get("Code", "")), response.get("ResponseMetadata", {})
    facts = {"function": function, "code": code, "reason": str(said.get("Message", ""))[:_SAID] or None}
    if code in _TOO_LARGE:
        return LimitError("the task is larger than Lambda takes", limit="message_bytes", **facts)
    if code.startswith(_THROTTLED) or meta.get("HTTPStatusCode") == 429:
        return OverloadedError(
            "Lambda runs as many tasks as the account or the function allows",
            retry_after_s=_retry_after_s(meta.get("HTTPHeaders", {})), **facts,
        )  # fmt: skip
    if code.startswith(_FORBIDDEN):
        return ForbiddenError("we may not invoke the function; allow lambda:InvokeFunction on it", **facts)
    if code.startswith(_INVALID):
        return InvalidError("the function cannot be invoked; check its name and state", **facts)
    return UnavailableError("Lambda did not run the function", **facts)


def _retry_after_s(headers: Mapping[str, str]) -> float:
    try:
        return max(0.0, float(headers["retry-after"]))
    except (KeyError, ValueError):
        return RETRY_AFTER_S


def _differs(said: str) -> dict[str, str]:
    """Return the one fact that coordinators act on: Lambda passes on an error's class and its text, and no more."""
    found = _DIFFERS.search(said)
    return {"differs": found[1]} if found is not None and found[1] in DIFFERS else {}


_CLASSES = {cls.__name__ for cls in STATUS}


def of_function(answer: Any, function: str) -> FirnlineError:
    """Return the error of a function that ran and failed (``FunctionError``), from its payload."""
    found = answer if isinstance(answer, dict) else {}
    kind, said = str(found.get("errorType") or ""), str(found.get("errorMessage") or "")[:_SAID]
    if kind in _CLASSES:
        return refused({"error": kind, "message": said, "facts": {"function": function} | _differs(said)})
    facts = {"function": function, "kind": kind or None, "reason": said or None}
    if kind == "Function.ResponseSizeTooLarge" or "exceeded maximum allowed payload size" in said:
        return LimitError("the reply is larger than Lambda gives", limit="reply_bytes", **facts)
    if kind == "Sandbox.Timedout" or "Task timed out after" in said:
        return StatementTimeoutError(
            f"the task's time is up: the function's own limit; {SMALLER}, or give the function more time or memory",
            limit="worker_timeout", **facts,
        )  # fmt: skip
    # A function that passes its memory is mostly said to have been killed, and no more.
    if kind in ("Runtime.OutOfMemory", "MemoryError") or (kind == "Runtime.ExitError" and "signal: killed" in said):
        return LimitError(
            f"the function ran out of memory and was ended; {SMALLER}, or give the function more memory",
            limit="worker_memory", **facts,
        )  # fmt: skip
    return UnavailableError("the function failed without a reply", **facts)
