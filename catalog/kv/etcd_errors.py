"""What an answer of etcd's that is an error means: try again, in doubt, or one of our errors. Pure.

The texts are etcd's own (``etcdserver/api/v3rpc/rpctypes/error.go``), part of its interface: its Go client matches
them too. A text or code that is not known leaves the request in doubt.
"""

from __future__ import annotations

from storage.errors import (
    CorruptError,
    FirnlineError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    UnavailableError,
    UnsupportedError,
)

__all__ = ["did_not_happen", "final_error", "is_from_etcd", "token_is_stale"]

_REFUSED = ("etcdserver: no leader", "etcdserver: too many requests")
"""Said before the request is looked at, so it has not happened and can be sent again."""

_STALE_TOKEN = ("etcdserver: invalid auth token", "etcdserver: revision of auth store is old")

_FORBIDDEN = ("permission denied", "user name is empty", "authentication failed", "authentication is not enabled")

_BY_CODE: dict[str, tuple[type[FirnlineError], str]] = {
    "INVALID_ARGUMENT": (InvalidError, "etcd refused the request"),
    "FAILED_PRECONDITION": (InvalidError, "etcd refused the request"),
    "NOT_FOUND": (NotFoundError, "etcd does not know it"),
    "PERMISSION_DENIED": (ForbiddenError, "etcd refused the user; check its role"),
    "UNAUTHENTICATED": (ForbiddenError, "etcd refused the user; check the name, password or certificate"),
    "UNIMPLEMENTED": (UnsupportedError, "this etcd server is too old"),
    "DATA_LOSS": (CorruptError, "etcd reports lost data"),
}


def token_is_stale(details: str) -> bool:
    """Whether the request was refused only because its auth token must be fetched anew."""
    return any(text in details for text in _STALE_TOKEN)


def did_not_happen(details: str) -> bool:
    """Whether the request was definitely not executed, and may be sent again as it is."""
    return any(text in details for text in _REFUSED) or token_is_stale(details)


def is_from_etcd(details: str) -> bool:
    """Whether a member said this itself, rather than grpc of a member that said nothing."""
    return details.startswith("etcdserver: ")


def final_error(code: str, details: str) -> FirnlineError | None:
    """Return the error to raise, or None when the same request may succeed if it is sent again."""
    facts = {"cause": details, "code": code}
    if did_not_happen(details):
        return None
    if any(text in details for text in _FORBIDDEN):
        return ForbiddenError("etcd refused the user; check its name, password and role", **facts)
    if "database space exceeded" in details:
        return UnavailableError("etcd's database is full; compact and defragment it, then disarm its alarm", **facts)
    if "has been compacted" in details:
        return NotFoundError("this revision has been compacted; read the range again", **facts)
    if "lease not found" in details:
        return NotFoundError("the lease has expired or was revoked", **facts)
    known = _BY_CODE.get(code)
    return None if known is None else known[0](known[1], **facts)
