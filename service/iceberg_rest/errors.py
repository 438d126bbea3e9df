"""Errors in the form of the Iceberg REST API: ``{"error": {"message", "type", "code"}}``."""

from __future__ import annotations

import http
from typing import Any

from starlette.types import Send

from service.problems import send_json, status_of
from storage.errors import (
    ConflictError,
    FirnlineError,
    ForbiddenError,
    IndeterminateError,
    NotFoundError,
    TooLargeError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
)

__all__ = ["AlreadyExistsError", "CommitFailedError", "NotEmptyError", "error_body", "send_error"]


class AlreadyExistsError(ConflictError):
    """A name is taken; a `ConflictError` with a type of its own."""


class NotEmptyError(ConflictError):
    """A namespace has tables; a `ConflictError` with a type of its own."""


class CommitFailedError(ConflictError):
    """Another writer was faster; a `ConflictError` with a type of its own."""


_TYPES: tuple[tuple[type[FirnlineError], str], ...] = (
    (AlreadyExistsError, "AlreadyExistsException"),
    (NotEmptyError, "NamespaceNotEmptyException"),
    (ConflictError, "CommitFailedException"),
    (UnauthenticatedError, "NotAuthorizedException"),
    (ForbiddenError, "ForbiddenException"),
    (TooLargeError, "BadRequestException"),
    (UnsupportedError, "UnsupportedOperationException"),
    (UnavailableError, "ServiceUnavailableException"),
    (IndeterminateError, "CommitStateUnknownException"),
)


def error_body(error: FirnlineError) -> dict[str, Any]:
    """Return the body that tells an error."""
    status = status_of(error)
    kind = next((name for cls, name in _TYPES if isinstance(error, cls)), None)
    if isinstance(error, NotFoundError):
        kind = "NoSuchNamespaceException" if "namespace" in error.facts else "NoSuchTableException"
    default = "BadRequestException" if status < http.HTTPStatus.INTERNAL_SERVER_ERROR else "InternalServerError"
    return {"error": {"message": str(error), "type": kind or default, "code": status}}


async def send_error(send: Send, error: FirnlineError, *, has_body: bool) -> None:
    """Answer a request with an error; an answer to HEAD has no body."""
    status = status_of(error)
    headers = {}
    if "retry_after_s" in error.facts:
        headers["Retry-After"] = str(error.facts["retry_after_s"])
    if status == http.HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="firnline"'
    if has_body:
        await send_json(send, error_body(error), status=status, headers=headers)
        return
    raw = [(key.lower().encode(), value.encode("latin-1", "replace")) for key, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": b""})
