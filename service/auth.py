"""Who asks: API tokens of HTTP requests, checked against the catalog and remembered for a few seconds."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.types import Scope

from service.requests import header
from service.statement import Role
from storage.clock import Clock
from storage.errors import ForbiddenError, UnauthenticatedError

__all__ = ["ANONYMOUS", "Auth", "Caller", "VerifyToken"]

_CACHE_SIZE_MAX = 1024


@dataclass(frozen=True, slots=True)
class Caller:
    """The holder of a token; ``owner`` names it in what it creates."""

    role: Role
    owner: str

    def check_owner(self, owner: str) -> None:
        """Raise `ForbiddenError` unless the caller made the thing or is an administrator."""
        if self.role != "admin" and self.owner != owner:
            raise ForbiddenError("this statement belongs to another token")


ANONYMOUS = Caller("admin", "")
"""Everybody, where no tokens are required."""

VerifyToken = Callable[[str], Awaitable[Caller]]
"""Returns who holds a token. Raises `UnauthenticatedError`."""


class Auth:
    """Checks the ``Authorization`` header. ``verify=None`` lets everybody in as an administrator.

    A token that was right is not asked for again for ``cache_s`` seconds, so that is how long a revoked one still
    works. Only a digest of it is kept.
    """

    def __init__(self, verify: VerifyToken | None, clock: Clock, cache_s: float) -> None:
        self._verify = verify
        self._clock = clock
        self._cache_s = cache_s
        self._known: dict[bytes, tuple[float, Caller]] = {}

    async def caller(self, scope: Scope) -> Caller:
        """Return who sent the request. Raises `UnauthenticatedError`."""
        if self._verify is None:
            return ANONYMOUS
        scheme, _, presented = header(scope, b"authorization").partition(" ")
        presented = presented.strip()
        if scheme.lower() != "bearer" or not presented:
            raise UnauthenticatedError(
                "this server needs an API token: send Authorization: Bearer firn_…; create one with firn token create"
            )
        key = hashlib.sha256(presented.encode("utf-8", "surrogateescape")).digest()
        now_s = self._clock.monotonic_s()
        known = self._known.get(key)
        if known is not None and now_s - known[0] < self._cache_s:
            return known[1]
        caller = await self._verify(presented)
        if len(self._known) >= _CACHE_SIZE_MAX:
            self._known.clear()
        self._known[key] = (now_s, caller)
        return caller
