"""What an obstore exception means for the call that raised it.

obstore tells a failed request's HTTP status and body, and whether a connection stood, only in its message. They are
read from the part that follows ``Debug source:``, with its line breaks: keys and bodies are quoted there, and a line
break in them is escaped, so they cannot pass for something else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from obstore import exceptions as obstore_errors

from storage.errors import (
    ConflictError,
    FirnlineError,
    ForbiddenError,
    IndeterminateError,
    InvalidError,
    NotFoundError,
    UnavailableError,
    UnsupportedError,
)

__all__ = ["OBSTORE_ERRORS", "Failure", "Target", "classify"]

OBSTORE_ERRORS: tuple[type[Exception], ...] = (obstore_errors.BaseError, FileNotFoundError, ValueError)

Kind = Literal["rejected", "absent", "condition", "range", "not_done", "unknown"]
"""rejected: will fail again · absent: no such key · condition: it did not hold · range: past the end ·
not_done: definitely did not happen, may be retried · unknown: may have happened"""

_STATUS = re.compile(r"\n\s+inner: Status \{\n\s+status: (\d{3}),")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_HTTP_KIND = re.compile(r"\n\s+inner: Http\(\n\s+HttpError \{\n\s+kind: (\w+),")
_BARE_REDIRECT = re.compile(r"\n\s+inner: BareRedirect")

_BUSY_CODES = {
    "SlowDown",
    "ServiceUnavailable",
    "Busy",
    "RequestLimitExceeded",
    "ThrottlingException",
    "TooManyRequests",
}
_CREDENTIAL_CODES = {"ExpiredToken", "InvalidToken", "TokenRefreshRequired", "InvalidAccessKeyId", "InvalidSecurity"}
_REGION_CODES = {"AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException"}


@dataclass(frozen=True, slots=True)
class Target:
    """What the failed call was about, for the message."""

    bucket: str
    endpoint: str
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed try: what it means, and what to raise if nothing better can be done."""

    kind: Kind
    error: FirnlineError


def classify(error: Exception, target: Target, credentials_failure: FirnlineError | None = None) -> Failure:
    """Say what ``error`` means. An error that is not understood is `IndeterminateError`."""
    debug = str(error).rpartition("\n\nDebug source:\n")[2]
    status = _STATUS.search(debug)
    if status is not None:
        code = _CODE.search(debug, status.end())
        return _by_status(int(status[1]), code[1] if code else None, target)
    if _BARE_REDIRECT.search(debug):
        return Failure("rejected", _wrong_region(target, None))
    http = _HTTP_KIND.search(debug)
    if http is not None:
        return _by_http_kind(http[1], target)
    if isinstance(error, obstore_errors.UnauthenticatedError):
        return Failure("rejected", credentials_failure or _denied(target, None, None))
    if isinstance(error, obstore_errors.InvalidPathError):
        reason = str(error).partition("\n")[0]
        return Failure(
            "rejected", InvalidError(f"the bucket holds a key that no path can name: {reason}", **_facts(target))
        )
    reason = str(error).partition("\n")[0]
    return Failure("unknown", IndeterminateError("the object store client failed", reason=reason, **_facts(target)))


def _facts(target: Target) -> dict[str, str | None]:
    return {"bucket": target.bucket, "key": target.key}


def _by_http_kind(kind: str, target: Target) -> Failure:
    facts = {"endpoint": target.endpoint, **_facts(target)}
    if kind == "Connect":
        message = "the object store cannot be reached; check the endpoint and the network"
        return Failure("not_done", UnavailableError(message, **facts))
    what = "did not answer in time" if kind == "Timeout" else "closed the connection"
    return Failure("unknown", UnavailableError(f"the object store {what}", **facts))


def _by_status(status: int, code: str | None, target: Target) -> Failure:
    facts = {"status": status, "code": code, **_facts(target)}
    if status == 412:
        return Failure("condition", ConflictError("the blob exists already, or has changed", **facts))
    if status == 416:
        return Failure("range", InvalidError("the byte range begins behind the blob's end", **facts))
    if status == 404:
        return _missing(code, target)
    if status in (301, 307) or code in _REGION_CODES:
        return Failure("rejected", _wrong_region(target, code))
    if status in (401, 403) or code in _CREDENTIAL_CODES:
        return Failure("rejected", _denied(target, status, code))
    if status in (409, 429) or (status == 503 and code in _BUSY_CODES):
        return Failure("not_done", UnavailableError("the object store asks to slow down; try again later", **facts))
    if status in (405, 501):
        return Failure("rejected", UnsupportedError("the object store does not support this request", **facts))
    if status >= 500 or status == 408 or code == "RequestTimeout":
        return Failure("unknown", UnavailableError("the object store failed; try again later", **facts))
    return Failure("rejected", InvalidError("the object store refuses the request", **facts))


def _missing(code: str | None, target: Target) -> Failure:
    if code == "NoSuchBucket":
        error = NotFoundError("no such bucket; create it, or check its name and the endpoint", bucket=target.bucket)
        return Failure("rejected", error)
    return Failure("absent", NotFoundError("no such blob", key=target.key, bucket=target.bucket))


def _wrong_region(target: Target, code: str | None) -> InvalidError:
    return InvalidError("the bucket is in another region; set AWS_REGION to its own", bucket=target.bucket, code=code)


def _denied(target: Target, status: int | None, code: str | None) -> ForbiddenError:
    if code == "RequestTimeTooSkewed":
        advice = "this machine's clock is wrong; set it"
    elif code in (*_CREDENTIAL_CODES, "SignatureDoesNotMatch"):
        advice = "the credentials are wrong or have expired; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY anew"
    else:
        advice = "the credentials do not allow it; grant them the bucket in its policy"
    return ForbiddenError(f"access to the bucket is denied: {advice}", status=status, code=code, **_facts(target))
