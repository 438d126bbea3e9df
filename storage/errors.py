"""The one error tree, grouped by what the caller should do about it.

::

    FirnlineError
    ├── InvalidError             the request is wrong: fix it                            400
    │   ├── SqlError             the SQL does not parse or plan (line, column)           400
    │   ├── UnsupportedError     valid, but refused by name (a table feature, a format)  400
    │   ├── UnauthenticatedError no token, or a wrong one                                401
    │   ├── ForbiddenError       the role or the path policy forbids it                  403
    │   └── TooLargeError        the request body or statement is past its limit         413
    ├── NotFoundError            no such name                                            404
    ├── ConflictError            lost a race: refresh, retry                             409
    ├── FencedError              a newer epoch owns it: stop this writer                 503
    ├── UnavailableError         definitely did not happen: back off, retry              503
    │   └── OverloadedError      too many statements: retry after a while                429
    ├── IndeterminateError       may have happened: read back, then decide               504
    ├── CorruptError             stored bytes fail a check: fail, alarm                  500
    ├── LimitError               the statement passed one of its limits, and was stopped 422
    │   └── StatementTimeoutError  the statement's time                                408
    ├── CancelledError           the statement was cancelled                             499
    └── InternalError            a defect of ours; the log has the details               500

A class name is the wire code and is append-only. Messages are lower case, name the offending thing and
how to mend it, and end with the facts as ``key=value``. Every error pickles.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "STATUS",
    "CancelledError",
    "ConflictError",
    "CorruptError",
    "FencedError",
    "FirnlineError",
    "ForbiddenError",
    "IndeterminateError",
    "InternalError",
    "InvalidError",
    "LimitError",
    "NotFoundError",
    "OverloadedError",
    "SqlError",
    "StatementTimeoutError",
    "TooLargeError",
    "UnauthenticatedError",
    "UnavailableError",
    "UnsupportedError",
    "from_wire",
]


class FirnlineError(Exception):
    """Root of the tree; never raised itself."""

    def __init__(self, message: str, **facts: Any) -> None:
        self.message = message
        self.facts = {key: value for key, value in facts.items() if value is not None}
        super().__init__(message)

    def __str__(self) -> str:
        return " ".join([self.message, *(f"{key}={value}" for key, value in self.facts.items())])

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.message, self.facts))

    def to_wire(self) -> dict[str, Any]:
        """Return ``{"error": class name, "message", "facts"}``, what `from_wire` reads.

        A class that is not in the tree above goes by the nearest one that is.
        """
        name = next((cls.__name__ for cls in type(self).__mro__ if cls in STATUS), "InternalError")
        return {"error": name, "message": self.message, "facts": self.facts}


def _rebuild(cls: type[FirnlineError], message: str, facts: dict[str, Any]) -> FirnlineError:
    return cls(message, **facts)


class InvalidError(FirnlineError):
    """The request is wrong; the same request will fail again."""


class SqlError(InvalidError):
    """The SQL does not parse or plan; facts may hold ``line`` and ``column`` (from 1)."""


class UnsupportedError(InvalidError):
    """Understood and refused by name: a table feature or a statement that Firnline does not support."""


class UnauthenticatedError(InvalidError):
    """No API token, or one that is unknown."""


class ForbiddenError(InvalidError):
    """The role or the path policy does not allow it."""


class TooLargeError(InvalidError):
    """The request itself is past a size limit."""


class NotFoundError(FirnlineError):
    """No such table, namespace, statement, blob or key."""


class ConflictError(FirnlineError):
    """A compare-and-swap lost its race, or a name exists already."""


class FencedError(FirnlineError):
    """A newer epoch owns the resource; this writer must stop."""


class UnavailableError(FirnlineError):
    """A dependency did not answer and the operation definitely did not happen."""


class OverloadedError(UnavailableError):
    """Too much at once; facts hold ``retry_after_s``."""


class IndeterminateError(FirnlineError):
    """The operation may or may not have happened; read back before deciding."""


class CorruptError(FirnlineError):
    """Stored bytes fail a check."""


class LimitError(FirnlineError):
    """A statement passed one of its limits and was stopped; the message names the limit."""


class StatementTimeoutError(LimitError):
    """The statement passed its time limit and was stopped."""


class CancelledError(FirnlineError):
    """The statement was cancelled by its client."""


class InternalError(FirnlineError):
    """A defect of Firnline's own; the log holds the details under the statement id."""


STATUS: dict[type[FirnlineError], int] = {
    InvalidError: 400,
    SqlError: 400,
    UnsupportedError: 400,
    UnauthenticatedError: 401,
    ForbiddenError: 403,
    TooLargeError: 413,
    NotFoundError: 404,
    ConflictError: 409,
    FencedError: 503,
    UnavailableError: 503,
    OverloadedError: 429,
    IndeterminateError: 504,
    CorruptError: 500,
    LimitError: 422,
    StatementTimeoutError: 408,
    CancelledError: 499,
    InternalError: 500,
}

_BY_NAME = {cls.__name__: cls for cls in STATUS}


def from_wire(wire: dict[str, Any]) -> FirnlineError:
    """Rebuild the error that `FirnlineError.to_wire` described; an unknown name becomes `InternalError`."""
    cls = _BY_NAME.get(str(wire.get("error")), InternalError)
    return cls(str(wire.get("message", "unknown error")), **dict(wire.get("facts") or {}))
